// SPDX-License-Identifier: MIT
/**
 * Whatever a server sends, the client half throws nothing but ProtocolError, and comes to the same
 * end however the stream is cut.
 */
import fc from 'fast-check'
import t from 'tap'
import * as nbd from '../../src/index.js'
import { MemoryServer, memoryPolicy } from '../memory-server.js'
import { corpus, cutUp, cuts, fuzzTime, mutated } from './mutate.js'

const SIZE = 65536

function faultOf(act: () => void): string {
  try {
    act()
    return ''
  } catch (error) {
    if (error instanceof nbd.ProtocolError) return error.code
    throw error
  }
}

function negotiate(pieces: readonly Uint8Array[]): string {
  const client = new nbd.ClientHandshake({
    exportName: 'ploop0',
    use: 'go',
    contexts: ['base:allocation'],
  })
  const queue = new nbd.ByteQueue()
  const sent: Uint8Array[] = []
  let end: nbd.ClientEnd | undefined
  const fault = faultOf(() => {
    for (const piece of pieces) {
      queue.push(piece)
      for (let consumed = 1; consumed > 0;) {
        const step = client.receive(queue.peek())
        consumed = step.consumed
        queue.drop(consumed)
        sent.push(step.output)
        end = step.done ?? end
      }
    }
  })
  return JSON.stringify([fault, Buffer.concat(sent).toString('hex'), end])
}

const requests: nbd.ClientRequest[] = [
  { command: nbd.NBD_CMD_WRITE, offsetBytes: 100, payload: Buffer.alloc(50, 0x33) },
  { command: nbd.NBD_CMD_READ, offsetBytes: 90, lengthBytes: 100 },
  { command: nbd.NBD_CMD_READ, offsetBytes: SIZE, lengthBytes: 1 },
  { command: nbd.NBD_CMD_BLOCK_STATUS, lengthBytes: SIZE },
  { command: nbd.NBD_CMD_FLUSH },
]

function sessionOf(mode: nbd.ReplyMode): nbd.ClientSession {
  return {
    mode,
    contexts: [{ id: 1, name: 'base:allocation' }],
    sizeBytes: SIZE,
    transmissionFlags: 0,
    blockSizes: undefined,
    canonicalName: undefined,
    description: undefined,
    exports: [],
  }
}

function transmit(mode: nbd.ReplyMode, pieces: readonly Uint8Array[]): string {
  const client = new nbd.NbdClientConnection(sessionOf(mode))
  for (const request of requests) client.request(request)
  const replies: string[] = []
  const fault = faultOf(() => {
    for (const piece of pieces) {
      for (const reply of client.receive(piece)) {
        const data = Buffer.from(reply.data).toString('hex')
        replies.push(JSON.stringify({ ...reply, data, extents: [...reply.extents] }))
      }
    }
  })
  return fault || replies.join()
}

const MODES = { simple: 4711, structured: 8, extended: 11 } as const

/** What a server really sends: for negotiation as a whole, and for the requests. */
function recorded(mode: nbd.ReplyMode): { negotiation: Buffer; transmission: Buffer } {
  const server = new MemoryServer(memoryPolicy({ sizeBytes: SIZE }))
  const greeting = server.output()
  const options = [
    nbd.encodeOption(MODES[mode]),
    nbd.encodeOption(10, nbd.encodeMetaContextRequest('ploop0', ['base:allocation'])),
    nbd.encodeOption(7, nbd.encodeInfoRequest('ploop0', [3])),
  ]
  const answers = server.receive(Buffer.concat([Uint8Array.of(0, 0, 0, 3), ...options]))
  const client = new nbd.NbdClientConnection(sessionOf(mode))
  const sent = requests.flatMap(request => client.request(request).bytes)
  const replies = sent.map(bytes => server.receive(bytes))
  return { negotiation: Buffer.concat([greeting, answers]), transmission: Buffer.concat(replies) }
}

function check(
  run: (pieces: readonly Uint8Array[]) => string,
  bytes: Uint8Array,
  sizes: number[],
): void {
  const whole = run([bytes.slice()])
  const pieces = run(cutUp(bytes, sizes))
  if (whole !== pieces) {
    throw new Error(
      `cut by ${sizes.join()}: ${whole} / ${pieces}: ${Buffer.from(bytes).toString('hex')}`,
    )
  }
}

const modes = ['simple', 'structured', 'extended'] as const
const records = modes.map(recorded)

t.test('what a server really sends is taken in every mode', async t => {
  for (const [i, mode] of modes.entries()) {
    const replies = transmit(mode, [records[i]?.transmission ?? Buffer.alloc(0)])
    t.match(replies, /"cookie":5,"command":3,"error":0/, mode)
  }
  t.match(negotiate([records[2]?.negotiation ?? Buffer.alloc(0)]), /"kind":"ready"/)
})

t.test('kept inputs end the same however they are cut', async t => {
  for (const { file, bytes } of corpus('client')) {
    for (const mode of modes) {
      t.doesNotThrow(() => check(pieces => transmit(mode, pieces), bytes, [1]), file)
    }
    t.doesNotThrow(() => check(negotiate, bytes, [1]), file)
  }
})

t.test('mutated negotiations do no harm', async t => {
  const bytes = mutated(records.map(record => record.negotiation))
  const property = fc.property(bytes, cuts, (input, sizes) => check(negotiate, input, sizes))
  t.doesNotThrow(() => fc.assert(property, fuzzTime))
})

t.test('mutated replies do no harm', async t => {
  const bytes = mutated(records.map(record => record.transmission))
  const property = fc.property(fc.constantFrom(...modes), bytes, cuts, (mode, input, sizes) =>
    check(pieces => transmit(mode, pieces), input, sizes),
  )
  t.doesNotThrow(() => fc.assert(property, fuzzTime))
})

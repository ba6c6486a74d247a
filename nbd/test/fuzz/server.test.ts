// SPDX-License-Identifier: MIT
/**
 * Whatever a client sends, the server half neither throws nor hangs, lets only valid requests
 * through, and behaves the same however the stream is cut.
 *
 * Method: random bytes, and valid sessions with mutations, each once as a whole and once in pieces.
 */
import fc from 'fast-check'
import t from 'tap'
import * as nbd from '../../src/index.js'
import { MemoryServer, memoryPolicy } from '../memory-server.js'
import { corpus, cutUp, cuts, fuzzTime, mutated } from './mutate.js'

const SIZE = 1048576

interface Outcome {
  readonly sent: string
  readonly closed: unknown
  readonly requests: string[]
}

function run(pieces: readonly Uint8Array[]): Outcome {
  const server = new MemoryServer(memoryPolicy({ sizeBytes: SIZE }))
  const sent = [server.output(), ...pieces.map(piece => server.receive(piece))]
  for (const request of server.requests) {
    const inside = request.offsetBytes + request.lengthBytes <= SIZE
    if (!inside && request.command !== nbd.NBD_CMD_FLUSH) throw new Error('a request out of range')
    if (request.command === nbd.NBD_CMD_WRITE && request.payload.length !== request.lengthBytes) {
      throw new Error('a WRITE without its data')
    }
  }
  sent.push(server.end())
  return {
    sent: Buffer.concat(sent).toString('hex'),
    closed: server.closed,
    requests: server.requests.map(r => `${r.command} ${r.flags} ${r.offsetBytes} ${r.lengthBytes}`),
  }
}

function agree(bytes: Uint8Array, sizes: readonly number[]): void {
  const whole = run(bytes.length > 0 ? [bytes.slice()] : [])
  const pieces = run(cutUp(bytes, sizes))
  for (const key of ['sent', 'closed', 'requests'] as const) {
    if (JSON.stringify(whole[key]) !== JSON.stringify(pieces[key])) {
      const hex = Buffer.from(bytes).toString('hex')
      throw new Error(`cut by ${sizes.join()}, "${key}" differs for ${hex}`)
    }
  }
}

const FLAGS = Uint8Array.of(0, 0, 0, 3)
const option = nbd.encodeOption
const SELECT = nbd.encodeMetaContextRequest('ploop0', ['base:allocation', 'qemu:allocation-depth'])
const go = option(nbd.NBD_OPT_GO, nbd.encodeInfoRequest('ploop0', [1, 2, 3]))

function request(
  extended: boolean,
  flags: number,
  command: number,
  at: number,
  length: number,
): Buffer {
  const bytes = Buffer.alloc(extended ? 32 : 28)
  bytes.writeUInt32BE(extended ? nbd.NBD_EXTENDED_REQUEST_MAGIC : nbd.NBD_REQUEST_MAGIC, 0)
  bytes.writeUInt16BE(flags, 4)
  bytes.writeUInt16BE(command, 6)
  bytes.writeUInt32BE(command + 77, 12)
  bytes.writeUInt32BE(at, 20)
  bytes.writeUInt32BE(length, extended ? 28 : 24)
  return bytes
}

function session(mode: number): Buffer {
  const extended = mode === nbd.NBD_OPT_EXTENDED_HEADERS
  const send = request.bind(undefined, extended)
  const payloadFlag = extended ? nbd.NBD_CMD_FLAG_PAYLOAD_LEN : 0
  return Buffer.concat([
    FLAGS,
    option(mode),
    option(nbd.NBD_OPT_LIST),
    option(
      nbd.NBD_OPT_LIST_META_CONTEXT,
      nbd.encodeMetaContextRequest('ploop0', ['base:', 'qemu:']),
    ),
    option(nbd.NBD_OPT_SET_META_CONTEXT, SELECT),
    option(nbd.NBD_OPT_INFO, nbd.encodeInfoRequest('', [1, 2])),
    go,
    send(0, 0, 512, 512),
    send(payloadFlag | 1, 1, 1024, 5000),
    Buffer.alloc(5000, 0x21),
    send(0, 3, 0, 0),
    send(0, 4, 4096, 8192),
    send(0, 5, 0, 65536),
    send(0x12, 6, 0, 1048576),
    send(8, 7, 0, 1048576),
    send(0, 7, 0, 1048576),
    ...(extended
      ? [send(32, 7, 0, 16), Buffer.from('00000000000100000000000200000001', 'hex')]
      : []),
    send(0, 2, 0, 0),
  ])
}

const seeds = [4711, nbd.NBD_OPT_STRUCTURED_REPLY, nbd.NBD_OPT_EXTENDED_HEADERS].map(session)
seeds.push(
  Buffer.concat([
    FLAGS,
    option(nbd.NBD_OPT_EXPORT_NAME, Buffer.from('ploop0')),
    request(false, 0, 0, 0, 9),
  ]),
)
seeds.push(Buffer.concat([FLAGS, option(7, new Uint8Array(70000)), go, request(false, 0, 3, 0, 0)]))

t.test('kept inputs give the same result however they are cut', async t => {
  for (const { file, bytes } of corpus('server')) {
    for (const sizes of [[1], [7, 3], [5000]]) t.doesNotThrow(() => agree(bytes, sizes), file)
  }
})

t.test('valid sessions give the same result however they are cut', async t => {
  for (const seed of seeds) {
    for (const sizes of [[1], [3, 5000], [20]]) t.doesNotThrow(() => agree(seed, sizes))
  }
  t.ok(run([seeds[1] ?? FLAGS]).requests.length > 6, 'the seeds do reach transmission')
})

t.test('random bytes do no harm', async t => {
  const bytes = fc
    .tuple(fc.boolean(), fc.uint8Array({ maxLength: 400 }))
    .map(([flags, rest]) => (flags ? Buffer.concat([FLAGS, rest]) : Buffer.from(rest)))
  t.doesNotThrow(() => fc.assert(fc.property(bytes, cuts, agree), fuzzTime))
})

t.test('mutated sessions do no harm', async t => {
  t.doesNotThrow(() => fc.assert(fc.property(mutated(seeds), cuts, agree), fuzzTime))
})

// SPDX-License-Identifier: MIT
/**
 * The transmission phase of the server half: payloads, order, what is in flight, how it ends.
 */
import t from 'tap'
import * as nbd from '../src/index.js'
import {
  type MemoryDisk,
  MemoryServer,
  type MemoryServerOptions,
  memoryPolicy,
} from './memory-server.js'

interface Fields {
  flags?: number
  offset?: number
  length?: number
  cookie?: number
  payload?: Uint8Array
}

function message(mode: nbd.ReplyMode, command: number, fields: Fields = {}): Buffer {
  const { flags = 0, offset = 0, cookie = 1, payload = new Uint8Array(0) } = fields
  const length = fields.length ?? payload.length
  const bytes = Buffer.alloc(nbd.requestBytesOf(mode))
  const header = Object.assign(new nbd.RequestHeader(), {
    flags,
    command,
    cookieLow: cookie,
    offsetHigh: nbd.highOf(offset),
    offsetLow: nbd.lowOf(offset),
    lengthHigh: nbd.highOf(length),
    lengthLow: nbd.lowOf(length),
  })
  nbd.encodeRequest(nbd.viewOf(bytes), 0, mode, header)
  return Buffer.concat([bytes, payload])
}

function negotiation(mode: nbd.ReplyMode, contexts: readonly string[] = []): Buffer {
  const option = { simple: 4711, structured: 8, extended: 11 }[mode]
  return Buffer.concat([
    Uint8Array.of(0, 0, 0, 3),
    nbd.encodeOption(option),
    nbd.encodeOption(10, nbd.encodeMetaContextRequest('ploop0', contexts)),
    nbd.encodeOption(7, nbd.encodeInfoRequest('ploop0', [])),
  ])
}

/** A server that answers only when told to. */
function held(
  mode: nbd.ReplyMode,
  options: MemoryServerOptions = {},
): nbd.NbdServerConnection<MemoryDisk> {
  const connection = new nbd.NbdServerConnection(memoryPolicy(options))
  connection.open()
  connection.receive(negotiation(mode, ['base:allocation']))
  return connection
}

function ready(mode: nbd.ReplyMode, options: MemoryServerOptions = {}): MemoryServer {
  const server = new MemoryServer(memoryPolicy(options))
  server.receive(negotiation(mode, ['base:allocation']))
  return server
}

const requestsOf = (events: nbd.ConnectionEvent<MemoryDisk>[]): nbd.ServerRequest[] =>
  events.flatMap(event => (event.kind === 'request' ? [event.request] : []))
const READ = nbd.NBD_CMD_READ
const WRITE = nbd.NBD_CMD_WRITE
const FLUSH = nbd.NBD_CMD_FLUSH
const DISC = nbd.NBD_CMD_DISC

t.test(
  'client writes past the end: the payload is consumed, the answer is ENOSPC, the connection lives',
  async t => {
    for (const mode of ['simple', 'structured', 'extended'] as const) {
      const server = ready(mode)
      const payload = Buffer.alloc(100000, 0x25)
      const write = message(mode, WRITE, {
        flags: mode === 'extended' ? 32 : 0,
        offset: 67108864,
        payload,
      })
      const sent = [server.receive(write.subarray(0, 5000)), server.receive(write.subarray(5000))]
      t.equal(sent[0]?.length, 0, 'the answer comes after the payload')
      if (mode === 'simple') t.equal(sent[1]?.readUInt32BE(4), nbd.NBD_ENOSPC)
      else t.match(sent[1]?.toString(), /WRITE of 100000 bytes at 67108864/)
      const flush = server.receive(message(mode, FLUSH))
      t.ok(flush.length === 16 || flush.length === 32)
      t.same(
        server.requests.map(request => request.command),
        [FLUSH],
      )
    }
  },
)

t.test(
  'client writes to a read-only export: the payload is consumed, the answer is EPERM',
  async t => {
    const server = ready('simple', { info: { readOnly: true } })
    const write = message('simple', WRITE, { cookie: 9, payload: Buffer.alloc(512, 0x25) })
    t.equal(Buffer.from(server.receive(write)).toString('hex'), '67446698000000010000000000000009')
    t.equal(server.receive(message('simple', FLUSH)).length, 16)
  },
)

t.test('client sends a payload above 64 MiB: the connection is cut without a word', async t => {
  for (const [mode, flags, command, length] of [
    ['simple', 0, WRITE, 67108865],
    ['extended', 32, WRITE, 2 ** 40],
    ['extended', 32, READ, 67108865],
    ['extended', 32, 99, 2 ** 52],
  ] as const) {
    const server = ready(mode)
    t.equal(server.receive(message(mode, command, { flags, length })).length, 0)
    t.match(server.closed, { graceful: false, reason: /^payload of \d+ bytes, at most 67108864/ })
  }
})

t.test('client sends a header of 2^53 bytes and more: no bits are lost', async t => {
  const server = ready('extended')
  const bytes = message('extended', nbd.NBD_CMD_TRIM)
  bytes.writeUInt32BE(0x200000, 24)
  t.match(server.receive(bytes).toString(), /far past the export/)
  const write = message('extended', WRITE, { flags: 32 })
  write.writeUInt32BE(0x200000, 24)
  server.receive(write)
  t.match(server.closed?.reason, 'payload of Infinity bytes')
})

t.test('payloads that no command takes are dropped, then refused', async t => {
  const server = ready('extended')
  for (const command of [READ, FLUSH, nbd.NBD_CMD_TRIM, nbd.NBD_CMD_BLOCK_STATUS, 99]) {
    const odd = message('extended', command, { flags: 32, payload: Buffer.alloc(3333, 0x25) })
    t.equal(server.receive(odd).readUInt32BE(32), nbd.NBD_EINVAL, nbd.commandName(command))
  }
  t.equal(server.receive(message('extended', FLUSH)).length, 32)
})

t.test('a WRITE is handed on only when its payload is whole', async t => {
  const connection = held('simple')
  const write = message('simple', WRITE, { payload: Buffer.from('half and half') })
  t.same(connection.receive(write.subarray(0, 35)), [])
  t.equal(connection.state, 'payload')
  t.match(connection.end(), [{ kind: 'close', graceful: true }], 'the half WRITE is discarded')
  t.same(connection.receive(write.subarray(35)), [])
})

t.test('above 128 requests in flight no more are taken until one is sent', async t => {
  const connection = held('simple')
  const all = Buffer.concat(
    Array.from({ length: 130 }, (_, i) => message('simple', FLUSH, { cookie: i })),
  )
  const requests = requestsOf(connection.receive(all))
  t.equal(requests.length, 128)
  t.equal(connection.paused, true)
  const [first] = requests
  if (first === undefined) return
  connection.succeed(first)
  t.equal(connection.inFlightCount, 128, 'answered is not sent')
  t.equal(requestsOf(connection.sent(first)).length, 1, 'the next comes out')
})

t.test('above 64 MiB in flight no more are taken; refused requests count too', async t => {
  const connection = held('simple', { sizeBytes: 2 ** 30 })
  const read = (length: number): Buffer => message('simple', READ, { length })
  const events = connection.receive(Buffer.concat([read(2 ** 25), read(2 ** 25), read(1)]))
  t.equal(requestsOf(events).length, 2)
  t.equal(connection.paused, true)
  const refused = held('simple')
  const bad = Buffer.concat(Array.from({ length: 200 }, () => message('simple', 99)))
  const sends = refused.receive(bad)
  t.equal(sends.length, 128)
  t.equal(refused.paused, true)
  const [send] = sends
  if (send?.kind === 'send' && send.request) t.equal(refused.sent(send.request).length, 1)
  else t.fail('a refusal is a send event with its request')
})

t.test('DISC: what came before is answered first, what comes after is not taken', async t => {
  const connection = held('simple')
  const events = connection.receive(
    Buffer.concat([
      message('simple', FLUSH),
      message('simple', DISC, { offset: 5 }),
      message('simple', FLUSH),
    ]),
  )
  t.same(
    events.map(event => event.kind),
    ['request'],
  )
  t.equal(connection.state, 'leaving')
  t.same(connection.receive(message('simple', FLUSH)), [])
  const [request] = requestsOf(events)
  if (request === undefined) return
  connection.succeed(request)
  t.match(connection.sent(request), [
    { kind: 'close', graceful: true, reason: 'the client disconnected' },
  ])
  t.equal(connection.state, 'closed')
})

t.test(
  'half close: everything that is whole is answered, what waits behind the limit too',
  async t => {
    const connection = held('simple')
    const waiting = requestsOf(
      connection.receive(
        Buffer.concat(Array.from({ length: 200 }, () => message('simple', FLUSH))),
      ),
    )
    t.same(connection.end(), [])
    let answered = 0
    let kinds: string[] = []
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      connection.succeed(next)
      const events = connection.sent(next)
      waiting.push(...requestsOf(events))
      kinds = events.map(event => event.kind)
      answered += 1
    }
    t.equal(answered, 200)
    t.same(kinds, ['close'])
  },
)

t.test('end of stream during negotiation is a normal end', async t => {
  const connection = new nbd.NbdServerConnection(memoryPolicy())
  connection.open()
  t.match(connection.end(), [{ kind: 'close', graceful: true }])
  t.same(connection.end(), [])
  t.same(connection.receive(Uint8Array.of(0, 0, 0, 3)), [])
})

t.test('plain bytes between STARTTLS and TLS cut the connection', async t => {
  const connection = new nbd.NbdServerConnection(memoryPolicy({ tls: 'require' }))
  connection.open()
  connection.receive(Uint8Array.of(0, 0, 0, 3))
  const events = connection.receive(nbd.encodeOption(nbd.NBD_OPT_STARTTLS))
  t.same(
    events.map(event => event.kind),
    ['send', 'starttls'],
  )
  t.match(connection.receive(nbd.encodeOption(nbd.NBD_OPT_STRUCTURED_REPLY)), [
    { kind: 'close', graceful: false, reason: 'plain bytes after NBD_OPT_STARTTLS' },
  ])
})

t.test('bytes that come while entering waits are kept', async t => {
  let verdict: 'wait' | 'enter' = 'wait'
  const connection = new nbd.NbdServerConnection(memoryPolicy({ enter: () => verdict }))
  connection.open()
  const events = connection.receive(
    Buffer.concat([negotiation('simple'), message('simple', FLUSH)]),
  )
  t.equal(events.at(-1)?.kind, 'wait')
  t.equal(connection.paused, true)
  t.same(connection.receive(message('simple', FLUSH)), [])
  t.same(
    connection.proceed().map(event => event.kind),
    ['wait'],
  )
  verdict = 'enter'
  t.same(
    connection.proceed().map(event => event.kind),
    ['send', 'entered', 'request', 'request'],
  )
})

t.test('a server that shuts down answers new requests with ESHUTDOWN', async t => {
  const policy = { ...memoryPolicy(), shuttingDown: false }
  const server = new MemoryServer(policy)
  server.receive(negotiation('structured'))
  policy.shuttingDown = true
  t.match(server.receive(message('structured', READ, { length: 1 })).toString(), /shutting down/)
})

t.test('a resize counts from the next request on', async t => {
  const server = ready('structured', { sizeBytes: 1048576 })
  t.match(
    server.receive(message('structured', READ, { offset: 1048576, length: 1 })).toString(),
    /export has/,
  )
  server.connection.resize(2097152)
  t.equal(server.receive(message('structured', READ, { offset: 1048576, length: 1 })).length, 29)
})

t.test(
  'a refused WRITE stays refused though the export grows while its payload is dropped',
  async t => {
    const server = ready('structured', { sizeBytes: 1048576 })
    const write = message('structured', WRITE, { offset: 1048576, payload: Buffer.alloc(512) })
    server.receive(write.subarray(0, 100))
    server.connection.resize(2097152)
    const reply = server.receive(write.subarray(100))
    t.equal(reply.readUInt32BE(20), nbd.NBD_ENOSPC)
    t.equal(server.requests.length, 0)
  },
)

t.test('an accepted WRITE is refused when the export shrinks while its payload comes', async t => {
  const server = ready('structured', { sizeBytes: 2097152 })
  const write = message('structured', WRITE, { offset: 1048576, payload: Buffer.alloc(512) })
  server.receive(write.subarray(0, 100))
  server.connection.resize(1048576)
  t.equal(server.receive(write.subarray(100)).readUInt32BE(20), nbd.NBD_ENOSPC)
  t.equal(server.requests.length, 0)
})

t.test('failures carry error, text and offset where the form has room', async t => {
  const error = new nbd.RequestError(nbd.NBD_EIO, 'bad sector', 4608)
  for (const [mode, expected] of [
    ['simple', '67446698 00000005 0000000000000001'],
    [
      'structured',
      '668e33ef 0001 8002 0000000000000001 00000018 00000005 000a 62616420736563746f72 0000000000001200',
    ],
  ] as const) {
    const connection = held(mode)
    const [request] = requestsOf(
      connection.receive(message(mode, READ, { offset: 4096, length: 4096 })),
    )
    if (request === undefined) return
    const bytes = Buffer.concat(connection.fail(request, error))
    t.equal(bytes.toString('hex'), expected.replace(/ /g, ''))
  }
})

t.test('misuse by the program is told to the program', async t => {
  const connection = held('structured')
  const [read, flush] = requestsOf(
    connection.receive(
      Buffer.concat([message('structured', READ, { length: 8 }), message('structured', FLUSH)]),
    ),
  )
  if (read === undefined || flush === undefined) return
  t.throws(() => connection.sent(flush), /no reply yet/)
  connection.succeed(flush)
  t.throws(() => connection.succeed(flush), /answered already/)
  connection.sent(flush)
  t.throws(() => connection.fail(flush, new nbd.RequestError(5, '')), /not in flight/)
  t.throws(() => connection.data(read, new Uint8Array(7)), /8 bytes is not answered by 7/)
})

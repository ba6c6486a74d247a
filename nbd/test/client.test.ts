// SPDX-License-Identifier: MIT
/**
 * The client half: against the server half in all modes, and against servers that misbehave.
 */
import t from 'tap'
import * as nbd from '../src/index.js'
import { MemoryServer, type MemoryServerOptions, memoryPolicy } from './memory-server.js'

interface Met {
  readonly server: MemoryServer
  readonly end: nbd.ClientEnd | undefined
}

/** Negotiates until one side is done; `cut` bytes at a time reach the client. */
function meet(goal: nbd.ClientGoal, options: MemoryServerOptions = {}, cut = Infinity): Met {
  const server = new MemoryServer(memoryPolicy(options))
  const client = new nbd.ClientHandshake(goal)
  const queue = new nbd.ByteQueue()
  let output = server.output()
  for (;;) {
    for (let at = 0; at < output.length; at += cut) queue.push(output.slice(at, at + cut))
    let step = client.receive(queue.peek())
    queue.drop(step.consumed)
    if (step.done?.kind === 'starttls') step = client.secured()
    if (step.done !== undefined) return { server, end: step.done }
    output = step.output.length > 0 ? Buffer.from(server.receive(step.output)) : Buffer.alloc(0)
    if (step.consumed === 0 && step.output.length === 0) return { server, end: undefined }
  }
}

function sessionOf(end: nbd.ClientEnd | undefined): nbd.ClientSession {
  if (end?.kind !== 'ready') throw new Error(`not ready: ${JSON.stringify(end)}`)
  return end.session
}

t.test('negotiation reaches each goal, with fallbacks', async t => {
  const contexts = ['base:allocation']
  const cases: readonly [string, Partial<nbd.ClientGoal>, MemoryServerOptions, object][] = [
    [
      'extended',
      { contexts },
      {},
      {
        mode: 'extended',
        contexts: [{ id: 1, name: 'base:allocation' }],
        transmissionFlags: 0x1ded,
      },
    ],
    ['structured', { extended: false }, {}, { mode: 'structured', transmissionFlags: 0x0ded }],
    [
      'simple',
      { extended: false, structured: false, contexts },
      {},
      { mode: 'simple', contexts: [], transmissionFlags: 0x0d6d },
    ],
    ['no extended headers', {}, { allowExtended: false }, { mode: 'structured' }],
    ['neither', { contexts }, { allowExtended: false, allowStructured: false }, { mode: 'simple' }],
    [
      'export name',
      { use: 'export-name' },
      {},
      { mode: 'structured', sizeBytes: 67108864, blockSizes: undefined },
    ],
    ['export name with zeros', { use: 'export-name', clientFlags: 1 }, {}, { sizeBytes: 67108864 }],
    [
      'info',
      { use: 'info', infoTypes: [1, 2, 3] },
      { info: { description: 'hi' } },
      {
        canonicalName: 'ploop0',
        description: 'hi',
        blockSizes: { minimum: 1, preferred: 4096, maximum: 33554432 },
      },
    ],
    ['list', { use: 'list' }, {}, { exports: [{ name: 'ploop0', description: '' }] }],
    ['TLS', { tls: true }, { tls: 'require' }, { mode: 'extended' }],
  ]
  for (const [name, goal, options, expected] of cases) {
    for (const cut of [Infinity, 1]) {
      const { end } = meet({ exportName: 'ploop0', use: 'go', ...goal }, options, cut)
      t.match(sessionOf(end), expected, name)
    }
  }
})

t.test('a refusal comes with option, error and text', async t => {
  const { end } = meet({ exportName: 'nix', use: 'go' })
  t.same(end, {
    kind: 'refused',
    option: nbd.NBD_OPT_GO,
    error: nbd.NBD_REP_ERR_UNKNOWN,
    text: 'there is no export "nix".',
  })
})

t.test('requests and replies meet in all modes', async t => {
  for (const mode of ['simple', 'structured', 'extended'] as const) {
    const goal: nbd.ClientGoal = {
      exportName: 'ploop0',
      use: 'go',
      extended: mode === 'extended',
      structured: mode !== 'simple',
      contexts: ['base:allocation', 'qemu:allocation-depth'],
    }
    const { server, end } = meet(goal)
    const client = new nbd.NbdClientConnection(sessionOf(end))
    const ask = (request: nbd.ClientRequest): nbd.ClientReply | undefined => {
      const { cookie, bytes } = client.request(request)
      const replies = bytes.flatMap(part => client.receive(server.receive(part)))
      t.equal(replies.length, 1)
      t.equal(replies[0]?.cookie, cookie)
      return replies[0]
    }
    const payload = Buffer.from('ploop over nbd')
    t.equal(ask({ command: nbd.NBD_CMD_WRITE, offsetBytes: 1048570, payload })?.error, 0, mode)
    const read = ask({ command: nbd.NBD_CMD_READ, offsetBytes: 1048570, lengthBytes: 14 })
    t.equal(Buffer.from(read?.data ?? []).toString(), 'ploop over nbd')
    const empty = ask({ command: nbd.NBD_CMD_READ, offsetBytes: 0, lengthBytes: 0 })
    t.match(empty, { error: 0, data: new Uint8Array(0) })
    const past = ask({ command: nbd.NBD_CMD_READ, offsetBytes: 67108864, lengthBytes: 1 })
    t.equal(past?.error, nbd.NBD_EINVAL)
    t.equal(past?.errorText === '', mode === 'simple')
    const status = ask({ command: nbd.NBD_CMD_BLOCK_STATUS, lengthBytes: 67108864 })
    if (mode === 'simple') {
      t.equal(status?.error, nbd.NBD_EINVAL)
    } else {
      t.same(status?.extents.get('base:allocation'), [
        { lengthBytes: 2097152, status: 0 },
        { lengthBytes: 65011712, status: 3 },
      ])
      t.same(status?.extents.get('qemu:allocation-depth')?.[0], { lengthBytes: 2097152, status: 1 })
    }
    const chosen = { command: nbd.NBD_CMD_BLOCK_STATUS, lengthBytes: 4096, contextIds: [2] }
    if (mode === 'extended') {
      t.same(
        [...(ask(chosen)?.extents ?? [])],
        [['qemu:allocation-depth', [{ lengthBytes: 4096, status: 1 }]]],
      )
    }
    t.equal(client.inFlightCount, 0)
    for (const part of client.disconnect()) server.receive(part)
    t.match(server.closed, { graceful: true })
  }
})

const structuredSession: nbd.ClientSession = {
  mode: 'structured',
  contexts: [{ id: 1, name: 'base:allocation' }],
  sizeBytes: 1048576,
  transmissionFlags: 0x0ded,
  blockSizes: undefined,
  canonicalName: undefined,
  description: undefined,
  exports: [],
}

t.test('server answers against the protocol: the client says what is wrong', async t => {
  const head = (type: string, length: string, done = '0001'): string =>
    `668e33ef ${done} ${type} 0000000000000001 ${length}`
  const R = nbd.NBD_CMD_READ
  const B = nbd.NBD_CMD_BLOCK_STATUS
  const cases: readonly [string, number, string, string, RegExp][] = [
    ['foreign magic', R, '12345678', 'REPLY_MAGIC', /0x12345678 in structured mode/],
    ['extended chunk', R, '6e8a278c', 'REPLY_MAGIC', /0x6e8a278c/],
    ['unknown cookie', R, '67446698 00000000 0000000000000009', 'REPLY_COOKIE', /cookie 9/],
    ['simple reply to READ', R, '67446698 00000016 0000000000000001', 'REPLY_FORM', /NBD_CMD_READ/],
    ['NONE with payload', R, `${head('0000', '00000001')} 00`, 'REPLY_CHUNK', /NONE/],
    ['NONE without DONE', R, head('0000', '00000000', '0000'), 'REPLY_CHUNK', /NONE/],
    ['no data', R, head('0000', '00000000'), 'REPLY_COVER', /cover/],
    [
      'half of the data',
      R,
      `${head('0001', '0000000a')} 0000000000000000 4142`,
      'REPLY_COVER',
      /cover/,
    ],
    [
      'data outside',
      R,
      `${head('0001', '0000000a')} 0000000000000003 4142`,
      'REPLY_CHUNK',
      /OFFSET_DATA/,
    ],
    [
      'data in front',
      R,
      `${head('0001', '00000008')} 0000000000000000`,
      'REPLY_CHUNK',
      /OFFSET_DATA/,
    ],
    [
      'empty hole',
      R,
      `${head('0002', '0000000c')} 0000000000000000 00000000`,
      'REPLY_CHUNK',
      /HOLE/,
    ],
    ['large chunk', R, head('0001', '7fffffff'), 'REPLY_LENGTH', /2147483647/],
    ['error 0', R, `${head('8001', '00000006')} 00000000 0000`, 'REPLY_CHUNK', /ERROR/],
    [
      'text beyond the chunk',
      R,
      `${head('8001', '00000006')} 00000005 0001`,
      'REPLY_CHUNK',
      /ERROR/,
    ],
    [
      'status for a READ',
      R,
      `${head('0005', '0000000c')} 00000001 00000004 00000000`,
      'REPLY_CHUNK',
      /STATUS/,
    ],
    [
      'unknown context',
      B,
      `${head('0005', '0000000c')} 00000002 00000004 00000000`,
      'REPLY_CHUNK',
      /STATUS/,
    ],
    ['no extents', B, `${head('0005', '00000004')} 00000001`, 'REPLY_CHUNK', /STATUS/],
    [
      'extent of 0',
      B,
      `${head('0005', '0000000c')} 00000001 00000000 00000000`,
      'REPLY_CHUNK',
      /STATUS/,
    ],
    [
      'extent past the export',
      B,
      `${head('0005', '0000000c')} 00000001 00100001 00000000`,
      'REPLY_CHUNK',
      /STATUS/,
    ],
    ['unknown chunk', R, head('0009', '00000000'), 'REPLY_CHUNK', /chunk type 9/],
  ]
  for (const [name, command, hex, code, text] of cases) {
    const client = new nbd.NbdClientConnection(structuredSession)
    client.request({ command, lengthBytes: 4 })
    const bytes = Buffer.from(hex.replace(/ /g, ''), 'hex')
    t.throws(() => client.receive(bytes), { name: 'ProtocolError', code, message: text }, name)
  }
})

t.test('chunks of a READ come in any order and pieces, with holes between', async t => {
  const client = new nbd.NbdClientConnection(structuredSession)
  client.request({ command: nbd.NBD_CMD_READ, offsetBytes: 16, lengthBytes: 4 })
  const hex =
    '668e33ef 0000 0001 0000000000000001 00000009 0000000000000013 44' +
    '668e33ef 0000 0002 0000000000000001 0000000c 0000000000000011 00000002' +
    '668e33ef 0000 0001 0000000000000001 00000009 0000000000000010 41' +
    '668e33ef 0001 0000 0000000000000001 00000000'
  const bytes = Buffer.from(hex.replace(/ /g, ''), 'hex')
  const replies = [...bytes].flatMap(byte => client.receive(Uint8Array.of(byte)))
  t.equal(Buffer.from(replies[0]?.data ?? []).toString('hex'), '41000044')
})

t.test('server negotiates against the protocol: the client says what is wrong', async t => {
  const greeting = Buffer.from('4e42444d4147494349484156454f50540003', 'hex')
  const fails = (hex: string, code: string, message: RegExp): void => {
    const client = new nbd.ClientHandshake({
      exportName: '',
      use: 'go',
      extended: false,
      structured: false,
    })
    client.receive(greeting)
    const bytes = Buffer.from(hex.replace(/ /g, ''), 'hex')
    t.throws(() => client.receive(bytes), { name: 'ProtocolError', code, message })
  }
  const old = new nbd.ClientHandshake({ exportName: '', use: 'go' })
  t.throws(
    () => old.receive(Buffer.from('4e42444d4147494300004202818612530000', 'hex')),
    /newstyle/,
  )
  fails('0003e889045565a8 00000007 00000001 00000000', 'OPTION_REPLY', /no reply to NBD_OPT_GO/)
  fails('0003e889045565a9 00000006 00000001 00000000', 'OPTION_REPLY', /no reply to NBD_OPT_GO/)
  fails('0003e889045565a9 00000007 00000001 00000000', 'OPTION_REPLY', /told no size/)
  fails('0003e889045565a9 00000007 00000003 7fffffff', 'OPTION_REPLY', /endless/)
  fails('0003e889045565a9 00000007 00000063 00000000', 'OPTION_REPLY', /reply 99 in reply/)
  fails('0003e889045565a9 00000007 00000003 00000003 0000 00', 'OPTION_REPLY', /information 0/)
  fails(
    '0003e889045565a9 00000007 00000003 0000000c 0000 ffffffffffffffff 0001',
    'EXPORT_SIZE',
    /2\^53/,
  )
})

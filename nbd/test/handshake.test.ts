// SPDX-License-Identifier: MIT
/**
 * Negotiation option by option: what the transcripts do not show. Refusals with code and text.
 */
import t, { type Test } from 'tap'
import * as nbd from '../src/index.js'
import { type MemoryDisk, type MemoryServerOptions, memoryPolicy } from './memory-server.js'

const GREETING_FLAGS = Uint8Array.of(0, 0, 0, 3)
const go = (name: string, types: number[] = []): Uint8Array =>
  nbd.encodeOption(nbd.NBD_OPT_GO, nbd.encodeInfoRequest(name, types))
const info = (name: string): Uint8Array =>
  nbd.encodeOption(nbd.NBD_OPT_INFO, nbd.encodeInfoRequest(name, []))
const set = (name: string, ...queries: string[]): Uint8Array =>
  nbd.encodeOption(nbd.NBD_OPT_SET_META_CONTEXT, nbd.encodeMetaContextRequest(name, queries))
const list = (name: string, ...queries: string[]): Uint8Array =>
  nbd.encodeOption(nbd.NBD_OPT_LIST_META_CONTEXT, nbd.encodeMetaContextRequest(name, queries))
const exportName = (name: string): Uint8Array =>
  nbd.encodeOption(nbd.NBD_OPT_EXPORT_NAME, nbd.encodeText(name))
const STRUCTURED = nbd.encodeOption(nbd.NBD_OPT_STRUCTURED_REPLY)
const EXTENDED = nbd.encodeOption(nbd.NBD_OPT_EXTENDED_HEADERS)
const STARTTLS = nbd.encodeOption(nbd.NBD_OPT_STARTTLS)
const ABORT = nbd.encodeOption(nbd.NBD_OPT_ABORT)
const LIST = nbd.encodeOption(nbd.NBD_OPT_LIST)

/** Readable replies: `ACK`, `SERVER`, `INFO 3`, `ERR_POLICY some text.` */
function repliesOf(output: Uint8Array): string[] {
  const replies: string[] = []
  const view = nbd.viewOf(output)
  for (let at = 0; at < output.length;) {
    const header = nbd.decodeOptionReplyHeader(view, at)
    if (header === undefined) return [...replies, `raw ${output.length - at}`]
    const payload = output.subarray(at + 20, at + 20 + header.length)
    const name = nbd.optionReplyName(header.type).replace('NBD_REP_', '')
    const text = Buffer.from(payload).toString()
    if (name === 'INFO') replies.push(`INFO ${nbd.viewOf(payload).getUint16(0)}`)
    else if (name.startsWith('ERR_')) replies.push(`${name} ${text}`)
    else if (name === 'META_CONTEXT') {
      replies.push(`META_CONTEXT ${nbd.viewOf(payload).getUint32(0)} ${text.slice(4)}`)
    } else replies.push(name)
    at += 20 + header.length
  }
  return replies
}

class Peer {
  readonly handshake: nbd.ServerHandshake<MemoryDisk>
  end: nbd.HandshakeEnd<MemoryDisk> | undefined

  constructor(options: MemoryServerOptions = {}, clientFlags = 3) {
    this.handshake = new nbd.ServerHandshake(memoryPolicy(options))
    this.handshake.greeting()
    this.send(Uint8Array.of(0, 0, 0, clientFlags))
  }

  send(bytes: Uint8Array): string[] {
    const step = this.handshake.receive(bytes)
    return this.took(step)
  }

  took(step: nbd.HandshakeStep<MemoryDisk>): string[] {
    this.end = step.done
    const replies = repliesOf(step.output)
    if (step.done?.kind === 'close') {
      replies.push(`${step.done.graceful ? 'close' : 'cut'}: ${step.done.reason}`)
    }
    return replies
  }

  get result(): nbd.NegotiatedSession<MemoryDisk> | undefined {
    return this.end?.kind === 'transmission' ? this.end.result : undefined
  }
}

const GO_OK = ['INFO 0', 'INFO 3', 'ACK']

t.test('one call takes one option and says how much of the bytes it was', async t => {
  const handshake = new nbd.ServerHandshake(memoryPolicy())
  handshake.greeting()
  const all = Buffer.concat([GREETING_FLAGS, STRUCTURED, go('ploop0'), Buffer.from('early')])
  const first = handshake.receive(all)
  t.same([first.consumed, first.output.length], [4, 0])
  const second = handshake.receive(all.subarray(4))
  t.same([second.consumed, repliesOf(second.output)], [16, ['ACK']])
  const third = handshake.receive(all.subarray(20))
  t.same([third.consumed, repliesOf(third.output)], [28, GO_OK], 'early bytes are left alone')
  t.equal(handshake.receive(all.subarray(48)).consumed, 0)
  t.equal(handshake.state, 'transmission')
})

t.test('a session carries what was negotiated', async t => {
  const peer = new Peer()
  peer.send(EXTENDED)
  peer.send(set('ploop0', 'qemu:allocation-depth'))
  peer.send(go('ploop0'))
  const { result } = peer
  t.match(result, {
    exportName: 'ploop0',
    mode: 'extended',
    contexts: [{ id: 1, name: 'qemu:allocation-depth' }],
    transmissionFlags: 0x1ded,
    noZeroes: true,
    viaExportName: false,
    tls: false,
  })
  t.equal(result?.export.sizeBytes, 67108864)
})

t.test('transmission flags follow the export, the mode and the selection', async t => {
  const base = memoryPolicy().findExport('ploop0', { tls: false, mode: 'simple', contexts: [] })
  const told = 'info' in base ? base.info : t.fail('no export')
  if (typeof told === 'boolean') return
  const flags = (changes: object, mode: nbd.ReplyMode, payload = true): number =>
    nbd.transmissionFlagsOf({ ...told, ...changes }, mode, payload)
  t.equal(flags({}, 'simple'), 0x0d6d)
  t.equal(flags({}, 'structured'), 0x0ded)
  t.equal(flags({}, 'extended'), 0x1ded)
  t.equal(flags({}, 'extended', false), 0x0ded)
  t.equal(flags({ readOnly: true }, 'simple'), 0x050f)
  t.equal(flags({ multiConn: false, rotational: true }, 'simple'), 0x0c7d)
})

t.test('contexts belong to one name and live as the protocol says', async t => {
  const cases: readonly [string, Uint8Array[], number][] = [
    ['selected', [set('ploop0', 'base:allocation'), go('ploop0')], 1],
    ['selected for the default name', [set('', 'base:allocation'), go('')], 1],
    ['void under another name', [set('', 'base:allocation'), go('ploop0')], 0],
    ['a failed GO keeps them', [set('ploop0', 'base:allocation'), go('nix'), go('ploop0')], 1],
    ['LIST leaves them alone', [set('ploop0', 'base:allocation'), list('nix'), go('ploop0')], 1],
    ['replaced', [set('ploop0', 'base:allocation'), set('ploop0', 'nix:nix'), go('ploop0')], 0],
    ['no queries select none', [set('ploop0', 'base:allocation'), set('ploop0'), go('ploop0')], 0],
    ['a failed SET clears', [set('ploop0', 'base:allocation'), set('nix', 'a:b'), go('ploop0')], 0],
    [
      'a malformed SET clears',
      [set('ploop0', 'base:allocation'), nbd.encodeOption(10, Buffer.from('x')), go('ploop0')],
      0,
    ],
    ['a later mode keeps them', [set('ploop0', 'base:allocation'), EXTENDED, go('ploop0')], 1],
    ['a refused mode keeps them', [set('ploop0', 'base:allocation'), STRUCTURED, go('ploop0')], 1],
    ['EXPORT_NAME keeps them', [set('ploop0', 'base:allocation'), exportName('ploop0')], 1],
    ['EXPORT_NAME of another', [set('', 'base:allocation'), exportName('ploop0')], 0],
  ]
  for (const [name, options, count] of cases) {
    const peer = new Peer()
    peer.send(STRUCTURED)
    for (const option of options) peer.send(option)
    t.equal(peer.result?.contexts.length, count, name)
  }
})

t.test('an oversized SET clears the selection too', async t => {
  const peer = new Peer()
  peer.send(STRUCTURED)
  peer.send(set('ploop0', 'base:allocation'))
  const large = nbd.encodeOption(nbd.NBD_OPT_SET_META_CONTEXT, new Uint8Array(65537))
  t.same(peer.send(large.subarray(0, 16)), [])
  t.equal(peer.handshake.state, 'dropping')
  t.same(peer.send(large.subarray(16, 60000)), [])
  t.match(peer.send(large.subarray(60000)), [/^ERR_TOO_BIG NBD_OPT_SET_META_CONTEXT: more than/])
  t.same(peer.send(go('ploop0')), GO_OK)
  t.same(peer.result?.contexts, [])
})

t.test('64 contexts may be selected, 65 are too many', async t => {
  const names = Array.from({ length: 65 }, (_, i) => `x-ploop:dirty:${i}`)
  const peer = new Peer({ contextsOf: () => names })
  peer.send(STRUCTURED)
  t.equal(peer.send(set('ploop0', ...names.slice(0, 64))).length, 65)
  t.equal(peer.handshake.session.contexts.length, 64)
  t.same(peer.send(set('ploop0', ...names)), [
    'ERR_TOO_BIG 65 metadata contexts selected, at most 64.',
  ])
  t.equal(peer.handshake.session.contexts.length, 0)
  t.equal(peer.send(list('ploop0', 'x-ploop:')).length, 66, 'listing has no such limit')
})

t.test('SET needs structured replies, LIST does not', async t => {
  const peer = new Peer()
  t.same(peer.send(set('ploop0', 'base:allocation')), [
    'ERR_INVALID metadata contexts need structured replies.',
  ])
  t.same(peer.send(list('ploop0', 'base:')), ['META_CONTEXT 0 base:allocation', 'ACK'])
})

t.test('modes: each once, extended wins, and both can be switched off', async t => {
  const peer = new Peer()
  t.same(peer.send(STRUCTURED), ['ACK'])
  t.same(peer.send(STRUCTURED), ['ERR_INVALID structured replies are in use already.'])
  t.same(peer.send(EXTENDED), ['ACK'])
  t.same(peer.send(EXTENDED), ['ERR_INVALID extended headers are in use already.'])
  t.same(peer.send(STRUCTURED), ['ERR_EXT_HEADER_REQD extended headers are in use.'])
  const off = new Peer({ allowStructured: false, allowExtended: false })
  t.same(off.send(EXTENDED), ['ERR_UNSUP extended headers are switched off.'])
  t.same(off.send(STRUCTURED), ['ERR_POLICY structured replies are switched off.'])
  t.same(off.send(nbd.encodeOption(8, Uint8Array.of(1))), [
    'ERR_INVALID NBD_OPT_STRUCTURED_REPLY takes no data.',
  ])
  off.send(go('ploop0'))
  t.equal(off.result?.mode, 'simple')
})

t.test('EXPORT_NAME closes wherever another option gets an error', async t => {
  const cases: readonly [string, MemoryServerOptions, Uint8Array[], RegExp][] = [
    ['unknown', {}, [exportName('nix')], /^close: export "nix" refused/],
    ['too long', {}, [exportName('x'.repeat(4097))], /^close: bad export name "x{80}"…/],
    ['with NUL', {}, [exportName('a\0b')], /^close: bad export name "a\\x00b"/],
    ['extended', {}, [EXTENDED, exportName('ploop0')], /^close: .* after NBD_OPT_EXTENDED/],
    ['stopping', { shuttingDown: true }, [exportName('ploop0')], /^close: .*shutting down/],
    ['64 KiB', {}, [nbd.encodeOption(1, new Uint8Array(65537))], /^close: .*65537 bytes/],
    [
      'busy',
      { enter: () => ({ kind: 'policy', text: 'in use by another client' }) },
      [exportName('ploop0')],
      /^close: export "ploop0" refused: in use/,
    ],
  ]
  for (const [name, options, sent, expected] of cases) {
    const peer = new Peer(options)
    const replies = sent.map(bytes => peer.send(bytes)).at(-1) ?? []
    t.equal(replies.length, 1, `${name}: no reply`)
    t.match(replies[0], expected, name)
    t.equal(peer.handshake.state, 'closed')
  }
})

t.test('a client without fixed newstyle gets EXPORT_NAME and nothing else', async t => {
  for (const option of [STRUCTURED, go('ploop0'), ABORT, STARTTLS, LIST]) {
    const peer = new Peer({}, 0)
    t.match(peer.send(option), [/^close: .* from a client without fixed newstyle/])
  }
  const peer = new Peer({}, 0)
  t.same(peer.send(exportName('ploop0')), ['raw 134'], '10 bytes and 124 zeros')
  const tls = new Peer({ tls: 'require' }, 0)
  t.match(tls.send(exportName('ploop0')), ['close: NBD_OPT_EXPORT_NAME before TLS'])
})

t.test('GO: names, refusals of the policy and their words', async t => {
  const peer = new Peer()
  t.same(peer.send(go('nix')), ['ERR_UNKNOWN there is no export "nix".'])
  t.match(peer.send(go('x'.repeat(4096))), [/^ERR_UNKNOWN there is no export "x{80}"…\.$/])
  t.same(peer.send(go('x'.repeat(4097))), ['ERR_INVALID malformed NBD_OPT_GO.'])
  t.same(peer.send(go('a\0')), ['ERR_INVALID malformed NBD_OPT_GO.'])
  const bad = nbd.encodeOption(7, Uint8Array.of(0, 0, 0, 1, 0xff, 0, 0))
  t.same(peer.send(bad), ['ERR_UNKNOWN there is no export "\\xff".'], 'not UTF-8')
  t.same(peer.send(go('PLOOP0')), ['ERR_UNKNOWN there is no export "PLOOP0".'], 'case counts')
  t.same(peer.send(go('ploop0', [1, 1, 2, 3, 3, 77])), ['INFO 0', 'INFO 3', 'INFO 1', 'ACK'])
})

t.test('an error text has at most 255 bytes and ends in a full stop', async t => {
  const text = 'é'.repeat(300)
  const peer = new Peer({ findExport: () => ({ kind: 'policy', text }) })
  const [reply = ''] = peer.send(go('ploop0'))
  const sent = Buffer.from(reply.slice('ERR_POLICY '.length))
  t.equal(sent.length, 255)
  t.equal(sent.at(-1), 0x2e)
})

t.test('descriptions are sent when asked for, below 1 KiB', async t => {
  const peer = new Peer({ info: { description: 'd'.repeat(3000) } })
  const step = peer.handshake.receive(go('ploop0', [nbd.NBD_INFO_DESCRIPTION]))
  t.same(repliesOf(step.output), ['INFO 0', 'INFO 3', 'INFO 2', 'ACK'])
  t.equal(step.output.length, 4 * 20 + 12 + 14 + 2 + 1023)
  const plain = new Peer({ info: { description: 'd' } })
  t.same(plain.send(go('ploop0')), GO_OK)
})

t.test('LIST shows what the policy shows, or is refused', async t => {
  t.same(new Peer().send(LIST), ['SERVER', 'ACK'])
  t.same(new Peer({ listExports: () => [] }).send(LIST), ['ACK'])
  const long = new Peer({ listExports: () => [{ name: 'x'.repeat(4097) }, { name: 'y' }] })
  t.same(long.send(LIST), ['SERVER', 'ACK'], 'a name no client can take is left out')
  t.same(new Peer({ listExports: () => 'refused' }).send(LIST), [
    'ERR_POLICY this server does not list its exports.',
  ])
})

t.test('entering can wait, and is asked again with the export of that moment', async t => {
  let verdict: 'wait' | 'enter' | nbd.Refusal = 'wait'
  for (const [option, expected] of [
    [go('ploop0'), GO_OK],
    [exportName('ploop0'), ['raw 10']],
  ] as const) {
    verdict = 'wait'
    const peer = new Peer({ enter: () => verdict })
    const more = Buffer.concat([option, STRUCTURED])
    const step = peer.handshake.receive(more)
    t.same([step.consumed, step.output.length, step.done], [option.length, 0, undefined])
    t.equal(peer.handshake.state, 'waiting')
    t.equal(peer.handshake.receive(STRUCTURED).consumed, 0, 'nothing is taken meanwhile')
    t.same(peer.took(peer.handshake.proceed()), [])
    t.equal(peer.handshake.state, 'waiting', 'still')
    verdict = 'enter'
    t.same(peer.took(peer.handshake.proceed()), expected)
    t.equal(peer.result?.exportName, 'ploop0')
  }
  t.throws(() => new Peer().handshake.proceed(), /nothing to proceed/)
})

t.test('waiting can end in a refusal, after which the client may go on', async t => {
  let verdict: 'wait' | nbd.Refusal = 'wait'
  const peer = new Peer({ enter: () => verdict })
  peer.send(go('ploop0'))
  verdict = { kind: 'policy', text: 'the export takes one client' }
  t.same(peer.took(peer.handshake.proceed()), ['ERR_POLICY the export takes one client.'])
  t.same(peer.send(STRUCTURED), ['ACK'])
})

t.test('INFO never asks to enter', async t => {
  const peer = new Peer({ enter: () => t.fail('entered') as never })
  t.same(peer.send(info('ploop0')), GO_OK)
  t.equal(peer.end, undefined)
})

t.test('a server that shuts down refuses everything but ABORT', async t => {
  const peer = new Peer({ shuttingDown: true })
  for (const option of [go('ploop0'), info('ploop0'), LIST, STRUCTURED, STARTTLS]) {
    t.same(peer.send(option), ['ERR_SHUTDOWN the server is shutting down.'])
  }
  t.same(peer.send(nbd.encodeOption(4711)), ['ERR_SHUTDOWN the server is shutting down.'])
  t.same(peer.send(ABORT), ['ACK', 'close: the client aborted the negotiation'])
})

t.test('the thousandth option is served, the next one closes', async t => {
  const peer = new Peer()
  for (let i = 0; i < 999; i += 1) peer.send(nbd.encodeOption(4711))
  t.match(peer.send(nbd.encodeOption(4711)), [/^ERR_UNSUP/])
  t.same(peer.send(nbd.encodeOption(4711)), ['cut: more than 1000 options'])
  const few = new Peer({ maxOptions: 1 })
  few.send(LIST)
  t.same(few.send(LIST), ['cut: more than 1 options'])
})

t.test('1 MiB of data is dropped piece by piece, one byte more closes', async t => {
  const peer = new Peer()
  const large = nbd.encodeOption(nbd.NBD_OPT_INFO, new Uint8Array(1048576))
  let replies: string[] = []
  for (let at = 0; at < large.length;) {
    const step = peer.handshake.receive(large.subarray(at, at + 100000))
    t.ok(step.consumed > 0)
    at += step.consumed
    replies = [...replies, ...peer.took(step)]
  }
  t.same(replies, ['ERR_TOO_BIG NBD_OPT_INFO: more than 65536 bytes of data.'])
  t.same(peer.send(go('ploop0')), GO_OK)
  const header = nbd.encodeOption(nbd.NBD_OPT_INFO, new Uint8Array(1048577)).subarray(0, 16)
  t.same(new Peer().send(header), ['cut: NBD_OPT_INFO with 1048577 bytes of data'])
})

function checkTls(t: Test, options: MemoryServerOptions, cases: [Uint8Array, RegExp][]): void {
  const peer = new Peer(options)
  for (const [option, expected] of cases) t.match(peer.send(option), [expected])
}

t.test('TLS off: STARTTLS is refused, with or without data', async t => {
  checkTls(t, {}, [
    [STARTTLS, /^ERR_POLICY TLS is switched off\.$/],
    [nbd.encodeOption(5, Uint8Array.of(1)), /^ERR_INVALID NBD_OPT_STARTTLS takes no data\.$/],
  ])
})

t.test('TLS required: everything else waits for it, ABORT does not', async t => {
  const required = /^ERR_TLS_REQD this server requires TLS\.$/
  checkTls(t, { tls: 'require' }, [
    [LIST, required],
    [go('ploop0'), required],
    [go('nix'), required],
    [STRUCTURED, required],
    [nbd.encodeOption(4711), required],
    [nbd.encodeOption(5, Uint8Array.of(1)), /^cut: NBD_OPT_STARTTLS with data/],
  ])
  const peer = new Peer({ tls: 'require' })
  t.same(peer.send(ABORT), ['ACK', 'close: the client aborted the negotiation'])
})

t.test('TLS for some exports: hidden and unknown names get the same answer', async t => {
  const policy = memoryPolicy()
  const options: MemoryServerOptions = {
    tls: 'selective',
    findExport: (name, session) =>
      name === 'secret' && !session.tls
        ? { kind: 'tls-required', text: 'the secret export wants TLS' }
        : policy.findExport(name === 'secret' ? 'ploop0' : name, session),
  }
  const peer = new Peer(options)
  const hidden = 'ERR_TLS_REQD this export is not available without TLS.'
  peer.send(EXTENDED)
  for (const ask of [go, info, set, list]) {
    t.same(peer.send(ask('secret')), [hidden])
    t.same(peer.send(ask('nix')), [hidden])
  }
  const bad = nbd.encodeOption(7, Uint8Array.of(0, 0, 0, 1, 0xff, 0, 0))
  t.same(peer.send(bad), [hidden], 'a name that is not UTF-8 too')
  t.match(new Peer(options).send(exportName('secret')), [/^close/])
  t.same(peer.send(info('ploop0')), GO_OK)
  t.same(peer.send(STARTTLS), ['ACK'])
  t.equal(peer.end?.kind, 'starttls')
  peer.handshake.secured()
  t.same(peer.send(go('nix')), ['ERR_UNKNOWN there is no export "nix".'])
  t.same(peer.send(go('secret')), GO_OK)
  t.equal(peer.result?.mode, 'simple', 'what was negotiated before TLS is forgotten')
  t.equal(peer.result?.noZeroes, true, "the client's flags are not")
  t.equal(peer.result?.tls, true)
})

t.test('plain bytes behind STARTTLS are never used', async t => {
  const peer = new Peer({ tls: 'require' })
  const injected = Buffer.concat([STARTTLS, STRUCTURED])
  t.same(peer.send(injected), ['cut: plain bytes after NBD_OPT_STARTTLS'])
  const calm = new Peer({ tls: 'require' })
  t.same(calm.send(STARTTLS), ['ACK'])
  t.equal(calm.handshake.receive(STRUCTURED).consumed, 0, 'nothing is taken until TLS is up')
})

t.test('a handshake can go on elsewhere after TLS', async t => {
  const handshake = nbd.ServerHandshake.secured(memoryPolicy({ tls: 'require' }), 3)
  t.equal(handshake.state, 'options')
  t.throws(() => handshake.greeting(), /no greeting/)
  const step = handshake.receive(exportName('ploop0'))
  t.equal(step.output.length, 10, 'NO_ZEROES is still in force')
  t.same(repliesOf(handshake.receive(STRUCTURED).output), [])
})

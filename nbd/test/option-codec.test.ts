// SPDX-License-Identifier: MIT
/**
 * Options and option replies: hex in both directions, then every way an option's data can lie.
 */
import t from 'tap'
import * as nbd from '../src/index.js'

const bytesOf = (hex: string): Buffer => Buffer.from(hex.replace(/ /g, ''), 'hex')
const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const name = '00000006 706c6f6f7030'

t.test('options have the bytes of the protocol document', async t => {
  const cases: readonly [Uint8Array, string][] = [
    [nbd.encodeOption(nbd.NBD_OPT_ABORT), '49484156454f5054 00000002 00000000'],
    [nbd.encodeInfoRequest('ploop0', [3, 1]), `${name} 0002 0003 0001`],
    [nbd.encodeMetaContextRequest('ploop0', []), `${name} 00000000`],
    [nbd.encodeMetaContextRequest('', ['a:', 'b']), '00000000 00000002 00000002 613a 00000001 62'],
    [
      nbd.encodeOptionError(7, nbd.NBD_REP_ERR_POLICY, 'no'),
      '0003e889045565a9 00000007 80000002 00000003 6e6f2e',
    ],
    [
      nbd.encodeOptionError(7, nbd.NBD_REP_ERR_POLICY, 'no.'),
      '0003e889045565a9 00000007 80000002 00000003 6e6f2e',
    ],
  ]
  for (const [bytes, hex] of cases) t.equal(hexOf(bytes), hex.replace(/ /g, ''))
})

t.test('the data of INFO and GO is parsed, or refused', async t => {
  const parsed = nbd.parseInfoRequest(bytesOf(`${name} 0003 0003 0001 0003`))
  t.equal(Buffer.from(parsed?.name ?? []).toString(), 'ploop0')
  t.same([...(parsed?.types ?? [])], [3, 1])
  t.ok(nbd.parseInfoRequest(bytesOf('00000000 0000')), 'the empty name')
  for (const [why, hex] of [
    ['nothing', ''],
    ['half a length', '0000'],
    ['no count', name],
    ['half a count', `${name} 00`],
    ['too few types', `${name} 0002 0003`],
    ['too many types', `${name} 0001 0003 0003`],
    ['trailing byte', `${name} 0000 00`],
    ['name longer than the data', '00000009 706c6f6f7030 0000'],
    ['name of 4 GiB - 1', 'ffffffff 706c6f6f7030 0000'],
    ['NUL in the name', '00000001 00 0000'],
    ['name of 4097', `00001001 ${'61'.repeat(4097)} 0000`],
  ] as const) {
    t.equal(nbd.parseInfoRequest(bytesOf(hex)), undefined, why)
  }
})

t.test('the data of the META_CONTEXT options is parsed, or refused', async t => {
  const data = bytesOf(`${name} 00000003 00000001 61 00000000 00000002 6263`)
  const request = nbd.parseMetaContextRequest(data)
  const queries: string[] = []
  if (request === undefined) return void t.fail('malformed')
  nbd.forEachQuery(data, request, (start, end) => {
    queries.push(data.toString('latin1', start, end))
  })
  t.same(queries, ['a', '', 'bc'])
  for (const [why, hex] of [
    ['no count', name],
    ['half a count', `${name} 0000`],
    ['one query missing', `${name} 00000002 00000001 61`],
    ['4 G queries', `${name} ffffffff`],
    ['query longer than the rest', `${name} 00000001 00000002 61`],
    ['query of 4 GiB - 16', `${name} 00000001 fffffff0 61`],
    ['trailing byte', `${name} 00000001 00000001 61 00`],
    ['trailing byte without queries', `${name} 00000000 00`],
    ['NUL in the name', '00000001 00 00000000'],
  ] as const) {
    t.equal(nbd.parseMetaContextRequest(bytesOf(hex)), undefined, why)
  }
})

t.test('reply headers decode by their magic', async t => {
  const bytes = bytesOf('0003e889045565a9 0000000b 8000000a ffffffff')
  t.same(nbd.decodeOptionReplyHeader(nbd.viewOf(bytes), 0), {
    option: 11,
    type: nbd.NBD_REP_ERR_EXT_HEADER_REQD,
    length: 0xffffffff,
  })
  bytes.writeUInt8(1, 0)
  t.equal(nbd.decodeOptionReplyHeader(nbd.viewOf(bytes), 0), undefined)
})

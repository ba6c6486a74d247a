// SPDX-License-Identifier: MIT
/**
 * Request headers: hex to fields and back.
 */
import t from 'tap'
import * as nbd from '../src/index.js'

const compact = '25609513 0001 0001 f122334455667789 80000000fffffe00 fffffe00'
const extended = '21e41c71 0020 0007 f122334455667789 001fffffffffffff ffffffff00000001'
const bytesOf = (hex: string): Uint8Array => Buffer.from(`eeee${hex.replace(/ /g, '')}`, 'hex')

t.test('headers decode into a reused object and encode to the same bytes', async t => {
  const header = new nbd.RequestHeader()
  for (const [hex, mode, size, fields] of [
    [
      compact,
      'structured',
      28,
      [1, 1, 0xf1223344, 0x55667789, 0x80000000, 0xfffffe00, 0, 0xfffffe00],
    ],
    [
      extended,
      'extended',
      32,
      [32, 7, 0xf1223344, 0x55667789, 0x1fffff, 0xffffffff, 0xffffffff, 1],
    ],
  ] as const) {
    const bytes = bytesOf(hex)
    t.equal(nbd.decodeRequest(nbd.viewOf(bytes), 2, header), size)
    t.equal(nbd.requestBytesOf(mode), size)
    t.same(Object.values(header), fields)
    const back = new Uint8Array(bytes.length).fill(0xee)
    t.equal(nbd.encodeRequest(nbd.viewOf(back), 2, mode, header), size)
    t.same(Buffer.from(back).toString('hex'), Buffer.from(bytes).toString('hex'))
  }
})

t.test('a foreign magic is no header', async t => {
  const header = new nbd.RequestHeader()
  for (const magic of ['12560953', '96744668', '25609514', '67446698', '00000000']) {
    const bytes = bytesOf(compact.replace('25609513', magic))
    t.equal(nbd.decodeRequest(nbd.viewOf(bytes), 2, header), 0, magic)
  }
})

t.test('a compact header refuses a length it cannot carry', async t => {
  const header = new nbd.RequestHeader()
  header.lengthHigh = 1
  t.throws(
    () => nbd.encodeRequest(new DataView(new ArrayBuffer(32)), 0, 'simple', header),
    RangeError,
  )
})

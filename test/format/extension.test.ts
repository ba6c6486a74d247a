// SPDX-License-Identifier: MIT
/** The format extension and its dirty bitmap. */
import t from 'tap'
import {
  decodeExtension,
  dirtyBitmapMagic,
  encodeDirtyBitmap,
  encodeExtension,
  extensionFileClusters,
  extensionOffsetBytes,
} from '../../src/format/extension.js'
import { newHeader } from '../../src/format/header.js'

const clusterBytes = 32_768
const header = {
  ...newHeader({ version: 2, clusterSectors: 64, sizeSectors: 204_800 }),
  inUse: 0x312e3276,
  extensionOffsetSectors: 64 * 9,
}
const bitmap = {
  sizeSectors: 204_800,
  id: '01234567-89ab-cdef-0123-456789abcdef',
  granularitySectors: 128,
  tableSectors: [64 * 8],
}
const feature = { magic: dirtyBitmapMagic, flags: 0n, data: encodeDirtyBitmap(bitmap) }

t.test('a dirty bitmap feature is laid out as the format says', async t => {
  t.equal(
    Buffer.from(feature.data).toString('hex'),
    '002003000000000001234567' +
      '89abcdef0123456789abcdef' +
      '8000000001000000' +
      '0002000000000000',
  )
  const cluster = encodeExtension([feature], clusterBytes)
  t.equal(Buffer.from(cluster.subarray(0, 8)).toString('hex'), '87eadc23ef4c23ab')
  t.equal(
    Buffer.from(cluster.subarray(24, 48)).toString('hex'),
    '4ab32c25ae5f3820' + '0000000000000000' + '28000000' + '00000000',
  )
})

t.test('extensions decode to what was encoded', async t => {
  const odd = { magic: 5n, flags: 1n, data: Uint8Array.of(1, 2, 3) }
  const decoded = decodeExtension(encodeExtension([odd, feature], clusterBytes), header)
  t.same(decoded.bitmaps, [bitmap])
  t.same(decoded.features[0], odd, 'an unknown feature of odd length is kept')
  t.same(extensionFileClusters(header, decoded), [8, 9])
  t.equal(extensionOffsetBytes(header, 10 * clusterBytes), 9 * clusterBytes)
  t.equal(extensionOffsetBytes(header, 10 * clusterBytes - 1), undefined, 'cut off')
  const inHeader = { ...header, extensionOffsetSectors: 32 }
  t.equal(extensionOffsetBytes(inHeader, 2 ** 30), undefined)
})

t.test('image contains a broken extension', async t => {
  const good = encodeExtension([feature], clusterBytes)
  const flipped = good.slice()
  flipped[clusterBytes - 1] = 1
  const wrongMagic = good.slice()
  wrongMagic[0] = 0
  const withBitmap = (change: Partial<typeof bitmap>) =>
    encodeExtension(
      [{ ...feature, data: encodeDirtyBitmap({ ...bitmap, ...change }) }],
      clusterBytes,
    )
  const cases: [string, Uint8Array, RegExp][] = [
    ['short', good.subarray(1), /cut off/],
    ['magic', wrongMagic, /wrong magic/],
    ['checksum', flipped, /wrong checksum/],
    ['size', withBitmap({ sizeSectors: 64 }), /of 64 sectors, the disk has 204800/],
    ['granularity', withBitmap({ granularitySectors: 3 }), /3 sectors per bit/],
    ['table', withBitmap({ tableSectors: [0, 0] }), /2 table entries, 1 expected/],
    ['cluster', withBitmap({ tableSectors: [65] }), /cluster at sector 65/],
    [
      'tiny',
      encodeExtension([{ ...feature, data: new Uint8Array(8) }], clusterBytes),
      /of 8 bytes/,
    ],
  ]
  for (const [name, cluster, message] of cases) {
    t.throws(() => decodeExtension(cluster, header), { message, code: 'EXTENSION_INVALID' }, name)
  }
})

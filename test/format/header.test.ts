// SPDX-License-Identifier: MIT
/** Header, geometry and BAT arithmetic against values that genuine ploop computes. */
import t from 'tap'
import { PloopError } from '../../src/base/errors.js'
import {
  batCapacity,
  batClusterCount,
  decodeEntries,
  encodeEntries,
  entryOffsetBytes,
  entryToFileCluster,
  fileClusterLimit,
  fileClusterToEntry,
  isAllZero,
  unalignedEntry,
} from '../../src/format/bat.js'
import {
  batAreaBytes,
  checkSize,
  chsOf,
  descriptorSectorsPerTrack,
  isLegalClusterSize,
  roundSizeSectors,
} from '../../src/format/geometry.js'
import {
  type DeltaHeader,
  decodeHeader,
  encodeHeader,
  hasExtension,
  isInUse,
  newHeader,
  validateHeader,
} from '../../src/format/header.js'

const fromHex = (hex: string) => new Uint8Array(Buffer.from(hex.replaceAll(' ', ''), 'hex'))
const signature1 = Buffer.from('WithoutFreeSpace').toString('hex')
const signature2 = Buffer.from('WithouFreSpacExt').toString('hex')

const tenMebibytes: DeltaHeader = {
  version: 2,
  clusterSectors: 2048,
  clusterCount: 10,
  sizeSectors: 20_480,
  heads: 16,
  cylinders: 40,
  inUse: 0,
  firstBlockSectors: 2048,
  flags: 1,
  extensionOffsetSectors: 0,
}

const images: [name: string, hex: string, header: DeltaHeader][] = [
  [
    'a 10 MiB image of version 2',
    `${signature2} 02000000 10000000 28000000 00080000 0a000000 0050000000000000 00000000
     00080000 01000000 0000000000000000`.replaceAll('\n', ''),
    tenMebibytes,
  ],
  [
    'a 10 MiB image of version 1',
    `${signature1} 02000000 10000000 28000000 00080000 0a000000 00500000 00000000 00000000
     00080000 01000000 0000000000000000`.replaceAll('\n', ''),
    { ...tenMebibytes, version: 1 },
  ],
  [
    'a 2 TiB image in use, whose size needs more than 32 bits',
    `${signature2} 02000000 10000000 00008000 00080000 00002000 0000000001000000 596e6f74
     00480000 00000000 0000000000000000`.replaceAll('\n', ''),
    {
      ...tenMebibytes,
      clusterCount: 2_097_152,
      sizeSectors: 4_294_967_296,
      cylinders: 8_388_608,
      inUse: 0x746f6e59,
      firstBlockSectors: 18_432,
      flags: 0,
    },
  ],
  [
    'an image with a format extension',
    `${signature2} 02000000 10000000 28000000 00080000 0a000000 0050000000000000 76322e31
     00080000 00000000 0018000000000000`.replaceAll('\n', ''),
    { ...tenMebibytes, inUse: 0x312e3276, flags: 0, extensionOffsetSectors: 0x1800 },
  ],
]

t.test('headers decode and encode to the same bytes', async t => {
  for (const [name, hex, header] of images) {
    const bytes = fromHex(hex.replaceAll(/\s/g, ''))
    t.same(decodeHeader(bytes), header, `${name} decodes`)
    t.equal(Buffer.from(encodeHeader(header)).toString('hex'), hex.replaceAll(/\s/g, ''), name)
    t.doesNotThrow(() => validateHeader(header), `${name} is valid`)
  }
})

t.test('the in-use word', async t => {
  t.notOk(isInUse(0), 'zero means closed')
  t.notOk(isInUse(0x312e3276), '"v2.1" means closed')
  t.ok(isInUse(0x746f6e59), '"Ynot" means in use')
  t.ok(isInUse(1), 'anything else means in use')
  t.ok(hasExtension({ ...tenMebibytes, inUse: 0x312e3276, extensionOffsetSectors: 4096 }))
  t.notOk(hasExtension({ ...tenMebibytes, extensionOffsetSectors: 4096 }), 'closed with 0')
})

// requested sectors, cluster, clusters, bytes of the BAT area, cylinders (16 heads everywhere)
const worked: [number, number, number, number, number][] = [
  [20_480, 2048, 10, 1_048_576, 40],
  [204_800, 64, 3200, 32_768, 400],
  [524_288, 64, 8192, 65_536, 1024],
  [1_000_001, 2048, 489, 1_048_576, 1956],
  [2_097_152, 2048, 1024, 1_048_576, 2080],
  [20_971_520, 2048, 10_240, 1_048_576, 40_960],
  [536_838_144, 2048, 262_128, 1_048_576, 1_048_512],
  [536_840_192, 2048, 262_129, 2_097_152, 1_048_516],
  [2_147_483_648, 2048, 1_048_576, 5_242_880, 4_194_304],
  [4_294_967_296, 2048, 2_097_152, 9_437_184, 8_388_608],
]

t.test('new headers have the values of genuine ploop', async t => {
  for (const [requested, clusterSectors, clusterCount, batBytes, cylinders] of worked) {
    const sizeSectors = roundSizeSectors(2, requested, clusterSectors)
    const header = newHeader({ version: 2, clusterSectors, sizeSectors })
    t.match(
      header,
      { clusterCount, firstBlockSectors: batBytes / 512, heads: 16, cylinders },
      `${requested} sectors at ${clusterSectors}`,
    )
    t.equal(batAreaBytes(clusterCount, clusterSectors), batBytes)
    validateHeader(header, batBytes)
  }
})

t.test('cylinders and heads follow the size', async t => {
  t.same(chsOf(131_072), { cylinders: 256, heads: 16, sectors: 32 })
  t.same(chsOf(7), { cylinders: 7, heads: 1, sectors: 1 }, 'nothing divides: pure LBA')
  t.same(chsOf(2 ** 40), { cylinders: 0x8000_0000, heads: 16, sectors: 32 }, 'large')
  t.same(chsOf(2 ** 41), { cylinders: 0, heads: 16, sectors: 32 }, 'cylinders wrap to 0')
  t.equal(descriptorSectorsPerTrack(2 ** 41, chsOf(2 ** 41)), 0, 'nobody divides by zero')
  t.equal(descriptorSectorsPerTrack(131_072, chsOf(131_072)), 32)
})

t.test('sizes round to clusters within the version', async t => {
  t.equal(roundSizeSectors(2, 1, 2048), 2048)
  t.equal(roundSizeSectors(1, 0xffff_ffff, 2048), 0xffff_f800, 'version 1 rounds down at its end')
  t.equal(roundSizeSectors(2, 0xffff_ffff * 64, 64), 0xffff_ffff * 64)
  const refused: [string, 1 | 2, number, number, RegExp][] = [
    ['version 1 beyond 2 TiB', 1, 2 ** 32, 2048, /maximum allowed size is 4294967295 sectors/],
    ['a table that needs 4 GiB', 2, 1_073_741_808 * 64, 64, /4 GiB or more/],
    ['a size of 0', 2, 0, 2048, /not a positive whole number/],
    ['a cluster of 65 sectors', 2, 2048, 65, /not a power of two/],
  ]
  for (const [name, version, size, cluster, message] of refused) {
    t.throws(() => checkSize(version, size, cluster), { message, exitStatus: 38 }, name)
  }
  t.doesNotThrow(() => checkSize(2, 1_073_741_807 * 64, 64), 'the largest table')
  for (const legal of [64, 128, 2048, 131_072]) t.ok(isLegalClusterSize(legal), `${legal}`)
  for (const illegal of [0, 32, 63, 65, 262_144, -64, NaN, 2048.5]) {
    t.notOk(isLegalClusterSize(illegal), `${illegal}`)
  }
})

t.test('image contains a bad header: one clear refusal', async t => {
  const good = encodeHeader(tenMebibytes)
  const broken = (offset: number, ...bytes: number[]) => {
    const copy = good.slice()
    copy.set(bytes, offset)
    return copy
  }
  const cases: [string, Uint8Array, string, RegExp, number][] = [
    ['short', good.subarray(0, 63), 'HEADER_SHORT', /63 bytes instead of 64/, 6],
    ['signature', broken(0, 0x58), 'HEADER_SIGNATURE', /Wrong signature/, 11],
    ['qcow2', broken(0, 0x51, 0x46, 0x49, 0xfb), 'HEADER_SIGNATURE', /a qcow2 image/, 11],
    ['type', broken(16, 3), 'HEADER_TYPE', /Wrong type 3/, 11],
    ['cluster size', broken(28, 65), 'HEADER_CLUSTER_SIZE', /Wrong cluster size 2113 sectors/, 11],
    ['no first block', broken(48, 0, 0), 'HEADER_FIRST_BLOCK', /Wrong first block offset 0/, 11],
    ['odd first block', broken(48, 1), 'HEADER_FIRST_BLOCK', /Wrong first block offset 2049/, 11],
    ['size', broken(36, 0, 0, 0, 0, 0, 0, 0, 0x80), 'HEADER_SIZE', /Wrong size/, 11],
  ]
  for (const [name, bytes, code, message, exitStatus] of cases) {
    t.throws(() => decodeHeader(bytes, 'x.hds'), { code, message, exitStatus, path: 'x.hds' }, name)
  }
})

t.test('image contains fields that contradict each other', async t => {
  const cases: [string, Partial<DeltaHeader>, RegExp][] = [
    ['size of no whole clusters', { sizeSectors: 20_481 }, /a multiple of the cluster size/],
    ['another number of clusters', { clusterCount: 11 }, /11 clusters of 2048 sectors are not/],
    [
      'a table that does not fit before the data',
      { clusterCount: 262_129, sizeSectors: 262_129 * 2048 },
      /ends at sector 4096/,
    ],
    [
      'an enormous size',
      { clusterSectors: 131_072, clusterCount: 2 ** 28, sizeSectors: 2 ** 45 },
      /beyond 8 PiB/,
    ],
  ]
  for (const [name, change, message] of cases) {
    const header = { ...tenMebibytes, ...change }
    t.throws(() => validateHeader(header), { message, exitStatus: 11 }, name)
  }
  t.throws(() => validateHeader(tenMebibytes, 1_048_575), { code: 'HEADER_FILE_SHORT' })
  t.doesNotThrow(() => validateHeader(tenMebibytes, 1_048_577), 'a partial tail is fine')
  const roomy = { ...tenMebibytes, firstBlockSectors: 4096 }
  t.doesNotThrow(() => validateHeader(roomy, 2 ** 21), 'a longer table than needed is fine')
})

t.test('BAT entries', async t => {
  t.equal(entryOffsetBytes(0), 64)
  t.equal(entryOffsetBytes(2 ** 31), 64 + 2 ** 33, 'offsets do not wrap')
  t.equal(batCapacity(1, 2048), 262_128)
  t.equal(batCapacity(2, 2048), 524_272)
  t.equal(batCapacity(1, 64), 8176)
  t.equal(batClusterCount({ firstBlockSectors: 320, clusterSectors: 64 }), 5)

  // version, entry, cluster sectors, file cluster
  const entries: [1 | 2, number, number, number][] = [
    [2, 1, 2048, 1],
    [2, 0xffff_fffe, 64, 0xffff_fffe],
    [1, 2048, 2048, 1],
    [1, 0xffff_f800, 2048, 2_097_151],
    [1, 64 * 5, 64, 5],
  ]
  for (const [version, entry, cluster, fileCluster] of entries) {
    t.equal(entryToFileCluster(version, entry, cluster), fileCluster)
    t.equal(fileClusterToEntry(version, fileCluster, cluster), entry)
  }
  t.equal(entryToFileCluster(1, 2049, 2048), unalignedEntry)
  for (const [version, cluster] of [
    [1, 64],
    [1, 2048],
    [2, 2048],
  ] as const) {
    const limit = fileClusterLimit(version, cluster)
    t.doesNotThrow(() => fileClusterToEntry(version, limit - 1, cluster))
    const error = t.throws(() => fileClusterToEntry(version, limit, cluster))
    t.ok(error instanceof PloopError && error.errno === 'EFBIG', 'never wraps')
  }
})

t.test('runs of entries are little-endian', async t => {
  const bytes = fromHex('01000000 00000080 ffffffff'.replaceAll(' ', ''))
  t.same([...decodeEntries(bytes)], [1, 0x8000_0000, 0xffff_ffff])
  const odd = new Uint8Array(13)
  odd.set(bytes, 1)
  t.same([...decodeEntries(odd.subarray(1))], [1, 0x8000_0000, 0xffff_ffff], 'any alignment')
  t.same(encodeEntries(Uint32Array.of(1, 0x8000_0000, 0xffff_ffff)), bytes)
  const target = new Uint32Array(5)
  decodeEntries(bytes, target)
  t.same([...target], [1, 0x8000_0000, 0xffff_ffff, 0, 0])
})

t.test('a page is all zero only when every bit is', async t => {
  const page = new Uint8Array(4096)
  t.ok(isAllZero(page))
  for (const index of [0, 7, 8, 4095]) {
    for (const value of [1, 0x80]) {
      page[index] = value
      t.notOk(isAllZero(page), `byte ${index} = ${value}`)
      t.notOk(isAllZero(page.subarray(index, index + 1)), 'unaligned')
      page[index] = 0
    }
  }
})

// SPDX-License-Identifier: MIT
/** Opening chains that are damaged or do not fit: what is refused, with which sentence, and what is repaired. */
import t from 'tap'
import { DeltaFile } from '../../src/delta/delta-file.js'
import { dirtyBitmapMagic, encodeDirtyBitmap, encodeExtension } from '../../src/format/extension.js'
import { openChain } from '../../src/image/open.js'
import { buildDelta, type BuiltFile, buildRaw, inUseMark } from '../support/image-builder.js'
import {
  clusterBytes,
  rw,
  ro,
  owned,
  delta,
  contentOf,
  newDisk,
  open,
} from '../support/sim-disk.js'

const slot = (index: number, entry: number) => {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, entry, true)
  return { offsetBytes: 64 + 4 * index, bytes }
}

async function patched(built: BuiltFile, ...pieces: ReturnType<typeof slot>[]) {
  return newDisk([{ ...built, pieces: [...built.pieces, ...pieces] }, delta(8, [])])
}

t.test('image contains an entry that cannot be: one sentence with the numbers', async t => {
  const v1 = delta(8, [0, 1], { version: 1 })
  const cases: [string, BuiltFile, ReturnType<typeof slot>, string, string][] = [
    [
      'beyond the file',
      delta(8, [0, 1]),
      slot(5, 99),
      'BAT_BEYOND_EOF',
      'BAT entry 5 names file cluster 99, the file has 3',
    ],
    [
      'in the partial tail',
      delta(8, [0, 1], { tail: new Uint8Array(100) }),
      slot(5, 3),
      'BAT_BEYOND_EOF',
      'BAT entry 5 names file cluster 3, the file has 3',
    ],
    [
      'the marker of no disk',
      delta(8, [0, 1]),
      slot(5, 0xffff_ffff),
      'BAT_BEYOND_EOF',
      'BAT entry 5 names file cluster 4294967295, the file has 3',
    ],
    [
      'into the table',
      delta(8, [0, 1], { extraBatClusters: 1 }),
      slot(5, 1),
      'BAT_IN_TABLE',
      'BAT entry 5 names file cluster 1, header and block table take the first 2',
    ],
    [
      'twice',
      delta(8, [0, 1]),
      slot(5, 2),
      'BAT_DUPLICATE',
      'BAT entry 5 names file cluster 2, which another entry names already',
    ],
    [
      'crooked',
      v1,
      slot(5, 65),
      'BAT_UNALIGNED',
      'BAT entry 5 names sector 65, no multiple of the cluster size 64',
    ],
  ]
  for (const [name, built, piece, code, message] of cases) {
    const files = await patched(built, piece)
    const input = { kind: 'deltas', paths: ['/d/0'] } as const
    for (const options of [ro, rw]) {
      await t.rejects(
        openChain(files, input, options),
        { code, message, exitStatus: 11, path: '/d/0', offset: 64 + 20 },
        name,
      )
    }
    if (built !== v1) await t.rejects(open(files, rw), { code, path: '/d/0' }, `${name}, lower`)
    t.equal((await DeltaFile.open(files, '/d/0', { writable: true })).header?.inUse, 0, 'unmarked')
  }
})

t.test('a marked top that is damaged is refused, with the hint to check', async t => {
  const files = await patched(delta(8, [0, 1], { inUse: inUseMark }), slot(5, 99))
  for (const options of [ro, rw]) {
    await t.rejects(openChain(files, { kind: 'deltas', paths: ['/d/0'] }, options), {
      code: 'DELTA_DAMAGED',
      exitStatus: 11,
      message: /irrecoverable errors .*: Data cluster 99 beyond EOF, vsec=5\.\.\. FATAL/,
      hint: /ploop check -f -c -r/,
    })
  }
  const before = await contentOf(files, '/d/0')
  t.equal(Buffer.from(before.subarray(44, 48)).toString(), 'Ynot', 'the mark stays')
})

t.test('entries behind the last cluster are cleared in a writable top', async t => {
  const files = await patched(delta(8, [0, 1]), slot(8, 1), slot(9, 77), slot(7000, 5))
  const input = { kind: 'deltas', paths: ['/d/0'] } as const
  const before = await contentOf(files, '/d/0')
  await (await openChain(files, input, ro)).close()
  t.same(await contentOf(files, '/d/0'), before, 'read-only leaves them')
  const chain = await openChain(files, input, rw)
  t.equal(chain.levels[0]?.scan.strayCount, 3)
  await chain.close()
  const after = await contentOf(files, '/d/0')
  t.ok(after.subarray(64 + 32, clusterBytes).every(byte => byte === 0))
  t.same(after.subarray(64, 72), before.subarray(64, 72), 'entries in use stay')
})

t.test('deltas that do not belong together', async t => {
  const cases: [string, BuiltFile, BuiltFile, string, number][] = [
    ['versions', delta(8, [], { version: 1 }), delta(8, []), 'CHAIN_VERSION', 11],
    [
      'cluster sizes',
      delta(8, []),
      buildDelta({
        version: 2,
        clusterBytes: 65_536,
        sizeBytes: 8 * 65_536,
        clusters: new Map<number, Uint8Array>(),
      }),
      'CHAIN_CLUSTER_SIZE',
      38,
    ],
    ['sizes', delta(9, []), delta(8, []), 'CHAIN_SIZE', 11],
    ['half conversion', delta(8, [], { flags: 2 }), delta(8, []), 'VERSION_CONVERSION', 17],
  ]
  for (const [name, lower, upper, code, exitStatus] of cases) {
    const files = await newDisk([lower, upper])
    await t.rejects(open(files, ro), { code, exitStatus }, name)
    const free = await DeltaFile.open(files, '/d/0', { writable: true })
    t.ok(free, 'all locks are given back')
  }
  const text = await newDisk([buildRaw(clusterBytes, 8 * clusterBytes, owned(0))])
  await t.rejects(open(text, ro), { code: 'HEADER_SIGNATURE', hint: /conversion to raw/ })
})

t.test('a format extension is dropped when writing begins', async t => {
  const built = delta(8, [0, 1])
  const data = encodeDirtyBitmap({
    sizeSectors: 512,
    id: '01234567-89ab-cdef-0123-456789abcdef',
    granularitySectors: 128,
    tableSectors: [64 * 3],
  })
  const extended = (flags: bigint, magic = dirtyBitmapMagic): BuiltFile => ({
    ...built,
    sizeBytes: 5 * clusterBytes,
    pieces: [
      ...built.pieces,
      { offsetBytes: 44, bytes: Buffer.from('v2.1') },
      { offsetBytes: 56, bytes: Uint8Array.of(0, 1, 0, 0) },
      {
        offsetBytes: 4 * clusterBytes,
        bytes: encodeExtension([{ magic, flags, data }], clusterBytes),
      },
    ],
  })
  const files = await newDisk([extended(0n)])
  const before = await contentOf(files, '/d/0')
  await (await open(files, ro)).close()
  t.same(await contentOf(files, '/d/0'), before, 'reading keeps it')
  const chain = await open(files, rw)
  t.equal(chain.allocHead, 3, 'its clusters were the tail')
  const after = await contentOf(files, '/d/0')
  t.equal(after.length, 3 * clusterBytes)
  t.equal(Buffer.from(after.subarray(44, 48)).toString(), 'Ynot')
  t.same([...after.subarray(56, 64)], [0, 0, 0, 0, 0, 0, 0, 0], 'no stale offset')
  await chain.close()
  const necessary = await newDisk([extended(1n, 77n)])
  await t.rejects(open(necessary, rw), { code: 'EXTENSION_NECESSARY', exitStatus: 11 })
  await (await open(necessary, ro)).close()
})

t.test('a map that would take too much memory is refused with the numbers', async t => {
  const files = await newDisk([delta(8000, [])])
  await t.rejects(open(files, { ...rw, maxMapBytes: 40_000 }), {
    code: 'MAP_SIZE',
    message: /8000 clusters of 32 KiB: its map needs 1 MiB/,
    hint: /maxMapBytes/,
  })
  const header = await contentOf(files, '/d/0')
  t.same([...header.subarray(44, 48)], [0, 0, 0, 0], 'nothing is marked')
})

// SPDX-License-Identifier: MIT
/** Opening chains on simulated storage: what is locked, refused, recovered, mapped and closed. */
import t from 'tap'
import { PloopError } from '../../src/base/errors.js'
import { noneGuid, topGuid } from '../../src/base/guid.js'
import { DeltaFile } from '../../src/delta/delta-file.js'
import { Descriptor } from '../../src/format/descriptor.js'
import { dirtyBitmapMagic, encodeDirtyBitmap, encodeExtension } from '../../src/format/extension.js'
import { closeTop } from '../../src/image/close.js'
import { buildMap, openChain, type MapTarget, type OpenChainOptions } from '../../src/image/open.js'
import type { OpenMode } from '../../src/io/files.js'
import { lockDescriptor } from '../../src/io/locks.js'
import {
  buildDelta,
  type BuiltFile,
  buildRaw,
  type DeltaDescription,
  inUseMark,
} from '../support/image-builder.js'
import { SimFiles } from '../simulation/sim-files.js'
import { Storage } from '../simulation/storage.js'

const clusterBytes = 32_768
const guidA = '{aaaaaaaa-0000-4000-8000-000000000001}'
const guidB = '{bbbbbbbb-0000-4000-8000-000000000002}'
const xml = '/d/DiskDescriptor.xml'
const rw: OpenChainOptions = { readOnly: false, newMap }
const ro: OpenChainOptions = { readOnly: true, newMap }

function newMap(clusterCount: number): MapTarget {
  return {
    levels: new Uint8Array(clusterCount),
    clusters: new Uint32Array(clusterCount),
    shadowed: new Uint8Array(Math.ceil(clusterCount / 8)),
  }
}

/** Clusters with these indexes, each filled with its level's byte. */
function owned(...indexes: number[]): Map<number, Uint8Array> {
  return new Map(indexes.map(index => [index, new Uint8Array(clusterBytes).fill(7)]))
}

function delta(clusterCount: number, indexes: number[], more: Partial<DeltaDescription> = {}) {
  const sizeBytes = clusterCount * clusterBytes
  return buildDelta({ version: 2, clusterBytes, sizeBytes, clusters: owned(...indexes), ...more })
}

async function put(files: SimFiles, path: string, built: BuiltFile): Promise<void> {
  const handle = await files.open(path, 'create')
  await handle.truncate(built.sizeBytes)
  for (const { offsetBytes, bytes } of built.pieces) await handle.write(bytes, offsetBytes)
  await handle.sync()
  await handle.close()
}

async function contentOf(files: SimFiles, path: string): Promise<Uint8Array> {
  const handle = await files.open(path, 'read')
  const bytes = new Uint8Array((await handle.stat()).sizeBytes)
  await handle.read(bytes, 0)
  await handle.close()
  return bytes
}

/** Files of a disk, base first: /d/0, /d/1, …; GUIDs A, B, then the top's. */
async function newDisk(built: readonly BuiltFile[], raw = false): Promise<SimFiles> {
  const files = new SimFiles(new Storage(1))
  files.storage.directory.makeDirectory('/d')
  const guids = [guidA, guidB].slice(0, built.length - 1).concat(topGuid)
  const descriptor = Descriptor.create({
    sizeSectors: 640,
    clusterSectors: 64,
    mode: 'expanded',
    file: '0',
  })
  for (const [level, file] of built.entries()) {
    await put(files, `/d/${level}`, file)
    const guid = guids[level] ?? ''
    if (level === 0) descriptor.renameGuid(topGuid, guid)
    else {
      descriptor.addImage({ guid, file: String(level) })
      descriptor.addShot({ guid, parentGuid: guids[level - 1] ?? noneGuid })
    }
  }
  descriptor.setTopGuid(topGuid)
  if (raw) descriptor.setMode('raw')
  const handle = await files.open(xml, 'create')
  await handle.write(Buffer.from(descriptor.toString()), 0)
  await handle.sync()
  await handle.close()
  await files.syncDirectory('/d')
  return files
}

const paths = (count: number) => Array.from({ length: count }, (_, level) => `/d/${level}`)
const open = (files: SimFiles, options: OpenChainOptions, guid?: string) =>
  openChain(files, { kind: 'descriptor', path: xml, guid }, options)

t.test('the map is filled from the top down', async t => {
  const files = await newDisk([delta(8, [0, 1, 2, 7]), delta(8, [1, 3]), delta(10, [2, 3, 9])])
  const chain = await open(files, rw)
  const { map } = chain
  t.same([...(map?.levels ?? [])], [1, 2, 3, 3, 0, 0, 0, 1, 0, 3], 'nearest level owns')
  t.same([...(map?.clusters ?? [])], [1, 1, 1, 2, 0, 0, 0, 4, 0, 3], 'where in its file')
  t.same([...(map?.shadowed ?? [])], [0b1100, 0], 'top and a lower level both own 2 and 3')
  t.match(chain, {
    clusterBytes,
    clusterCount: 10,
    sizeBytes: 10 * clusterBytes,
    version: 2,
    allocHead: 4,
    wasInUse: false,
    maxFileClusters: 2 ** 32 - 1,
  })
  t.same(
    chain.levels.map(level => level.guid),
    [guidA, guidB, topGuid],
  )
  const again = newMap(10)
  await buildMap(chain, again)
  t.same(again, map, 'a second map is equal')
  await chain.close()
})

t.test('a writable open marks the top, and closing clears the mark', async t => {
  const files = await newDisk([delta(8, [0]), delta(8, [1], { flags: 1, tail: new Uint8Array(9) })])
  const before = await contentOf(files, '/d/0')
  const chain = await open(files, rw)
  files.restart()
  let top = await contentOf(files, '/d/1')
  t.equal(Buffer.from(top.subarray(44, 48)).toString(), 'Ynot', 'the mark is durable')
  t.same(await contentOf(files, '/d/0'), before, 'the lower delta is untouched')
  t.ok(chain)
  const second = await open(files, rw)
  t.equal(second.wasInUse, true, 'a power cut leaves the mark')
  await second.top.handle.truncate(5 * clusterBytes)
  await closeTop(second.top.delta, { allocHead: 2, isEmpty: false })
  await second.close()
  files.restart()
  top = await contentOf(files, '/d/1')
  t.equal(top.length, 2 * clusterBytes, 'what was prepared ahead is cut off')
  t.same([...top.subarray(44, 56)], [0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0], 'mark and flag cleared')
  t.equal((await open(files, rw)).wasInUse, false)
})

t.test('a partial cluster at the end is dropped for writing, ignored for reading', async t => {
  const files = await newDisk([delta(8, [0], { tail: new Uint8Array(9) })])
  const reader = await open(files, ro)
  t.equal(reader.allocHead, 2)
  await reader.close()
  t.equal((await contentOf(files, '/d/0')).length, 2 * clusterBytes + 9)
  const writer = await open(files, rw)
  await writer.close()
  t.equal((await contentOf(files, '/d/0')).length, 2 * clusterBytes)
})

t.test('read-only never writes, whatever state the files are in', async t => {
  const dirty = { inUse: inUseMark }
  const built = [
    delta(8, [0], dirty),
    delta(8, [1], { ...dirty, tail: new Uint8Array(9) }),
    delta(8, [2], dirty),
  ]
  const files = await newDisk(built)
  const before = await Promise.all(paths(3).map(path => contentOf(files, path)))
  for (const guid of [undefined, guidA, guidB, 'base']) {
    const chain = await open(files, ro, guid)
    await chain.close()
  }
  t.same(await Promise.all(paths(3).map(path => contentOf(files, path))), before)
})

t.test('a mark without a lock: the check runs, the mark of a lower delta is cleared', async t => {
  const built = [delta(8, [0], { inUse: inUseMark }), delta(8, [1], { inUse: inUseMark })]
  const files = await newDisk(built)
  const tail = await files.open('/d/1', 'read-write')
  await tail.truncate(6 * clusterBytes)
  await tail.close()
  const chain = await open(files, rw)
  t.equal(chain.wasInUse, true)
  t.equal(chain.allocHead, 2, 'the unreferenced tail is trimmed')
  await chain.close()
  t.same([...(await contentOf(files, '/d/0')).subarray(44, 48)], [0, 0, 0, 0])
  t.equal(Buffer.from((await contentOf(files, '/d/1')).subarray(44, 48)).toString(), 'Ynot')
})

t.test('recovery runs before anything looks at the table', async t => {
  const files = await newDisk([delta(8, [0], { inUse: inUseMark })])
  const grow = await files.open('/d/0', 'read-write')
  await grow.truncate(3 * clusterBytes)
  await grow.close()
  const recover = async (top: DeltaFile) => {
    await top.handle.write(Uint8Array.of(2, 0, 0, 0), 64 + 4 * 5)
  }
  const chain = await open(files, { ...rw, recover })
  t.equal(chain.map?.levels[5], 1, 'what it put back is served')
  t.equal(chain.allocHead, 3, 'and not trimmed')
  await chain.close()
  const clean = await newDisk([delta(8, [0])])
  const never = () => Promise.reject(new Error('called'))
  await (await open(clean, { ...rw, recover: never })).close()
  await (await open(files, { ...ro, recover: never })).close()
  t.pass('neither for a clean top nor read-only')
})

t.test('locks: one writer of the top, any number of readers of lower deltas', async t => {
  const files = await newDisk([delta(8, [0]), delta(8, [1])])
  const writer = await open(files, rw)
  for (const options of [rw, ro]) {
    await t.rejects(open(files, options), { code: 'DELTA_LOCKED', exitStatus: 37, path: '/d/1' })
  }
  const lower = await open(files, ro, guidA)
  t.ok(lower, 'the snapshot below can be read')
  await writer.close()
  const reader = await open(files, ro)
  await t.rejects(open(files, rw), { code: 'DELTA_LOCKED', path: '/d/1' })
  await reader.close()
  await lower.close()
  const again = await open(files, rw)
  t.ok(again, 'locks are given back')
  const waiting = open(files, { ...rw, deltaLockTimeoutMs: 60_000 })
  await again.close()
  await (await waiting).close()
  t.pass('waiting for a lock ends when it is given back')
})

t.test('the descriptor is locked while the chain is opened', async t => {
  const files = await newDisk([delta(8, [0])])
  const lock = await lockDescriptor(files, xml)
  await t.rejects(open(files, { ...rw, timeoutMs: 0 }), { exitStatus: 23, message: /is locked/ })
  await lock.release()
  const chain = await open(files, { ...rw, timeoutMs: 0 })
  const second = await lockDescriptor(files, xml, { timeoutMs: 0 })
  t.ok(second, 'and free again while it is served')
  await second.release()
  await chain.close()
})

t.test('choosing a snapshot', async t => {
  const files = await newDisk([delta(8, [0]), delta(8, [1]), delta(8, [2])])
  const base = await open(files, ro, 'base')
  t.equal(base.levels.length, 1)
  const middle = await open(files, ro, guidB.toUpperCase())
  t.equal(middle.levels.length, 2)
  await t.rejects(open(files, rw, guidA), {
    message: `Unable to mount (rw) snapshot ${guidA}: it has 1 child`,
    exitStatus: 38,
  })
  await t.rejects(open(files, ro, '{0bbbbbbb-0000-4000-8000-000000000002}'), {
    message: /Uuid .* not found/,
    exitStatus: 43,
  })
  await t.rejects(openChain(files, { kind: 'descriptor', path: '/d/none.xml' }, ro), {
    message: /cannot find the descriptor/,
    exitStatus: 39,
  })
})

t.test('a list of deltas', async t => {
  const files = await newDisk([delta(8, [0]), delta(8, [1])])
  const list = (...names: string[]) => openChain(files, { kind: 'deltas', paths: names }, rw)
  const chain = await list('/d/0', '/d/1')
  t.same([...(chain.map?.levels ?? [])], [1, 2, 0, 0, 0, 0, 0, 0])
  await chain.close()
  await t.rejects(list('/d/0', '/d/0'), { code: 'SAME_FILE', exitStatus: 38 })
  await t.rejects(list(), { code: 'CHAIN_LENGTH', exitStatus: 38 })
  await t.rejects(list(...Array.from({ length: 128 }, () => '/d/0')), {
    message: /has 128 deltas, 1 … 127 are possible/,
  })
  await t.rejects(list('/d/none'), { code: 'IMAGE_MISSING', exitStatus: 4, path: '/d/none' })
})

t.test('a raw base', async t => {
  // the last cluster is there in part
  const raw = buildRaw(clusterBytes, 4 * clusterBytes - 512, owned(0, 3))
  const files = await newDisk([raw, delta(8, [1, 3])], true)
  const chain = await open(files, rw)
  t.same([...(chain.map?.levels ?? [])], [1, 2, 0, 2, 0, 0, 0, 0], 'holes of the file are holes')
  t.equal(chain.map?.shadowed[0], 0b1000)
  t.equal(chain.levels[0]?.isRaw, true)
  await chain.close()
  const base = await open(files, ro, 'base')
  t.same([...(base.map?.levels ?? [])], [1, 1, 1, 1], 'as a top it owns all it has')
  t.same([...(base.map?.clusters ?? [])], [0, 1, 2, 3])
  t.equal(base.sizeBytes, 4 * clusterBytes - 512)
  await base.close()
  const alone = await openChain(
    files,
    { kind: 'deltas', paths: ['/d/0'], rawClusterSectors: 64 },
    rw,
  )
  t.equal(alone.clusterCount, 4)
  await alone.close()
})

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
      hint: /ploop-nbd check/,
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

t.test('an open that fails at any point leaves no lock behind', async t => {
  for (let event = 1; ; event++) {
    const files = await newDisk([delta(8, [0], { inUse: inUseMark }), delta(8, [1])])
    const start = files.eventCount
    files.failEventAt = start + event
    let failed = false
    try {
      await (await open(files, rw)).close()
    } catch {
      failed = true
    }
    files.failEventAt = 0
    if (!failed) break
    const chain = await open(files, rw)
    t.equal(chain.map?.levels[1], 2, `event ${event}`)
    await chain.close()
  }
})

t.test('a power cut at any moment of closing leaves a disk that opens', async t => {
  for (let event = 1; ; event++) {
    const files = await newDisk([delta(8, [0]), delta(8, [1, 2])])
    const chain = await open(files, rw)
    await chain.top.handle.truncate(9 * clusterBytes)
    files.cutPowerAt = files.eventCount + event
    let cut = false
    try {
      await closeTop(chain.top.delta, { allocHead: 3, isEmpty: false })
      await chain.close()
    } catch {
      cut = true
    }
    files.restart()
    const again = await open(files, rw)
    t.same([...(again.map?.levels ?? [])], [1, 2, 2, 0, 0, 0, 0, 0], `event ${event}`)
    t.ok(again.wasInUse || again.allocHead === 3, 'closed means cut to what is in use')
    await again.close()
    if (!cut) break
  }
})

t.test('a disk on a medium that cannot be written is read without the lock file', async t => {
  const files = await newDisk([delta(8, [0])])
  const really = files.open.bind(files)
  files.open = (path: string, mode: OpenMode) => {
    if (!path.endsWith('.lck')) return really(path, mode)
    const options = { status: 'open', path, errno: 'EROFS' } as const
    return Promise.reject(new PloopError('IO_EROFS', 'cannot open the file: read-only', options))
  }
  const chain = await open(files, ro)
  t.equal(chain.map?.levels[0], 1)
  await chain.close()
  await t.rejects(open(files, rw), { code: 'LOCK_FILE', exitStatus: 23 })
})

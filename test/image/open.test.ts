// SPDX-License-Identifier: MIT
/** Opening chains on simulated storage: what is locked, recovered, mapped and closed. */
import t from 'tap'
import { PloopError } from '../../src/base/errors.js'
import { topGuid } from '../../src/base/guid.js'
import type { DeltaFile } from '../../src/delta/delta-file.js'
import { closeTop } from '../../src/image/close.js'
import { buildMap, openChain } from '../../src/image/open.js'
import type { OpenMode } from '../../src/io/files.js'
import { lockDescriptor } from '../../src/io/locks.js'
import { buildRaw, inUseMark } from '../support/image-builder.js'
import {
  clusterBytes,
  guidA,
  guidB,
  xml,
  rw,
  ro,
  newMap,
  owned,
  delta,
  contentOf,
  newDisk,
  paths,
  open,
} from '../support/sim-disk.js'

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

t.test('a raw top that ends inside a sector gets the rest of it, only to be written', async t => {
  const sizeBytes = 4 * clusterBytes - 505
  const files = await newDisk([buildRaw(clusterBytes, sizeBytes, owned(0, 3))])
  const input = { kind: 'deltas', paths: ['/d/0'], rawClusterSectors: 64 } as const
  const seen = await openChain(files, input, ro)
  t.equal((await files.stat('/d/0'))?.sizeBytes, sizeBytes)
  await seen.close()
  const written = await openChain(files, input, rw)
  t.equal(written.sizeBytes, 4 * clusterBytes)
  t.equal((await files.stat('/d/0'))?.sizeBytes, 4 * clusterBytes)
  t.equal(written.top.delta.fileSizeBytes, 4 * clusterBytes)
  await written.close()
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

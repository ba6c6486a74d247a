// SPDX-License-Identifier: MIT
/** One delta file on simulated storage: creating, opening, locks, marks, tables in pages. */
import t from 'tap'
import { BatPages, readBat } from '../../src/delta/bat-pages.js'
import { createDelta, type CreateDeltaOptions } from '../../src/delta/create-delta.js'
import { DeltaFile } from '../../src/delta/delta-file.js'
import { inUseMark } from '../../src/format/constants.js'
import { readDelta } from '../support/image-reader.js'
import { SimFiles } from '../simulation/sim-files.js'
import { Storage } from '../simulation/storage.js'

const path = '/disk.hds'
const clusterBytes = 32_768
const expanded: CreateDeltaOptions = {
  version: 2,
  clusterSectors: 64,
  sizeSectors: 6400,
  mode: 'expanded',
}

function newFiles(): SimFiles {
  return new SimFiles(new Storage(1))
}

async function bytesOf(files: SimFiles): Promise<Uint8Array> {
  const handle = await files.open(path, 'read')
  const { sizeBytes } = await handle.stat()
  const bytes = new Uint8Array(sizeBytes)
  await handle.read(bytes, 0)
  await handle.close()
  return bytes
}

t.test('an expanded delta is its header and a table of real zeros', async t => {
  for (const version of [1, 2] as const) {
    const files = newFiles()
    await createDelta(files, path, { ...expanded, version })
    const bytes = await bytesOf(files)
    t.equal(bytes.length, clusterBytes)
    t.ok(bytes.subarray(64).every(byte => byte === 0))
    const handle = await files.open(path, 'read')
    t.same(await handle.nextData(0), { startBytes: 0, endBytes: clusterBytes }, 'no hole')
    const delta = await DeltaFile.open(files, path, { writable: false })
    t.match(delta, { version, clusterCount: 100, sizeBytes: 6400 * 512, batClusterCount: 1 })
    t.match(delta.header, { flags: 1, inUse: 0 })
    await delta.close()
  }
})

t.test('a preallocated delta owns all clusters in order', async t => {
  for (const version of [1, 2] as const) {
    const files = newFiles()
    // 9000 entries of 4 bytes: the table takes two clusters
    const sizeSectors = 64 * 9000
    await createDelta(files, path, { ...expanded, version, sizeSectors, mode: 'preallocated' })
    const handle = await files.open(path, 'read')
    const { sizeBytes } = await handle.stat()
    t.equal(sizeBytes, 2 * clusterBytes + 9000 * clusterBytes)
    const pages = new BatPages(handle, { clusterCount: 9000 })
    const unit = version === 1 ? 64 : 1
    for (const index of [0, 1, 8175, 8176, 8999]) {
      t.equal(await pages.entry(index), (2 + index) * unit, `cluster ${index}`)
    }
  }
})

t.test('a raw image is a file of zeros', async t => {
  const files = newFiles()
  await createDelta(files, path, { ...expanded, mode: 'raw' })
  t.equal((await bytesOf(files)).length, 6400 * 512)
  const delta = await DeltaFile.open(files, path, { writable: false, rawClusterSectors: 64 })
  t.match(delta, { isRaw: true, header: undefined, clusterCount: 100, batClusterCount: 0 })
})

t.test('creating is durable, and removes only what it created', async t => {
  const files = newFiles()
  await createDelta(files, path, expanded)
  files.restart()
  t.equal((await bytesOf(files)).length, clusterBytes, 'file and name survive a power cut')
  await t.rejects(createDelta(files, path, expanded), { code: 'IO_EEXIST' })
  t.ok(await files.stat(path), 'what stood there stays')

  const full = newFiles()
  full.storage.faults.failWriteAt = 1
  await t.rejects(createDelta(full, path, expanded), { code: 'IO_EIO' })
  t.equal(await full.stat(path), undefined, 'a failed creation leaves nothing')
  const signal = AbortSignal.abort()
  await t.rejects(createDelta(newFiles(), path, { ...expanded, signal }), { name: 'AbortError' })
  await t.rejects(
    createDelta(full, path, {
      version: 1,
      clusterSectors: 2048,
      sizeSectors: 0xffff_f800,
      mode: 'preallocated',
    }),
    { message: /last clusters could not be addressed/, exitStatus: 38 },
  )
})

t.test('the lock keeps a second writer out', async t => {
  const files = newFiles()
  await createDelta(files, path, expanded)
  const writer = await DeltaFile.open(files, path, { writable: true })
  await t.rejects(DeltaFile.open(files, path, { writable: true }), {
    code: 'DELTA_LOCKED',
    exitStatus: 37,
    path,
  })
  await t.rejects(DeltaFile.open(files, path, { writable: false }), {
    code: 'DELTA_LOCKED',
    exitStatus: 37,
  })
  await writer.close()
  const reader = await DeltaFile.open(files, path, { writable: false })
  const second = await DeltaFile.open(files, path, { writable: false })
  t.ok(second, 'readers share')
  await t.rejects(DeltaFile.open(files, path, { writable: true }), {
    code: 'DELTA_LOCKED',
    exitStatus: 37,
  })
  await reader.close()
  await second.close()
})

t.test('marks change their words only and are durable', async t => {
  const files = newFiles()
  await createDelta(files, path, expanded)
  const before = await bytesOf(files)
  let delta = await DeltaFile.open(files, path, { writable: true })
  await delta.markInUse()
  files.restart()
  const marked = await bytesOf(files)
  t.equal(Buffer.from(marked.subarray(44, 48)).toString(), 'Ynot')
  marked.set([0, 0, 0, 0], 44)
  t.same(marked, before, 'nothing else changed')
  delta = await DeltaFile.open(files, path, { writable: true })
  t.equal(delta.header?.inUse, inUseMark)
  await delta.markClosed(false)
  files.restart()
  t.match(readDelta(await sourceOf(files)), {})
  const closed = await DeltaFile.open(files, path, { writable: false })
  t.match(closed.header, { inUse: 0, flags: 0 })
})

async function sourceOf(files: SimFiles) {
  const bytes = await bytesOf(files)
  return {
    sizeBytes: bytes.length,
    read: (offset: number, length: number) => bytes.subarray(offset, offset + length),
  }
}

t.test('a partial cluster at the end is dropped', async t => {
  const files = newFiles()
  await createDelta(files, path, expanded)
  const delta = await DeltaFile.open(files, path, { writable: true })
  await delta.truncate(clusterBytes + 100)
  t.equal(delta.allocHead, 1)
  await delta.dropPartialCluster()
  t.equal(delta.fileSizeBytes, clusterBytes)
})

t.test('pages of the table', async t => {
  const files = newFiles()
  await createDelta(files, path, { ...expanded, sizeSectors: 64 * 20_000 })
  const header = { clusterCount: 20_000, firstBlockSectors: 64 * 3 }
  const handle = await files.open(path, 'read-write')
  const pages = new BatPages(handle, header, { maxBytes: 8192 })
  const written = [0, 1007, 1008, 8175, 8176, 19_999]
  for (const index of written) await pages.setEntry(index, index + 7)
  t.equal(await pages.entry(1007), 1014, 'a change is seen before it is flushed')
  t.equal(await new BatPages(handle, header).entry(1007), 0, 'but not on disk')
  t.equal(pages.dirtyPageCount, 5)
  await pages.flush()
  t.equal(pages.dirtyPageCount, 0)
  const fresh = new BatPages(handle, header)
  for (const index of written) t.equal(await fresh.entry(index), index + 7)
  t.equal(await fresh.entry(5), 0)
  t.doesNotThrow(() => pages.flush())
  const seen: number[] = []
  await readBat(handle, header, (first, entries) => {
    entries.forEach((entry, at) => {
      if (entry !== 0) seen.push(first + at)
    })
  })
  t.same(seen, written, 'streaming sees the same')
  const delta = await DeltaFile.open(files, path, { writable: false })
  t.equal(delta.version, 2, 'the header beside the first page is untouched')
})

t.test('image contains a table that the file cuts off', async t => {
  const files = newFiles()
  await createDelta(files, path, expanded)
  const handle = await files.open(path, 'read-write')
  await handle.truncate(clusterBytes - 1)
  await t.rejects(
    readBat(handle, { firstBlockSectors: 64 }, () => undefined),
    {
      code: 'BAT_SHORT',
      exitStatus: 6,
    },
  )
  await t.rejects(DeltaFile.open(files, path, { writable: false }), { code: 'HEADER_FILE_SHORT' })
})

t.test('a table that is mostly hole is read in no time', async t => {
  const files = newFiles()
  const handle = await files.open(path, 'create')
  await handle.truncate(2 ** 31)
  await handle.write(Uint8Array.of(9, 0, 0, 0), 2 ** 30)
  let pageCount = 0
  await readBat(handle, { firstBlockSectors: 2 ** 22 }, (first, entries) => {
    pageCount++
    t.equal(first, (2 ** 30 - 64) / 4)
    t.equal(entries[0], 9)
  })
  t.equal(pageCount, 1, 'one page has an entry')
})

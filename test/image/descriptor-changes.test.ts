// SPDX-License-Identifier: MIT
/**
 * Changes of a descriptor on simulated storage: the power fails, or a call fails, at each single
 * step, and whatever is left must be the old disk or the new one.
 */
import t, { type Test } from 'tap'
import { PloopError } from '../../src/base/errors.js'
import { newGuid, topGuid } from '../../src/base/guid.js'
import { createDelta } from '../../src/delta/create-delta.js'
import { imagePath } from '../../src/format/descriptor.js'
import { createImage, planImage } from '../../src/image/create.js'
import { readDeltaFacts } from '../../src/image/info.js'
import { restoreDescriptor } from '../../src/image/restore-descriptor.js'
import { createSnapshot } from '../../src/image/snapshot.js'
import {
  readDescriptor,
  resolveDescriptor,
  withNewDescriptor,
  withTransaction,
} from '../../src/image/transaction.js'
import type { Files } from '../../src/io/files.js'
import { PowerLost, SimFiles } from '../simulation/sim-files.js'
import { Storage } from '../simulation/storage.js'

const xml = '/d/DiskDescriptor.xml'
const base = '/d/root.hds'
const clusterSectors = 64
const sizeSectors = 64 * 100
const size = { version: 2, clusterSectors, sizeSectors, mode: 'expanded' } as const

function newFiles(seed: number): SimFiles {
  const storage = new Storage(seed)
  storage.directory.makeDirectory('/d')
  return new SimFiles(storage)
}

async function newDisk(files: Files): Promise<void> {
  await createDelta(files, base, size)
  await restoreDescriptor(files, { directory: '/d', imagePath: base, raw: false })
}

/** Every image that the descriptor names is there, whole, and of the right size. */
async function checkDisk(t: Test, files: Files): Promise<number> {
  const stored = await readDescriptor(files, xml)
  for (const image of stored.descriptor.images) {
    const path = imagePath(stored.directory, image.file)
    const facts = await readDeltaFacts(files, path, { raw: false, clusterSectors })
    t.equal(facts.sizeSectors, sizeSectors)
  }
  return stored.descriptor.images.length
}

async function failureOf(action: Promise<unknown>): Promise<PloopError> {
  const cause: unknown = await action.then(
    () => undefined,
    (cause: unknown) => cause,
  )
  if (cause instanceof PloopError) return cause
  throw new Error(`expected a PloopError, got ${String(cause)}`)
}

t.test('a power cut at any step of a snapshot leaves the disk of before or after', async t => {
  for (let seed = 1; seed <= 10; seed += 1) {
    for (let step = 1; ; step += 1) {
      const files = newFiles(seed * 1000 + step)
      await newDisk(files)
      files.eventCount = 0
      files.cutPowerAt = step
      const uuid = newGuid()
      let done = false
      try {
        await createSnapshot(files, xml, { uuid })
        done = true
      } catch (cause) {
        if (!(cause instanceof PowerLost)) throw cause
      }
      files.restart()
      const count = await checkDisk(t, files)
      if (done) {
        t.equal(count, 2, 'a snapshot that was reported is there')
        break
      }
      t.ok(count === 1 || count === 2)
      const second = await createSnapshot(files, xml)
      t.equal(await checkDisk(t, files), count + 1, 'the next snapshot works')
      t.ok(second.uuid)
    }
  }
})

t.test('a call that fails before the commit leaves nothing behind', async t => {
  for (let step = 1; ; step += 1) {
    const files = newFiles(step)
    await newDisk(files)
    files.eventCount = 0
    files.failEventAt = step
    let failed = false
    try {
      await createSnapshot(files, xml)
    } catch (cause) {
      if (!(cause instanceof PloopError)) throw cause
      failed = true
    }
    const reached = files.eventCount >= step
    files.failEventAt = 0
    const count = await checkDisk(t, files)
    const names = (await files.list('/d')).filter(name => !name.endsWith('.lck'))
    if (!reached) {
      t.equal(count, 2)
      break
    }
    if (!failed) continue
    t.equal(names.length, count + 1, `${names.join(' ')}: the images and the descriptor`)
  }
})

t.test('a power cut at any step of init leaves no descriptor or a whole disk', async t => {
  for (let step = 1; ; step += 1) {
    const files = newFiles(step)
    const request = { ...size, imagePath: base, partitioned: true }
    const plan = await planImage(files, request)
    files.eventCount = 0
    files.cutPowerAt = step
    let done = false
    try {
      await createImage(files, plan)
      done = true
    } catch (cause) {
      if (!(cause instanceof PowerLost)) throw cause
    }
    files.restart()
    if ((await files.stat(xml)) !== undefined) await checkDisk(t, files)
    else t.notOk(done, 'an init that was reported is there')
    if (done) break
  }
})

t.test('an init that fails removes what it has made, and nothing else', async t => {
  for (let step = 1; ; step += 1) {
    const files = newFiles(step)
    const other = await files.open('/d/other', 'create')
    await other.close()
    const plan = await planImage(files, { ...size, imagePath: base, partitioned: true })
    files.eventCount = 0
    files.failEventAt = step
    const failed = await createImage(files, plan).then(
      () => false,
      () => true,
    )
    if (files.eventCount < step) break
    files.failEventAt = 0
    const names = (await files.list('/d')).sort()
    if (failed && !names.includes('DiskDescriptor.xml')) t.same(names, ['other'])
    else await checkDisk(t, files)
  }
})

t.test('an image that is there already is never touched by init', async t => {
  const files = newFiles(1)
  const file = await files.open(base, 'create')
  await file.write(new TextEncoder().encode('precious'), 0)
  await file.close()
  const request = { ...size, imagePath: base, partitioned: false }
  t.match(await failureOf(planImage(files, request)), {
    exitStatus: 38,
    message: "Can't create the image: File exists",
  })
  t.equal((await files.stat(base))?.sizeBytes, 8)
})

t.test('a transaction that ends without a commit undoes itself', async t => {
  const files = newFiles(2)
  await newDisk(files)
  await withTransaction(files, xml, {}, async transaction => {
    await transaction.stage(transaction.descriptor.clone())
    t.ok(await files.stat(`${xml}.tmp`))
    await createDelta(files, '/d/new', size)
    transaction.created('/d/new')
  })
  t.same((await files.list('/d')).sort(), [
    ...['DiskDescriptor.xml', 'DiskDescriptor.xml.lck', 'root.hds'],
  ])
})

t.test('a left-over X.tmp is overwritten, never read', async t => {
  const files = newFiles(3)
  await newDisk(files)
  for (const name of [`${xml}.tmp`, `${xml}.tmp.tmp`]) {
    const file = await files.open(name, 'create')
    await file.write(new TextEncoder().encode('<rubbish'), 0)
    await file.close()
  }
  await createSnapshot(files, xml)
  t.equal(await checkDisk(t, files), 2)
  t.equal(await files.stat(`${xml}.tmp`), undefined)
})

t.test('files are removed after the commit, and a failure to do so says which', async t => {
  const files = newFiles(4)
  await newDisk(files)
  const failure = await failureOf(
    withTransaction(files, xml, {}, async transaction => {
      await transaction.stage(transaction.descriptor.clone())
      await transaction.commit()
      await transaction.removeObsolete('/d/gone')
    }),
  )
  t.match(failure, { exitStatus: 35, path: '/d/gone' })
})

t.test('a descriptor that is missing, locked or invalid has its own status', async t => {
  const files = newFiles(5)
  t.match(await failureOf(resolveDescriptor(files, xml)), {
    exitStatus: 39,
    message: /^cannot find the descriptor: /,
  })
  await newDisk(files)
  await withTransaction(files, xml, {}, async () => {
    const locked = withTransaction(files, xml, { timeoutMs: 0 }, () => Promise.resolve())
    t.match(await failureOf(locked), { exitStatus: 23, message: `The ${xml} is locked` })
  })
  const file = await files.open(xml, 'read-write')
  await file.truncate(0)
  await file.close()
  t.match(await failureOf(readDescriptor(files, xml)), { exitStatus: 23, path: xml })
  const open = withTransaction(files, xml, {}, () => Promise.resolve())
  t.match(await failureOf(open), { exitStatus: 23 })
  const again = withTransaction(files, xml, { timeoutMs: 0 }, () => Promise.resolve())
  t.match(await failureOf(again), { code: 'DESCRIPTOR_INVALID' }, 'the lock was given back')
})

t.test('a new descriptor is refused where one is, and where no directory is', async t => {
  const files = newFiles(6)
  await newDisk(files)
  const nothing = (): Promise<void> => Promise.resolve()
  t.match(await failureOf(withNewDescriptor(files, '/d', {}, nothing)), {
    exitStatus: 38,
    message: "Can't create DiskDescriptor.xml: File exists",
  })
  t.match(await failureOf(withNewDescriptor(files, '/none', {}, nothing)), { exitStatus: 39 })
})

t.test('a snapshot renames the top and puts an empty delta above it', async t => {
  const files = newFiles(7)
  await newDisk(files)
  const uuid = '{11111111-1111-4111-8111-111111111111}'
  const made = await createSnapshot(files, xml, { uuid })
  const { descriptor } = await readDescriptor(files, xml)
  t.equal(made.uuid, uuid)
  t.match(made.path, /^\/d\/root\.hds\.\{[0-9a-f-]{36}\}$/)
  t.notMatch(made.path, uuid)
  t.same(
    descriptor
      .tree()
      .chainOf(topGuid)
      .map(shot => shot.guid),
    [uuid, topGuid],
  )
  t.equal(descriptor.image(uuid)?.file, 'root.hds')
  t.match(await failureOf(createSnapshot(files, xml, { uuid })), {
    exitStatus: 38,
    message: `The snapshot ${uuid} already exist`,
  })
  const none = '{00000000-0000-0000-0000-000000000000}'
  t.match(await failureOf(createSnapshot(files, xml, { uuid: none })), { exitStatus: 38 })
  t.match(await failureOf(createSnapshot(files, xml, { uuid: topGuid.toUpperCase() })), {
    exitStatus: 38,
  })
})

t.test('a disk can have 126 snapshots', async t => {
  const files = newFiles(8)
  await newDisk(files)
  for (let count = 1; count <= 126; count += 1) await createSnapshot(files, xml)
  t.match(await failureOf(createSnapshot(files, xml)), {
    exitStatus: 38,
    message: /maximum number of snapshots \(126\)/,
  })
})

t.test('a disk that another process has open for writing cannot be frozen here', async t => {
  const files = newFiles(9)
  await newDisk(files)
  const server = await files.open(base, 'read-write')
  await server.tryLock('exclusive')
  t.match(await failureOf(createSnapshot(files, xml)), { exitStatus: 37, path: base })
  await server.close()
  const reader = await files.open(base, 'read')
  await reader.tryLock('shared')
  await createSnapshot(files, xml)
  await reader.close()
})

t.test('a top that was not closed cleanly is checked first', async t => {
  const files = newFiles(10)
  await newDisk(files)
  const file = await files.open(base, 'read-write')
  await file.write(new TextEncoder().encode('Ynot'), 44)
  await createSnapshot(files, xml)
  const facts = await readDeltaFacts(files, base, { raw: false, clusterSectors })
  t.notOk(facts.inUse)
  const top = (await readDescriptor(files, xml)).descriptor.image(topGuid)?.file ?? ''
  const damaged = await files.open(`/d/${top}`, 'read-write')
  await damaged.write(new TextEncoder().encode('Ynot'), 44)
  await damaged.write(Uint8Array.of(200, 0, 0, 0), 64)
  await damaged.close()
  const failure = await failureOf(createSnapshot(files, xml))
  t.match(failure, { exitStatus: 11, path: `/d/${top}` })
  await file.write(new TextEncoder().encode('X'), 0)
  await file.close()
})

// SPDX-License-Identifier: MIT
/**
 * What breaks must break alone: a failing device, a full one, one that lies about its abilities.
 *
 * The n-th operation fails for every n of a range, during the same kind of random work as in
 * power-cut.test.ts. The model accepts that a request which was refused has happened or not; nobody
 * else's data may suffer, and a failed flush stays failed.
 */
import t from 'tap'
import { diskCommand } from '../../src/disk/request.js'
import { basicPlan, randomPlan, seeds, type Plan } from './plans.js'
import type { Faults } from './storage.js'
import { withPlan, type Session } from './workload.js'

const EIO = 5
const ENOSPC = 28

function withFaults(seed: number, faults: Faults, more: Partial<Plan> = {}): Plan {
  const plan = randomPlan(seed)
  return { ...plan, ...more, faults: { ...plan.faults, ...faults } }
}

/** Works, ends if it can, and loses power; the judge looks at everything that is left. */
function surviveFault(session: Session, allowed: number[]): void {
  session.allowedErrors = new Set(allowed)
  session.work(120)
  session.probePowerCut()
  session.work(30)
  session.drain()
  session.readAll()
  if (session.disk.failed) {
    const code = session.close()
    if (code !== EIO) throw new Error(`a failed disk closed with ${code}`)
    session.losePower()
    session.allowedErrors.clear()
    session.work(20)
  }
  session.storage.faults = {}
  if (session.close() !== 0) throw new Error('the disk did not end cleanly')
}

t.test('a failing write fails its request, or the flush that needed it, and nothing else', t => {
  let failed = 0
  for (const seed of seeds(150)) {
    withPlan(withFaults(seed, { failWriteAt: 1 + (seed % 50) }), session => {
      surviveFault(session, [EIO])
      failed += session.errors.get(EIO) ?? 0
    })
  }
  t.ok(failed > 100, `${failed} requests failed`)
  t.end()
})

t.test('a failing read fails those who needed it and leaves the cluster to its owner', t => {
  let failed = 0
  for (const seed of seeds(100)) {
    withPlan(withFaults(seed, { failReadAt: 1 + (seed % 50) }), session => {
      surviveFault(session, [EIO])
      failed += session.errors.get(EIO) ?? 0
      if (session.flushFailed) throw new Error('a failed read has failed a flush')
    })
  }
  t.ok(failed > 50, `${failed} requests failed`)
  t.end()
})

t.test('a file that ends early is an error, never invented data', t => {
  let failed = 0
  for (const seed of seeds(100)) {
    const faults = { shortReadAt: 1 + (seed % 50) }
    withPlan(withFaults(seed, faults, { rawBase: false }), session => {
      surviveFault(session, [EIO])
      failed += session.errors.get(EIO) ?? 0
    })
  }
  t.ok(failed > 50, `${failed} requests failed`)
  t.end()
})

t.test('a failed flush fails every later one, and the image is not closed clean', t => {
  let failures = 0
  for (const seed of seeds(150)) {
    withPlan(withFaults(seed, { failSyncAt: 1 + (seed % 8) }), session => {
      session.allowedErrors = new Set([EIO])
      session.work(150)
      session.drain()
      if (!session.disk.failed) return
      failures++
      const flush = session.submit(diskCommand.flush, 0, 0)
      const write = session.submit(diskCommand.write, 0, 512, { fua: true })
      session.drain()
      if (flush.errno !== EIO) throw new Error(`a later flush ended with ${flush.errno}`)
      if (write.errno !== EIO) throw new Error(`a later FUA write ended with ${write.errno}`)
      if (session.close() !== EIO) throw new Error('a failed disk was closed clean')
      session.losePower()
    })
  }
  t.ok(failures > 100, `${failures} disks failed`)
  t.end()
})

t.test('a full file system refuses what needs space, and all is well once there is some', t => {
  let refused = 0
  for (const seed of seeds(100)) {
    const plan = withFaults(seed, {}, { clusterCount: 64 })
    withPlan(plan, session => {
      const used = session.storage.allocatedBytes
      const room = session.random.below(30) * plan.clusterBytes
      session.storage.faults.budgetBytes = used + room
      session.allowedErrors = new Set([ENOSPC])
      session.work(100)
      session.drain()
      session.readAll()
      session.probePowerCut()
      refused += session.errors.get(ENOSPC) ?? 0
      session.storage.faults = {}
      session.allowedErrors.clear()
      session.work(50)
      if (session.close() !== 0) throw new Error('the disk did not end cleanly')
    })
  }
  t.ok(refused > 100, `${refused} requests were refused`)
  t.end()
})

t.test('where no space can be reserved writes end with ENOSPC and the disk goes on', t => {
  withPlan({ ...basicPlan, seed: 1, levelCount: 1 }, session => {
    session.storage.faults.allocateAnswer = -ENOSPC
    session.allowedErrors = new Set([ENOSPC])
    session.work(200)
    session.drain()
    t.notOk(session.disk.failed)
    session.storage.faults = {}
    t.equal(session.close(), 0)
  })
  t.end()
})

t.test(
  'what a failed write left in a new cluster never shows in the next owner of the cluster',
  t => {
    const empty = { ...basicPlan, levelCount: 1, requestBytesMax: basicPlan.clusterBytes }
    for (const seed of seeds(20)) {
      withPlan({ ...empty, seed }, session => {
        const { clusterBytes, clusterCount } = session.plan
        session.submit(diskCommand.writeZeroes, 0, clusterCount * clusterBytes)
        session.drain()
        session.storage.faults.failWritesFrom = session.storage.counts.write + 1
        session.allowedErrors = new Set([EIO])
        const broken = session.submit(diskCommand.write, 0, clusterBytes)
        session.drain()
        if (broken.errno !== EIO) throw new Error(`the write ended with ${broken.errno}`)
        session.storage.faults = {}
        for (let index = 1; index < clusterCount; index++) {
          session.submit(diskCommand.write, index * clusterBytes + 4096, 512)
          session.drain()
        }
        session.readAll()
        session.close()
      })
    }
    t.pass('every read was explained by the model')
    t.end()
  },
)

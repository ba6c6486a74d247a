// SPDX-License-Identifier: MIT
/**
 * Random requests on the disk, compared with a plain model sector by sector.
 *
 * Overlapping requests in flight may be seen or not by a reader, yet always as whole sectors and in
 * the order of their submission. At the end all is read back, the disk is closed, and the files are
 * read by a judge that shares no code with the disk. SIM_SEED=n runs one seed.
 */
import t from 'tap'
import { diskCommand } from '../../src/disk/request.js'
import { basicPlan, bigClusterPlan, randomPlan, seeds, type Plan } from '../simulation/plans.js'
import { withPlan, type Session } from '../simulation/workload.js'

function workAndClose(session: Session): void {
  session.work(400)
  session.readAll()
  session.work(100)
  session.readAll()
  if (session.close() !== 0) throw new Error('the disk did not end cleanly')
}

for (const queueDepth of [1, 64]) {
  for (const levelCount of [1, 2, 5, 127]) {
    t.test(`${levelCount} levels behave like a plain disk at queue depth ${queueDepth}`, t => {
      for (const seed of seeds(levelCount === 127 ? 6 : 20)) {
        withPlan({ ...randomPlan(seed), levelCount, queueDepth }, workAndClose)
      }
      t.pass('every read was explained by the model')
      t.end()
    })
  }
}

t.test('clusters of 1 MiB and 4 MiB behave like a plain disk', t => {
  const small: Partial<Plan> = { clusterBytes: 1024 * 1024, clusterCount: 10 }
  for (const seed of seeds(8)) {
    const plan = { ...bigClusterPlan, ...(seed % 2 === 0 ? small : {}), seed }
    withPlan({ ...plan, oddBytes: seed % 4 < 2, copyRange: seed % 3 === 0 }, session => {
      session.work(120)
      session.readAll()
      session.close()
    })
  }
  t.pass('every read was explained by the model')
  t.end()
})

const directPlan: Plan = { ...bigClusterPlan, seed: 1, topAlignmentBytes: 4096 }

t.test('a long misaligned write to a direct file keeps all of its own bytes', t => {
  for (const seed of seeds(6)) {
    withPlan({ ...directPlan, seed }, session => {
      // maps the clusters first, so that the second write goes in place
      session.submit(diskCommand.write, 0, 5 * 1024 * 1024)
      session.drain()
      session.submit(diskCommand.write, 512, 3 * 1024 * 1024)
      session.drain()
      session.readAll()
      session.close()
    })
  }
  t.pass('nothing of the first write showed through')
  t.end()
})

t.test('a long misaligned WRITE_ZEROES to a direct file zeroes all of its range', t => {
  for (const seed of seeds(6)) {
    const faults = { punchAnswer: -95, zeroAnswer: -95 }
    withPlan({ ...directPlan, seed, rawBase: true, copyRange: true, faults }, session => {
      session.submit(diskCommand.writeZeroes, 512, 3 * 1024 * 1024, { noHole: true })
      session.drain()
      session.readAll()
      session.close()
    })
  }
  t.pass('nothing of what was below showed through')
  t.end()
})

t.test('a disk with one job buffer, which others borrow, never gets stuck', t => {
  for (const seed of seeds(20)) {
    const more = { jobCount: 1, queueDepth: 64, oddBytes: true, topAlignmentBytes: 4096 }
    withPlan({ ...randomPlan(seed), ...more }, workAndClose)
  }
  t.pass('every request had its answer')
  t.end()
})

t.test('a reader on its way never meets what moved into a cluster that was let go', t => {
  for (const seed of seeds(150)) {
    const churn: Partial<Plan> = { isChurn: true, hotClusters: 6, queueDepth: 24 }
    withPlan({ ...basicPlan, ...churn, levelCount: 1, seed }, session => {
      session.work(300)
      session.close()
    })
  }
  t.pass('every read was explained by the model')
  t.end()
})

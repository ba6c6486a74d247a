// SPDX-License-Identifier: MIT
/**
 * The power fails at random moments of random work, again and again.
 *
 * After each cut a judge that shares no code with the disk opens what is left: the chain is valid,
 * everything flushed is there, every other sector is as before or as written, lower levels and the
 * header are untouched. A failure names the seed; run it alone with SIM_SEED.
 */
import t from 'tap'
import type { Faults } from './storage.js'
import type { SimFile } from './sim-file.js'
import { basicPlan, bigClusterPlan, randomPlan, seeds, type Plan } from './plans.js'
import { runPlans, withPlan, type Session } from './workload.js'

/** Two lives with cuts and rests on the way, a third that ends well. */
function liveAndDie(session: Session): number {
  const { random } = session
  let cuts = 0
  for (let life = 0; life < 2; life++) {
    for (let probes = random.between(1, 4); probes > 0; probes--) {
      session.work(random.between(1, 40))
      session.probePowerCut()
      cuts++
      if (random.chance(0.1)) {
        session.quiesce()
        cuts++
      }
    }
    session.work(random.between(1, 30))
    session.losePower()
    cuts++
  }
  session.work(random.between(1, 30))
  session.readAll()
  session.close()
  return cuts
}

t.test('whatever was flushed survives power cuts, and nothing else changes', t => {
  const cuts = runPlans(seeds(900).map(randomPlan), liveAndDie)
  t.comment(`${cuts} power cuts`)
  t.ok(cuts > 0)
  t.end()
})

t.test('chains of 127 levels survive power cuts', t => {
  const plans = seeds(8).map(seed => ({ ...basicPlan, seed, levelCount: 127 }))
  t.ok(runPlans(plans, liveAndDie) > 0)
  t.end()
})

t.test('clusters that are copied in several pieces survive power cuts', t => {
  const variants: Partial<Plan>[] = [
    {},
    { topAlignmentBytes: 4096, rawBase: true, oddBytes: true },
    { clusterBytes: 1024 * 1024, clusterCount: 8, lowerAlignmentBytes: 512, jobCount: 1 },
    { copyRange: true, levelCount: 3 },
  ]
  const plans = seeds(6).map(seed => ({
    ...bigClusterPlan,
    ...(variants[seed % variants.length] ?? {}),
    seed,
  }))
  t.ok(runPlans(plans, liveAndDie) > 0)
  t.end()
})

/** A plan whose device lies about one kind of barrier. */
function lyingPlan(seed: number, lie: 'data' | 'table'): Plan {
  const tableBytes = basicPlan.clusterBytes
  let tableWritten = false
  const faults: Faults = {
    watchWrite: (_: SimFile, offsetBytes: number) => {
      if (offsetBytes < tableBytes) tableWritten = true
    },
    ignoreSync: () => {
      const isTableBarrier = tableWritten
      tableWritten = false
      return isTableBarrier === (lie === 'table')
    },
  }
  return { ...basicPlan, seed, faults }
}

function countCaught(lie: 'data' | 'table', runs: number): number {
  let caught = 0
  for (let seed = 1; seed <= runs; seed++) {
    try {
      withPlan(lyingPlan(seed, lie), liveAndDie)
    } catch {
      caught++
    }
  }
  return caught
}

t.test('the judge notices when the barrier between data and BAT is missing', t => {
  t.ok(countCaught('data', 40) >= 20, 'in at least half of the runs')
  t.end()
})

t.test('the judge notices when the barrier after the BAT is missing', t => {
  t.ok(countCaught('table', 80) >= 3, 'though the next barrier often heals it')
  t.end()
})

// SPDX-License-Identifier: MIT
/**
 * What a session is to be like: fixed plans and random ones.
 *
 * `SIM_SEED=n` runs that seed alone, `SIM_RUNS=n` another number of them than usual, and
 * `SIM_TRACE=1` tells what happens on standard error.
 */
import type { ChainShape } from './chain.js'
import { Random } from './random.js'
import type { Faults } from './storage.js'

export interface Plan extends ChainShape {
  readonly seed: number
  readonly queueDepth: number
  /** job buffers; other disks borrow some of them */
  readonly jobCount: number
  readonly copyRange: boolean
  /** requests begin and end at any byte, not only at sectors */
  readonly oddBytes: boolean
  readonly requestBytesMax: number
  /** clusters that most requests go to */
  readonly hotClusters: number
  /** 0 = buffered, else direct with this alignment */
  readonly topAlignmentBytes: number
  readonly lowerAlignmentBytes: number
  /** mostly whole clusters written, trimmed and read: allocation and reuse at their busiest */
  readonly isChurn?: boolean
  readonly faults?: Faults
}

const kibibyte = 1024
const mebibyte = kibibyte * kibibyte

export const basicPlan: Omit<Plan, 'seed'> = {
  levelCount: 2,
  version: 2,
  clusterBytes: 32 * kibibyte,
  clusterCount: 40,
  rawBase: false,
  queueDepth: 8,
  jobCount: 4,
  copyRange: false,
  oddBytes: false,
  requestBytesMax: 64 * kibibyte,
  hotClusters: 6,
  topAlignmentBytes: 0,
  lowerAlignmentBytes: 0,
}

export const bigClusterPlan: Omit<Plan, 'seed'> = {
  ...basicPlan,
  clusterBytes: 4 * mebibyte,
  clusterCount: 4,
  requestBytesMax: 5 * mebibyte,
  queueDepth: 6,
  hotClusters: 3,
  jobCount: 2,
}

/** Small clusters, everything else drawn. */
export function randomPlan(seed: number): Plan {
  const random = new Random(Math.imul(seed, 0x9e3779b1))
  const levelCount = random.pick([1, 2, 2, 2, 3, 5])
  const isDirect = random.chance(0.3)
  return {
    ...basicPlan,
    seed,
    levelCount,
    version: random.pick([1, 2, 2]),
    clusterCount: random.pick([8, 24, 40, 64]),
    rawBase: levelCount > 1 && random.chance(0.25),
    queueDepth: random.pick([1, 4, 8, 16, 64]),
    jobCount: random.pick([1, 2, 4, 16]),
    copyRange: random.chance(0.3),
    oddBytes: random.chance(0.3),
    requestBytesMax: random.pick([16, 64, 128]) * kibibyte,
    hotClusters: random.pick([1, 3, 8]),
    topAlignmentBytes: isDirect ? random.pick([512, 4096]) : 0,
    lowerAlignmentBytes: random.chance(0.2) ? random.pick([512, 4096]) : 0,
    faults: {
      ...(random.chance(0.15) ? { punchAnswer: -95 } : {}),
      ...(random.chance(0.15) ? { zeroAnswer: -95 } : {}),
      ...(random.chance(0.3) ? { copyAnswer: random.pick([-95, -18, -22]) } : {}),
    },
  }
}

export function seeds(count: number, first = 1): number[] {
  const only = process.env['SIM_SEED']
  if (only !== undefined) return [Number(only)]
  const wanted = Number(process.env['SIM_RUNS'] ?? count)
  return Array.from({ length: wanted }, (_, index) => first + index)
}

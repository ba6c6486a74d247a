// SPDX-License-Identifier: MIT
/**
 * What a pending log asks for: one final entry per cluster, and the values that the entry may have
 * on disk now. Pure.
 */
import type { PendingChange, PendingLog } from '../format/pending-log.js'

/** The log does not fit the image, or itself. The message completes "… are given up: ". */
export class Unfit extends Error {
  override name = 'Unfit'
}

export interface ReplayStep {
  /** file cluster that the entry gets, 0 = none */
  target: number
  /** file clusters that it may have now */
  readonly expected: Set<number>
}

export interface ReplayPlan {
  /** cluster index → step, in ascending order */
  readonly steps: ReadonlyMap<number, ReplayStep>
  /** file cluster → the cluster index that gets it */
  readonly owners: ReadonlyMap<number, number>
  /** an entry with another value than expected was changed later by the same server: it stays */
  readonly leavesOthers: boolean
}

/**
 * An entry on disk is as before the round that was under way, or as that round left it, or as an
 * earlier replay did. What was collected after a round that is cut short was not acknowledged, and
 * its clusters have passed through states that the log does not know: it is left out.
 *
 * @throws {Unfit} when the changes contradict each other
 */
export function planReplay(log: PendingLog): ReplayPlan {
  const steps = new Map<number, ReplayStep>()
  addHalf(steps, log.publishing)
  if (!log.isCutShort) addHalf(steps, log.collecting)
  const owners = new Map<number, number>()
  const sorted = [...steps].sort(([left], [right]) => left - right)
  for (const [clusterIndex, { target }] of sorted) {
    if (target === 0) continue
    const other = owners.get(target)
    if (other !== undefined) {
      throw new Unfit(`clusters ${other} and ${clusterIndex} would both be file cluster ${target}`)
    }
    owners.set(target, clusterIndex)
  }
  return { steps: new Map(sorted), owners, leavesOthers: log.isCutShort }
}

function addHalf(steps: Map<number, ReplayStep>, changes: readonly PendingChange[]): void {
  const ends = new Map<number, number>()
  for (const { clusterIndex, fileCluster, formerFileCluster } of changes) {
    const before = ends.get(clusterIndex) ?? steps.get(clusterIndex)?.target
    if (before !== undefined && before !== formerFileCluster) {
      throw new Unfit(
        `cluster ${clusterIndex} was file cluster ${before}, and then ${formerFileCluster}`,
      )
    }
    if (!steps.has(clusterIndex)) {
      steps.set(clusterIndex, { target: 0, expected: new Set([formerFileCluster]) })
    }
    ends.set(clusterIndex, fileCluster)
  }
  // only what a half ends with can have reached the disk
  for (const [clusterIndex, target] of ends) {
    const step = steps.get(clusterIndex)
    if (step === undefined) continue
    step.target = target
    step.expected.add(target)
  }
}

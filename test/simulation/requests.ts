// SPDX-License-Identifier: MIT
/**
 * What a random client asks next: ranges that meet each other, some that span clusters, all commands
 * and flags.
 */
import { diskCommand } from '../../src/disk/request.js'
import type { Plan } from './plans.js'
import type { Random } from './random.js'

export interface DrawnRequest {
  /** 'read past': a read that the data plane does by itself */
  readonly command: number | 'read past'
  readonly offsetBytes: number
  readonly lengthBytes: number
  readonly flags: { fua?: boolean; noHole?: boolean; fastZero?: boolean }
}

interface Range {
  readonly offsetBytes: number
  readonly lengthBytes: number
}

export function drawRequest(plan: Plan, random: Random): DrawnRequest {
  if (plan.isChurn === true) return drawChurn(plan, random)
  const roll = random.below(100)
  const range = drawRange(plan, random)
  const fua = random.chance(0.08)
  if (roll < 12) return { command: 'read past', ...range, flags: {} }
  if (roll < 30) return { command: diskCommand.read, ...range, flags: {} }
  if (roll < 76) return { command: diskCommand.write, ...range, flags: { fua } }
  if (roll < 84) return { command: diskCommand.flush, offsetBytes: 0, lengthBytes: 0, flags: {} }
  const { offsetBytes } = range
  const lengthBytes = widen(range, plan, random)
  if (roll < 92) return { command: diskCommand.trim, offsetBytes, lengthBytes, flags: { fua } }
  const flags = { fua, noHole: random.chance(0.3), fastZero: random.chance(0.2) }
  return { command: diskCommand.writeZeroes, offsetBytes, lengthBytes, flags }
}

function drawChurn(plan: Plan, random: Random): DrawnRequest {
  const { clusterBytes, clusterCount } = plan
  const offsetBytes = random.below(Math.min(clusterCount, plan.hotClusters)) * clusterBytes
  const whole = { offsetBytes, lengthBytes: Math.min(clusterBytes, plan.requestBytesMax) }
  const roll = random.below(100)
  if (roll < 35) return { command: 'read past', offsetBytes, lengthBytes: 4096, flags: {} }
  if (roll < 60) {
    const lengthBytes = random.pick([4096, whole.lengthBytes])
    return { command: diskCommand.write, offsetBytes, lengthBytes, flags: {} }
  }
  if (roll < 85) return { command: diskCommand.trim, ...whole, flags: {} }
  return { command: diskCommand.flush, offsetBytes: 0, lengthBytes: 0, flags: {} }
}

function drawRange(plan: Plan, random: Random): Range {
  const { clusterBytes, clusterCount } = plan
  const diskBytes = clusterBytes * clusterCount
  const unit = plan.oddBytes && random.chance(0.5) ? 1 : 512
  const hot = random.chance(0.8)
  const cluster = hot
    ? random.below(Math.min(plan.hotClusters, clusterCount))
    : random.below(clusterCount)
  // hot clusters are spread over the disk, so that neighbours differ
  const index = hot ? (cluster * 7) % clusterCount : cluster
  const start = index * clusterBytes
  switch (random.below(8)) {
    case 0: {
      const lengthBytes = Math.min(clusterBytes, plan.requestBytesMax)
      return { offsetBytes: start, lengthBytes }
    }
    case 1: {
      const offsetBytes = start + random.below(clusterBytes / unit) * unit
      const most = Math.min(plan.requestBytesMax, diskBytes - offsetBytes)
      return { offsetBytes, lengthBytes: (1 + random.below(Math.floor(most / unit))) * unit }
    }
    default: {
      // few places inside the cluster, so that requests meet
      const place = random.below(4) * (clusterBytes / 4)
      const offsetBytes = start + place + random.below(16) * unit
      const most = Math.min(4096 * 2, plan.requestBytesMax, diskBytes - offsetBytes)
      return { offsetBytes, lengthBytes: (1 + random.below(Math.floor(most / unit))) * unit }
    }
  }
}

/** TRIM and WRITE_ZEROES carry no memory: they may be long, and like whole clusters. */
function widen(range: Range, plan: Plan, random: Random): number {
  const { offsetBytes, lengthBytes } = range
  const rest = plan.clusterBytes * plan.clusterCount - offsetBytes
  if (!random.chance(0.5)) return lengthBytes
  const inside = offsetBytes % plan.clusterBytes
  return Math.min(
    rest,
    random.between(1, 3) * plan.clusterBytes - (random.chance(0.5) ? inside : 0),
  )
}

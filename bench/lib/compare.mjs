// SPDX-License-Identifier: MIT
/**
 * From runs to ratios: medians, their ratio, how far it can be trusted, and the verdict.
 *
 * The spread of a ratio is the interval of the ratios of adjacent runs that holds their median with
 * at least 90 % confidence, whatever their distribution (order statistics). Of five pairs that is
 * smallest to largest.
 */

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  if (sorted.length % 2 === 1) return sorted[middle]
  return (sorted[middle - 1] + sorted[middle]) / 2
}

/** @returns the `[low, high]` that holds the median of the population at 90 % */
export function medianInterval(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const count = sorted.length
  let cut = 0
  while (cut + 1 < count / 2 && confidence(count, cut + 1) >= 0.9) cut++
  return [sorted[cut], sorted[count - 1 - cut]]
}

/** That the median lies inside when `cut` values are cut off at each end. */
function confidence(count, cut) {
  let tail = 0
  let ways = 1
  for (let index = 0; index <= cut; index++) {
    tail += ways
    ways = (ways * (count - index)) / (index + 1)
  }
  return 1 - (2 * tail) / 2 ** count
}

/**
 * @param ours one number per turn
 * @param theirs the same turns of the peer
 * @returns undefined when a number is missing
 */
export function ratioOf(ours, theirs) {
  const isUsable = value => Number.isFinite(value) && value > 0
  if (ours.length === 0 || ours.length !== theirs.length) return undefined
  if (![...ours, ...theirs].every(isUsable)) return undefined
  const pairs = ours.map((value, turn) => value / theirs[turn])
  const [low, high] = medianInterval(pairs)
  return { ratio: median(ours) / median(theirs), low, high }
}

/**
 * `met`, `missed`, or `not shown` when the goal lies inside the spread.
 *
 * @param direction 'atLeast' or 'atMost'
 */
export function verdictOf(ratio, goal, direction) {
  if (ratio === undefined || goal === undefined) return undefined
  const isMet = direction === 'atLeast' ? ratio.ratio >= goal : ratio.ratio <= goal
  if (isMet) return 'met'
  const mayBeMet = direction === 'atLeast' ? ratio.high >= goal : ratio.low <= goal
  return mayBeMet ? 'not shown' : 'missed'
}

/** Every figure of one subject against one peer. Above 1: more than the peer. */
export function compareRuns(subjectRuns, peerRuns, goals = {}) {
  const figure = name =>
    ratioOf(
      subjectRuns.map(run => run[name]),
      peerRuns.map(run => run[name]),
    )
  const throughput = figure('perSecond')
  const cpu = figure('cpuMicroseconds')
  return {
    throughput,
    cpu,
    p50: figure('p50Microseconds'),
    p99: figure('p99Microseconds'),
    memory: figure('memoryMiB'),
    goals,
    verdicts: {
      throughput: verdictOf(throughput, goals.throughput, 'atLeast'),
      cpu: verdictOf(cpu, goals.cpu, 'atMost'),
    },
  }
}

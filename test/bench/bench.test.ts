// SPDX-License-Identifier: MIT
/** The benchmark's arithmetic and its command line. What it measures no test can judge. */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { checkout } from '../support/programs.js'

interface Ratio {
  readonly ratio: number
  readonly low: number
  readonly high: number
}

interface Compare {
  median(values: readonly number[]): number
  medianInterval(values: readonly number[]): [number, number]
  ratioOf(ours: readonly number[], theirs: readonly number[]): Ratio | undefined
  verdictOf(ratio: Ratio | undefined, goal: number | undefined, direction: string): unknown
}

const bench = join(checkout, 'bench')
const compare = (await import(
  pathToFileURL(join(bench, 'lib', 'compare.mjs')).href
)) as unknown as Compare

t.test('a median is the middle value, or the mean of the two in the middle', async t => {
  t.equal(compare.median([9, 1, 5]), 5)
  t.equal(compare.median([4, 1, 3, 2]), 2.5)
  t.equal(compare.median([7]), 7)
})

t.test('the spread cuts off as much as 90 % confidence in the median allows', async t => {
  // a median lies outside n values with probability 2 / 2^n, outside all but the outermost two
  // with 2 (1 + n) / 2^n
  t.same(compare.medianInterval([5, 4, 3, 2, 1]), [1, 5], '5 values: 93.75 %, none cut off')
  t.same(compare.medianInterval([1, 2, 3, 4, 5, 6, 7]), [1, 7], '7 values: 87.5 % would be too few')
  t.same(compare.medianInterval([1, 2, 3, 4, 5, 6, 7, 8]), [2, 7], '8 values: 92.97 %')
  t.same(compare.medianInterval([3]), [3, 3])
})

t.test('a ratio is that of the medians, its spread that of the turns', async t => {
  t.same(compare.ratioOf([10, 20, 30], [10, 10, 5]), { ratio: 2, low: 1, high: 6 })
  t.equal(compare.ratioOf([1, 2], [1]), undefined, 'a turn is missing')
  t.equal(compare.ratioOf([1, 0], [1, 1]), undefined, 'nothing was done')
  t.equal(compare.ratioOf([1, NaN], [1, 1]), undefined, 'a figure is missing')
})

t.test('a goal is met, missed, or not shown when it lies inside the spread', async t => {
  const ratio = { ratio: 0.9, low: 0.7, high: 1.1 }
  t.equal(compare.verdictOf(ratio, 0.9, 'atLeast'), 'met')
  t.equal(compare.verdictOf(ratio, 1, 'atLeast'), 'not shown')
  t.equal(compare.verdictOf(ratio, 1.2, 'atLeast'), 'missed')
  t.equal(compare.verdictOf(ratio, 0.9, 'atMost'), 'met')
  t.equal(compare.verdictOf(ratio, 0.8, 'atMost'), 'not shown')
  t.equal(compare.verdictOf(ratio, 0.6, 'atMost'), 'missed')
  t.equal(compare.verdictOf(undefined, 1, 'atLeast'), undefined)
  t.equal(compare.verdictOf(ratio, undefined, 'atLeast'), undefined)
})

const runBench = (...words: string[]) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(bench, 'run.mjs'), ...words])
  return { status, stdout: String(stdout), stderr: String(stderr) }
}

t.test('the list names every workload once, with the words --only takes', async t => {
  const { status, stdout } = runBench('--list')
  const names = stdout
    .trim()
    .split('\n')
    .map(line => line.split(' ')[0])
  t.equal(status, 0)
  t.ok(names.includes('randread-4k-qd32'))
  t.same([...new Set(names)], names)
})

t.test(
  'caller asks for what there is not: the answer is the usage, and nothing is started',
  async t => {
    for (const [words, message] of [
      [['--mode', 'quick'], /--mode is short or full, not quick/],
      [['--pairs', '0'], /--pairs is 1 to 99/],
      [['--cache', 'warm'], /--cache is page or direct, not warm/],
      [['--only', 'nothing-of-this-name'], /no workload has such a name/],
      [['--fast'], /Unknown option '--fast'/],
    ] as const) {
      const { status, stderr } = runBench(...words)
      t.equal(status, 1, words.join(' '))
      t.match(stderr, message)
    }
  },
)

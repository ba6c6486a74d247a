// SPDX-License-Identifier: MIT
/** The table people read: one line for each comparison, ratios first, goals beside them. */

const columns = [
  ['workload', 'left'],
  ['cache', 'left'],
  ['against', 'left'],
  ['throughput', 'right'],
  ['spread', 'left'],
  ['goal', 'left'],
  ['CPU/op', 'right'],
  ['spread', 'left'],
  ['goal', 'left'],
  ['p50', 'right'],
  ['p99', 'right'],
  ['memory', 'right'],
  ['ours', 'right'],
  ['CPU µs', 'right'],
]

/** @param rows `{ title, cache, subject, peer, comparison, subjectMedians, problem }` */
export function formatTable(rows) {
  const lines = rows.map(formatRow)
  const widths = columns.map(([name], column) =>
    Math.max(name.length, ...lines.map(cells => (cells[column] ?? '').length)),
  )
  const pad = (text, column) =>
    columns[column][1] === 'left' ? text.padEnd(widths[column]) : text.padStart(widths[column])
  const draw = cells => cells.map(pad).join('  ').trimEnd()
  const rule = widths.map(width => '─'.repeat(width)).join('──')
  return [draw(columns.map(([name]) => name)), rule, ...lines.map(draw)].join('\n')
}

function formatRow({ title, cache, subject, peer, comparison, subjectMedians, problem }) {
  const against = subject === 'ploop' ? peer : `${subject} / ${peer}`
  const head = [title, cache, against]
  if (problem !== undefined) return [...head, '-', problem]
  const { throughput, cpu, p50, p99, memory, goals, verdicts } = comparison
  return [
    ...head,
    times(throughput),
    spread(throughput),
    goal('≥', goals.throughput, verdicts.throughput),
    times(cpu),
    spread(cpu),
    goal('≤', goals.cpu, verdicts.cpu),
    times(p50),
    times(p99),
    times(memory),
    rate(subjectMedians.perSecond),
    subjectMedians.cpuMicroseconds?.toPrecision(3) ?? '-',
  ]
}

const times = figure => (figure === undefined ? '-' : digits(figure.ratio))
const spread = figure =>
  figure === undefined ? '' : `${digits(figure.low)}–${digits(figure.high)}`
const digits = value => (value >= 10 ? value.toFixed(0) : value.toFixed(2))

function goal(sign, value, verdict) {
  if (value === undefined) return ''
  return `${sign} ${value} ${verdict ?? 'no figure'}`
}

function rate(perSecond) {
  if (perSecond === undefined) return '-'
  if (perSecond >= 10_000) return `${(perSecond / 1000).toFixed(0)}k/s`
  return perSecond >= 100 ? `${perSecond.toFixed(0)}/s` : `${perSecond.toFixed(1)}/s`
}

/** The last lines: how many goals stand how. */
export function formatSummary(rows) {
  const verdicts = rows.flatMap(({ comparison }) => Object.values(comparison?.verdicts ?? {}))
  const count = word => verdicts.filter(verdict => verdict === word).length
  const problems = rows.filter(({ problem }) => problem !== undefined).length
  return [
    `goals: ${count('met')} met, ${count('missed')} missed, ${count('not shown')} not shown`,
    ...(problems > 0 ? [`${problems} comparisons could not be made`] : []),
  ].join('; ')
}

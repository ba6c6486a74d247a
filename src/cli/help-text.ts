// SPDX-License-Identifier: MIT
/** Help from the command table: the list of commands, and the page of one. */
import {
  allOptions,
  commandTable,
  type CommandGroup,
  type CommandRow,
  type OptionRow,
} from './command-table.js'

const program = 'ploop-nbd'
const widthMax = 98

export function formatSummary(): string {
  const groups = [...new Set(commandTable.map(row => row.group))]
  const width = Math.max(...commandTable.map(row => row.name.length))
  const lines = [`Usage: ${program} [-v] COMMAND [OPTIONS] [ARGUMENTS]`, '']
  for (const group of groups) lines.push(`${group}:`, ...groupLines(group, width), '')
  lines.push(`"${program} COMMAND --help" shows the options of a command.`)
  return `${lines.join('\n')}\n`
}

function groupLines(group: CommandGroup, width: number): string[] {
  return commandTable
    .filter(row => row.group === group)
    .map(row => `  ${row.name.padEnd(width)}  ${row.summary}`)
}

export function formatUsage(row: CommandRow): string {
  return row.synopsis
    .flatMap((form, index) => {
      const lead = `${index === 0 ? 'Usage:' : '      '} ${program} ${row.name} `
      return wrap(lead, usagePieces(form))
    })
    .join('\n')
}

/** Words, but `[-s SIZE]` and `{ a | b }` stay in one piece. */
function usagePieces(form: string): string[] {
  return form.match(/(?:\[[^\]]*(?:\[[^\]]*\][^\]]*)*\]|\{[^}]*\}|-\w [A-Z]+|\S)+/g) ?? []
}

/** Lines of pieces behind a lead; further lines are indented as deep as the lead. */
function wrap(lead: string, pieces: readonly string[]): string[] {
  const lines: string[] = []
  let line = lead.slice(0, -1)
  for (const [index, piece] of pieces.entries()) {
    if (index > 0 && line.length + 1 + piece.length > widthMax) {
      lines.push(line)
      line = ' '.repeat(lead.length - 1)
    }
    line += ` ${piece}`
  }
  return [...lines, line]
}

export function formatCommandHelp(row: CommandRow): string {
  const shown = allOptions(row)
  const width = Math.max(...shown.map(option => optionWords(option).length))
  const lines = [formatUsage(row), '', ...row.description, '']
  if (row.options.length > 0) {
    lines.push('Options:', ...row.options.map(option => optionLine(option, width)), '')
  }
  const also = shown.filter(option => !row.options.includes(option))
  lines.push(row.options.length > 0 ? 'Also:' : 'Options:')
  lines.push(...also.map(option => optionLine(option, width)), '')
  if (row.grammar !== undefined) lines.push(...row.grammar.map(line => `  ${line}`), '')
  lines.push('Examples:', ...row.examples.map(line => `  ${program} ${line}`), '')
  lines.push('Exit status:', ...row.exits.map(([status, text]) => exitLine(status, text)))
  return `${lines.join('\n')}\n`
}

/** `-u, --uuid UUID`, `--progress[=FD]` */
export function optionWords(option: OptionRow): string {
  const names = []
  if (option.short !== undefined) names.push(`-${option.short}`)
  if (option.long !== undefined) names.push(`--${option.long}`)
  const joined = names.join(', ')
  if (option.value === undefined) return joined
  return option.valueOptional === true ? `${joined}[=${option.value}]` : `${joined} ${option.value}`
}

function optionLine(option: OptionRow, width: number): string {
  return wrap(`  ${optionWords(option).padEnd(width)}  `, option.text.split(' ')).join('\n')
}

function exitLine(status: number, text: string): string {
  return `  ${String(status).padStart(2)} ${text}`
}

// SPDX-License-Identifier: MIT
/**
 * The command table as a commander program, and what commander does not know: `-v5`, unique
 * prefixes of long options, options with a value that may be absent.
 *
 * Owns:     turning an argument list into a row of the table and a CommandInput, or a UsageError.
 * Leaves:   running the command and printing anything to main.ts.
 */
import { Command, CommanderError, Option } from 'commander'
import { CommandInput, UsageError, type OptionValue } from './command-input.js'
import {
  allOptions,
  commandTable,
  findCommand,
  type CommandRow,
  type OptionRow,
} from './command-table.js'
import { verbosityDefault } from './logger.js'

export interface ParsedCommandLine {
  readonly verbosity: number
  /** undefined: the list of commands was asked for */
  readonly row: CommandRow | undefined
  readonly input: CommandInput
}

/** The command line names no command that we have: the summary is the usage to print. */
export class SummaryError extends UsageError {}

/** The usage error of a command that was recognised. */
export class CommandUsageError extends UsageError {
  readonly row: CommandRow

  constructor(row: CommandRow, message: string) {
    super(message)
    this.row = row
  }
}

/** @param argumentList without interpreter and program */
export function parseCommandLine(argumentList: readonly string[]): ParsedCommandLine {
  const { verbosity, rest } = takeVerbosity(argumentList)
  const [name, ...words] = rest
  const empty = new CommandInput(new Map(), [])
  if (name === undefined) throw new SummaryError()
  if (name === '--help' || name === '-h') return { verbosity, row: undefined, input: empty }
  if (name === '--version') return { verbosity, row: findCommand('version'), input: empty }
  if (name.startsWith('-')) throw new SummaryError(`Bad option ${name}`)
  const row = findCommand(name)
  const expanded = row === undefined ? words : expandOptions(row, words)
  const parsed = parseWithCommander([name, ...expanded], row)
  return { verbosity, ...parsed }
}

/** `-v`, `-vv…` add one each, `-vN` sets: only before the command. */
function takeVerbosity(argumentList: readonly string[]): { verbosity: number; rest: string[] } {
  let verbosity = verbosityDefault
  const rest = [...argumentList]
  for (;;) {
    const word = rest[0] ?? ''
    if (/^-v+$/.test(word)) verbosity += word.length - 1
    else if (/^-v\d{1,3}$/.test(word)) verbosity = Number(word.slice(2))
    else return { verbosity, rest }
    rest.shift()
  }
}

/**
 * Completes unique prefixes of long options, and marks an optional value as absent, so that
 * commander does not take the next word for it.
 */
export function expandOptions(row: CommandRow, words: readonly string[]): string[] {
  const options = allOptions(row)
  const expanded: string[] = []
  let valueNext = false
  for (const [index, word] of words.entries()) {
    if (word === '--' && !valueNext) return [...expanded, ...words.slice(index)]
    if (valueNext || !word.startsWith('-')) {
      valueNext = false
      expanded.push(word)
    } else if (word.startsWith('--')) {
      const full = expandLong(row, options, word)
      const option = longOption(options, full)
      const attached = full.includes('=')
      valueNext = option?.value !== undefined && option.valueOptional !== true && !attached
      expanded.push(option?.valueOptional === true && !attached ? `${full}=` : full)
    } else {
      valueNext = clusterWantsValue(options, word)
      expanded.push(word)
    }
  }
  return expanded
}

function longNames(option: OptionRow): string[] {
  return option.long === undefined ? [] : [option.long, ...(option.hidden ?? [])]
}

function longOption(options: readonly OptionRow[], word: string): OptionRow | undefined {
  const name = word.slice(2).split('=', 1)[0] ?? ''
  return options.find(option => longNames(option).includes(name))
}

function expandLong(row: CommandRow, options: readonly OptionRow[], word: string): string {
  const end = word.indexOf('=')
  const name = end === -1 ? word.slice(2) : word.slice(2, end)
  if (longOption(options, word) !== undefined || name === '') return word
  const matches = options.filter(option => longNames(option).some(long => long.startsWith(name)))
  if (matches.length > 1) {
    const names = matches.map(option => `--${option.long ?? ''}`).join(', ')
    throw new CommandUsageError(row, `option --${name} is ambiguous: ${names}`)
  }
  const long = matches[0]?.long
  return long === undefined ? word : `--${long}${end === -1 ? '' : word.slice(end)}`
}

/** True when the last letter of `-abc` is an option whose value is the next word. */
function clusterWantsValue(options: readonly OptionRow[], word: string): boolean {
  const letters = Array.from(word.slice(1))
  for (const [index, letter] of letters.entries()) {
    const option = options.find(candidate => candidate.short === letter)
    if (option === undefined) return false
    if (option.value !== undefined) return index === letters.length - 1
  }
  return false
}

function parseWithCommander(
  words: readonly string[],
  row: CommandRow | undefined,
): { row: CommandRow; input: CommandInput } {
  let result: { row: CommandRow; input: CommandInput } | undefined
  const program = buildProgram((found, input) => {
    result = { row: found, input }
  })
  try {
    program.parse([...words], { from: 'user' })
  } catch (cause) {
    if (!(cause instanceof CommanderError)) throw cause
    const message = cause.message.replace(/^error: /, '')
    throw row === undefined ? new SummaryError(message) : new CommandUsageError(row, message)
  }
  if (result === undefined) throw new SummaryError()
  return result
}

export function buildProgram(onCommand: (row: CommandRow, input: CommandInput) => void): Command {
  const quiet = { writeOut: () => undefined, writeErr: () => undefined }
  const program = new Command('ploop-nbd')
    .exitOverride()
    .configureOutput(quiet)
    .enablePositionalOptions()
    .helpOption(false)
    .helpCommand(false)
    .showSuggestionAfterError()
  for (const row of commandTable) {
    const values = new Map<string, OptionValue>()
    const command = program
      .command(row.name)
      .exitOverride()
      .configureOutput(quiet)
      .helpOption(false)
      .allowExcessArguments()
      .argument('[arguments...]')
      .action((positionals: string[]) => {
        onCommand(row, new CommandInput(values, positionals))
      })
    for (const option of allOptions(row)) addOption(command, option, values)
  }
  return program
}

/**
 * Values are collected from commander's events, which do not care about how commander names an
 * option (`--no-header` would be a negation of `header`).
 */
function addOption(command: Command, row: OptionRow, values: Map<string, OptionValue>): void {
  const value = row.value === undefined ? '' : row.valueOptional === true ? ' [value]' : ' <value>'
  const [long, ...hidden] = longNames(row)
  const names = [row.short === undefined ? [] : [`-${row.short}`], long ? [`--${long}`] : []].flat()
  const forms = [names.join(', '), ...hidden.map(name => `--${name}`)]
  for (const form of forms) {
    const option = new Option(`${form}${value}`)
    command.addOption(option)
    command.on(`option:${option.name()}`, (text: string | undefined | null) => {
      const given = row.value === undefined ? true : (text ?? '')
      const before = values.get(row.key)
      const list = Array.isArray(before) ? (before as readonly string[]) : []
      values.set(row.key, row.repeatable === true ? [...list, String(given)] : given)
    })
  }
}

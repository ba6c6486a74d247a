// SPDX-License-Identifier: MIT
/**
 * One command from its arguments to its exit status, with nothing of the process in it.
 *
 * main.ts gives it the real streams; tests and embedders may give it others.
 */
import type { Files } from '../io/files.js'
import { parseCommandLine, type ParsedCommandLine } from './build-program.js'
import { UsageError, type CommandInput } from './command-input.js'
import type { CommandRow } from './command-table.js'
import type { CommandContext } from './context.js'
import { formatCommandHelp, formatSummary } from './help-text.js'
import { jsonLogger, plainLogger, verbosityDefault } from './logger.js'
import type { Output } from './output.js'
import { createProgress, type ProgressChoice, type ProgressDisplay } from './progress-bar.js'
import { reportError } from './report-error.js'

export interface Surroundings {
  readonly stdout: Output
  readonly stderr: Output
  readonly files: Files
  readonly signal: AbortSignal
  readonly hurry: AbortSignal
  holdOn(): void
  /** log as JSON lines */
  readonly jsonLog: boolean
  /** Told of the display of the running command, for those who want to know how far it is. */
  readonly onProgress?: (display: ProgressDisplay) => void
}

export async function runCommandLine(
  argumentList: readonly string[],
  surroundings: Surroundings,
): Promise<number> {
  const { stderr } = surroundings
  let parsed: ParsedCommandLine
  try {
    parsed = parseCommandLine(argumentList)
  } catch (error) {
    const report = { stderr, json: false, verbosity: verbosityDefault, row: undefined }
    return reportError(error, report)
  }
  const { row, input, verbosity } = parsed
  if (row === undefined) {
    surroundings.stdout.write(formatSummary())
    return 0
  }
  if (input.has('help')) {
    surroundings.stdout.write(formatCommandHelp(row))
    return 0
  }
  const json = input.has('json')
  let display: ProgressDisplay | undefined
  try {
    display = createProgress(progressChoice(input, surroundings, json), stderr)
    surroundings.onProgress?.(display)
    return await runRow(row, input, makeContext(surroundings, { json, verbosity, display }))
  } catch (error) {
    display?.finish()
    return reportError(error, { stderr, json, verbosity, row })
  } finally {
    display?.finish()
  }
}

async function runRow(
  row: CommandRow,
  input: CommandInput,
  context: CommandContext,
): Promise<number> {
  const module = await row.load()
  return (await module.run(input, context)) ?? 0
}

function makeContext(
  surroundings: Surroundings,
  choice: { json: boolean; verbosity: number; display: ProgressDisplay },
): CommandContext {
  const { stdout, stderr, files, signal, hurry } = surroundings
  const makeLogger = surroundings.jsonLog ? jsonLogger : plainLogger
  return {
    ...{ stdout, stderr, files, signal, hurry },
    holdOn: () => {
      surroundings.holdOn()
    },
    json: choice.json,
    verbosity: choice.verbosity,
    log: makeLogger(stderr, choice.verbosity),
    progress: choice.display,
  }
}

function progressChoice(
  input: CommandInput,
  surroundings: Surroundings,
  json: boolean,
): ProgressChoice {
  const text = input.text('progress')
  if (text === undefined || text === '') {
    const terminal = surroundings.stderr.columns !== undefined
    return terminal && (text === '' || !json) ? 'bar' : 'none'
  }
  if (!/^\d{1,9}$/.test(text)) throw new UsageError(`Invalid --progress descriptor: ${text}`)
  return { descriptor: Number(text) }
}

// SPDX-License-Identifier: MIT
/**
 * Errors as people and programs see them, and the exit status that goes with each.
 *
 * A PloopError is a sentence with a hint; a usage error shows the usage; everything else is a bug
 * of ours and shows its stack.
 */
import { errnoName, PloopError } from '../base/errors.js'
import { exitStatus } from '../base/exit-status.js'
import { interrupted } from '../ops/context.js'
import { CommandUsageError, SummaryError } from './build-program.js'
import { UsageError } from './command-input.js'
import type { CommandRow } from './command-table.js'
import { formatCommandHelp, formatSummary } from './help-text.js'
import { jsonSchema, type Output } from './output.js'

export interface ReportOptions {
  readonly stderr: Output
  readonly json: boolean
  /** 4 and more: code and cause too */
  readonly verbosity: number
  readonly row: CommandRow | undefined
}

/** Says what went wrong. @returns the exit status */
export function reportError(error: unknown, options: ReportOptions): number {
  if (error instanceof UsageError) return reportUsage(error, options)
  if (error instanceof PloopError) return reportPloopError(error, options)
  if (isAbort(error)) return reportPloopError(interrupted(), options)
  return reportBug(error, options)
}

/** What Node's own functions throw when the signal to stop reaches them. */
function isAbort(error: unknown): boolean {
  return error instanceof Error && error.name === 'AbortError'
}

function reportUsage(error: UsageError, options: ReportOptions): number {
  const row = error instanceof CommandUsageError ? error.row : options.row
  const usage =
    row === undefined || error instanceof SummaryError ? formatSummary() : formatCommandHelp(row)
  const status = error.exitStatus ?? row?.usageStatus ?? exitStatus.parameter
  if (options.json) {
    const message = error.message === '' ? 'wrong usage' : error.message
    writeJsonError(options.stderr, { code: 'USAGE', exitStatus: status, message })
    return status
  }
  if (error.message !== '') options.stderr.write(`ploop-nbd: ${error.message}\n`)
  options.stderr.write(usage)
  return status
}

function reportPloopError(error: PloopError, options: ReportOptions): number {
  const { code, message, path, offset, hint } = error
  if (options.json) {
    writeJsonError(options.stderr, {
      ...{ code, exitStatus: error.exitStatus, message, path, offset, hint },
    })
    return error.exitStatus
  }
  options.stderr.write(`ploop-nbd: ${error.userMessage}\n`)
  if (hint !== undefined) options.stderr.write(`ploop-nbd: hint: ${hint}\n`)
  if (options.verbosity > 3) {
    const cause = error.cause instanceof Error ? `, cause: ${error.cause.message}` : ''
    options.stderr.write(`ploop-nbd: code ${code}, status ${error.status}${cause}\n`)
  }
  return error.exitStatus
}

function reportBug(error: unknown, options: ReportOptions): number {
  const errno = errnoName(error)
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error)
  const message = `this is a bug in ploop-nbd; please report it with the lines below`
  if (options.json) {
    const fields = { code: 'BUG', exitStatus: exitStatus.system, message, stack, errno }
    writeJsonError(options.stderr, fields)
  } else {
    options.stderr.write(`ploop-nbd: ${message}\n${stack}\n`)
  }
  return exitStatus.system
}

function writeJsonError(output: Output, fields: Readonly<Record<string, unknown>>): void {
  output.write(`${JSON.stringify({ schema: jsonSchema, ...fields })}\n`)
}

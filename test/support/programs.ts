// SPDX-License-Identifier: MIT
/**
 * Runs the judges and our own program as tests do: whole output captured, a deadline, nobody to
 * answer questions.
 */
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { run } from '../../src/host/run.js'
import type { RunResult } from '../../src/host/run.js'

export type { RunResult }

export interface ProgramOptions {
  readonly input?: string
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string>>
  /** default one minute */
  readonly timeoutMs?: number
}

export const checkout = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
/** The built program: `npm test` builds it first. */
export const ploopNbdPath = join(checkout, 'dist', 'cli', 'main.js')

/** Runs to the end whatever the status. */
export function runProgram(
  program: string,
  programArguments: readonly string[],
  options: ProgramOptions = {},
): Promise<RunResult> {
  return run(program, programArguments, { status: 'system', timeoutMs: 60_000, ...options })
}

/** Runs to the end and insists on status 0. @returns standard output */
export async function runJudge(
  program: string,
  programArguments: readonly string[],
  options: ProgramOptions = {},
): Promise<string> {
  const result = await runProgram(program, programArguments, options)
  if (result.status !== 0) {
    const commandLine = [program, ...programArguments].join(' ')
    throw new Error(`${commandLine}: status ${result.status}\n${result.stdout}${result.stderr}`)
  }
  return result.stdout
}

/** Our own program. */
export function ploopNbd(
  programArguments: readonly string[],
  options: ProgramOptions = {},
): Promise<RunResult> {
  return runProgram(process.execPath, [ploopNbdPath, ...programArguments], options)
}

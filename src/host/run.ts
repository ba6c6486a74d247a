// SPDX-License-Identifier: MIT
/**
 * Starts programs of the machine: an argument list and never a shell, a deadline, captured output.
 *
 * Leaves:   the meaning of exit statuses to the callers.
 * Promises: the program is gone when the promise settles, also when it was aborted or late; what
 *           is captured is bounded.
 */
import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, isAbsolute, join } from 'node:path'
import { PloopError, errnoName } from '../base/errors.js'
import type { ExitStatusName } from '../base/exit-status.js'

export interface RunOptions {
  /** exit status of ours when the program cannot be started, is late or dies of a signal */
  readonly status: ExitStatusName
  /** default 10 minutes */
  readonly timeoutMs?: number
  readonly signal?: AbortSignal | undefined
  readonly input?: string
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string>>
  /** Debian package to name when the program is missing */
  readonly package?: string
}

export interface RunResult {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

const outputLimitCharacters = 1024 * 1024
/** Between SIGTERM and SIGKILL. */
const graceMs = 5000
/** Where administrators' programs live, though a user's PATH may not say so. */
const systemDirectories = ['/usr/sbin', '/sbin', '/usr/bin', '/bin']

/**
 * The program's path in PATH or the system directories; undefined when it is not installed.
 * An absolute path stands for itself.
 */
export function findProgram(name: string): string | undefined {
  const directories = [...(process.env['PATH'] ?? '').split(delimiter), ...systemDirectories]
  for (const directory of isAbsolute(name) ? ['/'] : directories) {
    if (directory === '') continue
    const path = join(directory, name)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {
      // not here
    }
  }
  return undefined
}

/** Runs to the end; a status other than 0 is the caller's to judge. */
export function run(
  program: string,
  argumentList: readonly string[],
  options: RunOptions,
): Promise<RunResult> {
  const path = findProgram(program)
  if (path === undefined) return Promise.reject(missingError(program, options))
  const timeoutMs = options.timeoutMs ?? 600_000
  return new Promise((resolve, reject) => {
    const child = spawn(path, argumentList, {
      stdio: ['pipe', 'pipe', 'pipe'],
      cwd: options.cwd,
      // Messages are shown to people and read by us: one language.
      env: { ...process.env, LC_ALL: 'C', ...options.env },
    })
    const output = { stdout: '', stderr: '' }
    let reason: string | undefined
    let killTimer: NodeJS.Timeout | undefined
    const stop = (why: string): void => {
      reason ??= why
      child.kill('SIGTERM')
      killTimer ??= setTimeout(() => child.kill('SIGKILL'), graceMs)
    }
    const deadline = setTimeout(() => {
      stop(`did not end within ${String(timeoutMs / 1000)} s`)
    }, timeoutMs)
    let aborted = false
    const onAbort = (): void => {
      aborted = true
      stop('was interrupted')
    }
    const settle = (): void => {
      clearTimeout(deadline)
      clearTimeout(killTimer)
      options.signal?.removeEventListener('abort', onAbort)
    }
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].setEncoding('utf8').on('data', (text: string) => {
        output[name] += text.slice(0, outputLimitCharacters - output[name].length)
      })
    }
    child.on('error', cause => {
      settle()
      reject(startError(program, cause, options))
    })
    child.on('close', (status, signal) => {
      settle()
      reason ??= signal === null ? undefined : `died of ${signal}`
      if (aborted) reject(abortError(program))
      else if (reason !== undefined) reject(endError(program, reason, output.stderr, options))
      else resolve({ status: status ?? 1, ...output })
    })
    // A program that does not read what it is given may close its end first.
    child.stdin.on('error', () => undefined)
    child.stdin.end(options.input ?? '')
    options.signal?.addEventListener('abort', onAbort, { once: true })
    if (options.signal?.aborted === true) onAbort()
  })
}

/** The last lines a program said, on one line: for an error's sentence. */
export function lastWords(text: string, lineCount = 2): string {
  const lines = text.split('\n').map(line => line.trim())
  return lines
    .filter(line => line !== '')
    .slice(-lineCount)
    .join('; ')
    .slice(0, 400)
}

function missingError(program: string, options: RunOptions): PloopError {
  return new PloopError('PROGRAM_MISSING', `the program ${program} is not installed`, {
    status: options.status,
    operation: program,
    hint: options.package === undefined ? undefined : `install the package ${options.package}`,
  })
}

function startError(program: string, cause: unknown, options: RunOptions): PloopError {
  return new PloopError('PROGRAM_START', `cannot start ${program}: ${errnoName(cause) ?? '?'}`, {
    status: options.status,
    operation: program,
    errno: errnoName(cause),
    cause,
  })
}

/** Not the program's failure: somebody asked us to stop. */
function abortError(program: string): PloopError {
  return new PloopError('INTERRUPTED', `${program} was interrupted`, {
    status: 'system',
    operation: program,
  })
}

function endError(program: string, why: string, stderr: string, options: RunOptions): PloopError {
  const words = lastWords(stderr)
  return new PloopError(
    'PROGRAM_ENDED',
    `${program} ${why}${words === '' ? '' : `; it said: ${words}`}`,
    { status: options.status, operation: program },
  )
}

// SPDX-License-Identifier: MIT
/**
 * The one error class for what goes wrong outside of us: files, images, options, peers.
 *
 * Four separate things: a stable `code` for programs, the `exitStatus` of ploop(8), the context
 * (path, offset, operation), and the cause. `message` is a whole sentence for a person, with the
 * numbers; `hint` is the one thing to do about it. Neither names a class or carries a stack.
 */
import { exitStatus, type ExitStatusName } from './exit-status.js'

export interface PloopErrorOptions {
  /** name of the exit status in ./exit-status.ts */
  readonly status: ExitStatusName
  readonly path?: string | undefined
  /** byte offset in `path` */
  readonly offset?: number | undefined
  readonly operation?: string | undefined
  readonly hint?: string | undefined
  readonly cause?: unknown
  /** errno name such as 'ENOSPC', when a system call failed */
  readonly errno?: string | undefined
}

export class PloopError extends Error {
  override name = 'PloopError'
  readonly code: string
  readonly status: ExitStatusName
  readonly exitStatus: number
  readonly path: string | undefined
  readonly offset: number | undefined
  readonly operation: string | undefined
  readonly hint: string | undefined
  readonly errno: string | undefined

  /**
   * @param code stable, upper case, e.g. `BAT_BEYOND_EOF`
   * @param message the fact without the path; {@link userMessage} puts the path in front
   */
  constructor(code: string, message: string, options: PloopErrorOptions) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.status = options.status
    this.exitStatus = exitStatus[options.status]
    this.path = options.path
    this.offset = options.offset
    this.operation = options.operation
    this.hint = options.hint
    this.errno = options.errno
  }

  /** One line: `path: fact`. */
  get userMessage(): string {
    return this.path === undefined ? this.message : `${this.path}: ${this.message}`
  }
}

/** The errno name of a Node system error, else undefined. */
export function errnoName(error: unknown): string | undefined {
  if (error instanceof PloopError) return error.errno
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined
  const { code } = error
  return typeof code === 'string' && /^E[A-Z0-9]+$/.test(code) ? code : undefined
}

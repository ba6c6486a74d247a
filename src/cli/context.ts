// SPDX-License-Identifier: MIT
/**
 * What a command gets from the process: streams, logger, progress, the signal to stop, files.
 *
 * Commands never touch `process`; tests and embedders give them other streams.
 */
import type { OperationContext } from '../ops/context.js'
import type { Output } from './output.js'

export interface CommandContext extends OperationContext {
  /** results, and nothing else */
  readonly stdout: Output
  /** errors, warnings, progress */
  readonly stderr: Output
  /** the command was given --json */
  readonly json: boolean
  /** Aborted by the second request to stop. */
  readonly hurry: AbortSignal
  /** The command ends by itself on {@link hurry}; without this the second signal ends the process. */
  holdOn(): void
  /** 3 unless -v says otherwise */
  readonly verbosity: number
}

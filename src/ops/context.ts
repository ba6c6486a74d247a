// SPDX-License-Identifier: MIT
/** What every operation gets from whoever calls it: files, words, progress, and the way to stop. */
import { PloopError } from '../base/errors.js'
import type { Logger } from '../base/log.js'
import type { Progress } from '../base/progress.js'
import type { Files } from '../io/files.js'

export interface OperationContext {
  readonly files: Files
  readonly log: Logger
  readonly progress: Progress
  /** Aborted when the work shall stop; it then ends with {@link interrupted}, all undone. */
  readonly signal: AbortSignal
}

export function interrupted(): PloopError {
  return new PloopError('INTERRUPTED', 'the command was interrupted', { status: 'system' })
}

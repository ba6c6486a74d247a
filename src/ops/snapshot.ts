// SPDX-License-Identifier: MIT
/** snapshot: freezes the present state of a disk. */
import { createSnapshot, type SnapshotResult } from '../image/snapshot.js'
import type { Guid } from '../base/guid.js'
import type { OperationContext } from './context.js'

export interface SnapshotInput {
  readonly descriptorPath: string
  readonly uuid?: Guid | undefined
}

export function snapshot(input: SnapshotInput, context: OperationContext): Promise<SnapshotResult> {
  const { files, log, signal } = context
  return createSnapshot(files, input.descriptorPath, { uuid: input.uuid, log, signal })
}

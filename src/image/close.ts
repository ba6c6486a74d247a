// SPDX-License-Identifier: MIT
/**
 * The clean end of a writable top delta.
 *
 * Order: cut the file to what is in use → data and table durable → mark cleared, durable. A crash
 * before the last step leaves the mark, and a file that any opener takes.
 */
import { assert } from '../base/assert.js'
import type { DeltaFile } from '../delta/delta-file.js'

export interface CloseTopOptions {
  /** clusters of the file that are in use, header and table included; the rest is cut off */
  readonly allocHead: number
  /** no cluster of the disk lies in this delta */
  readonly isEmpty: boolean
}

/**
 * All mappings are published already. The lock stays until the handle is closed.
 *
 * @throws {PloopError} the mark stays then, and the next opener checks
 */
export async function closeTop(top: DeltaFile, options: CloseTopOptions): Promise<void> {
  assert(top.writable, 'only a writable top was marked')
  if (top.isRaw) {
    await top.handle.sync()
    return
  }
  assert(options.allocHead >= top.batClusterCount, 'the table is always in use')
  await top.refreshSize()
  const usedBytes = options.allocHead * top.clusterBytes
  if (usedBytes < top.fileSizeBytes) await top.truncate(usedBytes)
  await top.handle.sync()
  await top.markClosed(options.isEmpty)
}

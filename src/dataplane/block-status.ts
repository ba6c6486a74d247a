// SPDX-License-Identifier: MIT
/** Answers BLOCK_STATUS: one chunk per context, made from the map, in one payload slot. */
import {
  blockStatusChunkBytes,
  CONTEXT_ALLOCATION_DEPTH,
  CONTEXT_BASE_ALLOCATION,
  ExtentList,
  NBD_REPLY_FLAG_DONE,
  NBD_STATE_HOLE,
  NBD_STATE_ZERO,
  putBlockStatusChunk,
  type SelectedContext,
} from 'nbd-server-protocol'
import { scanExtents } from '../disk/extents.js'
import type { Connection } from './connection.js'
import type { ServedExport } from './served-export.js'

/** All chunks of a reply fit into a slot of that size; a client asks again for what is missing. */
export const statusSlotBytes = 65536

const list = new ExtentList()

/**
 * Composes the reply at an arena offset with {@link statusSlotBytes} of room.
 *
 * @param contexts at least one; a 64 KiB slot has room for some extents of each of 64 contexts
 * @returns bytes written
 */
export function composeBlockStatus(
  view: DataView,
  at: number,
  connection: Connection,
  served: ServedExport,
  contexts: readonly SelectedContext[],
  cookieHigh: number,
  cookieLow: number,
  offsetBytes: number,
  lengthBytes: number,
  one: boolean,
): number {
  const { mode } = connection
  const share = Math.floor(statusSlotBytes / contexts.length)
  const fixed = blockStatusChunkBytes(mode, 0)
  const perExtent = blockStatusChunkBytes(mode, 1) - fixed
  const room = Math.max(1, Math.floor((share - fixed) / perExtent))
  let written = 0
  contexts.forEach((context, index) => {
    list.start(mode, lengthBytes, one, room)
    fillExtents(served, context.name, offsetBytes, lengthBytes, one ? 1 : room)
    const isLast = index === contexts.length - 1
    written += putBlockStatusChunk(
      view,
      at + written,
      mode,
      isLast ? NBD_REPLY_FLAG_DONE : 0,
      cookieHigh,
      cookieLow,
      offsetBytes,
      context.id,
      list,
    )
  })
  return written
}

function fillExtents(
  served: ServedExport,
  context: string,
  offsetBytes: number,
  lengthBytes: number,
  extentsMax: number,
): void {
  const { disk, clusterBytes } = served
  const anyOwner = context === CONTEXT_BASE_ALLOCATION
  const extents = scanExtents(
    disk.map,
    clusterBytes,
    offsetBytes,
    lengthBytes,
    anyOwner,
    extentsMax,
  )
  const levelCount = disk.levels.length
  for (const extent of extents) {
    let status = extent.mark
    if (anyOwner) status = extent.mark === 0 ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0
    else if (context === CONTEXT_ALLOCATION_DEPTH && extent.mark !== 0) {
      status = levelCount - extent.mark + 1
    }
    if (!list.add(extent.lengthBytes, status)) break
  }
}

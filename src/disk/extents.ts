// SPDX-License-Identifier: MIT
/**
 * Runs of clusters with the same owner: what block status and `map` are made from.
 *
 * Reads the map as it is at the call; a run is never torn, but may be out of date once reported.
 */
import type { DiskMap } from './map.js'

export interface Extent {
  offsetBytes: number
  lengthBytes: number
  /** 0 = owned by nobody, else level + 1 */
  mark: number
}

/** Clusters looked at for one answer; what lies behind is left to the next question. */
export const scanClustersMax = 1_000_000

/**
 * Cuts a range into runs of equal owner (or, with `anyOwner`, of owned and not owned: mark 1 and 0).
 *
 * @param offsetBytes,lengthBytes inside the disk, length > 0
 * @param extentsMax stop after that many runs
 * @returns at least one run; together they start at the offset and may end early
 */
export function scanExtents(
  map: DiskMap,
  clusterBytes: number,
  offsetBytes: number,
  lengthBytes: number,
  anyOwner: boolean,
  extentsMax: number,
): Extent[] {
  const extents: Extent[] = []
  const { levels } = map
  const end = offsetBytes + lengthBytes
  const first = Math.floor(offsetBytes / clusterBytes)
  const last = Math.min(Math.ceil(end / clusterBytes), first + scanClustersMax)
  let runStart = offsetBytes
  let runMark = ownerOf(levels, first, anyOwner)
  for (let index = first + 1; index <= last; index++) {
    const mark = index < last ? ownerOf(levels, index, anyOwner) : -1
    if (mark === runMark) continue
    const runEnd = Math.min(end, index * clusterBytes)
    extents.push({ offsetBytes: runStart, lengthBytes: runEnd - runStart, mark: runMark })
    if (extents.length >= extentsMax) break
    runStart = runEnd
    runMark = mark
  }
  return extents
}

function ownerOf(levels: Uint8Array, clusterIndex: number, anyOwner: boolean): number {
  const mark = levels[clusterIndex] ?? 0
  return anyOwner && mark !== 0 ? 1 : mark
}

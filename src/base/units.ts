// SPDX-License-Identifier: MIT
/**
 * Units of this field. They are plain numbers, so names carry the unit: `offsetBytes`,
 * `sizeSectors`, `clusterIndex`. All stay below 2^53, where a double is exact.
 */

/** Always 512, whatever the device says of itself. */
export const sectorBytes = 512

/** Sectors to bytes. */
export function sectorsToBytes(sectors: number): number {
  return sectors * sectorBytes
}

/** Exports and files of this size and beyond are refused: a double would lose bits. */
export const sizeLimitBytes = Number.MAX_SAFE_INTEGER

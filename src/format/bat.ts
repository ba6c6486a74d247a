// SPDX-License-Identifier: MIT
/**
 * The block allocation table: which file cluster holds a cluster of the disk.
 *
 * An entry counts sectors in version 1 and clusters in version 2, both from the start of the file.
 * Entry 0 means "not in this delta". The table starts at byte 64, right behind the header, so a
 * cluster index n has slot n + 16 of the file seen as one flat array. See docs/format.md, "BAT".
 */
import { assert } from '../base/assert.js'
import { PloopError } from '../base/errors.js'
import { sectorBytes } from '../base/units.js'
import { entryBytes, headerBytes, headerSlots } from './constants.js'
import type { FormatVersion } from './geometry.js'

/** What {@link entryToFileCluster} says of a version 1 entry that is no multiple of the cluster. */
export const unalignedEntry = -1

const maxEntry = 2 ** 32 - 2

/** Byte offset of the entry of a cluster index in the file. */
export function entryOffsetBytes(clusterIndex: number): number {
  return headerBytes + entryBytes * clusterIndex
}

/** Position of the entry of a cluster index in the file seen as an array of entries. */
export function slotOf(clusterIndex: number): number {
  return clusterIndex + headerSlots
}

/** Cluster index of a slot; negative inside the header. */
export function clusterIndexOfSlot(slot: number): number {
  return slot - headerSlots
}

/** Entries in one cluster of the table; the first cluster has {@link headerSlots} less. */
export function entriesPerCluster(clusterSectors: number): number {
  return (clusterSectors * sectorBytes) / entryBytes
}

/** Clusters that header and table take: no data cluster lies below ("L1"). */
export function batClusterCount(header: {
  readonly firstBlockSectors: number
  readonly clusterSectors: number
}): number {
  return header.firstBlockSectors / header.clusterSectors
}

/** Entries that fit into a table of that many clusters. */
export function batCapacity(batClusters: number, clusterSectors: number): number {
  return batClusters * entriesPerCluster(clusterSectors) - headerSlots
}

/**
 * @param entry not 0
 * @returns the file cluster, or {@link unalignedEntry}
 */
export function entryToFileCluster(
  version: FormatVersion,
  entry: number,
  clusterSectors: number,
): number {
  if (version === 2) return entry
  return entry % clusterSectors === 0 ? entry / clusterSectors : unalignedEntry
}

/**
 * @throws {PloopError} `FILE_CLUSTER_LIMIT` (errno EFBIG) when 32 bits cannot name the cluster
 */
export function fileClusterToEntry(
  version: FormatVersion,
  fileCluster: number,
  clusterSectors: number,
): number {
  assert(fileCluster > 0, 'the first file cluster holds the header')
  const entry = version === 2 ? fileCluster : fileCluster * clusterSectors
  if (entry > maxEntry) {
    throw new PloopError(
      'FILE_CLUSTER_LIMIT',
      `file cluster ${fileCluster} cannot be named by a version ${version} block table`,
      { status: 'write', errno: 'EFBIG' },
    )
  }
  return entry
}

/** File clusters from here on cannot be named: allocation ends there. */
export function fileClusterLimit(version: FormatVersion, clusterSectors: number): number {
  return version === 2 ? maxEntry + 1 : Math.floor(maxEntry / clusterSectors) + 1
}

const littleEndianHost = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1

/**
 * Decodes a run of entries into `target`, or a new array.
 *
 * @param bytes a whole number of entries, any alignment
 */
export function decodeEntries(bytes: Uint8Array, target?: Uint32Array): Uint32Array {
  assert(bytes.length % entryBytes === 0, 'whole entries')
  const count = bytes.length / entryBytes
  const entries = target ?? new Uint32Array(count)
  assert(entries.length >= count, 'room for the entries')
  if (littleEndianHost) {
    new Uint8Array(entries.buffer, entries.byteOffset, bytes.length).set(bytes)
    return entries
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  for (let index = 0; index < count; index++) {
    entries[index] = view.getUint32(index * entryBytes, true)
  }
  return entries
}

/** The bytes of a run of entries, or a copy into `target`. */
export function encodeEntries(entries: Uint32Array, target?: Uint8Array): Uint8Array {
  const bytes = target ?? new Uint8Array(entries.length * entryBytes)
  if (littleEndianHost) {
    bytes.set(new Uint8Array(entries.buffer, entries.byteOffset, entries.length * entryBytes))
    return bytes
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  entries.forEach((entry, index) => {
    view.setUint32(index * entryBytes, entry, true)
  })
  return bytes
}

/** True when a page holds no entry at all. Fast path for tables that are mostly empty. */
export function isAllZero(bytes: Uint8Array): boolean {
  if (bytes.byteOffset % 8 === 0 && bytes.length % 8 === 0) {
    const words = new Float64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8)
    // NaN and every non-zero pattern differ from 0; only -0 needs the slow look
    for (const word of words) if (word !== 0 || Object.is(word, -0)) return false
    return true
  }
  for (const byte of bytes) if (byte !== 0) return false
  return true
}

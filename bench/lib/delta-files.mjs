// SPDX-License-Identifier: MIT
/**
 * Writes delta files of known content, in the plainest way: header and table by the project's own
 * codecs, clusters in order behind them.
 *
 * The data are random, so that nobody below finds anything to compress or to share, and fully
 * allocated on disk.
 */
import { randomFillSync } from 'node:crypto'
import { closeSync, fdatasyncSync, ftruncateSync, openSync, writeSync } from 'node:fs'
import { encodeEntries, fileClusterToEntry } from '../../dist/format/bat.js'
import { entryOffsetBytes, batClusterCount } from '../../dist/format/bat.js'
import { encodeHeader, newHeader } from '../../dist/format/header.js'

export const clusterBytes = 1 << 20
const sectorBytes = 512
const clusterSectors = clusterBytes / sectorBytes

/**
 * @param sizeBytes of the virtual disk, whole clusters
 * @param clusters cluster indices that this delta holds, in the order of the file
 * @returns where the data begin, in bytes
 */
export function writeDelta(path, sizeBytes, clusters) {
  const header = newHeader({ version: 2, clusterSectors, sizeSectors: sizeBytes / sectorBytes })
  const firstData = batClusterCount(header)
  const fd = openSync(path, 'w', 0o600)
  try {
    ftruncateSync(fd, firstData * clusterBytes)
    writeSync(fd, encodeHeader(clusters.length > 0 ? { ...header, flags: 0 } : header), 0, 64, 0)
    if (clusters.length > 0) {
      const entries = new Uint32Array(header.clusterCount)
      clusters.forEach((cluster, turn) => {
        entries[cluster] = fileClusterToEntry(2, firstData + turn, clusterSectors)
      })
      const table = encodeEntries(entries)
      writeSync(fd, table, 0, table.length, entryOffsetBytes(0))
      writeClusters(fd, firstData, clusters.length)
    }
    fdatasyncSync(fd)
  } finally {
    closeSync(fd)
  }
  return firstData * clusterBytes
}

function writeClusters(fd, first, count) {
  const data = randomFillSync(Buffer.alloc(clusterBytes))
  for (let turn = 0; turn < count; turn++) {
    // every block of the disk differs: its first words say where it is
    for (let at = 0; at < clusterBytes; at += 4096) data.writeDoubleLE(turn * clusterBytes + at, at)
    writeSync(fd, data, 0, clusterBytes, (first + turn) * clusterBytes)
  }
}

/** `0, 1, … count - 1` */
export function range(count) {
  return Array.from({ length: count }, (_, index) => index)
}

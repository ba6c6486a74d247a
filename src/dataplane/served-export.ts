// SPDX-License-Identifier: MIT
/**
 * One disk offered by name: what clients are told of it, and what the hot path needs at hand.
 */
import type { ExportInfo } from 'nbd-server-protocol'
import type { Disk, DiskLevel } from '../disk/disk.js'

export const contextNames = ['base:allocation', 'qemu:allocation-depth', 'x-ploop:layer'] as const

export class ServedExport {
  readonly info: ExportInfo
  /** connections in transmission */
  readonly connections = new Set<number>()

  // Of the hot path: the map and, per level, what decides whether a read may go straight through.
  readonly levels: Uint8Array
  readonly clusters: Uint32Array
  readonly clusterBytes: number
  readonly inverseClusterBytes: number
  readonly sizeBytes: number
  readonly files: Uint32Array
  readonly alignments: Uint32Array
  /** bytes of the level's file from which on a read needs care: the end of a raw file */
  readonly limits: Float64Array

  constructor(
    readonly index: number,
    readonly name: string,
    description: string | undefined,
    readonly disk: Disk,
    /** engine file indexes, base first, for closing */
    levels: readonly DiskLevel[],
    readonly connectionsMax: number,
  ) {
    this.levels = disk.map.levels
    this.clusters = disk.map.clusters
    this.clusterBytes = disk.clusterBytes
    this.inverseClusterBytes = 1 / disk.clusterBytes
    this.sizeBytes = disk.sizeBytes
    this.files = Uint32Array.from(levels, level => level.file)
    this.alignments = Uint32Array.from(levels, level => (level.direct ? level.alignmentBytes : 1))
    this.limits = Float64Array.from(levels, level => (level.raw ? level.sizeBytes : Infinity))
    this.info = {
      sizeBytes: disk.sizeBytes,
      readOnly: disk.readOnly,
      multiConn: true,
      blockSizes: { minimum: 1, preferred: 4096, maximum: 32 * 1024 * 1024 },
      description,
      canonicalName: name,
    }
  }
}

// SPDX-License-Identifier: MIT
/** What a disk is made from: plain data that the opener of the chain has checked. */
import type { DiskHost } from './host.js'
import type { DiskMap } from './map.js'
import type { PendingMirror } from './pending-mirror.js'

export interface DiskLevel {
  /** index of the open file at the host */
  readonly file: number
  /** clusters that this level may own: 0 … clusterCount - 1 */
  readonly clusterCount: number
  readonly sizeBytes: number
  /** headerless base: cluster n lies at n * clusterBytes, and the file may end inside a cluster */
  readonly raw: boolean
  /** opened for direct I/O: memory, offset and length must be multiples of `alignmentBytes` */
  readonly direct: boolean
  /** a power of two up to 4096; 1 for buffered files */
  readonly alignmentBytes: number
}

export interface DiskOptions {
  readonly host: DiskHost
  readonly clusterBytes: number
  /** of the disk that clients see; a multiple of 512 */
  readonly sizeBytes: number
  readonly version: 1 | 2
  /** the first 64 bytes of the top with the in-use mark set; empty when the top is raw */
  readonly headerBytes: Uint8Array
  /** clusters that header and BAT of the top occupy */
  readonly firstDataCluster: number
  /** base first, top last; at most 128 */
  readonly levels: readonly DiskLevel[]
  /** fewer than 2^31 clusters */
  readonly map: DiskMap
  readonly readOnly: boolean
  /** whole clusters in the top's file: where the next one goes */
  readonly allocHead: number
  /** the top's file never gets more clusters than that (version 1, Max_delta_size) */
  readonly maxFileClusters: number
  /** let the kernel copy clusters between files, as long as it can */
  readonly copyRange: boolean
  /** left out: mappings that are not published die with the process */
  readonly pending?: PendingMirror | undefined
}

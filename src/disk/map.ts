// SPDX-License-Identifier: MIT
/**
 * The flattened table of a disk: cluster index → which level owns it and where in that file.
 *
 * Owns:     the answer to "which delta owns a cluster"; nobody else derives it.
 * Leaves:   filling it at open to the image layer, changing it to disk.ts and its modules.
 * Promises: a look-up costs the same at every chain depth. 5 bytes and a bit per cluster.
 */

export interface DiskMap {
  /** 0 = owned by nobody, else level + 1 (1 = base) */
  readonly levels: Uint8Array
  /** file cluster in the owner's file; meaningless when nobody owns the cluster */
  readonly clusters: Uint32Array
  /**
   * One bit per cluster: the top owns it and a lower level owns it too. Releasing such a cluster
   * from the top would let the old data show through.
   */
  readonly shadowed: Uint8Array
}

/** An empty map in memory that other threads may share; pages cost nothing until written. */
export function newDiskMap(clusterCount: number): DiskMap {
  return {
    levels: new Uint8Array(new SharedArrayBuffer(clusterCount)),
    clusters: new Uint32Array(new SharedArrayBuffer(clusterCount * 4)),
    shadowed: new Uint8Array(new SharedArrayBuffer(Math.ceil(clusterCount / 8))),
  }
}

// Cluster indexes are below 2^31 (see DiskOptions), so bit operations on them are exact.

export function isShadowed(map: DiskMap, clusterIndex: number): boolean {
  return ((map.shadowed[clusterIndex >>> 3] ?? 0) & (1 << (clusterIndex & 7))) !== 0
}

export function setShadowed(map: DiskMap, clusterIndex: number): void {
  const at = clusterIndex >>> 3
  map.shadowed[at] = (map.shadowed[at] ?? 0) | (1 << (clusterIndex & 7))
}

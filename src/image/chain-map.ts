// SPDX-License-Identifier: MIT
/**
 * One pass over the tables of a chain: every entry validated, the flattened map filled.
 *
 * Owns:     which entries are refused, and with which sentence.
 * Leaves:   the map itself to whoever serves it: it is handed in as plain arrays.
 * Promises: top down, one table at a time and streamed, so that 127 tables never sit in memory
 *           together; one bit per file cluster of one delta is all that is kept.
 * Facts:    the first delta from the top with an entry owns the whole cluster. A delta smaller than
 *           the disk owns nothing beyond its own end. A raw base owns what its file has; as a lower
 *           level, clusters that are holes of the file count as owned by nobody.
 */
import { PloopError } from '../base/errors.js'
import { readBat } from '../delta/bat-pages.js'
import { ClusterSet } from '../delta/cluster-set.js'
import type { DeltaFile } from '../delta/delta-file.js'
import { entryOffsetBytes, entryToFileCluster, unalignedEntry } from '../format/bat.js'

/** The arrays of the map; as many clusters as the top has. */
export interface MapTarget {
  /** 0 = owned by nobody, else level + 1 */
  readonly levels: Uint8Array
  /** file cluster in the owner's file */
  readonly clusters: Uint32Array
  /** one bit per cluster: the top owns it and a lower level owns it too */
  readonly shadowed: Uint8Array
}

export interface LevelScan {
  /** file clusters that entries name; 0 … highest. -1: none */
  readonly highestFileCluster: number
  readonly usedClusterCount: number
  /** entries behind the last cluster of the delta, which nothing reads */
  readonly strayCount: number
}

/** Bytes of a map of that many clusters. */
export function mapBytes(clusterCount: number): number {
  return 5 * clusterCount + Math.ceil(clusterCount / 8)
}

export const maxMapBytesDefault = 1024 * 1024 * 1024
/** Cluster indexes of a map are used in 32-bit arithmetic. */
const mapClusterLimit = 2 ** 31

/** @throws {PloopError} `MAP_SIZE`, status 5 */
export function checkMapSize(
  clusterCount: number,
  clusterBytes: number,
  maxMapBytes: number,
  path: string,
): void {
  const bytes = mapBytes(clusterCount)
  if (bytes <= maxMapBytes && clusterCount < mapClusterLimit) return
  const mebibytes = (count: number) => Math.ceil(count / 2 ** 20)
  throw new PloopError(
    'MAP_SIZE',
    `the disk has ${clusterCount} clusters of ${clusterBytes / 1024} KiB: its map needs ` +
      `${mebibytes(bytes)} MiB of memory, ${mebibytes(maxMapBytes)} MiB are allowed`,
    {
      status: 'memory',
      path,
      hint:
        clusterCount < mapClusterLimit
          ? 'allow more with maxMapBytes (option --max-map-size)'
          : 'only a larger cluster size makes such a disk usable',
    },
  )
}

/**
 * Validates all levels and fills the map, if one is given.
 *
 * @param levels base first
 * @param target all zero
 * @returns a scan for each level, base first
 * @throws {PloopError} status 11 at the first entry that cannot be
 */
export async function scanLevels(
  levels: readonly DeltaFile[],
  target: MapTarget | undefined,
  signal?: AbortSignal,
): Promise<LevelScan[]> {
  const scans: LevelScan[] = []
  for (let level = levels.length - 1; level >= 0; level--) {
    const delta = levels[level]
    if (delta === undefined) continue
    const filler = target && new MapFiller(target, level, levels.length - 1)
    const scan = delta.isRaw
      ? await scanRaw(delta, level === levels.length - 1, filler, signal)
      : await scanTable(delta, filler, signal)
    scans.unshift(scan)
  }
  return scans
}

/**
 * Fills the map of an open chain: for a new map while the chain stays open.
 *
 * @param target all zero, with room for the clusters of the top
 */
export async function buildMap(
  chain: { readonly levels: readonly { readonly delta: DeltaFile }[] },
  target: MapTarget,
  signal?: AbortSignal,
): Promise<void> {
  await scanLevels(
    chain.levels.map(level => level.delta),
    target,
    signal,
  )
}

class MapFiller {
  readonly #target: MapTarget
  readonly #mark: number
  readonly #topMark: number
  readonly #clusterCount: number

  constructor(target: MapTarget, level: number, topLevel: number) {
    this.#target = target
    this.#mark = level + 1
    this.#topMark = topLevel + 1
    this.#clusterCount = target.levels.length
  }

  add(clusterIndex: number, fileCluster: number): void {
    if (clusterIndex >= this.#clusterCount) return
    const { levels, clusters, shadowed } = this.#target
    const owner = levels[clusterIndex]
    if (owner === 0) {
      levels[clusterIndex] = this.#mark
      clusters[clusterIndex] = fileCluster
    } else if (owner === this.#topMark && this.#mark !== this.#topMark) {
      const at = clusterIndex >>> 3
      shadowed[at] = (shadowed[at] ?? 0) | (1 << (clusterIndex & 7))
    }
  }
}

async function scanTable(
  delta: DeltaFile,
  filler: MapFiller | undefined,
  signal: AbortSignal | undefined,
): Promise<LevelScan> {
  const { header, allocHead, clusterCount, clusterSectors, batClusterCount } = delta
  if (header === undefined) throw new TypeError('a raw image has no table')
  const { version } = header
  const used = new ClusterSet()
  let strayCount = 0
  const onPage = (firstClusterIndex: number, entries: Uint32Array): void => {
    for (let at = 0; at < entries.length; at++) {
      const entry = entries[at] ?? 0
      if (entry === 0) continue
      const clusterIndex = firstClusterIndex + at
      if (clusterIndex >= clusterCount) {
        strayCount++
        continue
      }
      const fileCluster = entryToFileCluster(version, entry, clusterSectors)
      if (fileCluster < batClusterCount || fileCluster >= allocHead || !used.add(fileCluster)) {
        throw entryError(delta, clusterIndex, entry, fileCluster)
      }
      filler?.add(clusterIndex, fileCluster)
    }
  }
  await readBat(delta.handle, header, onPage, signal)
  return { highestFileCluster: used.highest, usedClusterCount: used.count, strayCount }
}

/** The one sentence about an entry that cannot be. */
function entryError(
  delta: DeltaFile,
  clusterIndex: number,
  entry: number,
  fileCluster: number,
): PloopError {
  const names = `BAT entry ${clusterIndex} names file cluster ${fileCluster}`
  const [code, fact] =
    fileCluster === unalignedEntry
      ? [
          'BAT_UNALIGNED',
          `BAT entry ${clusterIndex} names sector ${entry}, ` +
            `no multiple of the cluster size ${delta.clusterSectors}`,
        ]
      : fileCluster < delta.batClusterCount
        ? [
            'BAT_IN_TABLE',
            `${names}, header and block table take the first ${delta.batClusterCount}`,
          ]
        : fileCluster >= delta.allocHead
          ? ['BAT_BEYOND_EOF', `${names}, the file has ${delta.allocHead}`]
          : ['BAT_DUPLICATE', `${names}, which another entry names already`]
  return new PloopError(code, fact, {
    status: 'format',
    path: delta.path,
    offset: entryOffsetBytes(clusterIndex),
    hint: `ploop(8) lists all that is wrong: "ploop check -f -c -r ${delta.path}"`,
  })
}

async function scanRaw(
  delta: DeltaFile,
  isTop: boolean,
  filler: MapFiller | undefined,
  signal: AbortSignal | undefined,
): Promise<LevelScan> {
  const { clusterBytes, clusterCount, fileSizeBytes, handle } = delta
  let usedClusterCount = 0
  let next = 0
  const own = (endCluster: number): void => {
    for (; next < endCluster; next++) {
      filler?.add(next, next)
      usedClusterCount++
    }
  }
  if (isTop) own(clusterCount)
  let offset = isTop ? fileSizeBytes : 0
  while (offset < fileSizeBytes) {
    signal?.throwIfAborted()
    const data = await handle.nextData(offset)
    if (data === undefined) break
    next = Math.max(next, Math.floor(data.startBytes / clusterBytes))
    own(Math.min(Math.ceil(data.endBytes / clusterBytes), clusterCount))
    offset = Math.max(data.endBytes, offset + 1)
  }
  return { highestFileCluster: clusterCount - 1, usedClusterCount, strayCount: 0 }
}

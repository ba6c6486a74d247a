// SPDX-License-Identifier: MIT
/**
 * Makes delta files byte by byte from a description, for tests.
 *
 * Independent of the code under test: it knows the format from its description alone, so that it can
 * judge. A built file is a list of pieces; what lies between them is zeros.
 */

export interface Piece {
  readonly offsetBytes: number
  readonly bytes: Uint8Array
}

export interface BuiltFile {
  readonly sizeBytes: number
  readonly pieces: readonly Piece[]
  /** cluster index → file cluster */
  readonly entries: ReadonlyMap<number, number>
}

export interface DeltaDescription {
  readonly version: 1 | 2
  readonly clusterBytes: number
  /** of the device, a multiple of the cluster */
  readonly sizeBytes: number
  /** content of each cluster the delta owns, in the order in which they lie in the file */
  readonly clusters: ReadonlyMap<number, Uint8Array>
  /** clusters that nothing refers to, put before the data cluster with this ordinal */
  readonly leaksBefore?: ReadonlySet<number>
  /** header value of the in-use mark; 0 = closed */
  readonly inUse?: number
  readonly flags?: number
  /** the BAT area is longer by this many clusters than needed */
  readonly extraBatClusters?: number
  /** bytes after the last cluster, less than a cluster: the trace of an interrupted growth */
  readonly tail?: Uint8Array
}

export const inUseMark = 0x746f6e59
const headerBytes = 64
const signatures = { 1: 'WithoutFreeSpace', 2: 'WithouFreSpacExt' } as const

/** Clusters of header and BAT together, as every genuine writer computes it. */
export function batClusterCount(clusterCount: number, clusterBytes: number): number {
  const used = Math.ceil((headerBytes + clusterCount * 4) / 512) * 512
  return Math.ceil(used / clusterBytes)
}

export function buildDelta(description: DeltaDescription): BuiltFile {
  const { version, clusterBytes, sizeBytes, clusters, tail } = description
  const clusterCount = sizeBytes / clusterBytes
  const batClusters =
    batClusterCount(clusterCount, clusterBytes) + (description.extraBatClusters ?? 0)
  const table = new Uint8Array(batClusters * clusterBytes)
  const view = new DataView(table.buffer)
  const unit = version === 1 ? clusterBytes / 512 : 1
  const pieces: Piece[] = [{ offsetBytes: 0, bytes: table }]
  const entries = new Map<number, number>()
  let next = batClusters
  let ordinal = 0
  for (const [clusterIndex, bytes] of clusters) {
    if (description.leaksBefore?.has(ordinal) === true) {
      const garbage = new Uint8Array(clusterBytes).fill(0xee)
      pieces.push({ offsetBytes: next++ * clusterBytes, bytes: garbage })
    }
    ordinal++
    view.setUint32(headerBytes + clusterIndex * 4, next * unit, true)
    entries.set(clusterIndex, next)
    pieces.push({ offsetBytes: next++ * clusterBytes, bytes })
  }
  writeHeader(view, description, clusterCount, batClusters)
  if (tail !== undefined) pieces.push({ offsetBytes: next * clusterBytes, bytes: tail })
  return { sizeBytes: next * clusterBytes + (tail?.length ?? 0), pieces, entries }
}

function writeHeader(
  view: DataView,
  description: DeltaDescription,
  clusterCount: number,
  batClusters: number,
): void {
  const { version, clusterBytes, sizeBytes } = description
  const sectors = sizeBytes / 512
  const signature = signatures[version]
  for (let i = 0; i < 16; i++) view.setUint8(i, signature.charCodeAt(i))
  view.setUint32(16, 2, true)
  view.setUint32(20, 16, true)
  view.setUint32(24, Math.floor(sectors / 512), true)
  view.setUint32(28, clusterBytes / 512, true)
  view.setUint32(32, clusterCount, true)
  if (version === 1) view.setUint32(36, sectors, true)
  else view.setBigUint64(36, BigInt(sectors), true)
  view.setUint32(44, description.inUse ?? 0, true)
  view.setUint32(48, (batClusters * clusterBytes) / 512, true)
  view.setUint32(52, description.flags ?? (description.clusters.size === 0 ? 1 : 0), true)
}

/** A headerless base: cluster n lies at n * clusterBytes. */
export function buildRaw(
  clusterBytes: number,
  sizeBytes: number,
  clusters: ReadonlyMap<number, Uint8Array>,
): BuiltFile {
  const pieces: Piece[] = []
  const entries = new Map<number, number>()
  for (const [clusterIndex, bytes] of clusters) {
    const offsetBytes = clusterIndex * clusterBytes
    if (offsetBytes >= sizeBytes) continue
    pieces.push({ offsetBytes, bytes: bytes.subarray(0, sizeBytes - offsetBytes) })
    entries.set(clusterIndex, clusterIndex)
  }
  return { sizeBytes, pieces, entries }
}

/** The whole file as one array; for small ones. */
export function fileBytes(file: BuiltFile): Uint8Array {
  const bytes = new Uint8Array(file.sizeBytes)
  for (const piece of file.pieces) bytes.set(piece.bytes, piece.offsetBytes)
  return bytes
}

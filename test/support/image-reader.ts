// SPDX-License-Identifier: MIT
/**
 * Reads delta files and chains for tests, and says what is wrong with them.
 *
 * Independent of the code under test, strict, and slow: a judge.
 */

export interface ByteSource {
  readonly sizeBytes: number
  /** the range lies inside the file */
  read(offsetBytes: number, lengthBytes: number): Uint8Array
}

export interface ReadDelta {
  readonly raw: boolean
  readonly version: 1 | 2
  readonly clusterBytes: number
  readonly clusterCount: number
  readonly firstDataCluster: number
  readonly inUse: number
  readonly headerBytes: Uint8Array
  /** file cluster of each cluster index; 0 = none. Empty for raw files */
  readonly fileClusters: Uint32Array
  readonly source: ByteSource
}

export class BadImage extends Error {
  override name = 'BadImage'
}

function demand(condition: boolean, sentence: () => string): asserts condition {
  if (!condition) throw new BadImage(sentence())
}

/** @throws BadImage for everything that makes a delta invalid */
export function readDelta(source: ByteSource): ReadDelta {
  demand(source.sizeBytes >= 4096, () => `the file has ${source.sizeBytes} bytes`)
  const headerBytes = source.read(0, 64).slice()
  const view = new DataView(headerBytes.buffer)
  const signature = Buffer.from(headerBytes.subarray(0, 16)).toString('latin1')
  const version = signature === 'WithoutFreeSpace' ? 1 : 2
  demand(version === 1 || signature === 'WithouFreSpacExt', () => `signature "${signature}"`)
  demand(view.getUint32(16, true) === 2, () => `type ${view.getUint32(16, true)}`)
  const clusterSectors = view.getUint32(28, true)
  const clusterBytes = clusterSectors * 512
  const sound = Number.isInteger(Math.log2(clusterSectors)) && clusterSectors >= 64
  demand(sound, () => `cluster of ${clusterSectors} sectors`)
  const clusterCount = view.getUint32(32, true)
  const sectors = version === 1 ? view.getUint32(36, true) : Number(view.getBigUint64(36, true))
  demand(
    sectors === clusterCount * clusterSectors,
    () => `${sectors} sectors, ${clusterCount} clusters`,
  )
  const firstDataSector = view.getUint32(48, true)
  const firstDataCluster = firstDataSector / clusterSectors
  demand(
    Number.isInteger(firstDataCluster) && firstDataCluster > 0,
    () => `first data sector ${firstDataSector}`,
  )
  const tableBytes = firstDataCluster * clusterBytes
  demand(source.sizeBytes >= tableBytes, () => 'the file ends inside the BAT')
  const table = source.read(0, tableBytes).slice()
  const fileClusters = readTable(table, source.sizeBytes, {
    version,
    clusterBytes,
    clusterCount,
    firstDataCluster,
  })
  return {
    raw: false,
    version,
    clusterBytes,
    clusterCount,
    firstDataCluster,
    inUse: view.getUint32(44, true),
    headerBytes,
    fileClusters,
    source,
  }
}

function readTable(
  table: Uint8Array,
  fileBytes: number,
  facts: Pick<ReadDelta, 'version' | 'clusterBytes' | 'clusterCount' | 'firstDataCluster'>,
): Uint32Array {
  const { version, clusterBytes, clusterCount, firstDataCluster } = facts
  const view = new DataView(table.buffer, table.byteOffset, table.byteLength)
  const unit = version === 1 ? clusterBytes / 512 : 1
  const fileClusters = new Uint32Array(clusterCount)
  const owners = new Map<number, number>()
  const nonZero = new Uint32Array(table.buffer, table.byteOffset + 64, table.length / 4 - 16)
  for (let index = 0; 64 + index * 4 < table.length; index++) {
    if (nonZero[index] === 0) continue
    const entry = view.getUint32(64 + index * 4, true)
    const name = (): string => `BAT entry ${index} is ${entry}`
    demand(index < clusterCount, () => `${name()}, beyond the ${clusterCount} clusters`)
    const fileCluster = entry / unit
    demand(Number.isInteger(fileCluster), () => `${name()}, inside a cluster`)
    demand(fileCluster >= firstDataCluster, () => `${name()}, inside the BAT`)
    demand(
      (fileCluster + 1) * clusterBytes <= fileBytes,
      () => `${name()}, the file has ${fileBytes / clusterBytes} clusters`,
    )
    const other = owners.get(fileCluster)
    demand(other === undefined, () => `${name()}, and so is entry ${other}`)
    owners.set(fileCluster, index)
    fileClusters[index] = fileCluster
  }
  return fileClusters
}

export function readRaw(source: ByteSource, clusterBytes: number): ReadDelta {
  return {
    raw: true,
    version: 2,
    clusterBytes,
    clusterCount: Math.ceil(source.sizeBytes / clusterBytes),
    firstDataCluster: 0,
    inUse: 0,
    headerBytes: new Uint8Array(0),
    fileClusters: new Uint32Array(0),
    source,
  }
}

export interface FlatChain {
  /** 0 = nobody, else level + 1 */
  readonly levels: Uint8Array
  readonly clusters: Uint32Array
  /** one bit each: owned by the top and by a lower level */
  readonly shadowed: Uint8Array
}

function owns(delta: ReadDelta, index: number): boolean {
  if (index >= delta.clusterCount) return false
  return delta.raw || delta.fileClusters[index] !== 0
}

/** @param chain base first */
export function flatten(chain: readonly ReadDelta[]): FlatChain {
  const count = (chain.at(-1) as ReadDelta).clusterCount
  const levels = new Uint8Array(count)
  const clusters = new Uint32Array(count)
  const shadowed = new Uint8Array(Math.ceil(count / 8))
  for (let index = 0; index < count; index++) {
    let ownersBelow = 0
    for (let level = 0; level < chain.length; level++) {
      const delta = chain[level] as ReadDelta
      if (!owns(delta, index)) continue
      if (level === chain.length - 1 && ownersBelow > 0) {
        shadowed[Math.floor(index / 8)] = (shadowed[Math.floor(index / 8)] ?? 0) + 2 ** (index % 8)
      }
      ownersBelow++
      levels[index] = level + 1
      clusters[index] = delta.raw ? index : (delta.fileClusters[index] as number)
    }
  }
  return { levels, clusters, shadowed }
}

/** The content of one cluster of the disk; undefined when nobody owns it: zeros. */
export function readCluster(
  chain: readonly ReadDelta[],
  map: FlatChain,
  index: number,
): Uint8Array | undefined {
  const mark = map.levels[index] as number
  if (mark === 0) return undefined
  const delta = chain[mark - 1] as ReadDelta
  const { clusterBytes, source } = delta
  const offsetBytes = (map.clusters[index] as number) * clusterBytes
  const present = Math.min(clusterBytes, source.sizeBytes - offsetBytes)
  const bytes = source.read(offsetBytes, present)
  if (present === clusterBytes) return bytes
  const padded = new Uint8Array(clusterBytes)
  padded.set(bytes)
  return padded
}

// SPDX-License-Identifier: MIT
/**
 * A random chain of deltas on the simulated storage, and the judge of what is left of it.
 *
 * Built and read with the tests' own builder and reader, so that neither the opener nor the disk
 * under test judges itself.
 */
import { BadImage, flatten, readCluster, readDelta, readRaw } from '../support/image-reader.js'
import type { ByteSource, FlatChain, ReadDelta } from '../support/image-reader.js'
import { buildDelta, buildRaw, inUseMark, type BuiltFile } from '../support/image-builder.js'
import type { Random } from './random.js'
import type { SimFile } from './sim-file.js'
import { SparseBytes } from './sparse-bytes.js'
import { stamp } from './stamp.js'
import type { Storage } from './storage.js'

export interface ChainShape {
  readonly levelCount: number
  readonly version: 1 | 2
  readonly clusterBytes: number
  /** of the disk */
  readonly clusterCount: number
  readonly rawBase: boolean
}

/** Tags of content that was there before: this plus the level. */
const firstLevelTag = 0xc0000000

export interface OpenChain {
  readonly deltas: readonly ReadDelta[]
  readonly map: FlatChain
}

export class SimChain {
  readonly #lowerContents: SparseBytes[] = []

  private constructor(
    readonly shape: ChainShape,
    readonly paths: readonly string[],
  ) {}

  get isTopRaw(): boolean {
    return this.shape.rawBase && this.shape.levelCount === 1
  }

  /** @returns the chain, and what a client of the disk sees of it */
  static build(
    storage: Storage,
    shape: ChainShape,
    random: Random,
  ): { chain: SimChain; content: SparseBytes } {
    const content = new SparseBytes()
    const paths: string[] = []
    const chain = new SimChain(shape, paths)
    let sizeClusters = random.between(Math.ceil(shape.clusterCount / 2), shape.clusterCount)
    for (let level = 0; level < shape.levelCount; level++) {
      const isTop = level === shape.levelCount - 1
      // sizes of levels never fall towards the top
      if (isTop) sizeClusters = shape.clusterCount
      else if (random.chance(0.3)) {
        sizeClusters = random.between(sizeClusters, shape.clusterCount)
      }
      const built = buildLevel(shape, level, sizeClusters, random, content)
      const file = storage.createFile()
      file.preset(bytes => {
        for (const piece of built.pieces) bytes.write(piece.offsetBytes, piece.bytes)
      }, built.sizeBytes)
      const path = `/level${level}`
      storage.directory.preset(path, file)
      paths.push(path)
      if (!isTop) chain.#lowerContents.push(file.present.clone())
    }
    return { chain, content }
  }

  files(storage: Storage): SimFile[] {
    return this.paths.map(path => {
      const file = storage.directory.get(path)
      if (file === undefined) throw new BadImage(`${path} is gone`)
      return file
    })
  }

  /** Reads headers and tables, as an opener would. @throws BadImage */
  read(storage: Storage): OpenChain {
    const deltas = this.files(storage).map((file, level) => {
      const isRaw = level === 0 && this.shape.rawBase
      return isRaw ? readRaw(sourceOf(file), this.shape.clusterBytes) : readDelta(sourceOf(file))
    })
    return { deltas, map: flatten(deltas) }
  }

  /** Each cluster of the disk, as the files have it; zeros for holes. */
  contents(open: OpenChain, visit: (offsetBytes: number, bytes: Uint8Array) => void): void {
    const { clusterBytes, clusterCount } = this.shape
    const hole = new Uint8Array(clusterBytes)
    for (let index = 0; index < clusterCount; index++) {
      visit(index * clusterBytes, readCluster(open.deltas, open.map, index) ?? hole)
    }
  }

  assertLowerUnchanged(storage: Storage): void {
    const files = this.files(storage)
    this.#lowerContents.forEach((before, level) => {
      const file = files[level] as SimFile
      if (!file.present.sharesAllPagesWith(before)) throw new BadImage(`level ${level} was changed`)
    })
  }
}

function sourceOf(file: SimFile): ByteSource {
  return {
    sizeBytes: file.sizeBytes,
    read: (offsetBytes, lengthBytes) => {
      const bytes = new Uint8Array(lengthBytes)
      const count = file.read(offsetBytes, bytes)
      if (count !== lengthBytes) throw new BadImage(`short read at ${offsetBytes}`)
      return bytes
    },
  }
}

function buildLevel(
  shape: ChainShape,
  level: number,
  sizeClusters: number,
  random: Random,
  content: SparseBytes,
): BuiltFile {
  const { clusterBytes, version, levelCount } = shape
  const isRaw = level === 0 && shape.rawBase
  const isTop = level === levelCount - 1
  const density = random.pick([0, 0.2, 0.5, 0.9]) / Math.max(1, levelCount / 4)
  const indexes: number[] = []
  for (let index = 0; index < sizeClusters; index++) {
    if (random.chance(isRaw ? 0.8 : density)) indexes.push(index)
  }
  // a raw file may end inside a cluster
  const cutBytes =
    isRaw && !isTop && random.chance(0.5) ? random.below(clusterBytes / 512) * 512 : 0
  const sizeBytes = sizeClusters * clusterBytes
  const clusters = new Map<number, Uint8Array>()
  const zeros = new Uint8Array(clusterBytes)
  for (const index of random.shuffle(indexes)) {
    const bytes = new Uint8Array(clusterBytes)
    stamp(bytes, index * clusterBytes, firstLevelTag + level)
    clusters.set(index, bytes)
  }
  for (let index = 0; index < sizeClusters; index++) {
    const bytes = clusters.get(index)
    const offsetBytes = index * clusterBytes
    if (isRaw) {
      const present = Math.min(clusterBytes, sizeBytes - cutBytes - offsetBytes)
      content.write(offsetBytes, (bytes ?? zeros).subarray(0, Math.max(0, present)))
    } else if (bytes !== undefined) content.write(offsetBytes, bytes)
  }
  if (isRaw) return buildRaw(clusterBytes, sizeBytes - cutBytes, clusters)
  const tail = isTop && random.chance(0.3) ? new Uint8Array(random.between(1, 63) * 512) : undefined
  tail?.fill(0xdd)
  return buildDelta({
    version,
    clusterBytes,
    sizeBytes,
    clusters,
    leaksBefore: new Set(random.chance(0.3) ? [random.below(clusters.size + 1)] : []),
    inUse: isTop ? inUseMark : 0,
    extraBatClusters: random.chance(0.2) ? 1 : 0,
    ...(tail === undefined ? {} : { tail }),
  })
}

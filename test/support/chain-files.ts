// SPDX-License-Identifier: MIT
/**
 * Chains of real files with recognisable content, and what the disk they make holds.
 *
 * Built without the code under test. Each level stamps its clusters with its own number, so that a
 * wrong sector tells which level it came from.
 */
import { closeSync, fstatSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { stamp } from '../simulation/stamp.js'
import type { Random } from '../simulation/random.js'
import { buildDelta, buildRaw, type BuiltFile } from './image-builder.js'
import { flatten, readCluster, readDelta, readRaw, type ByteSource } from './image-reader.js'

export interface ChainDescription {
  readonly levelCount: number
  readonly clusterBytes: number
  readonly clusterCount: number
  readonly version?: 1 | 2
  readonly rawBase?: boolean
  /** how many of its clusters one level owns; default 0.4 */
  readonly density?: number
}

export interface ChainFiles {
  /** base first */
  readonly paths: readonly string[]
  readonly clusterBytes: number
  /** what a client must read */
  readonly content: Buffer
}

/** The file lies there sparse, as described. */
export function writeBuilt(path: string, file: BuiltFile): void {
  const fd = openSync(path, 'wx')
  try {
    for (const { bytes, offsetBytes } of file.pieces) {
      writeSync(fd, bytes, 0, bytes.length, offsetBytes)
    }
    ftruncateSync(fd, file.sizeBytes)
  } finally {
    closeSync(fd)
  }
}

export function writeChain(
  folder: string,
  description: ChainDescription,
  random: Random,
): ChainFiles {
  const { clusterBytes, clusterCount, levelCount, version = 2, density = 0.4 } = description
  const sizeBytes = clusterBytes * clusterCount
  const content = Buffer.alloc(sizeBytes)
  const paths: string[] = []
  for (let level = 0; level < levelCount; level++) {
    const clusters = new Map<number, Uint8Array>()
    const isRaw = level === 0 && description.rawBase === true
    for (const index of random.shuffle([...Array(clusterCount).keys()])) {
      if (!random.chance(density)) continue
      const bytes = new Uint8Array(clusterBytes)
      stamp(bytes, index * clusterBytes, level + 1)
      clusters.set(index, bytes)
      content.set(bytes, index * clusterBytes)
    }
    const path = join(folder, `level-${level}.${isRaw ? 'raw' : 'hds'}`)
    const file = isRaw
      ? buildRaw(clusterBytes, sizeBytes, clusters)
      : buildDelta({ version, clusterBytes, sizeBytes, clusters })
    writeBuilt(path, file)
    paths.push(path)
  }
  return { paths, clusterBytes, content }
}

/** A file as the judge of images wants it. Close it with `close`. */
export class FileSource implements ByteSource {
  readonly sizeBytes: number
  readonly #fd: number

  constructor(path: string) {
    this.#fd = openSync(path, 'r')
    this.sizeBytes = fstatSync(this.#fd).size
  }

  read(offsetBytes: number, lengthBytes: number): Uint8Array {
    const bytes = Buffer.alloc(lengthBytes)
    const count = readSync(this.#fd, bytes, 0, lengthBytes, offsetBytes)
    if (count !== lengthBytes) throw new Error(`short read: ${count} of ${lengthBytes}`)
    return bytes
  }

  close(): void {
    closeSync(this.#fd)
  }
}

/**
 * What the files at rest hold, read by the judge.
 * @throws BadImage when one of them is not valid
 */
export function readChainContent(paths: readonly string[], rawClusterBytes?: number): Buffer {
  const sources = paths.map(path => new FileSource(path))
  try {
    const chain = sources.map((source, level) =>
      level === 0 && rawClusterBytes !== undefined
        ? readRaw(source, rawClusterBytes)
        : readDelta(source),
    )
    const map = flatten(chain)
    const clusterBytes = chain.at(-1)?.clusterBytes ?? 0
    const content = Buffer.alloc(map.levels.length * clusterBytes)
    for (let index = 0; index < map.levels.length; index++) {
      const bytes = readCluster(chain, map, index)
      if (bytes !== undefined) content.set(bytes, index * clusterBytes)
    }
    return content
  } finally {
    for (const source of sources) source.close()
  }
}

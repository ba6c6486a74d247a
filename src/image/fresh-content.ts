// SPDX-License-Identifier: MIT
/**
 * First content of an image that nobody has ever used: whole clusters, each written once.
 *
 * Clusters full of zeros are left out: in a fresh image they read as zeros anyway. Others are
 * written in full and appended, so that the file has no holes inside of clusters.
 *
 * Promises: block table entries are written after the data they name is durable; after `finish`
 *           everything is durable and the header says whether the image is empty.
 */
import { assert } from '../base/assert.js'
import { roundDown, roundUp } from '../base/math.js'
import type { Progress } from '../base/progress.js'
import { BatPages } from '../delta/bat-pages.js'
import type { DeltaFile } from '../delta/delta-file.js'
import { fileClusterToEntry, isAllZero } from '../format/bat.js'
import type { DiskMode } from '../format/descriptor.js'
import type { FileHandle } from '../io/files.js'

const pieceBytes = 1024 * 1024

export interface AddFileOptions {
  readonly signal?: AbortSignal | undefined
  readonly progress?: Progress
}

export class FreshContent {
  readonly #delta: DeltaFile
  readonly #mode: DiskMode
  readonly #bat: BatPages | undefined
  /** small pieces, gathered by cluster until `finish` */
  readonly #small = new Map<number, Uint8Array>()
  #nextFileCluster: number

  constructor(delta: DeltaFile, mode: DiskMode) {
    this.#delta = delta
    this.#mode = mode
    this.#bat = delta.header === undefined ? undefined : new BatPages(delta.handle, delta.header)
    this.#nextFileCluster = delta.allocHead
  }

  /** Adds a few bytes anywhere. Their clusters must not be part of a file that is added too. */
  addSmall(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    const { clusterBytes } = this.#delta
    let done = 0
    while (done < bytes.length) {
      const at = offsetBytes + done
      const clusterIndex = Math.floor(at / clusterBytes)
      const within = at - clusterIndex * clusterBytes
      const length = Math.min(bytes.length - done, clusterBytes - within)
      const cluster = this.#small.get(clusterIndex) ?? new Uint8Array(clusterBytes)
      cluster.set(bytes.subarray(done, done + length), within)
      this.#small.set(clusterIndex, cluster)
      done += length
    }
    return Promise.resolve()
  }

  /** Adds the data of a sparse file at an offset that is a multiple of the cluster. */
  async addFile(
    source: FileHandle,
    offsetBytes: number,
    options: AddFileOptions = {},
  ): Promise<void> {
    const { clusterBytes } = this.#delta
    assert(offsetBytes % clusterBytes === 0, 'content starts at a cluster')
    const { sizeBytes } = await source.stat()
    const piece = new Uint8Array(Math.max(pieceBytes, clusterBytes))
    let position = 0
    while (position < sizeBytes) {
      options.signal?.throwIfAborted()
      options.progress?.update(position, sizeBytes, 'file system')
      const data = await source.nextData(position)
      if (data === undefined) break
      position = roundDown(data.startBytes, clusterBytes)
      const end = roundUp(Math.min(data.endBytes, sizeBytes), clusterBytes)
      const bytes = piece.subarray(0, Math.min(piece.length, end - position))
      bytes.fill(0, await source.read(bytes, position))
      await this.#putRuns((offsetBytes + position) / clusterBytes, bytes)
      position += bytes.length
    }
    options.progress?.update(sizeBytes, sizeBytes, 'file system')
  }

  /** Writes what is not zero, neighbours together. */
  async #putRuns(firstClusterIndex: number, bytes: Uint8Array): Promise<void> {
    const { clusterBytes } = this.#delta
    const count = bytes.length / clusterBytes
    const zero = (index: number): boolean =>
      isAllZero(bytes.subarray(index * clusterBytes, (index + 1) * clusterBytes))
    let start = 0
    while (start < count) {
      if (zero(start)) {
        start += 1
        continue
      }
      let end = start + 1
      while (end < count && !zero(end)) end += 1
      const run = bytes.subarray(start * clusterBytes, end * clusterBytes)
      await this.#put(firstClusterIndex + start, run)
      start = end
    }
  }

  /** Writes neighbouring whole clusters. */
  async #put(firstClusterIndex: number, bytes: Uint8Array): Promise<void> {
    const { clusterBytes, handle, header } = this.#delta
    const count = bytes.length / clusterBytes
    if (this.#mode !== 'expanded') {
      const fileCluster = this.#delta.batClusterCount + firstClusterIndex
      await handle.write(bytes, fileCluster * clusterBytes)
      return
    }
    assert(header !== undefined && this.#bat !== undefined, 'an expanded image has a block table')
    const fileCluster = this.#nextFileCluster
    const entries = Array.from({ length: count }, (_, index) =>
      fileClusterToEntry(header.version, fileCluster + index, header.clusterSectors),
    )
    await handle.write(bytes, fileCluster * clusterBytes)
    this.#nextFileCluster += count
    for (const [index, entry] of entries.entries()) {
      await this.#bat.setEntry(firstClusterIndex + index, entry)
    }
  }

  async finish(): Promise<void> {
    for (const [clusterIndex, bytes] of this.#small) await this.#put(clusterIndex, bytes)
    this.#small.clear()
    await this.#delta.handle.sync()
    await this.#bat?.flush()
    await this.#delta.handle.sync()
    const empty = this.#mode === 'expanded' && this.#nextFileCluster === this.#delta.batClusterCount
    await this.#delta.markClosed(empty)
  }
}

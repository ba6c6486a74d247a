// SPDX-License-Identifier: MIT
/**
 * What the modules of a disk share: the facts of the chain, operations under way, job buffers,
 * counters, and the sticky failure.
 */
import { assert } from '../base/assert.js'
import { NONE, type DiskHost } from './host.js'
import { setShadowed, type DiskMap } from './map.js'
import { OperationTable, type Operation } from './operation.js'
import type { DiskLevel, DiskOptions } from './options.js'
import type { WriteTracker } from './write-tracker.js'

export class DiskCore {
  readonly host: DiskHost
  readonly memory: Uint8Array
  readonly operations = new OperationTable()
  readonly map: DiskMap
  readonly clusterBytes: number
  readonly sizeBytes: number
  readonly levels: readonly DiskLevel[]
  readonly top: DiskLevel
  /** the top's value in `map.levels` */
  readonly topMark: number
  readonly options: DiskOptions

  tracker: WriteTracker | undefined = undefined
  /** A positive errno once what is on disk can no longer be trusted to follow: never cleared. */
  failedErrno = 0
  copyRange: boolean

  readonly counters = {
    allocatedClusters: 0,
    releasedClusters: 0,
    copiedClusters: 0,
    batPagesWritten: 0,
    barriers: 0,
    flushRounds: 0,
  }

  readonly #waitingForBuffer: ((buffer: number) => void)[] = []

  constructor(options: DiskOptions) {
    const top = options.levels.at(-1)
    assert(top !== undefined && options.levels.length <= 128, 'a chain has 1 to 128 levels')
    assert(options.map.levels.length < 2 ** 31, 'the map has too many clusters')
    this.host = options.host
    this.memory = options.host.memory
    this.map = options.map
    this.clusterBytes = options.clusterBytes
    this.sizeBytes = options.sizeBytes
    this.levels = options.levels
    this.top = top
    this.topMark = options.levels.length
    this.options = options
    this.copyRange = options.copyRange
  }

  level(mark: number): DiskLevel {
    const level = this.levels[mark - 1]
    assert(level !== undefined, `the map names level ${mark - 1}`)
    return level
  }

  /** Where a cluster that somebody owns begins in the owner's file. */
  clusterOffsetBytes(clusterIndex: number): number {
    return (this.map.clusters[clusterIndex] ?? 0) * this.clusterBytes
  }

  /** A lower level owns the cluster too: the top must never let go of it. */
  setShadowed(clusterIndex: number): void {
    setShadowed(this.map, clusterIndex)
  }

  /** Puts one operation of a rare path; `ended` hears its result. */
  perform(put: (token: number) => void, ended: (result: number) => void): void {
    const operation = this.operations.take(this.#callback)
    operation.context = ended
    put(operation.token)
  }

  readonly #callback = {
    completed(operation: Operation, result: number): void {
      const ended = operation.context as (result: number) => void
      ended(result)
    },
  }

  /** Calls back with a job buffer, at once or when one is free. Buffers are given out in order. */
  withBuffer(use: (buffer: number) => void): void {
    const buffer = this.#waitingForBuffer.length > 0 ? NONE : this.host.takeBuffer()
    if (buffer === NONE) this.#waitingForBuffer.push(use)
    else use(buffer)
  }

  giveBuffer(buffer: number): void {
    const next = this.#waitingForBuffer.shift()
    if (next === undefined) this.host.giveBuffer(buffer)
    else next(buffer)
  }

  /** Some other disk gave buffers back to the host. */
  buffersFreed(): void {
    while (this.#waitingForBuffer.length > 0) {
      const buffer = this.host.takeBuffer()
      if (buffer === NONE) return
      this.#waitingForBuffer.shift()?.(buffer)
    }
  }

  get waitsForBuffer(): boolean {
    return this.#waitingForBuffer.length > 0
  }
}

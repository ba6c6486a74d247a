// SPDX-License-Identifier: MIT
/**
 * Writes a pending log in memory that outlives the process: a few stores per change.
 *
 * Death may come between any two stores. A record counts only with its check, which takes in the
 * half's serial; the serials are stored last when a half is begun, and first when it is cleared.
 */
import {
  halfSeed,
  halfStart,
  nextSerial,
  pendingField,
  recordCheck,
  recordWords,
} from './pending-log.js'

export class PendingLogWriter {
  readonly #words: Uint32Array
  readonly #alive: Float64Array
  readonly #capacity: number
  /** the half that collects */
  #half = 0
  #serial = 1
  #seed: number
  #count = 0
  #start: number

  /** @param memory a new log: see encodePendingHeader */
  constructor(memory: ArrayBuffer) {
    this.#words = new Uint32Array(memory)
    this.#alive = new Float64Array(memory, pendingField.alive * 4, 1)
    this.#capacity = this.#words[pendingField.capacity] ?? 0
    this.#seed = halfSeed(this.#words, this.#serial)
    this.#start = halfStart(0, this.#capacity)
  }

  /**
   * Notes that an entry has changed.
   * @returns false when there is no room: the change is lost with the process until it is published
   */
  record(clusterIndex: number, fileCluster: number, formerFileCluster: number): boolean {
    const position = this.#count
    const words = this.#words
    if (position >= this.#capacity) {
      words[pendingField.cutShort + this.#half] = this.#serial
      return false
    }
    const at = this.#start + position * recordWords
    words[at] = clusterIndex
    words[at + 1] = fileCluster
    words[at + 2] = formerFileCluster
    words[at + 3] = recordCheck(this.#seed, position, clusterIndex, fileCluster, formerFileCluster)
    this.#count = position + 1
    return true
  }

  /** Publishing soon would be good. */
  get isFilling(): boolean {
    return this.#count * 2 >= this.#capacity
  }

  /** What was recorded so far is being published; what comes is kept apart. */
  roundStarted(): void {
    this.#half = 1 - this.#half
    this.#serial = nextSerial(this.#serial)
    this.#seed = halfSeed(this.#words, this.#serial)
    this.#start = halfStart(this.#half, this.#capacity)
    this.#count = 0
    Atomics.store(this.#words, pendingField.serial + this.#half, this.#serial)
  }

  /** It is published. */
  roundEnded(): void {
    Atomics.store(this.#words, pendingField.serial + 1 - this.#half, 0)
  }

  /** It was not, and never will be. */
  roundFailed(): void {
    Atomics.store(this.#words, pendingField.void, 1)
  }

  /** Some times a second: whoever changes the image much later is somebody else. */
  stillAlive(): void {
    this.#alive[0] = Date.now()
  }
}

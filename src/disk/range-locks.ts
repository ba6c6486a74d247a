// SPDX-License-Identifier: MIT
/**
 * Writers of overlapping ranges run one after the other, in the order of their arrival.
 *
 * Owns:     which writing requests (WRITE, WRITE_ZEROES, TRIM) are active, and which wait.
 * Promises: two active writers never overlap, so a write that was delayed inside of us never lands
 *           on top of a newer one, and read-modify-write never loses a neighbour's bytes.
 *
 * Nearly every request meets nobody. So each active range counts itself in a small table of hashed
 * granules; when the counters it would touch are zero nobody is near, and no list is searched.
 */
import { assert } from '../base/assert.js'
import type { DiskRequest } from './request.js'

const granuleBytes = 64 * 1024
const granuleSlots = 4096
/** Longer ranges count themselves once, as "large", and make everybody search the list. */
const granulesMax = 32

export class RangeLocks {
  readonly #active: DiskRequest[] = []
  readonly #waiting: DiskRequest[] = []
  readonly #counts = new Uint16Array(granuleSlots)
  #largeCount = 0

  get activeCount(): number {
    return this.#active.length
  }

  /** @returns false when the request must wait; it is then granted by a later {@link release}. */
  acquire(request: DiskRequest): boolean {
    if (!this.#isFree(request)) {
      this.#waiting.push(request)
      return false
    }
    this.#grant(request)
    return true
  }

  /** Ends a lock. @param granted is called for each request that may start now, in order. */
  release(request: DiskRequest, granted: (request: DiskRequest) => void): void {
    assert(this.#active[request.lockIndex] === request, 'released a range that was not locked')
    const last = this.#active.pop()
    if (last !== undefined && last !== request) {
      this.#active[request.lockIndex] = last
      last.lockIndex = request.lockIndex
    }
    request.lockIndex = -1
    this.#count(request, -1)
    if (this.#waiting.length > 0) this.#grantWaiting(granted)
  }

  #grantWaiting(granted: (request: DiskRequest) => void): void {
    const ready: DiskRequest[] = []
    const blocked: DiskRequest[] = []
    for (const request of this.#waiting) {
      if (overlapsAny(request, this.#active) || overlapsAny(request, blocked)) blocked.push(request)
      else {
        this.#grant(request)
        ready.push(request)
      }
    }
    this.#waiting.length = 0
    this.#waiting.push(...blocked)
    for (const request of ready) granted(request)
  }

  #grant(request: DiskRequest): void {
    request.lockIndex = this.#active.length
    this.#active.push(request)
    this.#count(request, 1)
  }

  #isFree(request: DiskRequest): boolean {
    if (this.#largeCount === 0 && this.#waiting.length === 0) {
      const first = Math.floor(request.lockedFromBytes / granuleBytes)
      const end = Math.ceil(request.lockedToBytes / granuleBytes)
      if (end - first <= granulesMax) {
        let sum = 0
        for (let granule = first; granule < end; granule++) {
          sum += this.#counts[granule % granuleSlots] ?? 0
        }
        if (sum === 0) return true
      }
    }
    return !overlapsAny(request, this.#active) && !overlapsAny(request, this.#waiting)
  }

  #count(request: DiskRequest, delta: 1 | -1): void {
    const first = Math.floor(request.lockedFromBytes / granuleBytes)
    const end = Math.ceil(request.lockedToBytes / granuleBytes)
    if (end - first > granulesMax) {
      this.#largeCount += delta
      return
    }
    for (let granule = first; granule < end; granule++) {
      const slot = granule % granuleSlots
      this.#counts[slot] = (this.#counts[slot] ?? 0) + delta
    }
  }
}

function overlapsAny(request: DiskRequest, others: readonly DiskRequest[]): boolean {
  for (const other of others) {
    if (
      request.lockedFromBytes < other.lockedToBytes &&
      other.lockedFromBytes < request.lockedToBytes
    ) {
      return true
    }
  }
  return false
}

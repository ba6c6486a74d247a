// SPDX-License-Identifier: MIT
/**
 * A set of file clusters: which of them some BAT entry names.
 *
 * A bitmap in pages made on demand, so that memory follows what is used, not what a hostile header
 * or a sparse file claims. At most 2^32 clusters: 512 MiB in the worst case, 1 MiB per 8 TiB of
 * 1 MiB clusters normally.
 */
import { assert } from '../base/assert.js'

const bitsPerPage = 32_768
const wordsPerPage = bitsPerPage / 32
const clusterLimit = 2 ** 32

export class ClusterSet {
  readonly #pages = new Map<number, Uint32Array>()
  #count = 0
  #highest = -1
  // neighbours come one after the other
  #lastNumber = -1
  #lastPage: Uint32Array = new Uint32Array(0)

  /** Clusters in the set. */
  get count(): number {
    return this.#count
  }

  /** -1 when empty */
  get highest(): number {
    return this.#highest
  }

  /** @returns false when it is in the set already */
  add(cluster: number): boolean {
    assert(cluster >= 0 && cluster < clusterLimit, 'a file cluster')
    const page = this.#page(Math.floor(cluster / bitsPerPage))
    const bit = cluster % bitsPerPage
    const word = page[bit >>> 5] ?? 0
    const mask = (1 << (bit & 31)) >>> 0
    if ((word & mask) !== 0) return false
    page[bit >>> 5] = (word | mask) >>> 0
    this.#count++
    if (cluster > this.#highest) this.#highest = cluster
    return true
  }

  has(cluster: number): boolean {
    const page = this.#pages.get(Math.floor(cluster / bitsPerPage))
    if (page === undefined) return false
    const bit = cluster % bitsPerPage
    return ((page[bit >>> 5] ?? 0) & (1 << (bit & 31))) !== 0
  }

  /** Runs of clusters in `from … highest` that are not in the set, in order; ends included. */
  *missing(from: number): Generator<{ start: number; end: number }> {
    let start = -1
    let cluster = from
    while (cluster <= this.#highest) {
      const words = this.#pages.get(Math.floor(cluster / bitsPerPage))
      const bit = cluster % bitsPerPage
      const word = words?.[bit >>> 5] ?? 0
      const present = (word & (1 << (bit & 31))) !== 0
      if (present && start !== -1) yield { start, end: cluster - 1 }
      if (present) start = -1
      else if (start === -1) start = cluster
      // whole pages and words of one kind are passed at once
      if (words === undefined) cluster += bitsPerPage - bit
      else if (bit % 32 === 0 && (word === 0 || word === 0xffff_ffff)) cluster += 32
      else cluster++
    }
  }

  #page(number: number): Uint32Array {
    if (number === this.#lastNumber) return this.#lastPage
    let page = this.#pages.get(number)
    if (page === undefined) {
      page = new Uint32Array(wordsPerPage)
      this.#pages.set(number, page)
    }
    this.#lastNumber = number
    this.#lastPage = page
    return page
  }
}

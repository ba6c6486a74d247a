// SPDX-License-Identifier: MIT
/**
 * Contents of a file in memory: pages that were written, zeros elsewhere.
 *
 * A clone shares its pages with the original until either writes to them, so that a power cut can
 * be tried on a copy. Knows no size; whoever owns it does.
 */
export const pageBytes = 32 * 1024

interface Page {
  readonly bytes: Uint8Array
  owner: object
}

export class SparseBytes {
  #pages = new Map<number, Page>()
  #owner: object = {}

  clone(): SparseBytes {
    const copy = new SparseBytes()
    copy.#pages = new Map(this.#pages)
    this.#owner = {}
    return copy
  }

  read(offsetBytes: number, target: Uint8Array): void {
    let done = 0
    while (done < target.length) {
      const at = offsetBytes + done
      const index = Math.floor(at / pageBytes)
      const start = at - index * pageBytes
      const count = Math.min(pageBytes - start, target.length - done)
      const page = this.#pages.get(index)
      if (page === undefined) target.fill(0, done, done + count)
      else target.set(page.bytes.subarray(start, start + count), done)
      done += count
    }
  }

  write(offsetBytes: number, source: Uint8Array): void {
    let done = 0
    while (done < source.length) {
      const at = offsetBytes + done
      const index = Math.floor(at / pageBytes)
      const start = at - index * pageBytes
      const count = Math.min(pageBytes - start, source.length - done)
      this.#writable(index).set(source.subarray(done, done + count), start)
      done += count
    }
  }

  zero(offsetBytes: number, lengthBytes: number): void {
    let done = 0
    while (done < lengthBytes) {
      const at = offsetBytes + done
      const index = Math.floor(at / pageBytes)
      const start = at - index * pageBytes
      const count = Math.min(pageBytes - start, lengthBytes - done)
      if (count === pageBytes) this.#pages.delete(index)
      else if (this.#pages.has(index)) this.#writable(index).fill(0, start, start + count)
      done += count
    }
  }

  /** Everything from here on reads as zeros. */
  cut(offsetBytes: number): void {
    const first = Math.ceil(offsetBytes / pageBytes)
    for (const index of this.#pages.keys()) if (index >= first) this.#pages.delete(index)
    const rest = first * pageBytes - offsetBytes
    if (rest > 0) this.zero(offsetBytes, rest)
  }

  /** The next run of written pages at or after an offset, in bytes. */
  nextWritten(offsetBytes: number): { startBytes: number; endBytes: number } | undefined {
    const from = Math.floor(offsetBytes / pageBytes)
    let first = Infinity
    for (const index of this.#pages.keys()) if (index >= from && index < first) first = index
    if (first === Infinity) return undefined
    let end = first + 1
    while (this.#pages.has(end)) end++
    return { startBytes: Math.max(first * pageBytes, offsetBytes), endBytes: end * pageBytes }
  }

  /** Bytes of the pages that were written. */
  get writtenBytes(): number {
    return this.#pages.size * pageBytes
  }

  /** True when both hold the very same pages: cheap proof that nothing was written since a clone. */
  sharesAllPagesWith(other: SparseBytes): boolean {
    if (this.#pages.size !== other.#pages.size) return false
    for (const [index, page] of this.#pages) {
      if (other.#pages.get(index)?.bytes !== page.bytes) return false
    }
    return true
  }

  #writable(index: number): Uint8Array {
    const page = this.#pages.get(index)
    if (page?.owner === this.#owner) return page.bytes
    const bytes = new Uint8Array(pageBytes)
    if (page !== undefined) bytes.set(page.bytes)
    this.#pages.set(index, { bytes, owner: this.#owner })
    return bytes
  }
}

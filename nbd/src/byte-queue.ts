// SPDX-License-Identifier: MIT
/**
 * Received bytes that are not consumed yet, as one contiguous piece.
 *
 * Promises: each byte is copied a bounded number of times however the stream is cut, and memory
 *           follows the bytes that really came, never a length a peer announced. When nothing is
 *           left over, a pushed chunk is only referred to: it belongs to the queue from then on.
 */
import { NO_BYTES } from './text.js'

/** an empty queue does not keep a larger buffer than this */
const KEPT_BYTES = 262144

export class ByteQueue {
  #bytes: Uint8Array = NO_BYTES
  #start = 0
  #end = 0
  /** `#bytes` was made here, so that there may be room behind `#end` */
  #owned = false

  get length(): number {
    return this.#end - this.#start
  }

  /** All bytes; the view holds until the next call of `push`, `take` or `drop`. */
  peek(): Uint8Array {
    return this.#bytes.subarray(this.#start, this.#end)
  }

  push(chunk: Uint8Array): void {
    if (chunk.length === 0) return
    if (this.length === 0 && (!this.#owned || chunk.length > KEPT_BYTES)) {
      this.#bytes = chunk
      this.#start = 0
      this.#end = chunk.length
      this.#owned = false
      return
    }
    this.#makeRoom(chunk.length)
    this.#bytes.set(chunk, this.#end)
    this.#end += chunk.length
  }

  #makeRoom(count: number): void {
    const length = this.length
    if (this.#owned && this.#end + count <= this.#bytes.length) return
    if (this.#owned && length + count <= this.#bytes.length && length <= this.#start) {
      this.#bytes.copyWithin(0, this.#start, this.#end)
    } else {
      const larger = new Uint8Array(Math.max(4096, (length + count) * 2))
      larger.set(this.peek())
      this.#bytes = larger
      this.#owned = true
    }
    this.#start = 0
    this.#end = length
  }

  drop(count: number): void {
    this.#start += count
    if (this.#start < this.#end) return
    this.#start = 0
    this.#end = 0
    if (!this.#owned || this.#bytes.length > KEPT_BYTES) {
      this.#bytes = NO_BYTES
      this.#owned = false
    }
  }

  /** Takes the first `count` bytes out, as memory of the caller. */
  take(count: number): Uint8Array {
    const first = this.peek().subarray(0, count)
    const taken = this.#owned ? first.slice() : first
    this.drop(count)
    return taken
  }
}

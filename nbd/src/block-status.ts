// SPDX-License-Identifier: MIT
/**
 * Block status of one metadata context: extents in, one reply chunk out.
 *
 * Owns:     joining neighbours of equal status, the limits of length and count, the rule of REQ_ONE,
 *           and the client's choice of contexts in extended mode.
 * Leaves:   what the status of a range is. Extents come consecutively from the request's offset on.
 * Promises: the extents sent are at least one (if one was added), longer than 0, and never reach
 *           past the end of the request; with REQ_ONE there is exactly one. A list that is full
 *           stops early, which the protocol allows.
 * Facts:    qemu asks with REQ_ONE always, so without joining over clusters it would need one round
 *           trip per cluster. Compact extents have 32 bits: a longer run goes on in the next one.
 */
import {
  NBD_MAX_COMPACT_EXTENT_BYTES,
  NBD_MAX_EXTENT_COUNT,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
} from './constants.js'
import { chunkBytesOf, putChunk } from './reply-codec.js'
import type { Extent, ReplyMode, SelectedContext } from './types.js'
import { getUint64, putUint64 } from './uint64.js'
import { isStatusPayloadLength } from './validate.js'

const FIRST_CAPACITY = 64

/** Extents of one context for one request; meant to be reused. */
export class ExtentList {
  #lengths = new Float64Array(FIRST_CAPACITY)
  #statuses = new Float64Array(FIRST_CAPACITY)
  #count = 0
  #maxCount = 0
  #maxLength = 0
  #left = 0
  #full = true

  /**
   * Starts the list of a new request.
   *
   * @param lengthBytes length of the request, > 0
   * @param one the request has NBD_CMD_FLAG_REQ_ONE
   * @param maxCount extents there is room for
   */
  start(mode: ReplyMode, lengthBytes: number, one: boolean, maxCount = NBD_MAX_EXTENT_COUNT): void {
    this.#count = 0
    this.#maxCount = one ? 1 : Math.min(maxCount, NBD_MAX_EXTENT_COUNT)
    this.#maxLength = mode === 'extended' ? Infinity : NBD_MAX_COMPACT_EXTENT_BYTES
    this.#left = lengthBytes
    this.#full = false
  }

  get count(): number {
    return this.#count
  }

  /** More extents would be of no use. */
  get done(): boolean {
    return this.#full || this.#left === 0
  }

  lengthAt(index: number): number {
    return this.#lengths[index] ?? 0
  }

  statusAt(index: number): number {
    return this.#statuses[index] ?? 0
  }

  /**
   * Adds the next `lengthBytes` bytes; what lies behind the request is cut off.
   *
   * @returns whether more is wanted
   */
  add(lengthBytes: number, status: number): boolean {
    let rest = Math.min(lengthBytes, this.#left)
    while (rest > 0 && !this.#full) {
      const last = this.#count - 1
      const lastLength = this.#lengths[last] ?? 0
      const joins = last >= 0 && this.#statuses[last] === status && lastLength < this.#maxLength
      if (!joins && this.#count === this.#maxCount) {
        this.#full = true
        break
      }
      const taken = joins
        ? Math.min(rest, this.#maxLength - lastLength)
        : Math.min(rest, this.#maxLength)
      if (joins) this.#lengths[last] = lastLength + taken
      else this.#append(taken, status)
      rest -= taken
      this.#left -= taken
    }
    return !this.done
  }

  #append(lengthBytes: number, status: number): void {
    if (this.#count === this.#lengths.length) {
      const lengths = new Float64Array(this.#count * 2)
      const statuses = new Float64Array(this.#count * 2)
      lengths.set(this.#lengths)
      statuses.set(this.#statuses)
      this.#lengths = lengths
      this.#statuses = statuses
    }
    this.#lengths[this.#count] = lengthBytes
    this.#statuses[this.#count] = status
    this.#count += 1
  }

  /** The list as plain objects. */
  toExtents(): Extent[] {
    return Array.from({ length: this.#count }, (_, index) => ({
      lengthBytes: this.lengthAt(index),
      status: this.statusAt(index),
    }))
  }
}

/** Bytes of a block status chunk of `count` extents, header included. */
export function blockStatusChunkBytes(mode: ReplyMode, count: number): number {
  return chunkBytesOf(mode) + (mode === 'extended' ? 8 + 16 * count : 4 + 8 * count)
}

/**
 * Composes the chunk of one context in place.
 *
 * A reply has one chunk for each context asked for; the last carries NBD_REPLY_FLAG_DONE.
 * @param list at least one extent @returns bytes written, see {@link blockStatusChunkBytes}
 */
export function putBlockStatusChunk(
  view: DataView,
  at: number,
  mode: ReplyMode,
  flags: number,
  cookieHigh: number,
  cookieLow: number,
  requestOffset: number,
  contextId: number,
  list: ExtentList,
): number {
  const count = list.count
  if (count === 0) throw new RangeError('a block status chunk has at least one extent')
  const extended = mode === 'extended'
  const header = chunkBytesOf(mode)
  const bytes = blockStatusChunkBytes(mode, count)
  putChunk(
    view,
    at,
    mode,
    flags,
    extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS,
    cookieHigh,
    cookieLow,
    requestOffset,
    bytes - header,
  )
  view.setUint32(at + header, contextId)
  if (extended) view.setUint32(at + header + 4, count)
  let next = at + header + (extended ? 8 : 4)
  for (let i = 0; i < count; i += 1) {
    if (extended) {
      putUint64(view, next, list.lengthAt(i))
      putUint64(view, next + 8, list.statusAt(i))
      next += 16
    } else {
      view.setUint32(next, list.lengthAt(i))
      view.setUint32(next + 4, list.statusAt(i))
      next += 8
    }
  }
  return bytes
}

/** A BLOCK_STATUS with payload asks for some of the selected contexts only. */
export interface StatusChoice {
  /** effect length; `Infinity` from 2^53 on */
  readonly lengthBytes: number
  readonly contexts: readonly SelectedContext[]
}

/**
 * Decodes the payload of a BLOCK_STATUS: u64 effect length, then ids of selected contexts.
 *
 * @returns `undefined` where it is malformed: wrong length, unknown or repeated id
 */
export function decodeStatusPayload(
  view: DataView,
  at: number,
  payloadLength: number,
  selected: readonly SelectedContext[],
): StatusChoice | undefined {
  if (!isStatusPayloadLength(payloadLength, selected.length)) return undefined
  const contexts: SelectedContext[] = []
  for (let next = at + 8; next < at + payloadLength; next += 4) {
    const id = view.getUint32(next)
    const context = selected.find(candidate => candidate.id === id)
    if (context === undefined || contexts.includes(context)) return undefined
    contexts.push(context)
  }
  return { lengthBytes: getUint64(view, at), contexts }
}

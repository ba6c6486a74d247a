// SPDX-License-Identifier: MIT
/**
 * Composes replies in header slots and hands them to the engine.
 *
 * Every request took its header slot when it was accepted, so answering never waits for memory.
 */
import {
  LONGEST_ERROR_CHUNK_BYTES,
  NBD_REPLY_FLAG_DONE,
  putFailure,
  putHoleChunk,
  putNoneChunk,
  putOffsetDataHeader,
  putSimpleReply,
  putSuccess,
} from 'nbd-server-protocol'
import { assert } from '../base/assert.js'
import type { NativeEngine } from '../io/native.js'
import type { Connection } from './connection.js'
import type { Slots } from './slots.js'
import { headerSlotBytes, NONE, type Rows } from './tables.js'

/** Texts are ASCII, so characters are bytes. The longest that a header slot has room for: */
const textBytesMax = headerSlotBytes - 1 - (LONGEST_ERROR_CHUNK_BYTES - 255)

export class Replies {
  readonly #view: DataView
  readonly #slots: Slots
  readonly #rows: Rows
  readonly #encoder = new TextEncoder()
  /** number of the running batch; see Connection.emittedCount */
  batch = 0

  constructor(engine: NativeEngine, slots: Slots, rows: Rows) {
    assert(textBytesMax > 100, 'a header slot holds an error reply with a sentence')
    this.#view = new DataView(engine.memory)
    this.#slots = slots
    this.#rows = rows
  }

  /** Header in front of the data of a READ that will succeed. @returns its length */
  composeRead(
    connection: Connection,
    header: number,
    cookieHigh: number,
    cookieLow: number,
    offsetBytes: number,
    lengthBytes: number,
  ): number {
    const at = this.#slots.headerAt(header)
    if (connection.mode === 'simple') {
      return putSimpleReply(this.#view, at, 0, cookieHigh, cookieLow)
    }
    return putOffsetDataHeader(
      this.#view,
      at,
      connection.mode,
      NBD_REPLY_FLAG_DONE,
      cookieHigh,
      cookieLow,
      offsetBytes,
      offsetBytes,
      lengthBytes,
    )
  }

  /** Counts a reply that the engine was told of in this batch. */
  count(connection: Connection): void {
    if (connection.emittedBatch !== this.batch) {
      connection.emittedBatch = this.batch
      connection.emittedCount = 0
    }
    connection.emittedCount += 1
  }

  /** Data of a READ in one or more pieces of memory, which are returned once sent. */
  sendData(
    connection: Connection,
    header: number,
    cookieHigh: number,
    cookieLow: number,
    offsetBytes: number,
    lengthBytes: number,
    buffer: number,
    pieces: readonly number[] | undefined,
    pieceBytes: number,
  ): void {
    const headerBytes = this.composeRead(
      connection,
      header,
      cookieHigh,
      cookieLow,
      offsetBytes,
      lengthBytes,
    )
    this.count(connection)
    if (pieces === undefined) {
      this.#rows.send(connection.id, header, headerBytes, buffer, lengthBytes, buffer)
      return
    }
    let rest = lengthBytes
    let first = true
    for (const piece of pieces) {
      const count = Math.min(rest, pieceBytes)
      this.#rows.send(
        connection.id,
        first ? header : NONE,
        first ? headerBytes : 0,
        piece,
        count,
        piece,
      )
      first = false
      rest -= count
    }
  }

  /** A READ of a range that nobody owns, for clients that understand chunks. */
  sendHole(
    connection: Connection,
    header: number,
    cookieHigh: number,
    cookieLow: number,
    offsetBytes: number,
    lengthBytes: number,
  ): void {
    const headerBytes = putHoleChunk(
      this.#view,
      this.#slots.headerAt(header),
      connection.mode,
      NBD_REPLY_FLAG_DONE,
      cookieHigh,
      cookieLow,
      offsetBytes,
      offsetBytes,
      lengthBytes,
    )
    this.#sendHeader(connection, header, headerBytes)
  }

  /** A READ of no bytes. */
  sendNothing(
    connection: Connection,
    header: number,
    cookieHigh: number,
    cookieLow: number,
    offsetBytes: number,
  ): void {
    const at = this.#slots.headerAt(header)
    const headerBytes =
      connection.mode === 'simple'
        ? putSimpleReply(this.#view, at, 0, cookieHigh, cookieLow)
        : putNoneChunk(this.#view, at, connection.mode, cookieHigh, cookieLow, offsetBytes)
    this.#sendHeader(connection, header, headerBytes)
  }

  sendSuccess(
    connection: Connection,
    header: number,
    cookieHigh: number,
    cookieLow: number,
    offsetBytes: number,
  ): void {
    const headerBytes = putSuccess(
      this.#view,
      this.#slots.headerAt(header),
      connection.mode,
      cookieHigh,
      cookieLow,
      offsetBytes,
    )
    this.#sendHeader(connection, header, headerBytes)
  }

  /** @param text ASCII, for clients that understand chunks */
  sendFailure(
    connection: Connection,
    header: number,
    cookieHigh: number,
    cookieLow: number,
    offsetBytes: number,
    error: number,
    text: string,
  ): void {
    const bytes = this.#encoder.encode(text.slice(0, textBytesMax))
    const headerBytes = putFailure(
      this.#view,
      this.#slots.headerAt(header),
      connection.mode,
      cookieHigh,
      cookieLow,
      // Extended chunks repeat the request's offset; one that was no number cannot be repeated.
      Number.isFinite(offsetBytes) ? offsetBytes : 0,
      error,
      bytes,
      -1,
    )
    this.#sendHeader(connection, header, headerBytes)
  }

  /** Bytes composed by somebody else in a payload slot; not a reply to count. */
  sendSlot(connection: Connection, slot: number, lengthBytes: number): void {
    this.#rows.send(connection.id, NONE, 0, slot, lengthBytes, slot)
  }

  #sendHeader(connection: Connection, header: number, headerBytes: number): void {
    this.count(connection)
    this.#rows.send(connection.id, header, headerBytes, 0, 0, NONE)
  }
}

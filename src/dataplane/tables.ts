// SPDX-License-Identifier: MIT
/**
 * The tables that the data plane shares with the engine: layouts and rows. See native/README.md.
 *
 * Everything is a view on one arena that never moves, so views are made once.
 */
import type { NativeEngine } from '../io/native.js'

/** No slot, no header, no connection. */
export const NONE = 0xffffffff
/** Answer in a receive row: present it again when something was released. */
export const STALL = 0xffffffff
/** Room for a reply header; a reply of 255 bytes and less needs no payload slot. */
export const headerSlotBytes = 256

export const control = {
  receiveRows: 0,
  doneRows: 1,
  rows: 2,
  free4k: 3,
  free64k: 4,
  free1m: 5,
  freeHeaders: 6,
  epoch: 7,
  epochInFlight: 8,
  leave: 10,
  wantsFree: 11,
} as const

export const rowOp = {
  read: 1,
  write: 2,
  sync: 3,
  allocate: 4,
  zero: 5,
  punch: 6,
  copy: 7,
  send: 8,
  readSend: 9,
  close: 10,
  resume: 11,
} as const

export const doneKind = {
  operation: 0,
  accepted: 1,
  end: 2,
  failed: 3,
  closed: 4,
  into: 5,
} as const

export const receiveRowWords = 8
export const doneRowWords = 4
const rowWords = 12
const two32 = 4294967296

/** Writes descriptor rows; hands them to the engine when the table is full. */
export class Rows {
  readonly #engine: NativeEngine
  readonly #control: Uint32Array
  readonly #rows: Uint32Array
  readonly #capacity: number

  constructor(engine: NativeEngine) {
    const { memory, layout } = engine
    this.#engine = engine
    this.#control = new Uint32Array(memory, layout.control, 32)
    this.#rows = new Uint32Array(memory, layout.rowTable, layout.rowCapacity * rowWords)
    this.#capacity = layout.rowCapacity
  }

  #next(): number {
    let count = this.#control[control.rows] ?? 0
    if (count === this.#capacity) {
      this.#engine.takeRows()
      count = 0
    }
    this.#control[control.rows] = count + 1
    return count * rowWords
  }

  /** READ and WRITE. */
  transfer(
    op: number,
    file: number,
    offsetBytes: number,
    lengthBytes: number,
    buffer: number,
    token: number,
  ): void {
    const at = this.#next()
    const rows = this.#rows
    const high = Math.floor(offsetBytes / two32)
    rows[at] = op
    rows[at + 1] = file
    rows[at + 2] = token
    rows[at + 3] = offsetBytes - high * two32
    rows[at + 4] = high
    rows[at + 5] = lengthBytes
    rows[at + 6] = buffer
    rows[at + 7] = NONE
    rows[at + 8] = NONE
    rows[at + 9] = NONE
  }

  /** SYNC, ALLOCATE, ZERO, PUNCH: no memory, 64-bit length. */
  space(op: number, file: number, offsetBytes: number, lengthBytes: number, token: number): void {
    const at = this.#next()
    const rows = this.#rows
    const high = Math.floor(offsetBytes / two32)
    const lengthHigh = Math.floor(lengthBytes / two32)
    rows[at] = op
    rows[at + 1] = file
    rows[at + 2] = token
    rows[at + 3] = offsetBytes - high * two32
    rows[at + 4] = high
    rows[at + 5] = lengthBytes - lengthHigh * two32
    rows[at + 6] = 0
    rows[at + 7] = NONE
    rows[at + 8] = NONE
    rows[at + 9] = lengthHigh
  }

  copy(
    source: number,
    sourceOffsetBytes: number,
    target: number,
    targetOffsetBytes: number,
    lengthBytes: number,
    token: number,
  ): void {
    this.space(rowOp.copy, target, targetOffsetBytes, lengthBytes, token)
    const at = ((this.#control[control.rows] ?? 1) - 1) * rowWords
    const rows = this.#rows
    const high = Math.floor(sourceOffsetBytes / two32)
    rows[at + 8] = source
    rows[at + 10] = sourceOffsetBytes - high * two32
    rows[at + 11] = high
  }

  /** Header and payload may each be absent; what is named is returned once it was sent. */
  send(
    connection: number,
    header: number,
    headerBytes: number,
    payload: number,
    payloadBytes: number,
    slot: number,
  ): void {
    const at = this.#next()
    const rows = this.#rows
    rows[at] = rowOp.send + headerBytes * 256
    rows[at + 1] = 0
    rows[at + 2] = 0
    rows[at + 3] = 0
    rows[at + 4] = 0
    rows[at + 5] = payloadBytes
    rows[at + 6] = payload
    rows[at + 7] = connection
    rows[at + 8] = header
    rows[at + 9] = slot
  }

  readSend(
    file: number,
    offsetBytes: number,
    lengthBytes: number,
    slot: number,
    connection: number,
    header: number,
    headerBytes: number,
    token: number,
  ): void {
    const at = this.#next()
    const rows = this.#rows
    const high = Math.floor(offsetBytes / two32)
    rows[at] = rowOp.readSend + headerBytes * 256
    rows[at + 1] = file
    rows[at + 2] = token
    rows[at + 3] = offsetBytes - high * two32
    rows[at + 4] = high
    rows[at + 5] = lengthBytes
    rows[at + 6] = slot
    rows[at + 7] = connection
    rows[at + 8] = header
    rows[at + 9] = slot
  }

  /** CLOSE (`mode` 0 gracefully, 1 at once) and RESUME. */
  connection(op: number, connection: number, mode: number): void {
    const at = this.#next()
    const rows = this.#rows
    rows.fill(0, at, at + rowWords)
    rows[at] = op
    rows[at + 5] = mode
    rows[at + 7] = connection
    rows[at + 8] = NONE
    rows[at + 9] = NONE
  }
}

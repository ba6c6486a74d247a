// SPDX-License-Identifier: MIT
/**
 * Requests to disks, pooled, and the memory they hold.
 *
 * Owns:     which size of memory a request gets, and who has to wait while there is too little.
 * Promises: a request that has memory has all it needs.
 */
import { NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_FLAG_FUA, NBD_CMD_FLAG_NO_HOLE } from 'nbd-server-protocol'
import { pieceBytes } from '../disk/host.js'
import { DiskRequest } from '../disk/request.js'
import type { NativeEngine } from '../io/native.js'
import type { Connection } from './connection.js'
import type { Slots } from './slots.js'
import { NONE } from './tables.js'

/**
 * Requests above that size take whole pieces, and wait their turn for them. After a payload of
 * that size the next header is received alone, so that its payload can come straight to its place.
 */
export const largeBytes = 65536

export class Requests {
  readonly #view: DataView
  readonly #slots: Slots
  readonly #pool: DiskRequest[] = []

  constructor(engine: NativeEngine, slots: Slots) {
    this.#view = new DataView(engine.memory)
    this.#slots = slots
  }

  /** @param at where the request's header lies in the arena */
  create(
    connection: Connection,
    at: number,
    header: number,
    command: number,
    offsetBytes: number,
    lengthBytes: number,
    flags: number,
  ): DiskRequest {
    const request = this.#pool.pop() ?? new DiskRequest()
    request.command = command
    request.offsetBytes = offsetBytes
    request.lengthBytes = lengthBytes
    request.fua = (flags & NBD_CMD_FLAG_FUA) !== 0
    request.noHole = (flags & NBD_CMD_FLAG_NO_HOLE) !== 0
    request.fastZero = (flags & NBD_CMD_FLAG_FAST_ZERO) !== 0
    request.buffer = NONE
    request.pieces = undefined
    request.connection = connection.id
    request.cookieHigh = this.#view.getUint32(at + 8)
    request.cookieLow = this.#view.getUint32(at + 12)
    request.tag = header
    return request
  }

  /** Nobody refers to the request any more; its memory is gone already. */
  free(request: DiskRequest): void {
    this.#pool.push(request)
  }

  /** Memory is short, and others come first: who takes its replies, and who waited longest. */
  mustWait(connection: Connection, lengthBytes: number): boolean {
    if (connection.isSending && this.#slots.isScarce(lengthBytes)) return true
    return lengthBytes > largeBytes && this.#slots.isReserved(connection.id)
  }

  /** @returns false when the request has to wait; it has no memory then */
  takeMemory(connection: Connection, request: DiskRequest): boolean {
    const { lengthBytes } = request
    if (this.mustWait(connection, lengthBytes)) return false
    if (lengthBytes <= pieceBytes) {
      request.buffer = this.#slots.take(lengthBytes)
      return request.buffer !== NONE
    }
    request.pieces = this.#slots.takePieces(Math.ceil(lengthBytes / pieceBytes), connection.id)
    request.buffer = request.pieces?.[0] ?? NONE
    return request.pieces !== undefined
  }

  /** Returns a request's memory, unless it went to the engine with the reply. */
  freeMemory(request: DiskRequest): void {
    if (request.pieces !== undefined) for (const piece of request.pieces) this.#slots.give(piece)
    else if (request.buffer !== NONE) this.#slots.give(request.buffer)
    request.pieces = undefined
    request.buffer = NONE
  }
}

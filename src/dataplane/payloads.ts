// SPDX-License-Identifier: MIT
/**
 * Payloads of WRITE requests on their way into memory, and those that nobody wants.
 *
 * Owns:     how much of a payload has come, and where the engine puts what is still missing.
 * Promises: a request goes to its disk when its payload is complete, and never before.
 */
import { NBD_CMD_WRITE } from 'nbd-server-protocol'
import { memoryAt, memoryRest } from '../disk/request-memory.js'
import type { DiskRequest } from '../disk/request.js'
import type { NativeEngine } from '../io/native.js'
import type { Connection } from './connection.js'
import { largeBytes } from './requests.js'
import type { ServedExport } from './served-export.js'
import type { DataPlaneStats } from './stats.js'

/** The answer to a receive row, besides the bytes consumed. */
export interface RowAnswer {
  recvMax: number
  intoOffset: number
  intoLength: number
}

export class Payloads {
  readonly answer: RowAnswer = { recvMax: 0, intoOffset: 0, intoLength: 0 }

  readonly #bytes: Uint8Array
  readonly #stats: DataPlaneStats

  constructor(engine: NativeEngine, stats: DataPlaneStats) {
    this.#bytes = new Uint8Array(engine.memory)
    this.#stats = stats
  }

  /**
   * Copies what has come of a payload. Begins the request when that is all of it, else asks for
   * the rest to be received straight into its memory. @returns where the next message begins
   */
  receive(
    connection: Connection,
    served: ServedExport,
    request: DiskRequest,
    from: number,
    end: number,
  ): number {
    const { lengthBytes } = request
    let at = from
    while (at < end && connection.receivedBytes < lengthBytes) {
      const done = connection.receivedBytes
      const count = Math.min(end - at, roomAt(request, done))
      this.#bytes.copyWithin(memoryAt(request, done), at, at + count)
      connection.receivedBytes += count
      at += count
    }
    if (connection.receivedBytes === lengthBytes) this.#received(connection, served, request)
    else {
      this.answer.intoOffset = memoryAt(request, connection.receivedBytes)
      this.answer.intoLength = roomAt(request, connection.receivedBytes)
    }
    if (lengthBytes >= largeBytes) this.answer.recvMax = connection.requestBytes
    return at
  }

  #received(connection: Connection, served: ServedExport, request: DiskRequest): void {
    connection.receiving = undefined
    const { requests } = this.#stats
    requests[NBD_CMD_WRITE] = (requests[NBD_CMD_WRITE] ?? 0) + 1
    this.#stats.writtenBytes += request.lengthBytes
    served.disk.submit(request)
  }

  /** A piece of a payload has come straight into its memory. */
  receivedInto(connection: Connection, countBytes: number): void {
    const { receiving, served } = connection
    if (receiving === undefined || served === undefined) return
    connection.receivedBytes += countBytes
    if (connection.receivedBytes === receiving.lengthBytes) {
      this.#received(connection, served, receiving)
    }
  }

  /** The rest of a payload that comes by way of the receive buffer. */
  goOn(connection: Connection, start: number, end: number): number {
    const { receiving, served } = connection
    if (receiving !== undefined && served !== undefined) {
      return this.receive(connection, served, receiving, start, end)
    }
    return this.drop(connection, start, end, connection.dropBytes)
  }

  /** Consumes a payload that nobody wants, now and as it arrives. */
  drop(connection: Connection, body: number, end: number, payloadBytes: number): number {
    const here = Math.min(payloadBytes, end - body)
    connection.dropBytes = payloadBytes - here
    return body + here
  }
}

/** Bytes of payload that belong there without a gap. */
function roomAt(request: DiskRequest, position: number): number {
  return Math.min(request.lengthBytes - position, memoryRest(request, position))
}

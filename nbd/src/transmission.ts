// SPDX-License-Identifier: MIT
/**
 * The server's side of the transmission phase: bytes in, requests out.
 *
 * Owns:     framing of requests and payloads, the order of their checks, and how many requests and
 *           bytes are in flight.
 * Leaves:   the rules themselves (validate.ts) and the replies (connection.ts).
 * Promises: a request comes out only when its payload is there as a whole; the payload of a refused
 *           one is consumed, so that the stream stays in step; a wrong magic or a payload above the
 *           hard limit ends the connection without a word. Above 128 requests or 64 MiB in flight
 *           no further request comes out until one is released.
 *
 * States:   header ⇄ payload (kept), header ⇄ dropping (refused), then ended
 */
import { decodeStatusPayload } from './block-status.js'
import { ByteQueue } from './byte-queue.js'
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_DISC,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_MAX_IN_FLIGHT_BYTES,
  NBD_MAX_IN_FLIGHT_COUNT,
} from './constants.js'
import { viewOf } from './option-codec.js'
import { RequestHeader, decodeRequest, requestBytesOf, requestMagicOf } from './request-codec.js'
import { NO_BYTES } from './text.js'
import type { ReplyMode, RequestLimits, SelectedContext } from './types.js'
import { toNumber } from './uint64.js'
import {
  isStatusPayloadLength,
  lacksPayloadFlag,
  payloadLengthOf,
  refusalText,
  validateRequest,
} from './validate.js'

/** A request of the client, from its arrival until its reply has been sent. */
export interface ServerRequest {
  readonly command: number
  readonly flags: number
  readonly cookieHigh: number
  readonly cookieLow: number
  /** below 2^53, unless the request is refused: then it may be `Infinity` */
  readonly offsetBytes: number
  readonly lengthBytes: number
  /** the data of a WRITE; memory of whoever gets the request */
  readonly payload: Uint8Array
  /** the contexts a BLOCK_STATUS is to be answered for */
  readonly contexts: readonly SelectedContext[]
}

export type TransmissionEvent =
  | { readonly kind: 'request'; readonly request: ServerRequest }
  | {
      readonly kind: 'refused'
      readonly request: ServerRequest
      readonly error: number
      readonly text: string
    }
  /** the client said NBD_CMD_DISC: answer what is in flight, then close */
  | { readonly kind: 'disconnect' }
  /** close at once, without a reply */
  | { readonly kind: 'broken'; readonly reason: string }

/** The request under way: its header is decoded, its payload is not there yet. */
interface Partial {
  readonly payloadLength: number
  /** the payload is wanted */
  readonly keep: boolean
  /** error a WRITE was refused with when its header came */
  readonly error: number
}

export class Transmission {
  readonly #mode: ReplyMode
  readonly #limits: RequestLimits
  readonly #contexts: readonly SelectedContext[]
  readonly #queue: ByteQueue
  readonly #header = new RequestHeader()
  readonly #inFlight = new Map<ServerRequest, number>()
  #inFlightBytes = 0
  #partial: Partial | undefined
  #dropped = 0
  #ended = false
  /** faults of the client that were tolerated */
  faultCount = 0

  /**
   * @param limits read at every request, so that the owner may change them
   * @param queue bytes of the client, the early ones included
   */
  constructor(
    mode: ReplyMode,
    limits: RequestLimits,
    contexts: readonly SelectedContext[],
    queue = new ByteQueue(),
  ) {
    this.#mode = mode
    this.#limits = limits
    this.#contexts = contexts
    this.#queue = queue
  }

  get state(): 'header' | 'payload' | 'dropping' | 'ended' {
    if (this.#ended) return 'ended'
    if (this.#partial === undefined) return 'header'
    return this.#partial.keep ? 'payload' : 'dropping'
  }

  get inFlightCount(): number {
    return this.#inFlight.size
  }

  get inFlightBytes(): number {
    return this.#inFlightBytes
  }

  /** Too much is in flight: stop reading from the client. */
  get paused(): boolean {
    return (
      this.#inFlight.size >= NBD_MAX_IN_FLIGHT_COUNT ||
      this.#inFlightBytes >= NBD_MAX_IN_FLIGHT_BYTES
    )
  }

  push(bytes: Uint8Array): void {
    if (!this.#ended) this.#queue.push(bytes)
  }

  /** No more requests are taken; what is in flight stays. */
  end(): void {
    this.#ended = true
    this.#queue.drop(this.#queue.length)
  }

  isInFlight(request: ServerRequest): boolean {
    return this.#inFlight.has(request)
  }

  /** The last byte of the request's reply has been sent. */
  release(request: ServerRequest): void {
    const bytes = this.#inFlight.get(request)
    if (bytes === undefined) throw new Error('this request is not in flight')
    this.#inFlight.delete(request)
    this.#inFlightBytes -= bytes
  }

  /** The next event, or `undefined` until more bytes come or a request is released. */
  next(): TransmissionEvent | undefined {
    if (this.#ended || this.paused) return undefined
    const event = this.#partial === undefined ? this.#startRequest() : undefined
    return event ?? this.#finishRequest()
  }

  #startRequest(): TransmissionEvent | undefined {
    const bytes = this.#queue.peek()
    if (bytes.length < 4) return undefined
    const view = viewOf(bytes)
    const magic = view.getUint32(0)
    if (magic !== requestMagicOf(this.#mode)) {
      return this.#break(`wrong magic 0x${magic.toString(16)} in front of a request`)
    }
    const headerBytes = requestBytesOf(this.#mode)
    if (bytes.length < headerBytes) return undefined
    const header = this.#header
    decodeRequest(view, 0, header)
    this.#queue.drop(headerBytes)
    if (header.command === NBD_CMD_DISC) {
      this.end()
      return { kind: 'disconnect' }
    }
    const { flags, command } = header
    const length = toNumber(header.lengthHigh, header.lengthLow)
    const payloadLength = payloadLengthOf(this.#mode, flags, command, length)
    if (payloadLength > this.#limits.hardPayloadLimit) {
      const limit = this.#limits.hardPayloadLimit
      return this.#break(`payload of ${payloadLength} bytes, at most ${limit} are taken`)
    }
    if (lacksPayloadFlag(this.#mode, flags, command)) this.faultCount += 1
    const error = this.#earlyError(length)
    const keep = payloadLength === 0 || this.#wantsPayload(payloadLength, error)
    this.#partial = { payloadLength, keep, error }
    this.#dropped = 0
    return undefined
  }

  /** A WRITE is judged before its payload comes, so that memory is spent only on what is taken. */
  #earlyError(length: number): number {
    const { command, flags, offsetHigh, offsetLow } = this.#header
    if (command !== NBD_CMD_WRITE) return 0
    const offset = toNumber(offsetHigh, offsetLow)
    return validateRequest(this.#limits, this.#mode, flags, command, offset, length)
  }

  #wantsPayload(payloadLength: number, error: number): boolean {
    const { command } = this.#header
    if (command === NBD_CMD_WRITE) return error === 0
    return (
      command === NBD_CMD_BLOCK_STATUS &&
      isStatusPayloadLength(payloadLength, this.#contexts.length)
    )
  }

  #finishRequest(): TransmissionEvent | undefined {
    const partial = this.#partial
    if (partial === undefined) return undefined
    const { payloadLength, keep } = partial
    if (!keep) {
      const count = Math.min(this.#queue.length, payloadLength - this.#dropped)
      this.#queue.drop(count)
      this.#dropped += count
      if (this.#dropped < payloadLength) return undefined
    } else if (this.#queue.length < payloadLength) {
      return undefined
    }
    const payload = keep && payloadLength > 0 ? this.#queue.take(payloadLength) : NO_BYTES
    this.#partial = undefined
    const request = this.#makeRequest(payload, keep)
    return this.#admit(request, partial)
  }

  #makeRequest(payload: Uint8Array, kept: boolean): ServerRequest {
    const { flags, command, cookieHigh, cookieLow } = this.#header
    let lengthBytes = toNumber(this.#header.lengthHigh, this.#header.lengthLow)
    let contexts = this.#contexts
    if (
      command === NBD_CMD_BLOCK_STATUS &&
      this.#mode === 'extended' &&
      (flags & NBD_CMD_FLAG_PAYLOAD_LEN) !== 0
    ) {
      const choice = kept
        ? decodeStatusPayload(viewOf(payload), 0, payload.length, this.#contexts)
        : undefined
      lengthBytes = choice?.lengthBytes ?? Infinity
      contexts = choice?.contexts ?? []
    }
    return {
      command,
      flags,
      cookieHigh,
      cookieLow,
      offsetBytes: toNumber(this.#header.offsetHigh, this.#header.offsetLow),
      lengthBytes,
      payload: command === NBD_CMD_WRITE ? payload : NO_BYTES,
      contexts: command === NBD_CMD_BLOCK_STATUS ? contexts : [],
    }
  }

  /** Judges a complete request by the limits of this moment, and counts it as in flight. */
  #admit(request: ServerRequest, partial: Partial): TransmissionEvent {
    const { command, flags, offsetBytes, lengthBytes } = request
    const limits = this.#limits
    let error = validateRequest(limits, this.#mode, flags, command, offsetBytes, lengthBytes)
    // the limits may have changed since the payload was dropped: then the first verdict stands
    if (error === 0 && !partial.keep) error = partial.error
    const holds = error === 0 && (command === NBD_CMD_READ || command === NBD_CMD_WRITE)
    const bytes = holds ? lengthBytes : 0
    this.#inFlight.set(request, bytes)
    this.#inFlightBytes += bytes
    if (error === 0) return { kind: 'request', request }
    const text = refusalText(limits, this.#mode, flags, command, offsetBytes, lengthBytes)
    return { kind: 'refused', request, error, text: text || 'refused before its data came' }
  }

  #break(reason: string): TransmissionEvent {
    this.end()
    return { kind: 'broken', reason }
  }
}

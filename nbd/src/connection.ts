// SPDX-License-Identifier: MIT
/**
 * A whole server connection: bytes of the client in, events and buffers to send out.
 *
 * Owns:     the way from the greeting through negotiation to the last reply, the form of every
 *           reply, and the moment to close.
 * Leaves:   sockets, deadlines, TLS and what requests do to the owner. Nothing here waits.
 * Promises: bytes that came early are kept, across the entry into transmission too; after a DISC or
 *           the end of the stream everything taken is answered before `close` comes.
 *
 * How to use it: send `open()`; give all received bytes to `receive` and act on the events in their
 * order; answer each `request` by one of `succeed`, `data`, `status`, `fail`; when the bytes of a
 * reply (of a `send` event with a request, too) have been written, call `sent`, which may bring
 * further events. While `paused`, do not read from the client.
 */
import { ExtentList, blockStatusChunkBytes, putBlockStatusChunk } from './block-status.js'
import { ByteQueue } from './byte-queue.js'
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_READ,
  NBD_HARD_PAYLOAD_BYTES,
  NBD_MAX_ERROR_TEXT_BYTES,
  NBD_REPLY_FLAG_DONE,
} from './constants.js'
import { RequestError } from './errors.js'
import type { HandshakePolicy, HandshakeStep, NegotiatedSession } from './handshake-policy.js'
import { ServerHandshake } from './handshake.js'
import {
  LONGEST_ERROR_CHUNK_BYTES,
  putFailure,
  putNoneChunk,
  putOffsetDataHeader,
  putSimpleReply,
  putSuccess,
  readHeaderBytesOf,
} from './reply-codec.js'
import { clipText } from './text.js'
import { type ServerRequest, Transmission, type TransmissionEvent } from './transmission.js'
import type { Extent, RequestLimits } from './types.js'

export type ConnectionEvent<E> =
  /** send the bytes in one write; with a request, call `sent` when they have been written */
  | { readonly kind: 'send'; readonly bytes: Uint8Array; readonly request?: ServerRequest }
  /** do the TLS handshake on the connection, then call `secured` */
  | { readonly kind: 'starttls' }
  /** the policy's `enter` said wait: call `proceed` when it would say otherwise */
  | { readonly kind: 'wait' }
  | { readonly kind: 'entered'; readonly session: NegotiatedSession<E> }
  | { readonly kind: 'request'; readonly request: ServerRequest }
  /** graceful: after everything given to `send` is out, FIN, then drop what comes until EOF */
  | { readonly kind: 'close'; readonly graceful: boolean; readonly reason: string }

/** Extents of one context, consecutive from the offset of the request on. */
export type ExtentsOf = (contextName: string) => Iterable<Extent>

export class NbdServerConnection<E> {
  readonly #policy: HandshakePolicy<E>
  readonly #handshake: ServerHandshake<E>
  readonly #queue = new ByteQueue()
  readonly #answered = new Set<ServerRequest>()
  #transmission: Transmission | undefined
  #session: NegotiatedSession<E> | undefined
  #limits: RequestLimits | undefined
  /** the client will send no more */
  #ended = false
  /** why to close once nothing is in flight */
  #leaving: string | undefined
  #closed = false

  constructor(policy: HandshakePolicy<E>) {
    this.#policy = policy
    this.#handshake = new ServerHandshake(policy)
  }

  /** For log lines. */
  get state(): string {
    if (this.#closed) return 'closed'
    if (this.#leaving !== undefined) return 'leaving'
    return this.#transmission?.state ?? this.#handshake.state
  }

  get session(): NegotiatedSession<E> | undefined {
    return this.#session
  }

  /** Too much is in flight: stop reading from the client until `sent` changes this. */
  get paused(): boolean {
    return this.#transmission?.paused ?? this.#handshake.state === 'waiting'
  }

  get inFlightCount(): number {
    return this.#transmission?.inFlightCount ?? 0
  }

  /** The greeting, to be sent first. */
  open(): Uint8Array {
    return this.#handshake.greeting()
  }

  /** @param bytes belong to the connection from now on; requests may refer to them */
  receive(bytes: Uint8Array): ConnectionEvent<E>[] {
    if (this.#closed || this.#leaving !== undefined) return []
    if (this.#handshake.state === 'starttls') return this.#injected(bytes)
    this.#queue.push(bytes)
    const events: ConnectionEvent<E>[] = []
    this.#run(events)
    return events
  }

  /** Plain bytes between STARTTLS and TLS are never parsed. */
  #injected(bytes: Uint8Array): ConnectionEvent<E>[] {
    if (bytes.length === 0) return []
    this.#closed = true
    return [{ kind: 'close', graceful: false, reason: 'plain bytes after NBD_OPT_STARTTLS' }]
  }

  /** TLS is up; bytes from here on are the decrypted ones. */
  secured(): void {
    this.#handshake.secured()
  }

  /** Asks the policy again after `wait`. */
  proceed(): ConnectionEvent<E>[] {
    if (this.#closed) return []
    const events: ConnectionEvent<E>[] = []
    if (this.#take(this.#handshake.proceed(), events)) this.#run(events)
    return events
  }

  /** The client has closed its sending side; what is whole is answered, the rest discarded. */
  end(): ConnectionEvent<E>[] {
    const events: ConnectionEvent<E>[] = []
    this.#ended = true
    this.#leaveAtEnd(events)
    return events
  }

  /** Requests that wait because too much is in flight are still taken first. */
  #leaveAtEnd(events: ConnectionEvent<E>[]): void {
    const over = this.#closed || this.#leaving !== undefined
    if (!this.#ended || over || this.#transmission?.paused === true) return
    this.#leave('the client closed the connection', events)
  }

  /** The bytes of a request's reply have been written. */
  sent(request: ServerRequest): ConnectionEvent<E>[] {
    if (!this.#answered.delete(request)) throw new Error('this request has no reply yet')
    this.#transmission?.release(request)
    const events: ConnectionEvent<E>[] = []
    if (this.#closed) return events
    if (this.#leaving === undefined) this.#run(events)
    else this.#closeWhenIdle(this.#leaving, events)
    this.#leaveAtEnd(events)
    return events
  }

  /** Changes the size that requests are checked against (online growth). */
  resize(sizeBytes: number): void {
    if (this.#limits !== undefined) this.#limits.sizeBytes = sizeBytes
  }

  /** Success of a request without content: WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES. */
  succeed(request: ServerRequest): Uint8Array[] {
    const { mode } = this.#answer(request)
    const { command, cookieHigh, cookieLow, offsetBytes } = request
    if (command === NBD_CMD_READ || command === NBD_CMD_BLOCK_STATUS) {
      throw new Error('READ and BLOCK_STATUS are answered with content')
    }
    return [compose(32, view => putSuccess(view, 0, mode, cookieHigh, cookieLow, offsetBytes))]
  }

  /** Success of a READ; `bytes` is as long as the request says and is not copied. */
  data(request: ServerRequest, bytes: Uint8Array): Uint8Array[] {
    const { mode } = this.#answer(request)
    const { cookieHigh, cookieLow, offsetBytes, lengthBytes } = request
    if (request.command !== NBD_CMD_READ || bytes.length !== lengthBytes) {
      throw new Error(`a READ of ${lengthBytes} bytes is not answered by ${bytes.length}`)
    }
    if (mode === 'simple') {
      const header = compose(16, view => putSimpleReply(view, 0, 0, cookieHigh, cookieLow))
      return bytes.length === 0 ? [header] : [header, bytes]
    }
    if (bytes.length === 0) {
      return [compose(32, view => putNoneChunk(view, 0, mode, cookieHigh, cookieLow, offsetBytes))]
    }
    const header = compose(readHeaderBytesOf(mode), view =>
      putOffsetDataHeader(
        view,
        0,
        mode,
        NBD_REPLY_FLAG_DONE,
        cookieHigh,
        cookieLow,
        offsetBytes,
        offsetBytes,
        bytes.length,
      ),
    )
    return [header, bytes]
  }

  /** Success of a BLOCK_STATUS: one chunk for each context it asks for. */
  status(request: ServerRequest, extentsOf: ExtentsOf): Uint8Array[] {
    const { mode } = this.#answer(request)
    const { contexts, cookieHigh, cookieLow, offsetBytes, lengthBytes } = request
    const one = (request.flags & NBD_CMD_FLAG_REQ_ONE) !== 0
    return contexts.map((context, index) => {
      const list = new ExtentList()
      list.start(mode, lengthBytes, one)
      for (const extent of extentsOf(context.name)) {
        if (!list.add(extent.lengthBytes, extent.status)) break
      }
      const flags = index === contexts.length - 1 ? NBD_REPLY_FLAG_DONE : 0
      return compose(blockStatusChunkBytes(mode, list.count), view =>
        putBlockStatusChunk(
          view,
          0,
          mode,
          flags,
          cookieHigh,
          cookieLow,
          offsetBytes,
          context.id,
          list,
        ),
      )
    })
  }

  /** Failure of any request. The text reaches clients that understand texts. */
  fail(request: ServerRequest, error: RequestError): Uint8Array[] {
    const { mode } = this.#answer(request)
    const { cookieHigh, cookieLow } = request
    const offset = Number.isFinite(request.offsetBytes) ? request.offsetBytes : 0
    const text = clipText(error.message, NBD_MAX_ERROR_TEXT_BYTES)
    const bad = error.offsetBytes ?? -1
    return [
      compose(LONGEST_ERROR_CHUNK_BYTES, view =>
        putFailure(view, 0, mode, cookieHigh, cookieLow, offset, error.wireError, text, bad),
      ),
    ]
  }

  #answer(request: ServerRequest): NegotiatedSession<E> {
    if (this.#session === undefined || this.#transmission?.isInFlight(request) !== true) {
      throw new Error('this request is not in flight')
    }
    if (this.#answered.has(request)) throw new Error('this request is answered already')
    this.#answered.add(request)
    return this.#session
  }

  #run(events: ConnectionEvent<E>[]): void {
    while (this.#transmission === undefined) {
      if (this.#handshake.state === 'waiting') return
      const step = this.#handshake.receive(this.#queue.peek())
      if (!this.#take(step, events) || step.consumed === 0) return
    }
    this.#runTransmission(this.#transmission, events)
  }

  /** @returns whether the handshake, or transmission after it, may go on with the bytes there */
  #take(step: HandshakeStep<E>, events: ConnectionEvent<E>[]): boolean {
    this.#queue.drop(step.consumed)
    if (step.output.length > 0) events.push({ kind: 'send', bytes: step.output })
    if (this.#handshake.state === 'waiting') events.push({ kind: 'wait' })
    switch (step.done?.kind) {
      case undefined:
        return this.#handshake.state !== 'waiting'
      case 'starttls':
        events.push({ kind: 'starttls' })
        return false
      case 'close':
        this.#closed = true
        this.#queue.drop(this.#queue.length)
        events.push(step.done)
        return false
      case 'transmission':
        this.#enter(step.done.result)
        events.push({ kind: 'entered', session: step.done.result })
        return true
    }
  }

  #enter(session: NegotiatedSession<E>): void {
    this.#session = session
    this.#limits = {
      sizeBytes: session.info.sizeBytes,
      readOnly: session.info.readOnly,
      transmissionFlags: session.transmissionFlags,
      contextCount: session.contexts.length,
      shuttingDown: false,
      hardPayloadLimit: NBD_HARD_PAYLOAD_BYTES,
      minimumBlockBytes: session.info.blockSizes.minimum,
    }
    this.#transmission = new Transmission(session.mode, this.#limits, session.contexts, this.#queue)
  }

  #runTransmission(transmission: Transmission, events: ConnectionEvent<E>[]): void {
    for (;;) {
      if (this.#limits !== undefined) {
        this.#limits.shuttingDown = this.#policy.shuttingDown === true
      }
      const event = transmission.next()
      if (event === undefined || !this.#translate(event, events)) return
    }
  }

  #translate(event: TransmissionEvent, events: ConnectionEvent<E>[]): boolean {
    switch (event.kind) {
      case 'request':
        events.push(event)
        return true
      case 'refused': {
        const { request } = event
        const [bytes] = this.fail(request, new RequestError(event.error, event.text))
        if (bytes !== undefined) events.push({ kind: 'send', bytes, request })
        return true
      }
      case 'disconnect':
        this.#leave('the client disconnected', events)
        return false
      case 'broken':
        this.#closed = true
        events.push({ kind: 'close', graceful: false, reason: event.reason })
        return false
    }
  }

  #leave(reason: string, events: ConnectionEvent<E>[]): void {
    this.#leaving = reason
    this.#transmission?.end()
    this.#closeWhenIdle(reason, events)
  }

  #closeWhenIdle(reason: string, events: ConnectionEvent<E>[]): void {
    if (this.inFlightCount > 0) return
    this.#closed = true
    events.push({ kind: 'close', graceful: true, reason })
  }
}

function compose(bytes: number, put: (view: DataView) => number): Uint8Array {
  const target = new Uint8Array(bytes)
  return target.subarray(0, put(new DataView(target.buffer)))
}

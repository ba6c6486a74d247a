// SPDX-License-Identifier: MIT
/**
 * The client's side of transmission: requests out, whole replies in, in all three forms.
 *
 * Owns:     cookies, the assembling of chunks, and the check that a server's replies obey the
 *           protocol: known cookies, content inside the request and covering it once, legal values.
 * Leaves:   sockets. A server that breaks the protocol gets a ProtocolError; hang up then.
 */
import { ByteQueue } from './byte-queue.js'
import { ByteWriter } from './byte-writer.js'
import type { ClientSession } from './client-handshake.js'
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_DISC,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_EXTENDED_REPLY_MAGIC,
  NBD_HARD_PAYLOAD_BYTES,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_ERROR_OFFSET,
  NBD_REPLY_TYPE_FLAG_ERROR,
  NBD_REPLY_TYPE_NONE,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_REPLY_TYPE_OFFSET_HOLE,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
} from './constants.js'
import { ProtocolError } from './errors.js'
import { chunkTypeName, commandName } from './names.js'
import { viewOf } from './option-codec.js'
import { SIMPLE_REPLY_BYTES, chunkBytesOf } from './reply-codec.js'
import { RequestHeader, encodeRequest, requestBytesOf } from './request-codec.js'
import { NO_BYTES, decodeLenientText } from './text.js'
import type { Extent } from './types.js'
import { getUint64, highOf, lowOf, toNumber } from './uint64.js'

export interface ClientRequest {
  readonly command: number
  readonly flags?: number
  readonly offsetBytes?: number
  /** of a WRITE the length of `payload`, whatever is given here */
  readonly lengthBytes?: number
  /** data of a WRITE */
  readonly payload?: Uint8Array
  /** BLOCK_STATUS in extended mode: answer for these of the selected contexts only */
  readonly contextIds?: readonly number[]
}

/** One whole reply. */
export interface ClientReply {
  /** as given out by `request` */
  readonly cookie: number
  readonly command: number
  /** 0, or an error value of the protocol */
  readonly error: number
  readonly errorText: string
  readonly errorOffset: number | undefined
  /** data of a READ that succeeded */
  readonly data: Uint8Array
  /** extents by name of the context */
  readonly extents: ReadonlyMap<string, readonly Extent[]>
}

interface Pending {
  readonly command: number
  readonly flags: number
  readonly offsetBytes: number
  readonly lengthBytes: number
  readonly data: Uint8Array
  readonly covered: { readonly from: number; readonly to: number }[]
  readonly extents: Map<string, Extent[]>
  error: number
  errorText: string
  errorOffset: number | undefined
}

interface Chunk {
  readonly flags: number
  readonly type: number
  readonly payload: Uint8Array
}

export class NbdClientConnection {
  readonly #session: ClientSession
  readonly #queue = new ByteQueue()
  readonly #pending = new Map<number, Pending>()
  #nextCookie = 1

  constructor(session: ClientSession) {
    this.#session = session
  }

  get inFlightCount(): number {
    return this.#pending.size
  }

  /** @returns the cookie, under which the reply will come, and what to send */
  request(request: ClientRequest): { cookie: number; bytes: Uint8Array[] } {
    const { mode } = this.#session
    const payload = payloadOf(request)
    const offsetBytes = request.offsetBytes ?? 0
    const isWrite = request.command === NBD_CMD_WRITE
    const lengthBytes = isWrite ? payload.length : (request.lengthBytes ?? 0)
    const carries = mode === 'extended' && (isWrite || payload.length > 0)
    const flags = (request.flags ?? 0) | (carries ? NBD_CMD_FLAG_PAYLOAD_LEN : 0)
    const lengthField = carries ? payload.length : lengthBytes
    const cookie = this.#nextCookie
    const header = Object.assign(new RequestHeader(), {
      flags,
      command: request.command,
      cookieHigh: highOf(cookie),
      cookieLow: lowOf(cookie),
      offsetHigh: highOf(offsetBytes),
      offsetLow: lowOf(offsetBytes),
      lengthHigh: highOf(lengthField),
      lengthLow: lowOf(lengthField),
    })
    const bytes = new Uint8Array(requestBytesOf(mode))
    encodeRequest(viewOf(bytes), 0, mode, header)
    this.#nextCookie += 1
    if (request.command !== NBD_CMD_DISC) {
      const isRead = request.command === NBD_CMD_READ && lengthBytes <= NBD_HARD_PAYLOAD_BYTES
      this.#pending.set(cookie, {
        command: request.command,
        flags,
        offsetBytes,
        lengthBytes,
        data: isRead ? new Uint8Array(lengthBytes) : NO_BYTES,
        covered: [],
        extents: new Map(),
        error: 0,
        errorText: '',
        errorOffset: undefined,
      })
    }
    return { cookie, bytes: payload.length > 0 ? [bytes, payload] : [bytes] }
  }

  /** What to send to end the session; there is no reply. */
  disconnect(): Uint8Array[] {
    return this.request({ command: NBD_CMD_DISC }).bytes
  }

  /** @param bytes belong to the connection from now on; replies may refer to them */
  receive(bytes: Uint8Array): ClientReply[] {
    this.#queue.push(bytes)
    const replies: ClientReply[] = []
    while (this.#takeMessage(replies));
    return replies
  }

  /** @returns whether there was a whole message */
  #takeMessage(replies: ClientReply[]): boolean {
    const bytes = this.#queue.peek()
    if (bytes.length < 4) return false
    const { mode } = this.#session
    const magic = viewOf(bytes).getUint32(0)
    if (magic === NBD_SIMPLE_REPLY_MAGIC && mode !== 'extended') return this.#takeSimple(replies)
    const chunkMagic = mode === 'extended' ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC
    if (mode !== 'simple' && magic === chunkMagic) return this.#takeChunk(replies)
    throw new ProtocolError('REPLY_MAGIC', `reply magic 0x${magic.toString(16)} in ${mode} mode`)
  }

  #find(high: number, low: number): [number, Pending] {
    const cookie = toNumber(high, low)
    const pending = this.#pending.get(cookie)
    if (pending === undefined) throw new ProtocolError('REPLY_COOKIE', `unknown cookie ${cookie}`)
    return [cookie, pending]
  }

  #takeSimple(replies: ClientReply[]): boolean {
    const bytes = this.#queue.peek()
    if (bytes.length < SIMPLE_REPLY_BYTES) return false
    const view = viewOf(bytes)
    const error = view.getUint32(4)
    const [cookie, pending] = this.#find(view.getUint32(8), view.getUint32(12))
    const { command } = pending
    const chunked = command === NBD_CMD_READ || command === NBD_CMD_BLOCK_STATUS
    if (this.#session.mode === 'structured' && chunked) {
      const name = commandName(command)
      throw new ProtocolError('REPLY_FORM', `simple reply to ${name} in structured mode`)
    }
    const dataLength = command === NBD_CMD_READ && error === 0 ? pending.lengthBytes : 0
    if (bytes.length < SIMPLE_REPLY_BYTES + dataLength) return false
    this.#queue.drop(SIMPLE_REPLY_BYTES)
    const data = dataLength > 0 ? this.#queue.take(dataLength) : NO_BYTES
    this.#pending.delete(cookie)
    replies.push({
      cookie,
      command,
      error,
      errorText: '',
      errorOffset: undefined,
      data,
      extents: new Map(),
    })
    return true
  }

  #takeChunk(replies: ClientReply[]): boolean {
    const bytes = this.#queue.peek()
    const { mode } = this.#session
    const headerBytes = chunkBytesOf(mode)
    if (bytes.length < headerBytes) return false
    const view = viewOf(bytes)
    const [cookie, pending] = this.#find(view.getUint32(8), view.getUint32(12))
    const extended = mode === 'extended'
    if (extended && getUint64(view, 16) !== pending.offsetBytes) {
      throw new ProtocolError('REPLY_OFFSET', 'the chunk has another offset than its request')
    }
    const length = extended ? getUint64(view, 24) : view.getUint32(16)
    if (length > NBD_HARD_PAYLOAD_BYTES + 8) {
      throw new ProtocolError('REPLY_LENGTH', `chunk of ${length} bytes`)
    }
    if (bytes.length < headerBytes + length) return false
    const chunk = {
      flags: view.getUint16(4),
      type: view.getUint16(6),
      payload: bytes.subarray(headerBytes, headerBytes + length),
    }
    takeContent(chunk, pending, this.#session)
    this.#queue.drop(headerBytes + length)
    if ((chunk.flags & NBD_REPLY_FLAG_DONE) === 0) return true
    this.#pending.delete(cookie)
    checkWhole(pending)
    replies.push({
      cookie,
      command: pending.command,
      error: pending.error,
      errorText: pending.errorText,
      errorOffset: pending.errorOffset,
      data: pending.error === 0 ? pending.data : NO_BYTES,
      extents: pending.extents,
    })
    return true
  }
}

/** Data of a WRITE, or the effect length and ids of a BLOCK_STATUS that chooses contexts. */
function payloadOf(request: ClientRequest): Uint8Array {
  if (request.command === NBD_CMD_WRITE) return request.payload ?? NO_BYTES
  if (request.command !== NBD_CMD_BLOCK_STATUS || request.contextIds === undefined) return NO_BYTES
  const writer = new ByteWriter().uint64(request.lengthBytes ?? 0)
  for (const id of request.contextIds) writer.uint32(id)
  return writer.finish()
}

function malformed(chunk: Chunk): ProtocolError {
  const name = chunkTypeName(chunk.type)
  return new ProtocolError('REPLY_CHUNK', `malformed ${name} of ${chunk.payload.length} bytes`)
}

function takeContent(chunk: Chunk, pending: Pending, session: ClientSession): void {
  const { type, payload } = chunk
  const view = viewOf(payload)
  switch (type) {
    case NBD_REPLY_TYPE_NONE:
      if (payload.length !== 0 || (chunk.flags & NBD_REPLY_FLAG_DONE) === 0) throw malformed(chunk)
      return
    case NBD_REPLY_TYPE_OFFSET_DATA: {
      if (payload.length < 9) throw malformed(chunk)
      const at = cover(chunk, pending, getUint64(view, 0), payload.length - 8)
      pending.data.set(payload.subarray(8), at)
      return
    }
    case NBD_REPLY_TYPE_OFFSET_HOLE:
      if (payload.length !== 12) throw malformed(chunk)
      cover(chunk, pending, getUint64(view, 0), view.getUint32(8))
      return
    case NBD_REPLY_TYPE_BLOCK_STATUS:
    case NBD_REPLY_TYPE_BLOCK_STATUS_EXT:
      takeExtents(chunk, pending, session)
      return
    default:
      if ((type & NBD_REPLY_TYPE_FLAG_ERROR) === 0) throw malformed(chunk)
      takeError(chunk, pending)
  }
}

/** Marks a piece of a READ as answered. @returns where it lies in the data */
function cover(chunk: Chunk, pending: Pending, offset: number, length: number): number {
  const from = offset - pending.offsetBytes
  const inside = from >= 0 && from + length <= pending.lengthBytes
  if (pending.command !== NBD_CMD_READ || length === 0 || !inside) throw malformed(chunk)
  pending.covered.push({ from, to: from + length })
  return from
}

function takeError(chunk: Chunk, pending: Pending): void {
  const { payload, type } = chunk
  const view = viewOf(payload)
  if (payload.length < 6) throw malformed(chunk)
  const textEnd = 6 + view.getUint16(4)
  const withOffset = type === NBD_REPLY_TYPE_ERROR_OFFSET
  const error = view.getUint32(0)
  const end = withOffset ? textEnd + 8 : textEnd
  const exact = withOffset || type === NBD_REPLY_TYPE_ERROR
  if (error === 0 || end > payload.length || (exact && end !== payload.length)) {
    throw malformed(chunk)
  }
  if (pending.error !== 0) return
  pending.error = error
  pending.errorText = decodeLenientText(payload.subarray(6, textEnd))
  if (withOffset) pending.errorOffset = getUint64(view, textEnd)
}

function takeExtents(chunk: Chunk, pending: Pending, session: ClientSession): void {
  const { payload } = chunk
  const view = viewOf(payload)
  const extended = session.mode === 'extended'
  const wide = chunk.type === NBD_REPLY_TYPE_BLOCK_STATUS_EXT
  const head = extended ? 8 : 4
  const size = extended ? 16 : 8
  if (wide !== extended || pending.command !== NBD_CMD_BLOCK_STATUS) throw malformed(chunk)
  const count = (payload.length - head) / size
  if (count < 1 || !Number.isInteger(count)) throw malformed(chunk)
  if (extended && view.getUint32(4) !== count) throw malformed(chunk)
  const id = view.getUint32(0)
  const context = session.contexts.find(candidate => candidate.id === id)
  if (context === undefined || pending.extents.has(context.name)) throw malformed(chunk)
  const extents: Extent[] = []
  let before = 0
  for (let at = head; at < payload.length; at += size) {
    const lengthBytes = extended ? getUint64(view, at) : view.getUint32(at)
    const status = extended ? getUint64(view, at + 8) : view.getUint32(at + 4)
    if (lengthBytes === 0 || before >= pending.lengthBytes) throw malformed(chunk)
    before += lengthBytes
    extents.push({ lengthBytes, status })
  }
  const one = (pending.flags & NBD_CMD_FLAG_REQ_ONE) !== 0
  if (before > session.sizeBytes - pending.offsetBytes) throw malformed(chunk)
  if (one && (count !== 1 || before > pending.lengthBytes)) throw malformed(chunk)
  pending.extents.set(context.name, extents)
}

/** A READ that succeeded is covered exactly once. */
function checkWhole(pending: Pending): void {
  if (pending.error !== 0 || pending.command !== NBD_CMD_READ) return
  let end = 0
  for (const piece of pending.covered.sort((a, b) => a.from - b.from)) {
    if (piece.from !== end) break
    end = piece.to
  }
  const total = pending.covered.reduce((sum, piece) => sum + piece.to - piece.from, 0)
  if (end !== pending.lengthBytes || total !== pending.lengthBytes) {
    throw new ProtocolError('REPLY_COVER', 'the chunks do not cover the READ exactly once')
  }
}

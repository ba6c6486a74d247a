// SPDX-License-Identifier: MIT
/**
 * Replies composed in place in a byte view: simple replies, structured chunks, extended chunks.
 *
 *     offset  simple             structured chunk   extended chunk
 *      0      u32 0x67446698     u32 0x668e33ef     u32 0x6e8a278c
 *      4      u32 error          u16 flags          u16 flags
 *      6                         u16 type           u16 type
 *      8      u64 cookie         u64 cookie         u64 cookie
 *     16                         u32 payload length u64 offset of the request
 *     24                                            u64 payload length
 *
 * Promises: every `put…` returns the bytes it wrote and allocates nothing. Numbers are integers
 *           below 2^53; the two halves of a cookie are returned as they came.
 * Leaves:   which form answers which request (`simple`, chunks) to the caller; extents to
 *           block-status.ts.
 */
import {
  NBD_EXTENDED_REPLY_MAGIC,
  NBD_MAX_ERROR_TEXT_BYTES,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_ERROR_OFFSET,
  NBD_REPLY_TYPE_NONE,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_REPLY_TYPE_OFFSET_HOLE,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
} from './constants.js'
import type { ReplyMode } from './types.js'
import { putUint64 } from './uint64.js'

export const SIMPLE_REPLY_BYTES = 16
export const STRUCTURED_CHUNK_BYTES = 20
export const EXTENDED_CHUNK_BYTES = 32
/** the longest header of a READ reply: extended chunk header and offset */
export const LONGEST_READ_HEADER_BYTES = EXTENDED_CHUNK_BYTES + 8
/** the longest error chunk: header, error, text length, text, offset */
export const LONGEST_ERROR_CHUNK_BYTES = EXTENDED_CHUNK_BYTES + 4 + 2 + NBD_MAX_ERROR_TEXT_BYTES + 8

export function putSimpleReply(
  view: DataView,
  at: number,
  error: number,
  cookieHigh: number,
  cookieLow: number,
): number {
  view.setUint32(at, NBD_SIMPLE_REPLY_MAGIC)
  view.setUint32(at + 4, error)
  view.setUint32(at + 8, cookieHigh)
  view.setUint32(at + 12, cookieLow)
  return SIMPLE_REPLY_BYTES
}

export function putStructuredChunk(
  view: DataView,
  at: number,
  flags: number,
  type: number,
  cookieHigh: number,
  cookieLow: number,
  payloadLength: number,
): number {
  view.setUint32(at, NBD_STRUCTURED_REPLY_MAGIC)
  view.setUint16(at + 4, flags)
  view.setUint16(at + 6, type)
  view.setUint32(at + 8, cookieHigh)
  view.setUint32(at + 12, cookieLow)
  view.setUint32(at + 16, payloadLength)
  return STRUCTURED_CHUNK_BYTES
}

/** @param requestOffset offset of the request, whatever the chunk says of its own offset */
export function putExtendedChunk(
  view: DataView,
  at: number,
  flags: number,
  type: number,
  cookieHigh: number,
  cookieLow: number,
  requestOffset: number,
  payloadLength: number,
): number {
  view.setUint32(at, NBD_EXTENDED_REPLY_MAGIC)
  view.setUint16(at + 4, flags)
  view.setUint16(at + 6, type)
  view.setUint32(at + 8, cookieHigh)
  view.setUint32(at + 12, cookieLow)
  putUint64(view, at + 16, requestOffset)
  putUint64(view, at + 24, payloadLength)
  return EXTENDED_CHUNK_BYTES
}

/** Chunk header of the negotiated form; `mode` is not `simple`. */
export function putChunk(
  view: DataView,
  at: number,
  mode: ReplyMode,
  flags: number,
  type: number,
  cookieHigh: number,
  cookieLow: number,
  requestOffset: number,
  payloadLength: number,
): number {
  return mode === 'extended'
    ? putExtendedChunk(view, at, flags, type, cookieHigh, cookieLow, requestOffset, payloadLength)
    : putStructuredChunk(view, at, flags, type, cookieHigh, cookieLow, payloadLength)
}

/** Bytes of the chunk header of a mode. */
export function chunkBytesOf(mode: ReplyMode): number {
  return mode === 'extended' ? EXTENDED_CHUNK_BYTES : STRUCTURED_CHUNK_BYTES
}

/** Bytes in front of the data of a successful READ answered in one piece: 16, 28 or 40. */
export function readHeaderBytesOf(mode: ReplyMode): number {
  return mode === 'simple' ? SIMPLE_REPLY_BYTES : chunkBytesOf(mode) + 8
}

/**
 * Header of a chunk of `dataLength` > 0 bytes of data, which follow it.
 *
 * An error can follow only where `flags` lacks NBD_REPLY_FLAG_DONE. @returns 28 or 40
 */
export function putOffsetDataHeader(
  view: DataView,
  at: number,
  mode: ReplyMode,
  flags: number,
  cookieHigh: number,
  cookieLow: number,
  requestOffset: number,
  dataOffset: number,
  dataLength: number,
): number {
  const header = putChunk(
    view,
    at,
    mode,
    flags,
    NBD_REPLY_TYPE_OFFSET_DATA,
    cookieHigh,
    cookieLow,
    requestOffset,
    dataLength + 8,
  )
  putUint64(view, at + header, dataOffset)
  return header + 8
}

/**
 * A chunk that says `holeLength` > 0 bytes read as zeros.
 *
 * @param holeLength below 2^32: the length has 32 bits in both forms @returns 32 or 44
 */
export function putHoleChunk(
  view: DataView,
  at: number,
  mode: ReplyMode,
  flags: number,
  cookieHigh: number,
  cookieLow: number,
  requestOffset: number,
  holeOffset: number,
  holeLength: number,
): number {
  const header = putChunk(
    view,
    at,
    mode,
    flags,
    NBD_REPLY_TYPE_OFFSET_HOLE,
    cookieHigh,
    cookieLow,
    requestOffset,
    12,
  )
  putUint64(view, at + header, holeOffset)
  view.setUint32(at + header + 8, holeLength)
  return header + 12
}

/** Success without content: a chunk NONE with DONE. @returns 20 or 32 */
export function putNoneChunk(
  view: DataView,
  at: number,
  mode: ReplyMode,
  cookieHigh: number,
  cookieLow: number,
  requestOffset: number,
): number {
  return putChunk(
    view,
    at,
    mode,
    NBD_REPLY_FLAG_DONE,
    NBD_REPLY_TYPE_NONE,
    cookieHigh,
    cookieLow,
    requestOffset,
    0,
  )
}

/**
 * The last chunk of a failed request: error, text, and the bad offset where `badOffset` >= 0.
 *
 * @param error not 0
 * @param text UTF-8; at most 255 bytes of it are sent: qemu's client treats any payload other than
 *        data above 1000 bytes as fatal
 */
export function putErrorChunk(
  view: DataView,
  at: number,
  mode: ReplyMode,
  cookieHigh: number,
  cookieLow: number,
  requestOffset: number,
  error: number,
  text: Uint8Array,
  badOffset: number,
): number {
  const textLength = Math.min(text.length, NBD_MAX_ERROR_TEXT_BYTES)
  const withOffset = badOffset >= 0
  const payloadLength = 6 + textLength + (withOffset ? 8 : 0)
  const header = putChunk(
    view,
    at,
    mode,
    NBD_REPLY_FLAG_DONE,
    withOffset ? NBD_REPLY_TYPE_ERROR_OFFSET : NBD_REPLY_TYPE_ERROR,
    cookieHigh,
    cookieLow,
    requestOffset,
    payloadLength,
  )
  view.setUint32(at + header, error)
  view.setUint16(at + header + 4, textLength)
  const textAt = at + header + 6
  for (let i = 0; i < textLength; i += 1) view.setUint8(textAt + i, text[i] ?? 0)
  if (withOffset) putUint64(view, textAt + textLength, badOffset)
  return header + payloadLength
}

/**
 * The reply that says a request other than READ or BLOCK_STATUS succeeded: simple in both compact
 * modes, as other servers do, a chunk with extended headers. @returns 16 or 32
 */
export function putSuccess(
  view: DataView,
  at: number,
  mode: ReplyMode,
  cookieHigh: number,
  cookieLow: number,
  requestOffset: number,
): number {
  return mode === 'extended'
    ? putNoneChunk(view, at, mode, cookieHigh, cookieLow, requestOffset)
    : putSimpleReply(view, at, 0, cookieHigh, cookieLow)
}

/**
 * The reply that says a request failed: simple without text in simple mode, an error chunk else.
 * `view` needs room for LONGEST_ERROR_CHUNK_BYTES. @returns bytes written
 */
export function putFailure(
  view: DataView,
  at: number,
  mode: ReplyMode,
  cookieHigh: number,
  cookieLow: number,
  requestOffset: number,
  error: number,
  text: Uint8Array,
  badOffset: number,
): number {
  return mode === 'simple'
    ? putSimpleReply(view, at, error, cookieHigh, cookieLow)
    : putErrorChunk(view, at, mode, cookieHigh, cookieLow, requestOffset, error, text, badOffset)
}

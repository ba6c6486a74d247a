// SPDX-License-Identifier: MIT
/**
 * Headers of requests, compact (28 bytes) and extended (32 bytes).
 *
 *     offset  compact            extended
 *      0      u32 0x25609513     u32 0x21e41c71
 *      4      u16 command flags  u16 command flags
 *      6      u16 command        u16 command
 *      8      u64 cookie         u64 cookie
 *     16      u64 offset         u64 offset
 *     24      u32 length         u64 length (of the payload if PAYLOAD_LEN is set, else of the effect)
 *
 * Leaves:   what the values mean (validate.ts).
 * Promises: decoding into a reused header allocates nothing.
 */
import { NBD_EXTENDED_REQUEST_MAGIC, NBD_REQUEST_MAGIC } from './constants.js'
import type { ReplyMode } from './types.js'

export const COMPACT_REQUEST_BYTES = 28
export const EXTENDED_REQUEST_BYTES = 32

/** 64-bit fields in two halves: the cookie goes back bit for bit, see `toNumber` for the others. */
export class RequestHeader {
  flags = 0
  command = 0
  cookieHigh = 0
  cookieLow = 0
  offsetHigh = 0
  offsetLow = 0
  lengthHigh = 0
  lengthLow = 0
}

export function requestBytesOf(mode: ReplyMode): number {
  return mode === 'extended' ? EXTENDED_REQUEST_BYTES : COMPACT_REQUEST_BYTES
}

/** Any other magic ends the connection; judge it as soon as its 4 bytes are there. */
export function requestMagicOf(mode: ReplyMode): number {
  return mode === 'extended' ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC
}

/**
 * Decodes the header at `at`, whichever form its magic says.
 *
 * All bytes of the header must be there. @returns its size, 28 or 32, or 0 when the magic is that
 * of neither; compare it with `requestBytesOf` of the negotiated mode.
 */
export function decodeRequest(view: DataView, at: number, into: RequestHeader): number {
  const magic = view.getUint32(at)
  const extended = magic === NBD_EXTENDED_REQUEST_MAGIC
  if (!extended && magic !== NBD_REQUEST_MAGIC) return 0
  into.flags = view.getUint16(at + 4)
  into.command = view.getUint16(at + 6)
  into.cookieHigh = view.getUint32(at + 8)
  into.cookieLow = view.getUint32(at + 12)
  into.offsetHigh = view.getUint32(at + 16)
  into.offsetLow = view.getUint32(at + 20)
  into.lengthHigh = extended ? view.getUint32(at + 24) : 0
  into.lengthLow = view.getUint32(extended ? at + 28 : at + 24)
  return extended ? EXTENDED_REQUEST_BYTES : COMPACT_REQUEST_BYTES
}

/** @returns bytes written, 28 or 32; a compact header cannot carry `lengthHigh` */
export function encodeRequest(
  view: DataView,
  at: number,
  mode: ReplyMode,
  header: RequestHeader,
): number {
  view.setUint32(at, requestMagicOf(mode))
  view.setUint16(at + 4, header.flags)
  view.setUint16(at + 6, header.command)
  view.setUint32(at + 8, header.cookieHigh)
  view.setUint32(at + 12, header.cookieLow)
  view.setUint32(at + 16, header.offsetHigh)
  view.setUint32(at + 20, header.offsetLow)
  if (mode === 'extended') {
    view.setUint32(at + 24, header.lengthHigh)
    view.setUint32(at + 28, header.lengthLow)
    return EXTENDED_REQUEST_BYTES
  }
  if (header.lengthHigh !== 0) throw new RangeError('a compact request is at most 2^32 - 1 long')
  view.setUint32(at + 24, header.lengthLow)
  return COMPACT_REQUEST_BYTES
}

// SPDX-License-Identifier: MIT
/**
 * Strings of the wire: UTF-8 with a length in front, no NUL, at most 4096 bytes.
 *
 * Owns:     the strict decoding of names, cutting at whole characters, and the escaped, shortened
 *           form in which a peer's bytes may appear in a log line or an error text.
 * Promises: decoding is exact both ways (a byte order mark stays), so that comparing decoded names
 *           is comparing their bytes; malformed UTF-8 decodes to nothing.
 */

const encoder = new TextEncoder()
const strictDecoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const lenientDecoder = new TextDecoder('utf-8', { fatal: false, ignoreBOM: true })

/** bytes of a peer's data that may appear in a log line or error text */
export const QUOTED_BYTES_MAX = 80

export const NO_BYTES: Uint8Array = new Uint8Array(0)

export function encodeText(text: string): Uint8Array {
  return encoder.encode(text)
}

/** @returns the text, or `undefined` where the bytes are not UTF-8 */
export function decodeText(bytes: Uint8Array): string | undefined {
  try {
    return strictDecoder.decode(bytes)
  } catch {
    return undefined
  }
}

/** Text of a peer for people to read: what is malformed becomes U+FFFD. */
export function decodeLenientText(bytes: Uint8Array): string {
  return lenientDecoder.decode(bytes)
}

/** The text in UTF-8, cut after the last whole character that fits into `maxBytes`. */
export function clipText(text: string, maxBytes: number): Uint8Array {
  const bytes = encoder.encode(text.length > maxBytes ? text.slice(0, maxBytes) : text)
  if (bytes.length <= maxBytes) return bytes
  let end = maxBytes
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1
  return bytes.subarray(0, end)
}

/**
 * A peer's string in quotes, for logs and error texts: at most 80 of its bytes, printable ASCII as
 * it is, everything else as `\xNN`, and "…" for what was cut.
 */
export function quoteText(text: string | Uint8Array): string {
  const bytes = typeof text === 'string' ? clipText(text, QUOTED_BYTES_MAX + 4) : text
  let quoted = '"'
  for (let i = 0; i < bytes.length && i < QUOTED_BYTES_MAX; i += 1) {
    const byte = bytes[i] ?? 0
    const plain = byte >= 0x20 && byte < 0x7f && byte !== 0x22 && byte !== 0x5c
    quoted += plain ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, '0')}`
  }
  return `${quoted}"${bytes.length > QUOTED_BYTES_MAX ? '…' : ''}`
}

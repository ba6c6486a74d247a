// SPDX-License-Identifier: MIT
/**
 * Options of the client and the replies to them, byte for byte.
 *
 * Owns:     framing of options and replies, and the syntax of the data of INFO, GO and the two
 *           META_CONTEXT options.
 * Leaves:   what an option means and which reply it gets (handshake.ts).
 * Promises: parsing stays inside the option's data; every inner length is checked against what is
 *           left, counts are never believed, trailing bytes are refused. Nothing is allocated by a
 *           number the client sent.
 */
import { ByteWriter } from './byte-writer.js'
import {
  NBD_MAX_ERROR_TEXT_BYTES,
  NBD_MAX_STRING_BYTES,
  NBD_OPTION_MAGIC_HIGH,
  NBD_OPTION_MAGIC_LOW,
  NBD_OPTION_REPLY_MAGIC_HIGH,
  NBD_OPTION_REPLY_MAGIC_LOW,
} from './constants.js'
import { NO_BYTES, clipText, encodeText } from './text.js'

/** magic, option, length of the data */
export const OPTION_HEADER_BYTES = 16
/** magic, option, reply type, length of the payload */
export const OPTION_REPLY_HEADER_BYTES = 20

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** Name and information types of NBD_OPT_INFO and NBD_OPT_GO. */
export interface InfoRequest {
  readonly name: Uint8Array
  /** asked for NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE */
  readonly types: ReadonlySet<number>
}

/** Export name and queries of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. */
export interface MetaContextRequest {
  readonly name: Uint8Array
  readonly queryCount: number
  /** where in the option's data the first query's length stands */
  readonly queriesAt: number
}

/** A name of the wire: not longer than 4096 bytes, and without NUL. */
export function isName(bytes: Uint8Array): boolean {
  return bytes.length <= NBD_MAX_STRING_BYTES && !bytes.includes(0)
}

/** @returns `undefined` where the data is malformed */
export function parseInfoRequest(data: Uint8Array): InfoRequest | undefined {
  const name = parseLeadingName(data)
  if (name === undefined) return undefined
  const at = 4 + name.length
  if (data.length - at < 2) return undefined
  const view = viewOf(data)
  const count = view.getUint16(at)
  if (data.length - at - 2 !== count * 2) return undefined
  const types = new Set<number>()
  for (let i = 0; i < count; i += 1) types.add(view.getUint16(at + 2 + i * 2))
  return { name, types }
}

/** @returns `undefined` where the data is malformed */
export function parseMetaContextRequest(data: Uint8Array): MetaContextRequest | undefined {
  const name = parseLeadingName(data)
  if (name === undefined) return undefined
  const at = 4 + name.length
  if (data.length - at < 4) return undefined
  const view = viewOf(data)
  const queryCount = view.getUint32(at)
  let next = at + 4
  for (let i = 0; i < queryCount; i += 1) {
    if (data.length - next < 4) return undefined
    const length = view.getUint32(next)
    if (length > data.length - next - 4) return undefined
    next += 4 + length
  }
  if (next !== data.length) return undefined
  return { name, queryCount, queriesAt: at + 4 }
}

/** Walks the queries of a parsed request: `data[start … end - 1]` is one query. */
export function forEachQuery(
  data: Uint8Array,
  request: MetaContextRequest,
  visit: (start: number, end: number) => void,
): void {
  const view = viewOf(data)
  let at = request.queriesAt
  for (let i = 0; i < request.queryCount; i += 1) {
    const end = at + 4 + view.getUint32(at)
    visit(at + 4, end)
    at = end
  }
}

function parseLeadingName(data: Uint8Array): Uint8Array | undefined {
  if (data.length < 4) return undefined
  const length = viewOf(data).getUint32(0)
  if (length > data.length - 4) return undefined
  const name = data.subarray(4, 4 + length)
  return isName(name) ? name : undefined
}

/** An option as a client sends it. */
export function encodeOption(option: number, data: Uint8Array = NO_BYTES): Uint8Array {
  return new ByteWriter()
    .uint32(NBD_OPTION_MAGIC_HIGH)
    .uint32(NBD_OPTION_MAGIC_LOW)
    .uint32(option)
    .uint32(data.length)
    .bytes(data)
    .finish()
}

/** Data of NBD_OPT_INFO and NBD_OPT_GO. */
export function encodeInfoRequest(name: string, types: readonly number[]): Uint8Array {
  const nameBytes = encodeText(name)
  const writer = new ByteWriter().uint32(nameBytes.length).bytes(nameBytes).uint16(types.length)
  for (const type of types) writer.uint16(type)
  return writer.finish()
}

/** Data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. */
export function encodeMetaContextRequest(name: string, queries: readonly string[]): Uint8Array {
  const nameBytes = encodeText(name)
  const writer = new ByteWriter().uint32(nameBytes.length).bytes(nameBytes).uint32(queries.length)
  for (const query of queries) {
    const bytes = encodeText(query)
    writer.uint32(bytes.length).bytes(bytes)
  }
  return writer.finish()
}

/** Appends one reply to an option. */
export function putOptionReply(
  writer: ByteWriter,
  option: number,
  type: number,
  payload: Uint8Array = NO_BYTES,
): ByteWriter {
  return writer
    .uint32(NBD_OPTION_REPLY_MAGIC_HIGH)
    .uint32(NBD_OPTION_REPLY_MAGIC_LOW)
    .uint32(option)
    .uint32(type)
    .uint32(payload.length)
    .bytes(payload)
}

/**
 * An error reply. The text ends in a full stop, because nbd-client overwrites the last byte of what
 * it receives; it is cut to 255 bytes.
 */
export function encodeOptionError(option: number, type: number, text: string): Uint8Array {
  const body = clipText(text.replace(/\.$/, ''), NBD_MAX_ERROR_TEXT_BYTES - 1)
  const payload = new ByteWriter().bytes(body).bytes(encodeText('.')).finish()
  return putOptionReply(new ByteWriter(), option, type, payload).finish()
}

/** Header of one option reply; `undefined` when the magic is wrong. All 20 bytes must be there. */
export function decodeOptionReplyHeader(
  view: DataView,
  at: number,
): { readonly option: number; readonly type: number; readonly length: number } | undefined {
  if (view.getUint32(at) !== NBD_OPTION_REPLY_MAGIC_HIGH) return undefined
  if (view.getUint32(at + 4) !== NBD_OPTION_REPLY_MAGIC_LOW) return undefined
  return {
    option: view.getUint32(at + 8),
    type: view.getUint32(at + 12),
    length: view.getUint32(at + 16),
  }
}

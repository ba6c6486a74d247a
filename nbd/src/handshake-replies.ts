// SPDX-License-Identifier: MIT
/** What the server says in the option phase, as bytes; every reply to one option in one piece. */
import { ByteWriter } from './byte-writer.js'
import {
  NBD_EXPORT_NAME_PADDING_BYTES,
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_EXPORT,
  NBD_INFO_NAME,
  NBD_MAX_STRING_BYTES,
  NBD_OPT_LIST,
  NBD_REP_ACK,
  NBD_REP_ERR_INVALID,
  NBD_REP_INFO,
  NBD_REP_META_CONTEXT,
  NBD_REP_SERVER,
} from './constants.js'
import type { ListedExport } from './handshake-policy.js'
import { optionName } from './names.js'
import { encodeOptionError, putOptionReply } from './option-codec.js'
import { clipText, encodeText } from './text.js'
import type { ExportInfo, SelectedContext } from './types.js'

/** nbd-client stops at texts of 1024 bytes and more */
const DESCRIPTION_BYTES_MAX = 1023

export function acknowledge(option: number): Uint8Array {
  return putOptionReply(new ByteWriter(), option, NBD_REP_ACK).finish()
}

export function refuse(option: number, type: number, text: string): { output: Uint8Array } {
  return { output: encodeOptionError(option, type, text) }
}

export function refuseData(option: number): { output: Uint8Array } {
  return refuse(option, NBD_REP_ERR_INVALID, `${optionName(option)} takes no data`)
}

/**
 * Replies of INFO and GO: export and block sizes always, name and description only when asked,
 * because nbd-client loses its place over long information it did not ask for.
 */
export function encodeInfo(
  option: number,
  info: ExportInfo,
  flags: number,
  types: ReadonlySet<number>,
): Uint8Array {
  const writer = new ByteWriter()
  const put = (payload: ByteWriter): void => {
    putOptionReply(writer, option, NBD_REP_INFO, payload.finish())
  }
  put(new ByteWriter().uint16(NBD_INFO_EXPORT).uint64(info.sizeBytes).uint16(flags))
  put(
    new ByteWriter()
      .uint16(NBD_INFO_BLOCK_SIZE)
      .uint32(info.blockSizes.minimum)
      .uint32(info.blockSizes.preferred)
      .uint32(info.blockSizes.maximum),
  )
  if (types.has(NBD_INFO_NAME)) {
    put(new ByteWriter().uint16(NBD_INFO_NAME).bytes(encodeText(info.canonicalName)))
  }
  if (types.has(NBD_INFO_DESCRIPTION) && info.description) {
    const text = clipText(info.description, DESCRIPTION_BYTES_MAX)
    put(new ByteWriter().uint16(NBD_INFO_DESCRIPTION).bytes(text))
  }
  return putOptionReply(writer, option, NBD_REP_ACK).finish()
}

/** The names of all exports, with their descriptions behind them. */
export function encodeList(exports: readonly ListedExport[]): Uint8Array {
  const writer = new ByteWriter()
  for (const listed of exports) {
    const name = encodeText(listed.name)
    if (name.length > NBD_MAX_STRING_BYTES) continue
    const payload = new ByteWriter()
      .uint32(name.length)
      .bytes(name)
      .bytes(clipText(listed.description ?? '', DESCRIPTION_BYTES_MAX))
    putOptionReply(writer, NBD_OPT_LIST, NBD_REP_SERVER, payload.finish())
  }
  return putOptionReply(writer, NBD_OPT_LIST, NBD_REP_ACK).finish()
}

/** @param selects ids are told to who selects contexts, and 0 to who lists them */
export function encodeContexts(
  option: number,
  contexts: readonly SelectedContext[],
  selects: boolean,
): Uint8Array {
  const writer = new ByteWriter()
  for (const { id, name } of contexts) {
    const payload = new ByteWriter().uint32(selects ? id : 0).bytes(encodeText(name))
    putOptionReply(writer, option, NBD_REP_META_CONTEXT, payload.finish())
  }
  return putOptionReply(writer, option, NBD_REP_ACK).finish()
}

/** The answer to EXPORT_NAME, which has no form for an error. */
export function encodeExportName(info: ExportInfo, flags: number, withZeroes: boolean): Uint8Array {
  return new ByteWriter()
    .uint64(info.sizeBytes)
    .uint16(flags)
    .zeros(withZeroes ? NBD_EXPORT_NAME_PADDING_BYTES : 0)
    .finish()
}

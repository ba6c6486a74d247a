// SPDX-License-Identifier: MIT
/**
 * What a server decides during negotiation, and what comes out of it.
 *
 * The callbacks are synchronous and must not open or change anything, except `enter`, which is
 * asked when the client is about to get the export.
 */
import {
  NBD_FLAG_BLOCK_STATUS_PAYLOAD,
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_ROTATIONAL,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_DF,
  NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
} from './constants.js'
import type { ExportInfo, ReplyMode, SelectedContext } from './types.js'

/** The negotiation as the callbacks see it. */
export interface HandshakeSession {
  /** the connection is encrypted */
  readonly tls: boolean
  readonly mode: ReplyMode
  /** contexts selected so far */
  readonly contexts: readonly SelectedContext[]
}

/**
 * Why a client does not get an export. `unknown`: no such name. `policy`: it exists, but not for
 * this client or not now. `tls-required`: only after STARTTLS. The text goes to the client.
 */
export interface Refusal {
  readonly kind: 'unknown' | 'policy' | 'tls-required' | 'shutting-down'
  readonly text: string
}

export interface FoundExport<E> {
  readonly export: E
  readonly info: ExportInfo
}

export interface ListedExport {
  readonly name: string
  readonly description?: string | undefined
}

/**
 * off: STARTTLS is refused. require: nothing but STARTTLS and ABORT works before TLS.
 * selective: `findExport` and `listExports` decide by `session.tls`; before TLS an unknown name and
 * one that needs TLS get the same answer, so that names cannot be probed.
 */
export type TlsMode = 'off' | 'require' | 'selective'

/** @typeParam E what the server means by an export; the handshake only hands it through */
export interface HandshakePolicy<E> {
  readonly tls: TlsMode
  /** default true */
  readonly allowStructured?: boolean
  /** default true */
  readonly allowExtended?: boolean
  /** asked at every option */
  readonly shuttingDown?: boolean
  /** options of one connection, above which it is closed; default 1000 */
  readonly maxOptions?: number
  /** The visible exports, or `refused` when listing is switched off. */
  listExports(session: HandshakeSession): readonly ListedExport[] | 'refused'
  /** The export of a name; the empty name is the default export. Names compare exactly. */
  findExport(name: string, session: HandshakeSession): FoundExport<E> | Refusal
  /** Full names of the metadata contexts of an export, best first. */
  contextsOf(found: E, session: HandshakeSession): readonly string[]
  /**
   * A client is about to enter transmission on the export. `wait`: not yet; the handshake stands
   * still until `proceed`, which asks again.
   */
  enter(found: E, name: string, session: HandshakeSession): 'enter' | 'wait' | Refusal
}

/** What a client and the server agreed upon. */
export interface NegotiatedSession<E> {
  /** as the client asked for it; may be empty */
  readonly exportName: string
  readonly export: E
  readonly info: ExportInfo
  readonly mode: ReplyMode
  readonly contexts: readonly SelectedContext[]
  readonly transmissionFlags: number
  readonly noZeroes: boolean
  readonly viaExportName: boolean
  readonly tls: boolean
}

export type HandshakeEnd<E> =
  | { readonly kind: 'transmission'; readonly result: NegotiatedSession<E> }
  /** graceful: send what is queued, then FIN, then drop what comes; else close at once */
  | { readonly kind: 'close'; readonly graceful: boolean; readonly reason: string }
  /** send `output`, then do the TLS handshake, then call `secured` */
  | { readonly kind: 'starttls' }

export interface HandshakeStep<E> {
  /** bytes the handshake is done with; present the others again, with more behind them */
  readonly consumed: number
  /** to be sent in one write; all replies to one option are in one piece */
  readonly output: Uint8Array
  readonly done?: HandshakeEnd<E>
}

/**
 * The 16 transmission flags of an export in a mode.
 *
 * @param withStatusPayload BLOCK_STATUS may carry a choice of contexts (extended mode only)
 */
export function transmissionFlagsOf(
  info: ExportInfo,
  mode: ReplyMode,
  withStatusPayload: boolean,
): number {
  let flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE
  flags |= info.readOnly
    ? NBD_FLAG_READ_ONLY
    : NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO
  if (info.rotational === true) flags |= NBD_FLAG_ROTATIONAL
  if (info.multiConn) flags |= NBD_FLAG_CAN_MULTI_CONN
  if (mode !== 'simple') flags |= NBD_FLAG_SEND_DF
  if (mode === 'extended' && withStatusPayload) flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD
  return flags
}

// SPDX-License-Identifier: MIT
/**
 * The client's side of negotiation: one goal, asked for in the order real clients use.
 *
 * Owns:     flags, STARTTLS, extended headers or structured replies with fallback, contexts, and
 *           then GO (EXPORT_NAME where the server has no GO), INFO or LIST.
 * Leaves:   sockets and TLS. Promises: what a server sends is bounded and checked; a server that
 *           breaks the protocol gets a ProtocolError.
 */
import { ByteWriter } from './byte-writer.js'
import {
  NBD_EXPORT_NAME_PADDING_BYTES,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_EXPORT,
  NBD_INFO_NAME,
  NBD_MAGIC_HIGH,
  NBD_MAGIC_LOW,
  NBD_MAX_DROPPED_OPTION_BYTES,
  NBD_OPTION_MAGIC_HIGH,
  NBD_OPTION_MAGIC_LOW,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_EXTENDED_HEADERS,
  NBD_OPT_GO,
  NBD_OPT_INFO,
  NBD_OPT_LIST,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STARTTLS,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_ERR_UNSUP,
  NBD_REP_FLAG_ERROR,
  NBD_REP_INFO,
  NBD_REP_META_CONTEXT,
  NBD_REP_SERVER,
} from './constants.js'
import { ProtocolError } from './errors.js'
import { optionName, optionReplyName } from './names.js'
import {
  OPTION_REPLY_HEADER_BYTES,
  decodeOptionReplyHeader,
  encodeInfoRequest,
  encodeMetaContextRequest,
  encodeOption,
  viewOf,
} from './option-codec.js'
import { NO_BYTES, decodeLenientText, encodeText } from './text.js'
import type { BlockSizes, ReplyMode, SelectedContext } from './types.js'
import { getUint64 } from './uint64.js'

/** replies one option may get */
const REPLIES_MAX = 65536
/** and bytes in all of them */
const REPLY_BYTES_MAX = 33554432

export interface ClientGoal {
  readonly exportName: string
  /** go: enter transmission. info: only ask. list: ask for all names. export-name: the old way. */
  readonly use: 'go' | 'info' | 'list' | 'export-name'
  /** STARTTLS first */
  readonly tls?: boolean
  /** try extended headers; default true */
  readonly extended?: boolean
  /** try structured replies (where extended headers are refused); default true */
  readonly structured?: boolean
  /** metadata contexts to select, full names */
  readonly contexts?: readonly string[]
  /** what to ask for with INFO and GO; default NBD_INFO_BLOCK_SIZE */
  readonly infoTypes?: readonly number[]
  /** default both */
  readonly clientFlags?: number
}

/** What the server told. */
export interface ClientSession {
  mode: ReplyMode
  contexts: SelectedContext[]
  sizeBytes: number
  transmissionFlags: number
  blockSizes: BlockSizes | undefined
  canonicalName: string | undefined
  description: string | undefined
  /** replies to LIST */
  exports: { name: string; description: string }[]
}

export type ClientEnd =
  /** transmission for go and export-name; the answer alone for info and list */
  | { readonly kind: 'ready'; readonly session: ClientSession }
  | { readonly kind: 'starttls' }
  | {
      readonly kind: 'refused'
      readonly option: number
      readonly error: number
      readonly text: string
    }

export interface ClientStep {
  readonly consumed: number
  readonly output: Uint8Array
  readonly done?: ClientEnd
}

export class ClientHandshake {
  readonly #goal: ClientGoal
  readonly #session: ClientSession = {
    mode: 'simple',
    contexts: [],
    sizeBytes: 0,
    transmissionFlags: 0,
    blockSizes: undefined,
    canonicalName: undefined,
    description: undefined,
    exports: [],
  }
  #state: 'greeting' | 'option' | 'export-name' | 'starttls' | 'done' = 'greeting'
  #option = 0
  #replyCount = 0
  #replyBytes = 0
  #infoSeen = false
  #noZeroes = false

  constructor(goal: ClientGoal) {
    this.#goal = goal
  }

  get state(): string {
    return this.#state === 'option' ? optionName(this.#option) : this.#state
  }

  /** As `ServerHandshake.receive`: at most one message of the server per call. */
  receive(bytes: Uint8Array): ClientStep {
    switch (this.#state) {
      case 'greeting':
        return this.#greeting(bytes)
      case 'option':
        return this.#reply(bytes)
      case 'export-name':
        return this.#exportNameAnswer(bytes)
      default:
        return { consumed: 0, output: NO_BYTES }
    }
  }

  /** TLS is up; send `output`. */
  secured(): ClientStep {
    if (this.#state !== 'starttls') throw new Error(`no TLS expected in state ${this.#state}`)
    return { consumed: 0, ...this.#afterTls() }
  }

  #greeting(bytes: Uint8Array): ClientStep {
    if (bytes.length < 18) return { consumed: 0, output: NO_BYTES }
    const view = viewOf(bytes)
    const newstyle =
      view.getUint32(0) === NBD_MAGIC_HIGH &&
      view.getUint32(4) === NBD_MAGIC_LOW &&
      view.getUint32(8) === NBD_OPTION_MAGIC_HIGH &&
      view.getUint32(12) === NBD_OPTION_MAGIC_LOW
    if (!newstyle) throw new ProtocolError('GREETING', 'the server does not speak newstyle NBD')
    const offered = view.getUint16(16)
    const wanted = this.#goal.clientFlags ?? NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES
    const known = offered & (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)
    const flags = wanted & known
    this.#noZeroes = (flags & NBD_FLAG_C_NO_ZEROES) !== 0
    const first = this.#goal.tls === true ? this.#ask(NBD_OPT_STARTTLS) : this.#afterTls()
    const output = new ByteWriter().uint32(flags).bytes(first.output).finish()
    return { ...first, consumed: 18, output }
  }

  #ask(option: number, data: Uint8Array = NO_BYTES): { output: Uint8Array } {
    this.#state = option === NBD_OPT_EXPORT_NAME ? 'export-name' : 'option'
    this.#option = option
    this.#replyCount = 0
    this.#replyBytes = 0
    return { output: encodeOption(option, data) }
  }

  #afterTls(): { output: Uint8Array } {
    const { use, extended, structured } = this.#goal
    if (use === 'list') return this.#ask(NBD_OPT_LIST)
    if (extended !== false && use !== 'export-name') return this.#ask(NBD_OPT_EXTENDED_HEADERS)
    return structured === false ? this.#afterMode() : this.#ask(NBD_OPT_STRUCTURED_REPLY)
  }

  #afterMode(): { output: Uint8Array } {
    const { contexts, exportName } = this.#goal
    if (this.#session.mode === 'simple' || contexts === undefined || contexts.length === 0) {
      return this.#afterContexts()
    }
    return this.#ask(NBD_OPT_SET_META_CONTEXT, encodeMetaContextRequest(exportName, contexts))
  }

  #afterContexts(): { output: Uint8Array } {
    const { exportName, use, infoTypes } = this.#goal
    if (use === 'export-name') return this.#ask(NBD_OPT_EXPORT_NAME, encodeText(exportName))
    const data = encodeInfoRequest(exportName, infoTypes ?? [NBD_INFO_BLOCK_SIZE])
    return this.#ask(use === 'info' ? NBD_OPT_INFO : NBD_OPT_GO, data)
  }

  #reply(bytes: Uint8Array): ClientStep {
    if (bytes.length < OPTION_REPLY_HEADER_BYTES) return { consumed: 0, output: NO_BYTES }
    const header = decodeOptionReplyHeader(viewOf(bytes), 0)
    if (header?.option !== this.#option) {
      throw new ProtocolError('OPTION_REPLY', `this is no reply to ${optionName(this.#option)}`)
    }
    const long = header.length > NBD_MAX_DROPPED_OPTION_BYTES
    const endless = this.#replyCount >= REPLIES_MAX || this.#replyBytes > REPLY_BYTES_MAX
    if (long || endless) {
      throw new ProtocolError('OPTION_REPLY', `${optionName(this.#option)}: endless reply`)
    }
    const consumed = OPTION_REPLY_HEADER_BYTES + header.length
    if (bytes.length < consumed) return { consumed: 0, output: NO_BYTES }
    this.#replyCount += 1
    this.#replyBytes += consumed
    const payload = bytes.subarray(OPTION_REPLY_HEADER_BYTES, consumed)
    if (header.type >= NBD_REP_FLAG_ERROR) {
      return { consumed, ...this.#refused(header.type, decodeLenientText(payload)) }
    }
    if (header.type === NBD_REP_ACK) return { consumed, ...this.#acknowledged() }
    this.#content(header.type, payload)
    return { consumed, output: NO_BYTES }
  }

  /** Fallbacks: without extended headers, without structured replies, without GO. */
  #refused(error: number, text: string): { output: Uint8Array; done?: ClientEnd } {
    const option = this.#option
    if (option === NBD_OPT_EXTENDED_HEADERS) {
      return this.#goal.structured === false
        ? this.#afterMode()
        : this.#ask(NBD_OPT_STRUCTURED_REPLY)
    }
    if (option === NBD_OPT_STRUCTURED_REPLY) return this.#afterMode()
    if (option === NBD_OPT_SET_META_CONTEXT) {
      this.#session.contexts = []
      return this.#afterContexts()
    }
    if (option === NBD_OPT_GO && error === NBD_REP_ERR_UNSUP && this.#session.mode !== 'extended') {
      return this.#ask(NBD_OPT_EXPORT_NAME, encodeText(this.#goal.exportName))
    }
    this.#state = 'done'
    return { output: NO_BYTES, done: { kind: 'refused', option, error, text } }
  }

  #acknowledged(): { output: Uint8Array; done?: ClientEnd } {
    switch (this.#option) {
      case NBD_OPT_STARTTLS:
        this.#state = 'starttls'
        return { output: NO_BYTES, done: { kind: 'starttls' } }
      case NBD_OPT_EXTENDED_HEADERS:
        this.#session.mode = 'extended'
        return this.#afterMode()
      case NBD_OPT_STRUCTURED_REPLY:
        this.#session.mode = 'structured'
        return this.#afterMode()
      case NBD_OPT_SET_META_CONTEXT:
        return this.#afterContexts()
      default:
        if (this.#option !== NBD_OPT_LIST && !this.#infoSeen) {
          throw new ProtocolError('OPTION_REPLY', 'the server told no size')
        }
        return this.#ready()
    }
  }

  #ready(): { output: Uint8Array; done: ClientEnd } {
    this.#state = 'done'
    return { output: NO_BYTES, done: { kind: 'ready', session: this.#session } }
  }

  #content(type: number, payload: Uint8Array): void {
    const view = viewOf(payload)
    if (type === NBD_REP_INFO && payload.length >= 2) {
      this.#info(view.getUint16(0), payload.subarray(2))
    } else if (type === NBD_REP_SERVER && payload.length >= 4) {
      const end = 4 + view.getUint32(0)
      if (end > payload.length) throw new ProtocolError('OPTION_REPLY', 'malformed export name')
      this.#session.exports.push({
        name: decodeLenientText(payload.subarray(4, end)),
        description: decodeLenientText(payload.subarray(end)),
      })
    } else if (type === NBD_REP_META_CONTEXT && payload.length >= 4) {
      const name = decodeLenientText(payload.subarray(4))
      this.#session.contexts.push({ id: view.getUint32(0), name })
    } else {
      const name = optionReplyName(type)
      throw new ProtocolError('OPTION_REPLY', `${name} in reply to ${optionName(this.#option)}`)
    }
  }

  #info(type: number, payload: Uint8Array): void {
    const view = viewOf(payload)
    if (type === NBD_INFO_EXPORT && payload.length === 10) {
      this.#setSize(getUint64(view, 0), view.getUint16(8))
    } else if (type === NBD_INFO_BLOCK_SIZE && payload.length === 12) {
      this.#session.blockSizes = {
        minimum: view.getUint32(0),
        preferred: view.getUint32(4),
        maximum: view.getUint32(8),
      }
    } else if (type === NBD_INFO_NAME) {
      this.#session.canonicalName = decodeLenientText(payload)
    } else if (type === NBD_INFO_DESCRIPTION) {
      this.#session.description = decodeLenientText(payload)
    } else if (type === NBD_INFO_EXPORT || type === NBD_INFO_BLOCK_SIZE) {
      throw new ProtocolError('OPTION_REPLY', `information ${type} of ${payload.length} bytes`)
    }
  }

  #setSize(sizeBytes: number, transmissionFlags: number): void {
    if (sizeBytes === Infinity) {
      throw new ProtocolError('EXPORT_SIZE', 'the export has 2^53 bytes or more')
    }
    this.#session.sizeBytes = sizeBytes
    this.#session.transmissionFlags = transmissionFlags
    this.#infoSeen = true
  }

  #exportNameAnswer(bytes: Uint8Array): ClientStep {
    const consumed = this.#noZeroes ? 10 : 10 + NBD_EXPORT_NAME_PADDING_BYTES
    if (bytes.length < consumed) return { consumed: 0, output: NO_BYTES }
    const view = viewOf(bytes)
    this.#setSize(getUint64(view, 0), view.getUint16(8))
    return { consumed, ...this.#ready() }
  }
}

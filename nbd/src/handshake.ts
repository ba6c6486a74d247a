// SPDX-License-Identifier: MIT
/**
 * The server's side of negotiation: fixed newstyle, from the greeting to transmission.
 *
 * Owns:     the state of one connection's option phase, the order in which an option is judged, and
 *           the words of every refusal.
 * Leaves:   sockets, deadlines, TLS itself, and which exports exist (handshake-policy.ts).
 * Promises: nothing is buffered here; an option is judged when it is there as a whole (64 KiB and
 *           less) or dropped piece by piece (up to 1 MiB). What STARTTLS must make forgotten is
 *           forgotten. A peer can make it do bounded work per byte only.
 *
 * States:   greeting → client-flags → options ⇄ waiting → transmission; options ⇄ dropping;
 *           options → starttls → options; any → closed
 */
import { ByteWriter } from './byte-writer.js'
import {
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
  NBD_MAGIC_HIGH,
  NBD_MAGIC_LOW,
  NBD_MAX_CONTEXT_COUNT,
  NBD_MAX_DROPPED_OPTION_BYTES,
  NBD_MAX_OPTION_BYTES,
  NBD_MAX_OPTION_COUNT,
  NBD_OPTION_MAGIC_HIGH,
  NBD_OPTION_MAGIC_LOW,
  NBD_OPT_ABORT,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_EXTENDED_HEADERS,
  NBD_OPT_GO,
  NBD_OPT_INFO,
  NBD_OPT_LIST,
  NBD_OPT_LIST_META_CONTEXT,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STARTTLS,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ERR_EXT_HEADER_REQD,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_POLICY,
  NBD_REP_ERR_SHUTDOWN,
  NBD_REP_ERR_TLS_REQD,
  NBD_REP_ERR_TOO_BIG,
  NBD_REP_ERR_UNKNOWN,
  NBD_REP_ERR_UNSUP,
} from './constants.js'
import type {
  FoundExport,
  HandshakeEnd,
  HandshakePolicy,
  HandshakeSession,
  HandshakeStep,
  Refusal,
} from './handshake-policy.js'
import { transmissionFlagsOf } from './handshake-policy.js'
import {
  acknowledge,
  encodeContexts,
  encodeExportName,
  encodeInfo,
  encodeList,
  refuse,
  refuseData,
} from './handshake-replies.js'
import { matchContexts } from './meta-context.js'
import { optionName } from './names.js'
import {
  OPTION_HEADER_BYTES,
  isName,
  parseInfoRequest,
  parseMetaContextRequest,
  viewOf,
} from './option-codec.js'
import { NO_BYTES, decodeText, quoteText } from './text.js'
import type { ReplyMode, SelectedContext } from './types.js'

export type HandshakeState =
  | 'greeting'
  | 'client-flags'
  | 'options'
  | 'dropping'
  | 'waiting'
  | 'starttls'
  | 'transmission'
  | 'closed'

/** the same for an unknown name and one that needs TLS, so that names cannot be probed */
const TLS_TEXT = 'this export is not available without TLS'

/** What one option leads to, before the consumed bytes are counted. */
interface Answer<E> {
  readonly output: Uint8Array
  readonly done?: HandshakeEnd<E>
}

/** GO or EXPORT_NAME on its way. */
interface Entry {
  readonly option: number
  readonly name: string
  readonly types: ReadonlySet<number>
}

export class ServerHandshake<E> {
  readonly #policy: HandshakePolicy<E>
  #state: HandshakeState = 'greeting'
  #clientFlags = 0
  #tls = false
  #mode: ReplyMode = 'simple'
  #contexts: readonly SelectedContext[] = []
  /** name the contexts were selected for */
  #contextsName: string | undefined
  #optionCount = 0
  #dropOption = 0
  #dropBytes = 0
  #entry: Entry | undefined

  constructor(policy: HandshakePolicy<E>) {
    this.#policy = policy
  }

  /**
   * A handshake that goes on in another place after TLS was set up: there is no second greeting,
   * and the client's flags stay in force.
   */
  static secured<E>(policy: HandshakePolicy<E>, clientFlags: number): ServerHandshake<E> {
    const handshake = new ServerHandshake(policy)
    handshake.#clientFlags = clientFlags
    handshake.#tls = true
    handshake.#state = 'options'
    return handshake
  }

  get state(): HandshakeState {
    return this.#state
  }

  /** as the client sent them; 0 before */
  get clientFlags(): number {
    return this.#clientFlags
  }

  get session(): HandshakeSession {
    return { tls: this.#tls, mode: this.#mode, contexts: this.#contexts }
  }

  /** The first 18 bytes of the connection; call it once, before `receive`. */
  greeting(): Uint8Array {
    if (this.#state !== 'greeting') throw new Error(`no greeting in state ${this.#state}`)
    this.#state = 'client-flags'
    return new ByteWriter()
      .uint32(NBD_MAGIC_HIGH)
      .uint32(NBD_MAGIC_LOW)
      .uint32(NBD_OPTION_MAGIC_HIGH)
      .uint32(NBD_OPTION_MAGIC_LOW)
      .uint16(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)
      .finish()
  }

  /**
   * Takes at most one message from the front of `bytes`.
   *
   * Give it all the bytes that have arrived and are not consumed yet. When it consumed something
   * and is not done, call it again with the rest; when it consumed nothing, wait for more. The
   * caller must be able to hold 16 bytes + 64 KiB. In the states `waiting`, `starttls`,
   * `transmission` and `closed` it consumes nothing.
   */
  receive(bytes: Uint8Array): HandshakeStep<E> {
    switch (this.#state) {
      case 'client-flags':
        return this.#receiveClientFlags(bytes)
      case 'options':
        return this.#receiveOption(bytes)
      case 'dropping':
        return this.#drop(bytes)
      default:
        return { consumed: 0, output: NO_BYTES }
    }
  }

  /** Asks `enter` again after it said `wait`. */
  proceed(): HandshakeStep<E> {
    const entry = this.#entry
    if (this.#state !== 'waiting' || entry === undefined) {
      throw new Error(`nothing to proceed with in state ${this.#state}`)
    }
    this.#entry = undefined
    this.#state = 'options'
    const answer =
      this.#policy.shuttingDown === true ? this.#shutDown(entry.option) : this.#enter(entry)
    return { consumed: 0, ...answer }
  }

  /** TLS is up: everything negotiated so far is forgotten, except the client's flags. */
  secured(): void {
    if (this.#state !== 'starttls') throw new Error(`no TLS expected in state ${this.#state}`)
    this.#tls = true
    this.#mode = 'simple'
    this.#contexts = []
    this.#contextsName = undefined
    this.#state = 'options'
  }

  get #fixed(): boolean {
    return (this.#clientFlags & NBD_FLAG_C_FIXED_NEWSTYLE) !== 0
  }

  #receiveClientFlags(bytes: Uint8Array): HandshakeStep<E> {
    if (bytes.length < 4) return { consumed: 0, output: NO_BYTES }
    const flags = viewOf(bytes).getUint32(0)
    if (flags > (NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)) {
      return { consumed: 4, ...this.#close(false, `unknown client flags 0x${flags.toString(16)}`) }
    }
    this.#clientFlags = flags
    this.#state = 'options'
    return { consumed: 4, output: NO_BYTES }
  }

  /** Framing: magic, count of options, length; then the whole option at once. */
  #receiveOption(bytes: Uint8Array): HandshakeStep<E> {
    if (bytes.length < 8) return { consumed: 0, output: NO_BYTES }
    const view = viewOf(bytes)
    if (view.getUint32(0) !== NBD_OPTION_MAGIC_HIGH || view.getUint32(4) !== NBD_OPTION_MAGIC_LOW) {
      return { consumed: 8, ...this.#close(false, 'wrong magic in front of an option') }
    }
    if (bytes.length < OPTION_HEADER_BYTES) return { consumed: 0, output: NO_BYTES }
    const option = view.getUint32(8)
    const length = view.getUint32(12)
    const max = this.#policy.maxOptions ?? NBD_MAX_OPTION_COUNT
    if (this.#optionCount >= max) {
      return { consumed: OPTION_HEADER_BYTES, ...this.#close(false, `more than ${max} options`) }
    }
    if (length > NBD_MAX_DROPPED_OPTION_BYTES) {
      const reason = `${optionName(option)} with ${length} bytes of data`
      return { consumed: OPTION_HEADER_BYTES, ...this.#close(false, reason) }
    }
    if (length > NBD_MAX_OPTION_BYTES) return this.#startDropping(option, length)
    const end = OPTION_HEADER_BYTES + length
    if (bytes.length < end) return { consumed: 0, output: NO_BYTES }
    this.#optionCount += 1
    const data = bytes.subarray(OPTION_HEADER_BYTES, end)
    return { consumed: end, ...this.#judge(option, data, bytes.length > end) }
  }

  #startDropping(option: number, length: number): HandshakeStep<E> {
    this.#optionCount += 1
    if (option === NBD_OPT_SET_META_CONTEXT) this.#clearContexts()
    if (option === NBD_OPT_EXPORT_NAME || !this.#fixed) {
      const reason = `${optionName(option)} with ${length} bytes of data`
      return { consumed: OPTION_HEADER_BYTES, ...this.#close(true, reason) }
    }
    this.#dropOption = option
    this.#dropBytes = length
    this.#state = 'dropping'
    return { consumed: OPTION_HEADER_BYTES, output: NO_BYTES }
  }

  #drop(bytes: Uint8Array): HandshakeStep<E> {
    const consumed = Math.min(bytes.length, this.#dropBytes)
    this.#dropBytes -= consumed
    if (this.#dropBytes > 0) return { consumed, output: NO_BYTES }
    this.#state = 'options'
    const text = `${optionName(this.#dropOption)}: more than ${NBD_MAX_OPTION_BYTES} bytes of data`
    return { consumed, ...refuse(this.#dropOption, NBD_REP_ERR_TOO_BIG, text) }
  }

  /** The gates every option passes, in their fixed order. */
  #judge(option: number, data: Uint8Array, moreBytes: boolean): Answer<E> {
    if (option === NBD_OPT_SET_META_CONTEXT) this.#clearContexts()
    if (!this.#fixed && option !== NBD_OPT_EXPORT_NAME) {
      return this.#close(true, `${optionName(option)} from a client without fixed newstyle`)
    }
    if (option === NBD_OPT_ABORT) {
      return this.#close(true, 'the client aborted the negotiation', acknowledge(option))
    }
    if (this.#policy.tls === 'require' && !this.#tls) {
      if (option === NBD_OPT_EXPORT_NAME) {
        return this.#close(true, 'NBD_OPT_EXPORT_NAME before TLS')
      }
      if (option !== NBD_OPT_STARTTLS) {
        return refuse(option, NBD_REP_ERR_TLS_REQD, 'this server requires TLS')
      }
      if (data.length > 0) return this.#close(false, 'NBD_OPT_STARTTLS with data')
    }
    if (this.#policy.shuttingDown === true) return this.#shutDown(option)
    return this.#answer(option, data, moreBytes)
  }

  #answer(option: number, data: Uint8Array, moreBytes: boolean): Answer<E> {
    switch (option) {
      case NBD_OPT_EXPORT_NAME:
        return this.#exportName(data)
      case NBD_OPT_LIST:
        return data.length > 0 ? refuseData(option) : this.#list()
      case NBD_OPT_STARTTLS:
        return data.length > 0 ? refuseData(option) : this.#startTls(moreBytes)
      case NBD_OPT_INFO:
      case NBD_OPT_GO:
        return this.#infoOrGo(option, data)
      case NBD_OPT_STRUCTURED_REPLY:
        return data.length > 0 ? refuseData(option) : this.#structuredReply()
      case NBD_OPT_EXTENDED_HEADERS:
        return data.length > 0 ? refuseData(option) : this.#extendedHeaders()
      case NBD_OPT_LIST_META_CONTEXT:
      case NBD_OPT_SET_META_CONTEXT:
        return this.#metaContext(option, data)
      default:
        return refuse(option, NBD_REP_ERR_UNSUP, `${optionName(option)} is not supported`)
    }
  }

  #shutDown(option: number): Answer<E> {
    return option === NBD_OPT_EXPORT_NAME
      ? this.#close(true, 'the server is shutting down')
      : refuse(option, NBD_REP_ERR_SHUTDOWN, 'the server is shutting down')
  }

  #exportName(data: Uint8Array): Answer<E> {
    const name = isName(data) ? decodeText(data) : undefined
    if (name === undefined) return this.#close(true, `bad export name ${quoteText(data)}`)
    if (this.#mode === 'extended') {
      return this.#close(true, 'NBD_OPT_EXPORT_NAME after NBD_OPT_EXTENDED_HEADERS')
    }
    return this.#enter({ option: NBD_OPT_EXPORT_NAME, name, types: new Set() })
  }

  #list(): Answer<E> {
    const exports = this.#policy.listExports(this.session)
    if (exports === 'refused') {
      return refuse(NBD_OPT_LIST, NBD_REP_ERR_POLICY, 'this server does not list its exports')
    }
    return { output: encodeList(exports) }
  }

  /**
   * Plain bytes behind the option are an injection attempt or a broken client: they may become
   * neither options nor TLS records.
   */
  #startTls(moreBytes: boolean): Answer<E> {
    if (this.#policy.tls === 'off') {
      return refuse(NBD_OPT_STARTTLS, NBD_REP_ERR_POLICY, 'TLS is switched off')
    }
    if (this.#tls) {
      return refuse(NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID, 'TLS is in use already')
    }
    if (moreBytes) return this.#close(false, 'plain bytes after NBD_OPT_STARTTLS')
    this.#state = 'starttls'
    return { output: acknowledge(NBD_OPT_STARTTLS), done: { kind: 'starttls' } }
  }

  #structuredReply(): Answer<E> {
    const option = NBD_OPT_STRUCTURED_REPLY
    if (this.#mode === 'extended') {
      return refuse(option, NBD_REP_ERR_EXT_HEADER_REQD, 'extended headers are in use')
    }
    if (this.#mode === 'structured') {
      return refuse(option, NBD_REP_ERR_INVALID, 'structured replies are in use already')
    }
    if (this.#policy.allowStructured === false) {
      return refuse(option, NBD_REP_ERR_POLICY, 'structured replies are switched off')
    }
    this.#mode = 'structured'
    return { output: acknowledge(option) }
  }

  #extendedHeaders(): Answer<E> {
    const option = NBD_OPT_EXTENDED_HEADERS
    const words = 'extended headers are in use already'
    if (this.#mode === 'extended') return refuse(option, NBD_REP_ERR_INVALID, words)
    if (this.#policy.allowExtended === false) {
      return refuse(option, NBD_REP_ERR_UNSUP, 'extended headers are switched off')
    }
    this.#mode = 'extended'
    return { output: acknowledge(option) }
  }

  #infoOrGo(option: number, data: Uint8Array): Answer<E> {
    const request = parseInfoRequest(data)
    if (request === undefined) {
      return refuse(option, NBD_REP_ERR_INVALID, `malformed ${optionName(option)}`)
    }
    const name = decodeText(request.name)
    if (name === undefined) return this.#unknownName(option, request.name)
    if (option === NBD_OPT_GO) return this.#enter({ option, name, types: request.types })
    const found = this.#policy.findExport(name, this.session)
    if ('kind' in found) return this.#refuseExport(option, name, found)
    return {
      output: encodeInfo(
        option,
        found.info,
        transmissionFlagsOf(found.info, this.#mode, true),
        request.types,
      ),
    }
  }

  /** GO and EXPORT_NAME from the look-up on; also the second half of `proceed`. */
  #enter(entry: Entry): Answer<E> {
    const { option, name } = entry
    const found = this.#policy.findExport(name, this.session)
    if ('kind' in found) return this.#refuseExport(option, name, found)
    const verdict = this.#policy.enter(found.export, name, this.session)
    if (verdict === 'wait') {
      this.#entry = entry
      this.#state = 'waiting'
      return { output: NO_BYTES }
    }
    if (verdict !== 'enter') return this.#refuseExport(option, name, verdict)
    if (name !== this.#contextsName) this.#clearContexts()
    return this.#entered(entry, found)
  }

  #entered(entry: Entry, found: FoundExport<E>): Answer<E> {
    const { option, name, types } = entry
    const flags = transmissionFlagsOf(found.info, this.#mode, this.#contexts.length > 0)
    const viaExportName = option === NBD_OPT_EXPORT_NAME
    const noZeroes = (this.#clientFlags & NBD_FLAG_C_NO_ZEROES) !== 0
    this.#state = 'transmission'
    return {
      output: viaExportName
        ? encodeExportName(found.info, flags, !noZeroes)
        : encodeInfo(option, found.info, flags, types),
      done: {
        kind: 'transmission',
        result: {
          exportName: name,
          export: found.export,
          info: found.info,
          mode: this.#mode,
          contexts: this.#contexts,
          transmissionFlags: flags,
          noZeroes,
          viaExportName,
          tls: this.#tls,
        },
      },
    }
  }

  #metaContext(option: number, data: Uint8Array): Answer<E> {
    const request = parseMetaContextRequest(data)
    if (request === undefined) {
      return refuse(option, NBD_REP_ERR_INVALID, `malformed ${optionName(option)}`)
    }
    const selects = option === NBD_OPT_SET_META_CONTEXT
    const words = 'metadata contexts need structured replies'
    if (selects && this.#mode === 'simple') return refuse(option, NBD_REP_ERR_INVALID, words)
    const name = decodeText(request.name)
    if (name === undefined) return this.#unknownName(option, request.name)
    const found = this.#policy.findExport(name, this.session)
    if ('kind' in found) return this.#refuseExport(option, name, found)
    const offered = this.#policy.contextsOf(found.export, this.session)
    const matched = matchContexts(option, data, request, offered)
    if (selects && matched.length > NBD_MAX_CONTEXT_COUNT) {
      const text = `${matched.length} metadata contexts selected, at most ${NBD_MAX_CONTEXT_COUNT}`
      return refuse(option, NBD_REP_ERR_TOO_BIG, text)
    }
    const contexts = matched.map((context, index) => ({ id: index + 1, name: context }))
    if (selects) {
      this.#contexts = contexts
      this.#contextsName = name
    }
    return { output: encodeContexts(option, contexts, selects) }
  }

  #clearContexts(): void {
    this.#contexts = []
    this.#contextsName = undefined
  }

  #unknownName(option: number, name: Uint8Array): Answer<E> {
    return this.#refuseExport(option, name, { kind: 'unknown', text: '' })
  }

  /** An export is not given: an error reply, or the end where EXPORT_NAME has no error form. */
  #refuseExport(option: number, name: string | Uint8Array, refusal: Refusal): Answer<E> {
    const hides = this.#policy.tls === 'selective' && !this.#tls && refusal.kind === 'unknown'
    const kind = hides ? 'tls-required' : refusal.kind
    if (option === NBD_OPT_EXPORT_NAME) {
      return this.#close(true, `export ${quoteText(name)} refused: ${refusal.text || kind}`)
    }
    switch (kind) {
      case 'tls-required':
        return refuse(option, NBD_REP_ERR_TLS_REQD, TLS_TEXT)
      case 'policy':
        return refuse(option, NBD_REP_ERR_POLICY, refusal.text || 'not allowed')
      case 'shutting-down':
        return refuse(option, NBD_REP_ERR_SHUTDOWN, refusal.text || 'the server is shutting down')
      case 'unknown': {
        const text = refusal.text || `there is no export ${quoteText(name)}`
        return refuse(option, NBD_REP_ERR_UNKNOWN, text)
      }
    }
  }

  #close(graceful: boolean, reason: string, output: Uint8Array = NO_BYTES): Answer<E> {
    this.#state = 'closed'
    return { output, done: { kind: 'close', graceful, reason } }
  }
}

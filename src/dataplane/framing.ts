// SPDX-License-Identifier: MIT
/**
 * Requests of one connection out of its receive buffer: parse, check, hand to the disk.
 *
 * Owns:     where one message ends and the next begins, payloads, limits per connection.
 * Leaves:   negotiation, connection events and replies to data-plane.ts and replies.ts; every
 *           refusal to the protocol package.
 * Promises: nothing is parsed twice, nothing is read past `end`; a payload is consumed even when
 *           its request is refused; a partly received payload is never written. When memory is
 *           short the rest stays where it is and the peer waits: no queue grows.
 *
 * The one-cluster READ that goes straight to a file is inlined in the loop: it makes no object.
 */
import {
  decodeStatusPayload,
  isStatusPayloadLength,
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_DISC,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_MAX_IN_FLIGHT_COUNT,
  NBD_HARD_PAYLOAD_BYTES,
  payloadLengthOf,
  refusalText,
  toNumber,
  validateRequest,
  type SelectedContext,
} from 'nbd-server-protocol'
import { pieceBytes } from '../disk/host.js'
import type { NativeEngine } from '../io/native.js'
import { composeBlockStatus, statusSlotBytes } from './block-status.js'
import type { Connection } from './connection.js'
import { tokenUnit } from './disk-host.js'
import { Payloads } from './payloads.js'
import type { Replies } from './replies.js'
import { largeBytes, Requests } from './requests.js'
import type { ServedExport } from './served-export.js'
import type { Slots } from './slots.js'
import type { DataPlaneStats } from './stats.js'
import { NONE, type Rows } from './tables.js'

/** Tokens of one-cluster reads: this base plus the header slot. */
export const readSendTokens = 254 * tokenUnit
/** Tokens of payloads received straight into their memory: this base plus the connection's slot. */
export const intoTokens = 255 * tokenUnit

/** Less than that is cheaper to wait for than to receive by itself. */
const intoBytesMin = 8192
const unsentBytesMax = 8 * 1024 * 1024

/** What happened to one message. */
const enum Step {
  done,
  /** more bytes have to come */
  short,
  /** memory has to be released first */
  stalled,
}

export class Framing {
  readonly requests: Requests
  readonly payloads: Payloads
  /** hears of a peer that broke the protocol: hang up at once */
  onProtocolError: (connection: Connection, reason: string) => void = () => undefined

  /** of a one-cluster read under way, by header slot: what an error reply needs */
  readonly readConnection: Uint32Array
  readonly readSlot: Uint32Array
  readonly readOffset: Float64Array

  readonly #view: DataView
  readonly #connectionTable: Uint32Array
  readonly #slots: Slots
  readonly #rows: Rows
  readonly #replies: Replies
  readonly #stats: DataPlaneStats
  #position = 0

  constructor(
    engine: NativeEngine,
    slots: Slots,
    rows: Rows,
    replies: Replies,
    stats: DataPlaneStats,
  ) {
    const { memory, layout } = engine
    this.requests = new Requests(engine, slots)
    this.payloads = new Payloads(engine, stats)
    this.#view = new DataView(memory)
    this.#connectionTable = new Uint32Array(
      memory,
      layout.connectionTable,
      layout.connectionCount * 4,
    )
    this.#slots = slots
    this.#rows = rows
    this.#replies = replies
    this.#stats = stats
    this.readConnection = new Uint32Array(layout.headerCount)
    this.readSlot = new Uint32Array(layout.headerCount)
    this.readOffset = new Float64Array(layout.headerCount)
  }

  // --- the loop

  /**
   * Takes as many messages as there are, or as there is memory for.
   * @returns bytes consumed; `payloads.answer` and `connection.isStalled` say how to go on
   */
  parse(connection: Connection, start: number, availableBytes: number): number {
    const { answer } = this.payloads
    const served = connection.served
    answer.recvMax = 0
    answer.intoLength = 0
    connection.isStalled = false
    if (served === undefined) return availableBytes
    const end = start + availableBytes
    const view = this.#view
    const { levels, clusters, clusterBytes, inverseClusterBytes, sizeBytes, alignments } = served
    const { magic, requestBytes } = connection
    let at = this.payloads.goOn(connection, start, end)
    if (!this.#refuse(connection)) {
      connection.isStalled = true
      return at - start
    }
    let room = this.#roomOf(connection)
    while (connection.phase === 'transmission' && connection.receiving === undefined) {
      if (end - at < 4) break
      if (view.getUint32(at) !== magic) {
        this.onProtocolError(connection, 'wrong magic in front of a request')
        return availableBytes
      }
      if (end - at < requestBytes) break
      if (room <= 0) {
        connection.isStalled = true
        break
      }
      room -= 1
      // flags and command are both zero for a plain READ
      if (view.getUint32(at + 4) === 0) {
        const high = view.getUint32(at + 16)
        const length = view.getUint32(requestBytes === 32 ? at + 28 : at + 24)
        if (high < 0x200000 && length > 0 && length <= pieceBytes) {
          const offset = high * 4294967296 + view.getUint32(at + 20)
          const index = Math.floor(offset * inverseClusterBytes)
          const inside = offset - index * clusterBytes
          const mark = levels[index] ?? 0
          if (
            mark !== 0 &&
            inside + length <= clusterBytes &&
            offset + length <= sizeBytes &&
            !connection.limits.shuttingDown &&
            (requestBytes === 28 || view.getUint32(at + 24) === 0)
          ) {
            const fileOffset = (clusters[index] ?? 0) * clusterBytes + inside
            const unit = alignments[mark - 1] ?? 1
            if (
              (unit === 1 || (inside % unit === 0 && length % unit === 0)) &&
              fileOffset + length <= (served.limits[mark - 1] ?? 0)
            ) {
              const file = served.files[mark - 1] ?? 0
              if (!this.#readStraight(connection, at, file, fileOffset, offset, length)) {
                connection.isStalled = true
                break
              }
              at += requestBytes
              continue
            }
          }
        }
      }
      const step = this.#take(connection, served, at, end)
      if (step === Step.done) {
        at = this.#position
        continue
      }
      connection.isStalled = step === Step.stalled
      // of a refused request only the answer is missing
      if (connection.refusal !== undefined) at = this.#position
      break
    }
    return connection.phase === 'transmission' || connection.isStalled ? at - start : availableBytes
  }

  /** @returns false when there is no memory for it now */
  #readStraight(
    connection: Connection,
    at: number,
    file: number,
    fileOffset: number,
    offset: number,
    length: number,
  ): boolean {
    if (this.requests.mustWait(connection, length)) return false
    const slot = this.#slots.take(length)
    if (slot === NONE) return false
    const header = this.#slots.takeHeader()
    if (header === NONE) {
      this.#slots.give(slot)
      return false
    }
    const view = this.#view
    const headerBytes = this.#replies.composeRead(
      connection,
      header,
      view.getUint32(at + 8),
      view.getUint32(at + 12),
      offset,
      length,
    )
    this.#replies.count(connection)
    this.readConnection[header] = connection.id
    this.readSlot[header] = slot
    this.readOffset[header] = offset
    this.#rows.readSend(
      file,
      fileOffset,
      length,
      slot,
      connection.id,
      header,
      headerBytes,
      readSendTokens + header,
    )
    this.#stats.requests[NBD_CMD_READ] = (this.#stats.requests[NBD_CMD_READ] ?? 0) + 1
    this.#stats.readBytes += length
    return true
  }

  /** How many more requests the connection may have in flight. */
  #roomOf(connection: Connection): number {
    const slot = (connection.id % 65536) * 4
    if ((this.#connectionTable[slot + 1] ?? 0) > unsentBytesMax) return 0
    const emitted = connection.emittedBatch === this.#replies.batch ? connection.emittedCount : 0
    const sending = this.#connectionTable[slot] ?? 0
    connection.isSending = sending > 0
    return NBD_MAX_IN_FLIGHT_COUNT - connection.activeCount - sending - emitted
  }

  // --- one message

  /** Any request but the plain one-cluster READ. `#position` is where the next one begins. */
  #take(connection: Connection, served: ServedExport, at: number, end: number): Step {
    const view = this.#view
    const { mode, requestBytes, limits } = connection
    const isExtended = requestBytes === 32
    const flags = view.getUint16(at + 4)
    const command = view.getUint16(at + 6)
    const offset = toNumber(view.getUint32(at + 16), view.getUint32(at + 20))
    const length = isExtended
      ? toNumber(view.getUint32(at + 24), view.getUint32(at + 28))
      : view.getUint32(at + 24)
    const body = at + requestBytes
    if (command === NBD_CMD_DISC) {
      connection.phase = 'draining'
      return Step.done
    }
    const payload = payloadLengthOf(mode, flags, command, length)
    if (payload > NBD_HARD_PAYLOAD_BYTES) {
      this.onProtocolError(connection, `a payload of ${payload} bytes`)
      return Step.done
    }
    let effect = length
    let contexts: readonly SelectedContext[] = connection.contexts
    if (command === NBD_CMD_BLOCK_STATUS && payload > 0) {
      effect = Infinity
      if (isStatusPayloadLength(payload, connection.contexts.length)) {
        if (end - body < payload) return Step.short
        const choice = decodeStatusPayload(view, body, payload, connection.contexts)
        if (choice !== undefined) {
          effect = choice.lengthBytes
          contexts = choice.contexts
        }
      }
    }
    const error = validateRequest(limits, mode, flags, command, offset, effect)
    if (error !== 0) {
      const text = refusalText(limits, mode, flags, command, offset, effect)
      connection.refusal = {
        cookieHigh: view.getUint32(at + 8),
        cookieLow: view.getUint32(at + 12),
        offsetHigh: view.getUint32(at + 16),
        offsetLow: view.getUint32(at + 20),
        error,
        text,
      }
      this.#position = this.payloads.drop(connection, body, end, payload)
      return this.#refuse(connection) ? Step.done : Step.stalled
    }
    if (command === NBD_CMD_BLOCK_STATUS) {
      this.#position = body + payload
      return this.#blockStatus(connection, served, at, offset, effect, contexts, flags)
    }
    if (command === NBD_CMD_WRITE && payload > 0) {
      return this.#write(connection, served, at, end, offset, payload, flags)
    }
    this.#position = body
    return this.#other(connection, served, at, offset, effect, command, flags)
  }

  /**
   * Answers a refused request once its payload is consumed: clients that are still sending it do
   * not expect an answer. @returns false when there is no memory for the answer now
   */
  #refuse(connection: Connection): boolean {
    const { refusal } = connection
    if (refusal === undefined || connection.dropBytes > 0) return true
    const header = this.#slots.takeHeader()
    if (header === NONE) return false
    const { cookieHigh, cookieLow, offsetHigh, offsetLow, error, text } = refusal
    const offset = toNumber(offsetHigh, offsetLow)
    this.#replies.sendFailure(connection, header, cookieHigh, cookieLow, offset, error, text)
    if (connection.requestBytes === 32) {
      // The reply repeats the offset as it came, whatever it was.
      const target = this.#slots.headerAt(header)
      this.#view.setUint32(target + 16, offsetHigh)
      this.#view.setUint32(target + 20, offsetLow)
    }
    connection.refusal = undefined
    this.#stats.refusals += 1
    return true
  }

  #blockStatus(
    connection: Connection,
    served: ServedExport,
    at: number,
    offset: number,
    length: number,
    contexts: readonly SelectedContext[],
    flags: number,
  ): Step {
    const slot = this.#slots.take(statusSlotBytes)
    if (slot === NONE) return Step.stalled
    const view = this.#view
    const bytes = composeBlockStatus(
      view,
      slot,
      connection,
      served,
      contexts,
      view.getUint32(at + 8),
      view.getUint32(at + 12),
      offset,
      length,
      (flags & NBD_CMD_FLAG_REQ_ONE) !== 0,
    )
    this.#replies.count(connection)
    this.#replies.sendSlot(connection, slot, bytes)
    this.#countRequest(NBD_CMD_BLOCK_STATUS)
    return Step.done
  }

  /** Everything without a payload of its own. */
  #other(
    connection: Connection,
    served: ServedExport,
    at: number,
    offset: number,
    length: number,
    command: number,
    flags: number,
  ): Step {
    const view = this.#view
    const high = view.getUint32(at + 8)
    const low = view.getUint32(at + 12)
    const header = this.#slots.takeHeader()
    if (header === NONE) return Step.stalled
    if (command === NBD_CMD_READ && length === 0) {
      this.#replies.sendNothing(connection, header, high, low, offset)
    } else if (command === NBD_CMD_CACHE || (length === 0 && command !== NBD_CMD_FLUSH)) {
      this.#replies.sendSuccess(connection, header, high, low, offset)
    } else if (command === NBD_CMD_READ && this.#isHole(connection, served, offset, length)) {
      this.#replies.sendHole(connection, header, high, low, offset, length)
    } else {
      const request = this.requests.create(connection, at, header, command, offset, length, flags)
      if (command === NBD_CMD_READ && !this.requests.takeMemory(connection, request)) {
        this.#slots.giveHeader(header)
        this.requests.free(request)
        return Step.stalled
      }
      connection.activeCount += 1
      this.#countRequest(command)
      if (command === NBD_CMD_READ) this.#stats.readBytes += length
      served.disk.submit(request)
      return Step.done
    }
    this.#countRequest(command)
    return Step.done
  }

  #isHole(connection: Connection, served: ServedExport, offset: number, length: number): boolean {
    if (connection.mode === 'simple') return false
    const { levels, clusterBytes } = served
    const last = Math.floor((offset + length - 1) / clusterBytes)
    for (let index = Math.floor(offset / clusterBytes); index <= last; index++) {
      if (levels[index] !== 0) return false
    }
    return true
  }

  // --- payloads

  #write(
    connection: Connection,
    served: ServedExport,
    at: number,
    end: number,
    offset: number,
    length: number,
    flags: number,
  ): Step {
    const body = at + connection.requestBytes
    const missing = length - (end - body)
    // A short rest of a small payload is waited for in the receive buffer.
    if (missing > 0 && missing < intoBytesMin && length <= largeBytes) return Step.short
    const header = this.#slots.takeHeader()
    if (header === NONE) return Step.stalled
    const request = this.requests.create(
      connection,
      at,
      header,
      NBD_CMD_WRITE,
      offset,
      length,
      flags,
    )
    if (!this.requests.takeMemory(connection, request)) {
      this.#slots.giveHeader(header)
      this.requests.free(request)
      return Step.stalled
    }
    connection.activeCount += 1
    connection.receiving = request
    connection.receivedBytes = 0
    this.#position = this.payloads.receive(connection, served, request, body, end)
    return Step.done
  }

  #countRequest(command: number): void {
    this.#stats.requests[command] = (this.#stats.requests[command] ?? 0) + 1
  }
}

// SPDX-License-Identifier: MIT
/**
 * The data plane: what happens in one batch call of the engine, and the life of connections.
 *
 * Owns:     connections, exports, the way of an event to whom it concerns, shutting down.
 * Leaves:   requests to framing.ts, replies to replies.ts, disks to the disk folder; who runs the
 *           loop and talks to the control plane to worker.ts.
 * Promises: nothing here throws on what a peer sends; a misbehaving peer loses its connection only.
 */
import { NBD_EIO, ServerHandshake, type HandshakeStep } from 'nbd-server-protocol'
import { silentLogger, type Logger } from '../base/log.js'
import { Disk, type DiskOptions } from '../disk/disk.js'
import { diskCommand, type DiskRequest } from '../disk/request.js'
import { pieceBytes } from '../disk/host.js'
import type { NativeEngine } from '../io/native.js'
import { Connection } from './connection.js'
import { EngineDiskHost, exportCountMax, tokenUnit } from './disk-host.js'
import { Framing, intoTokens, readSendTokens } from './framing.js'
import { ExportTable, policyFor, type EnterRules } from './negotiation.js'
import { Replies } from './replies.js'
import { ServedExport } from './served-export.js'
import { Slots } from './slots.js'
import { DataPlaneStats } from './stats.js'
import {
  control,
  doneKind,
  doneRowWords,
  headerSlotBytes,
  NONE,
  receiveRowWords,
  rowOp,
  Rows,
  STALL,
} from './tables.js'

export interface DataPlaneOptions {
  readonly connectionsMax: number
  readonly connectionsPerExportMax: number
  readonly handshakeMs: number
  readonly log?: Logger
}

/** Still negotiating: at most that many; the oldest makes room for a new one. */
const negotiatingMax = 64

export class DataPlane {
  readonly exports = new ExportTable()
  readonly stats = new DataPlaneStats()

  readonly #engine: NativeEngine
  readonly #options: DataPlaneOptions
  readonly #log: Logger
  readonly #control: Uint32Array
  readonly #receiveTable: Uint32Array
  readonly #doneTable: Uint32Array
  readonly #connectionTable: Uint32Array
  readonly #rows: Rows
  readonly #slots: Slots
  readonly #replies: Replies
  readonly #framing: Framing
  readonly #bytes: Uint8Array
  /** by slot */
  readonly #connections: (Connection | undefined)[]
  readonly #byIndex: (ServedExport | undefined)[] = []
  /** told to wait before they enter transmission */
  readonly #waiting = new Set<Connection>()
  #negotiatingCount = 0
  #isShuttingDown = false
  #whenIdle: (() => void) | undefined = undefined
  #freedJob = false

  constructor(engine: NativeEngine, options: DataPlaneOptions) {
    const { memory, layout } = engine
    this.#engine = engine
    this.#options = options
    this.#log = options.log ?? silentLogger
    this.#control = new Uint32Array(memory, layout.control, 32)
    this.#receiveTable = new Uint32Array(memory, layout.receiveTable, layout.connectionCount * 8)
    this.#doneTable = new Uint32Array(memory, layout.doneTable, layout.doneCapacity * 4)
    this.#connectionTable = new Uint32Array(
      memory,
      layout.connectionTable,
      layout.connectionCount * 4,
    )
    this.#bytes = new Uint8Array(memory)
    this.#connections = new Array<Connection | undefined>(layout.connectionCount).fill(undefined)
    this.#rows = new Rows(engine)
    this.#slots = new Slots(engine, headerSlotBytes)
    this.#replies = new Replies(engine, this.#slots, this.#rows)
    this.#framing = new Framing(engine, this.#slots, this.#rows, this.#replies, this.stats)
    this.#framing.onProtocolError = (connection, reason): void => {
      this.#hangUp(connection, reason)
    }
    engine.onBatch(() => {
      this.#batch()
    })
  }

  // --- exports

  /** @param levels of the disk; their `file` is the engine's index */
  addExport(
    name: string,
    description: string | undefined,
    options: Omit<DiskOptions, 'host'>,
  ): ServedExport {
    const index = this.#freeIndex()
    const host = new EngineDiskHost(
      this.#engine,
      this.#rows,
      this.#slots,
      index,
      request => {
        this.#reply(request)
      },
      () => {
        this.#freedJob = true
      },
    )
    const disk = new Disk({ ...options, host })
    const served = new ServedExport(
      index,
      name,
      description,
      disk,
      host,
      options.levels,
      this.#options.connectionsPerExportMax,
    )
    this.#byIndex[index] = served
    this.exports.add(served)
    return served
  }

  #freeIndex(): number {
    for (let index = 0; index < exportCountMax; index++) {
      if (this.#byIndex[index] === undefined) return index
    }
    throw new RangeError(`a server has at most ${exportCountMax} exports`)
  }

  /** Makes everything durable and forgets the disk; no connection uses it any more. */
  closeExport(served: ServedExport, done: (code: number) => void): void {
    this.exports.remove(served.name)
    served.disk.close(code => {
      this.#byIndex[served.index] = undefined
      for (const file of served.files) this.#engine.removeFile(file)
      done(code)
    })
  }

  get connectionCount(): number {
    return this.#connections.reduce((count, one) => (one === undefined ? count : count + 1), 0)
  }

  // --- time

  /** Disks have long ranges to go on with: the loop must not sleep. */
  get hasWork(): boolean {
    return this.#byIndex.some(served => served?.disk.hasWork === true)
  }

  /** Between slices, some times a second. Nothing of a batch is under way. */
  tick(nowMs: number): void {
    for (const connection of this.#connections) {
      if (connection?.phase === 'negotiation' && nowMs > connection.deadlineMs) {
        this.#hangUp(connection, 'the negotiation took too long')
      }
    }
    for (const served of this.#byIndex) {
      if (served === undefined) continue
      if (served.disk.hasWork) served.disk.work()
      served.disk.tick(nowMs)
    }
    this.#afterwards()
  }

  // --- shutting down

  /** Takes nothing new; `done` when the last request was answered and every connection is closed. */
  shutDown(done: () => void): void {
    this.#isShuttingDown = true
    this.#whenIdle = done
    for (const connection of this.#connections) {
      if (connection === undefined) continue
      connection.limits.shuttingDown = true
      this.#endIfIdle(connection)
    }
    this.#endNegotiations()
    this.#checkIdle()
  }

  /** The grace is over: hang up on everybody. Operations under way still end. */
  hangUpAll(): void {
    for (const connection of this.#connections) {
      if (connection !== undefined) this.#hangUp(connection, 'the server is shutting down')
    }
  }

  #endIfIdle(connection: Connection): void {
    if (connection.phase !== 'transmission' || connection.activeCount > 0) return
    if (this.#isShuttingDown && !connection.isStalled) this.#drain(connection)
  }

  #endNegotiations(): void {
    for (const connection of this.#connections) {
      if (connection !== undefined && connection.activeCount > 0) return
    }
    for (const connection of this.#connections) {
      if (connection?.phase === 'negotiation') this.#close(connection, 0)
    }
  }

  #checkIdle(): void {
    if (this.#whenIdle === undefined) return
    if (this.#connections.some(connection => connection !== undefined)) return
    const done = this.#whenIdle
    this.#whenIdle = undefined
    done()
  }

  // --- a batch

  #batch(): void {
    this.#replies.batch += 1
    const doneRows = this.#control[control.doneRows] ?? 0
    for (let row = 0; row < doneRows; row++) this.#done(row * doneRowWords)
    const receiveRows = this.#control[control.receiveRows] ?? 0
    let stalledCount = 0
    for (let row = 0; row < receiveRows; row++) {
      if (this.#receive(row * receiveRowWords)) stalledCount += 1
    }
    this.#afterwards()
    this.#slots.wantFree(stalledCount > 0)
    if (this.hasWork) this.#control[control.leave] = 1
  }

  /** What an event may have made possible elsewhere. */
  #afterwards(): void {
    while (this.#freedJob) {
      this.#freedJob = false
      for (const served of this.#byIndex) {
        if (served?.disk.waitsForBuffer === true) served.disk.buffersFreed()
      }
    }
    if (this.#waiting.size > 0) this.#retryEntries()
    this.#checkIdle()
  }

  #done(at: number): void {
    const table = this.#doneTable
    const kind = table[at] ?? 0
    const id = table[at + 1] ?? 0
    // Two's complement: results are small negative errno values or counts below 2^31.
    const raw = table[at + 2] ?? 0
    const result = raw >= 0x80000000 ? raw - 0x100000000 : raw
    switch (kind) {
      case doneKind.operation:
        this.#operationDone(id, result)
        break
      case doneKind.accepted:
        this.#accepted(id)
        break
      case doneKind.end:
        this.#ended(id)
        break
      case doneKind.failed:
        this.#failed(id)
        break
      case doneKind.closed:
        this.#closed(id)
        break
      case doneKind.into:
        this.#receivedInto(table[at + 3] ?? 0, result)
        break
      default:
        throw new RangeError(`the engine reported an event of kind ${kind}`)
    }
  }

  #operationDone(token: number, result: number): void {
    if (token >= readSendTokens) {
      this.#readFailed(token - readSendTokens)
      return
    }
    const index = Math.floor(token / tokenUnit)
    this.#byIndex[index]?.disk.complete(token - index * tokenUnit, result)
  }

  /** A one-cluster read did not bring all its bytes: header and slot are ours again. */
  #readFailed(header: number): void {
    const framing = this.#framing
    const connection = this.#find(framing.readConnection[header] ?? NONE)
    this.#slots.give(framing.readSlot[header] ?? NONE)
    this.stats.failures += 1
    if (connection === undefined || connection.isDead) {
      this.#slots.giveHeader(header)
      return
    }
    const view = new DataView(this.#engine.memory, this.#slots.headerAt(header), 16)
    const offset = framing.readOffset[header] ?? 0
    const [high, low] = [view.getUint32(8), view.getUint32(12)]
    this.#replies.sendFailure(connection, header, high, low, offset, NBD_EIO, 'reading failed')
  }

  // --- connections

  #find(id: number): Connection | undefined {
    const connection = this.#connections[id % 65536]
    return connection?.id === id ? connection : undefined
  }

  readonly #rules: EnterRules = ((): EnterRules => {
    // eslint-disable-next-line @typescript-eslint/no-this-alias -- getters below need it
    const plane = this
    return {
      transmittingCount: () =>
        this.exports.all.reduce((count, served) => count + served.connections.size, 0),
      get connectionsMax(): number {
        return plane.#options.connectionsMax
      },
      get isShuttingDown(): boolean {
        return plane.#isShuttingDown
      },
      peersOf: served => {
        const peers: string[] = []
        for (const id of served.connections) peers.push(this.#find(id)?.peer ?? '')
        return peers
      },
      hasUnreadGone: served => {
        for (const id of served.connections) {
          const other = this.#find(id)
          if (other !== undefined && !other.hasEnded && this.#engine.peerHungUp(id)) return true
          if (other?.hasEnded === true && other.phase === 'transmission') return true
        }
        return false
      },
    }
  })()

  #accepted(id: number): void {
    const peer = this.#peerOf(id)
    const handshake = new ServerHandshake(policyFor(this.exports, this.#rules, peer))
    const deadlineMs = performance.now() + this.#options.handshakeMs
    const connection = new Connection(id, handshake, deadlineMs, peer)
    this.#connections[id % 65536] = connection
    this.stats.connections += 1
    this.#negotiatingCount += 1
    if (this.#negotiatingCount > negotiatingMax) this.#dropOldestNegotiation(connection)
    this.#log.debug('connected', { conn: id % 65536, peer })
    this.#sendBytes(connection, handshake.greeting())
  }

  #peerOf(id: number): string {
    try {
      return `uid ${this.#engine.peerCredentials(id).uid}`
    } catch {
      return 'network'
    }
  }

  #dropOldestNegotiation(except: Connection): void {
    let oldest: Connection | undefined
    for (const connection of this.#connections) {
      if (connection?.phase !== 'negotiation' || connection === except) continue
      if (oldest === undefined || connection.deadlineMs < oldest.deadlineMs) oldest = connection
    }
    if (oldest !== undefined) this.#hangUp(oldest, 'too many clients negotiate')
  }

  /** @returns whether the connection waits for memory */
  #receive(at: number): boolean {
    const table = this.#receiveTable
    const connection = this.#find(table[at] ?? NONE)
    const offset = table[at + 1] ?? 0
    const available = table[at + 2] ?? 0
    if (connection === undefined || connection.isDead) {
      table[at + 3] = available
      return false
    }
    let consumed = 0
    if (connection.phase === 'negotiation') {
      consumed = this.#negotiate(connection, offset, available)
    }
    if (connection.phase === 'transmission') {
      const { answer } = this.#framing
      consumed += this.#framing.parse(connection, offset + consumed, available - consumed)
      table[at + 4] = answer.recvMax
      if (answer.intoLength > 0) {
        table[at + 5] = answer.intoOffset
        table[at + 6] = answer.intoLength
        table[at + 7] = intoTokens + (connection.id % 65536)
      }
    } else if (connection.phase !== 'negotiation') consumed = available
    table[at + 3] = consumed
    if (connection.isStalled) table[at + 4] = STALL
    this.#settle(connection)
    return connection.isStalled
  }

  /** Moves a connection on after its state may have changed. */
  #settle(connection: Connection): void {
    if (connection.hasEnded && !connection.isStalled && !this.#waiting.has(connection)) {
      this.#drain(connection)
    } else if (connection.phase === 'draining') this.#drain(connection)
    else this.#endIfIdle(connection)
  }

  #negotiate(connection: Connection, offset: number, available: number): number {
    let consumed = 0
    connection.isStalled = false
    while (connection.phase === 'negotiation' && connection.handshake !== undefined) {
      const rest = this.#bytes.subarray(offset + consumed, offset + available)
      const step = connection.handshake.receive(rest)
      consumed += step.consumed
      this.#negotiated(connection, step)
      if (connection.handshake?.state === 'waiting') this.#waiting.add(connection)
      if (step.consumed === 0 || this.#waiting.has(connection)) break
    }
    // What follows GO is the first request; it waits like the client does.
    if (this.#waiting.has(connection)) connection.isStalled = true
    return consumed
  }

  #negotiated(connection: Connection, step: HandshakeStep<ServedExport>): void {
    if (step.output.length > 0) this.#sendBytes(connection, step.output)
    const { done } = step
    if (done === undefined) return
    if (done.kind === 'transmission') {
      this.#negotiatingCount -= 1
      connection.enterTransmission(done.result, this.#isShuttingDown)
      this.#log.info('client entered', {
        conn: connection.id % 65536,
        export: done.result.export.name,
        mode: done.result.mode,
        peer: connection.peer,
      })
    } else if (done.kind === 'close' && done.graceful) this.#close(connection, 0)
    else this.#hangUp(connection, done.kind === 'close' ? done.reason : 'TLS is not offered')
  }

  #retryEntries(): void {
    for (const connection of this.#waiting) {
      const { handshake } = connection
      this.#waiting.delete(connection)
      if (connection.phase !== 'negotiation' || handshake === undefined) continue
      this.#negotiated(connection, handshake.proceed())
      if (handshake.state === 'waiting') this.#waiting.add(connection)
      else this.#rows.connection(rowOp.resume, connection.id, 0)
    }
  }

  /** Negotiation output, which is small except for very long lists. */
  #sendBytes(connection: Connection, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length;) {
      const count = Math.min(pieceBytes, bytes.length - done)
      const slot = this.#slots.take(count)
      if (slot === NONE) {
        this.#hangUp(connection, 'no memory for the negotiation')
        return
      }
      this.#bytes.set(bytes.subarray(done, done + count), slot)
      this.#replies.sendSlot(connection, slot, count)
      done += count
    }
  }

  #receivedInto(id: number, result: number): void {
    const connection = this.#find(id)
    const request = connection?.receiving
    if (connection === undefined || request === undefined) return
    if (result > 0 && !connection.isDead) {
      this.#framing.receivedInto(connection, result)
      this.#settle(connection)
      return
    }
    // The peer ended inside a payload, or was hung up on: a part of it must never be written.
    // Only now, or when the connection is closed, is its memory free: the kernel was filling it.
    connection.hasEnded = true
    this.#forgetReceiving(connection)
    this.#settle(connection)
  }

  #forgetReceiving(connection: Connection): void {
    const request = connection.receiving
    if (request === undefined) return
    connection.receiving = undefined
    connection.activeCount -= 1
    this.#slots.giveHeader(request.tag)
    this.#framing.freeMemory(request)
    this.#framing.freeRequest(request)
  }

  #ended(id: number): void {
    const connection = this.#find(id)
    if (connection === undefined) return
    connection.hasEnded = true
    this.#forgetReceiving(connection)
    this.#settle(connection)
  }

  #failed(id: number): void {
    const connection = this.#find(id)
    if (connection !== undefined) this.#hangUp(connection, 'the connection broke')
  }

  /** No more requests; closes when the last one is answered. */
  #drain(connection: Connection): void {
    if (connection.phase === 'closing') return
    if (connection.phase === 'negotiation') {
      this.#close(connection, 0)
      return
    }
    connection.phase = 'draining'
    if (connection.activeCount === 0) this.#close(connection, 0)
  }

  /** Drops a connection and what was to be sent on it; its requests on the disk still end. */
  #hangUp(connection: Connection, reason: string): void {
    if (connection.isDead) return
    this.#log.debug('hung up', { conn: connection.id % 65536, reason })
    connection.isDead = true
    this.#close(connection, 1)
  }

  #close(connection: Connection, mode: number): void {
    if (connection.phase === 'closing' && mode === 0) return
    if (connection.phase === 'negotiation') this.#negotiatingCount -= 1
    connection.phase = 'closing'
    connection.isStalled = false
    connection.handshake = undefined
    this.#waiting.delete(connection)
    this.#slots.dropReservation(connection.id)
    this.#rows.connection(rowOp.close, connection.id, mode)
  }

  #closed(id: number): void {
    const connection = this.#find(id)
    if (connection === undefined) return
    connection.served?.connections.delete(id)
    connection.isDead = true
    this.#forgetReceiving(connection)
    this.#connections[id % 65536] = undefined
  }

  // --- replies of disks

  #reply(request: DiskRequest): void {
    const connection = this.#find(request.connection)
    if (connection === undefined || connection.isDead) {
      this.#slots.giveHeader(request.tag)
      this.#framing.freeMemory(request)
      this.#framing.freeRequest(request)
      if (connection !== undefined) connection.activeCount -= 1
      return
    }
    this.#answer(connection, request)
    this.#framing.freeRequest(request)
    connection.activeCount -= 1
    if (connection.activeCount > 0) return
    if (connection.phase === 'draining') this.#close(connection, 0)
    else this.#endIfIdle(connection)
    if (this.#isShuttingDown) this.#endNegotiations()
  }

  #answer(connection: Connection, request: DiskRequest): void {
    const { tag, cookieHigh, cookieLow, offsetBytes, errno } = request
    const replies = this.#replies
    if (errno === 0 && request.command === diskCommand.read) {
      const { lengthBytes, buffer, pieces } = request
      replies.sendData(
        connection,
        tag,
        cookieHigh,
        cookieLow,
        offsetBytes,
        lengthBytes,
        buffer,
        pieces,
        pieceBytes,
      )
      return
    }
    this.#framing.freeMemory(request)
    if (errno === 0) replies.sendSuccess(connection, tag, cookieHigh, cookieLow, offsetBytes)
    else {
      this.stats.failures += 1
      const text = failureText(request.command, errno)
      replies.sendFailure(connection, tag, cookieHigh, cookieLow, offsetBytes, errno, text)
    }
  }
}

function failureText(command: number, code: number): string {
  if (code === 28) return 'no space left for the image file'
  if (code === 95) return 'zeroing this range needs data to be written'
  return command === diskCommand.flush ? 'flushing failed' : 'the image file failed'
}

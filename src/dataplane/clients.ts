// SPDX-License-Identifier: MIT
/**
 * The clients: from accept through negotiation and transmission to the closed socket.
 *
 * Owns:     the phase of each connection, who is hung up on and when, shutting down.
 * Leaves:   requests to framing.ts, the option phase to the protocol package, sockets to the engine.
 * Promises: a misbehaving peer loses its own connection only. What was received whole is answered
 *           before a connection ends; what was received in part is never written.
 */
import { ServerHandshake, type HandshakeStep } from 'nbd-server-protocol'
import type { Logger } from '../base/log.js'
import { pieceBytes } from '../disk/host.js'
import type { NativeEngine } from '../io/native.js'
import { Connection } from './connection.js'
import { intoTokens, type Framing } from './framing.js'
import { policyFor, type EnterRules, type ExportTable } from './negotiation.js'
import type { Replies } from './replies.js'
import type { ServedExport } from './served-export.js'
import type { Slots } from './slots.js'
import type { DataPlaneStats } from './stats.js'
import { NONE, rowOp, STALL, type Rows } from './tables.js'

export interface ClientLimits {
  readonly connectionsMax: number
  /** the negotiation must be over by then */
  readonly handshakeMs: number
}

/** What the clients work with; made by the data plane. */
export interface ClientTools {
  readonly engine: NativeEngine
  readonly exports: ExportTable
  readonly slots: Slots
  readonly rows: Rows
  readonly replies: Replies
  readonly framing: Framing
  readonly stats: DataPlaneStats
  readonly log: Logger
}

/** Still negotiating: at most that many; the oldest makes room for a new one. */
const negotiatingMax = 64
/** So long a new client waits for one that has ended to take its replies; a handshake lasts 10 s. */
const entryPatienceMs = 4000

export class Clients {
  readonly #engine: NativeEngine
  readonly #exports: ExportTable
  readonly #slots: Slots
  readonly #rows: Rows
  readonly #replies: Replies
  readonly #framing: Framing
  readonly #stats: DataPlaneStats
  readonly #log: Logger
  readonly #limits: ClientLimits
  readonly #bytes: Uint8Array
  readonly #receiveTable: Uint32Array
  readonly #connectionTable: Uint32Array
  /** by slot */
  readonly #connections: (Connection | undefined)[]
  /** told to wait before they enter transmission */
  readonly #waiting = new Set<Connection>()
  #negotiatingCount = 0
  #isShuttingDown = false
  #whenIdle: (() => void) | undefined = undefined

  constructor(tools: ClientTools, limits: ClientLimits) {
    const { engine } = tools
    const { memory, layout } = engine
    this.#engine = engine
    this.#exports = tools.exports
    this.#slots = tools.slots
    this.#rows = tools.rows
    this.#replies = tools.replies
    this.#framing = tools.framing
    this.#stats = tools.stats
    this.#log = tools.log
    this.#limits = limits
    this.#bytes = new Uint8Array(memory)
    this.#receiveTable = new Uint32Array(memory, layout.receiveTable, layout.connectionCount * 8)
    this.#connectionTable = new Uint32Array(
      memory,
      layout.connectionTable,
      layout.connectionCount * 4,
    )
    this.#connections = new Array<Connection | undefined>(layout.connectionCount).fill(undefined)
    this.#framing.onProtocolError = (connection, reason): void => {
      this.hangUp(connection, reason)
    }
  }

  get count(): number {
    return this.#connections.reduce((count, one) => (one === undefined ? count : count + 1), 0)
  }

  /** Between slices: deadlines. */
  tick(nowMs: number): void {
    for (const connection of this.#connections) {
      if (connection?.phase === 'negotiation' && nowMs > connection.deadlineMs) {
        this.hangUp(connection, 'the negotiation took too long')
      }
    }
  }

  /** After events: who waited for others to end may enter; nobody left may mean the end. */
  afterwards(): void {
    if (this.#waiting.size > 0) this.#retryEntries()
    this.#checkIdle()
  }

  /** A request of this connection was answered. */
  requestEnded(connection: Connection): void {
    connection.activeCount -= 1
    if (connection.activeCount > 0) return
    if (connection.phase === 'draining') this.#close(connection, 0)
    else this.#endIfIdle(connection)
    if (this.#isShuttingDown) this.#endNegotiations()
  }

  // --- shutting down

  /** Takes nothing new; `done` when the last request was answered and its reply was sent. */
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
      if (connection !== undefined) this.hangUp(connection, 'the server is shutting down')
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
    for (const connection of this.#connections) {
      if (connection !== undefined && !this.#isFinished(connection)) return
    }
    const done = this.#whenIdle
    this.#whenIdle = undefined
    done()
  }

  /** Only waits for its peer to close: an idle client must not delay the end. */
  #isFinished(connection: Connection): boolean {
    if (connection.phase !== 'closing' || connection.activeCount > 0) return false
    return this.#connectionTable[(connection.id % 65536) * 4] === 0
  }

  // --- connections

  find(id: number): Connection | undefined {
    const connection = this.#connections[id % 65536]
    return connection?.id === id ? connection : undefined
  }

  readonly #rules: EnterRules = ((): EnterRules => {
    // eslint-disable-next-line @typescript-eslint/no-this-alias -- getters below need it
    const clients = this
    return {
      transmittingCount: () =>
        this.#exports.all.reduce((count, served) => count + served.connections.size, 0),
      get connectionsMax(): number {
        return clients.#limits.connectionsMax
      },
      get isShuttingDown(): boolean {
        return clients.#isShuttingDown
      },
      peersOf: served => {
        const peers: string[] = []
        for (const id of served.connections) peers.push(this.find(id)?.peer ?? '')
        return peers
      },
      hasUnreadGone: served => {
        let isGone = false
        for (const id of served.connections) {
          const other = this.find(id)
          if (other !== undefined && this.#isUnreadGone(other)) isGone = true
        }
        return isGone
      },
    }
  })()

  /** Its peer has ended, and requests of it may still be unread: newer clients wait for them. */
  #isUnreadGone(connection: Connection): boolean {
    const isGone = connection.hasEnded
      ? connection.phase === 'transmission'
      : this.#engine.peerHungUp(connection.id)
    if (!isGone) return false
    const nowMs = performance.now()
    connection.delaysSinceMs ??= nowMs
    if (nowMs - connection.delaysSinceMs > entryPatienceMs) {
      this.hangUp(connection, 'it has ended, takes no replies, and others wait for it')
    }
    return true
  }

  accepted(id: number): void {
    const peer = this.#peerOf(id)
    const handshake = new ServerHandshake(policyFor(this.#exports, this.#rules, peer))
    const deadlineMs = performance.now() + this.#limits.handshakeMs
    const connection = new Connection(id, handshake, deadlineMs, peer)
    this.#connections[id % 65536] = connection
    this.#stats.connections += 1
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
    if (oldest !== undefined) this.hangUp(oldest, 'too many clients negotiate')
  }

  /** @returns whether the connection waits for memory */
  receive(at: number): boolean {
    const table = this.#receiveTable
    const connection = this.find(table[at] ?? NONE)
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
      const { answer } = this.#framing.payloads
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
    const { handshake } = connection
    while (connection.phase === 'negotiation' && handshake !== undefined) {
      const rest = this.#bytes.subarray(offset + consumed, offset + available)
      const step = handshake.receive(rest)
      consumed += step.consumed
      this.#negotiated(connection, step)
      if (handshake.state === 'waiting') this.#waiting.add(connection)
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
    else this.hangUp(connection, done.kind === 'close' ? done.reason : 'TLS is not offered')
  }

  #retryEntries(): void {
    // A copy: who has to wait on is added again, and must not be met again in this round.
    for (const connection of [...this.#waiting]) {
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
        this.hangUp(connection, 'no memory for the negotiation')
        return
      }
      this.#bytes.set(bytes.subarray(done, done + count), slot)
      this.#replies.sendSlot(connection, slot, count)
      done += count
    }
  }

  receivedInto(id: number, result: number): void {
    const connection = this.find(id)
    const request = connection?.receiving
    if (connection === undefined || request === undefined) return
    if (result > 0 && !connection.isDead) {
      this.#framing.payloads.receivedInto(connection, result)
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
    this.#framing.requests.freeMemory(request)
    this.#framing.requests.free(request)
  }

  ended(id: number): void {
    const connection = this.find(id)
    if (connection === undefined) return
    connection.hasEnded = true
    this.#forgetReceiving(connection)
    this.#settle(connection)
  }

  failed(id: number): void {
    const connection = this.find(id)
    if (connection !== undefined) this.hangUp(connection, 'the connection broke')
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
  hangUp(connection: Connection, reason: string): void {
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

  closed(id: number): void {
    const connection = this.find(id)
    if (connection === undefined) return
    connection.served?.connections.delete(id)
    connection.isDead = true
    this.#forgetReceiving(connection)
    this.#connections[id % 65536] = undefined
  }
}

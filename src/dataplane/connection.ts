// SPDX-License-Identifier: MIT
/** The state of one client connection: a fixed, small amount of memory. */
import {
  NBD_EXTENDED_REQUEST_MAGIC,
  NBD_HARD_PAYLOAD_BYTES,
  NBD_REQUEST_MAGIC,
  type NegotiatedSession,
  type ReplyMode,
  type RequestLimits,
  type SelectedContext,
  type ServerHandshake,
} from 'nbd-server-protocol'
import type { DiskRequest } from '../disk/request.js'
import type { ServedExport } from './served-export.js'

/**
 * negotiation → transmission → draining (no more requests are taken) → closing (the engine is told)
 * From any of them → closing at once, when the peer misbehaves or is gone.
 */
export type ConnectionPhase = 'negotiation' | 'transmission' | 'draining' | 'closing'

/** The answer to a request that was refused, in words of its header. */
export interface Refusal {
  readonly cookieHigh: number
  readonly cookieLow: number
  readonly offsetHigh: number
  readonly offsetLow: number
  readonly error: number
  readonly text: string
}

export class Connection {
  phase: ConnectionPhase = 'negotiation'
  handshake: ServerHandshake<ServedExport> | undefined
  served: ServedExport | undefined = undefined

  // of the transmission phase
  mode: ReplyMode = 'simple'
  magic = NBD_REQUEST_MAGIC
  requestBytes = 28
  contexts: readonly SelectedContext[] = []
  readonly limits: RequestLimits = {
    sizeBytes: 0,
    readOnly: true,
    transmissionFlags: 0,
    contextCount: 0,
    shuttingDown: false,
    hardPayloadLimit: NBD_HARD_PAYLOAD_BYTES,
    minimumBlockBytes: 1,
  }

  /** requests that the disk has, or whose payload is being received */
  activeCount = 0
  /** replies handed to the engine in batch `emittedBatch`, which it has not counted yet */
  emittedCount = 0
  emittedBatch = 0

  /** replies were under way when its row was looked at last */
  isSending = false

  /** a WRITE whose payload is not complete, and how much of it has come */
  receiving: DiskRequest | undefined = undefined
  receivedBytes = 0
  /** payload of a refused request that is still to be dropped, and the answer it then gets */
  dropBytes = 0
  refusal: Refusal | undefined = undefined

  /** the peer will send nothing more */
  hasEnded = false
  /** since when it has kept new clients waiting, though its peer has ended */
  delaysSinceMs: number | undefined = undefined
  /** complete requests wait in the receive buffer for memory */
  isStalled = false
  /** nothing can be sent any more */
  isDead = false

  /** @param id slot and generation, as the engine names the connection */
  constructor(
    readonly id: number,
    handshake: ServerHandshake<ServedExport>,
    /** negotiation must be over by then */
    readonly deadlineMs: number,
    /** user of the peer where the kernel tells, for exports that belong to one user at a time */
    readonly peer: string,
  ) {
    this.handshake = handshake
  }

  enterTransmission(session: NegotiatedSession<ServedExport>, shuttingDown: boolean): void {
    const { info } = session
    this.phase = 'transmission'
    this.handshake = undefined
    this.served = session.export
    this.mode = session.mode
    this.contexts = session.contexts
    if (session.mode === 'extended') {
      this.magic = NBD_EXTENDED_REQUEST_MAGIC
      this.requestBytes = 32
    }
    this.limits.sizeBytes = info.sizeBytes
    this.limits.readOnly = info.readOnly
    this.limits.transmissionFlags = session.transmissionFlags
    this.limits.contextCount = session.contexts.length
    this.limits.shuttingDown = shuttingDown
    session.export.connections.add(this.id)
  }
}

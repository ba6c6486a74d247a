// SPDX-License-Identifier: MIT
/**
 * The data plane: what happens in one batch call of the engine.
 *
 * Owns:     exports, the way of an event to whom it concerns, answers of the disks.
 * Leaves:   connections to clients.ts, requests to framing.ts, disks to the disk folder; who runs
 *           the loop and talks to the control plane to worker.ts.
 * Promises: nothing here throws on what a peer sends.
 */
import { NBD_EIO } from 'nbd-server-protocol'
import { silentLogger, type Logger } from '../base/log.js'
import { Disk, type DiskOptions } from '../disk/disk.js'
import { pieceBytes } from '../disk/host.js'
import { diskCommand, type DiskRequest } from '../disk/request.js'
import type { NativeEngine } from '../io/native.js'
import { Clients, type ClientLimits } from './clients.js'
import type { Connection } from './connection.js'
import { EngineDiskHost, exportCountMax, tokenUnit } from './disk-host.js'
import { Framing, readSendTokens } from './framing.js'
import { ExportTable } from './negotiation.js'
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
  Rows,
} from './tables.js'

export interface DataPlaneOptions extends ClientLimits {
  readonly connectionsPerExportMax: number
  readonly log?: Logger
}

export class DataPlane {
  readonly exports = new ExportTable()
  readonly stats = new DataPlaneStats()

  readonly clients: Clients

  readonly #engine: NativeEngine
  readonly #options: DataPlaneOptions
  readonly #control: Uint32Array
  readonly #doneTable: Uint32Array
  readonly #rows: Rows
  readonly #slots: Slots
  readonly #replies: Replies
  readonly #framing: Framing
  readonly #byIndex: (ServedExport | undefined)[] = []
  #freedJob = false

  constructor(engine: NativeEngine, options: DataPlaneOptions) {
    const { memory, layout } = engine
    const log = options.log ?? silentLogger
    const { exports, stats } = this
    this.#engine = engine
    this.#options = options
    this.#control = new Uint32Array(memory, layout.control, 32)
    this.#doneTable = new Uint32Array(memory, layout.doneTable, layout.doneCapacity * 4)
    this.#rows = new Rows(engine)
    this.#slots = new Slots(engine, headerSlotBytes)
    this.#replies = new Replies(engine, this.#slots, this.#rows)
    this.#framing = new Framing(engine, this.#slots, this.#rows, this.#replies, stats)
    const tools = { rows: this.#rows, slots: this.#slots, replies: this.#replies }
    const framing = this.#framing
    this.clients = new Clients({ ...tools, engine, exports, framing, stats, log }, options)
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

  // --- time

  /** Disks have long ranges to go on with: the loop must not sleep. */
  get hasWork(): boolean {
    return this.#byIndex.some(served => served?.disk.hasWork === true)
  }

  /** Between slices, some times a second. Nothing of a batch is under way. */
  tick(nowMs: number): void {
    this.clients.tick(nowMs)
    for (const served of this.#byIndex) {
      if (served === undefined) continue
      if (served.disk.hasWork) served.disk.work()
      served.disk.tick(nowMs)
    }
    this.#afterwards()
  }

  // --- a batch

  #batch(): void {
    this.#replies.batch += 1
    const doneRows = this.#control[control.doneRows] ?? 0
    for (let row = 0; row < doneRows; row++) this.#done(row * doneRowWords)
    const receiveRows = this.#control[control.receiveRows] ?? 0
    let stalledCount = 0
    for (let row = 0; row < receiveRows; row++) {
      if (this.clients.receive(row * receiveRowWords)) stalledCount += 1
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
    this.clients.afterwards()
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
        this.clients.accepted(id)
        break
      case doneKind.end:
        this.clients.ended(id)
        break
      case doneKind.failed:
        this.clients.failed(id)
        break
      case doneKind.closed:
        this.clients.closed(id)
        break
      case doneKind.into:
        this.clients.receivedInto(table[at + 3] ?? 0, result)
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
    const connection = this.clients.find(framing.readConnection[header] ?? NONE)
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

  // --- replies of disks

  #reply(request: DiskRequest): void {
    const connection = this.clients.find(request.connection)
    if (connection === undefined || connection.isDead) {
      this.#slots.giveHeader(request.tag)
      this.#framing.requests.freeMemory(request)
      this.#framing.requests.free(request)
      if (connection !== undefined) connection.activeCount -= 1
      return
    }
    this.#answer(connection, request)
    this.#framing.requests.free(request)
    this.clients.requestEnded(connection)
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
    this.#framing.requests.freeMemory(request)
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

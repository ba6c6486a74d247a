// SPDX-License-Identifier: MIT
/**
 * An engine with its tables in words, for tests: rows written by name, receive and done rows read
 * as objects. Slow on purpose (the data plane has its own, fast reading of the same tables).
 *
 * `run` blocks the thread, and the peers of the tests live on the same thread: `until` alternates
 * between the two.
 */
import net from 'node:net'
import type { Test } from 'tap'
import {
  loadAddon,
  type EngineKind,
  type EngineLayout,
  type EngineOptions,
  type NativeEngine,
} from '../../src/io/native.js'

export const NONE = 0xffffffff
export const STALL = 0xffffffff

export const op = {
  read: 1,
  write: 2,
  sync: 3,
  allocate: 4,
  zero: 5,
  punch: 6,
  copy: 7,
  send: 8,
  readSend: 9,
  close: 10,
  resume: 11,
} as const

export const kind = {
  operation: 0,
  accepted: 1,
  end: 2,
  failed: 3,
  closed: 4,
  into: 5,
} as const

export const control = {
  receiveRows: 0,
  doneRows: 1,
  rows: 2,
  free4k: 3,
  free64k: 4,
  free1m: 5,
  freeHeaders: 6,
  epoch: 7,
  inFlight0: 8,
  inFlight1: 9,
  leave: 10,
  wantFree: 11,
} as const

export interface ReceiveRow {
  readonly connection: number
  readonly bytes: Uint8Array
  /** answers; nothing consumed unless said so */
  consumed: number
  limit: number
  into?: { readonly offset: number; readonly length: number; readonly token: number }
}

export interface DoneRow {
  readonly kind: number
  readonly id: number
  readonly result: number
  readonly extra: number
}

export interface Row {
  readonly op: number
  readonly headerBytes?: number
  readonly file?: number
  readonly token?: number
  readonly offset?: number
  readonly length?: number
  readonly memory?: number
  readonly connection?: number
  readonly header?: number
  readonly slot?: number
  readonly source?: { readonly file: number; readonly offset: number }
}

const fourGiB = 2 ** 32

export const smallEngine = {
  count4k: 32,
  count64k: 8,
  count1m: 4,
  jobCount: 4,
  headerCount: 64,
  connectionCount: 16,
  receiveBytes: 65536,
  threadCount: 4,
  busyPollMicroseconds: 0,
} as const

export class EngineFixture {
  readonly addon = loadAddon()
  readonly engine: NativeEngine
  readonly layout: EngineLayout
  readonly bytes: Uint8Array
  readonly words: Uint32Array
  /** every done row seen so far */
  readonly done: DoneRow[] = []
  batches = 0
  onReceive: (row: ReceiveRow) => void = row => {
    row.consumed = row.bytes.length
  }
  onDone: (row: DoneRow) => void = () => undefined
  /** called after the rows of a batch */
  onBatchEnd: () => void = () => undefined

  constructor(t: Test, engineKind: EngineKind, options: Partial<EngineOptions> = {}) {
    this.engine = this.addon.createEngine({ ...smallEngine, ...options, kind: engineKind })
    this.layout = this.engine.layout
    this.bytes = new Uint8Array(this.engine.memory)
    this.words = new Uint32Array(this.engine.memory)
    this.engine.onBatch(() => {
      this.#batch()
    })
    t.teardown(() => {
      this.engine.close()
    })
  }

  #batch(): void {
    this.batches++
    for (const row of this.#doneRows()) {
      this.done.push(row)
      this.onDone(row)
    }
    const count = this.control(control.receiveRows)
    for (let i = 0; i < count; i++) this.#show(this.layout.receiveTable / 4 + i * 8)
    this.onBatchEnd()
  }

  #doneRows(): DoneRow[] {
    const rows: DoneRow[] = []
    for (let i = 0; i < this.control(control.doneRows); i++) {
      const at = this.layout.doneTable / 4 + i * 4
      const [rowKind = 0, id = 0, result = 0, extra = 0] = this.words.subarray(at, at + 4)
      rows.push({
        kind: rowKind,
        id,
        result: result > 0x7fffffff ? result - fourGiB : result,
        extra,
      })
    }
    return rows
  }

  #show(at: number): void {
    const [connection = 0, offset = 0, length = 0, ...answers] = this.words.subarray(at, at + 8)
    if (answers.some(word => word !== 0)) throw new Error('answers were not cleared')
    const row: ReceiveRow = {
      connection,
      bytes: this.bytes.subarray(offset, offset + length),
      consumed: 0,
      limit: 0,
    }
    this.onReceive(row)
    this.words.set([row.consumed, row.limit], at + 3)
    if (row.into !== undefined)
      this.words.set([row.into.offset, row.into.length, row.into.token], at + 5)
  }

  control(index: number): number {
    return this.words[this.layout.control / 4 + index] ?? 0
  }

  setControl(index: number, value: number): void {
    this.words[this.layout.control / 4 + index] = value
  }

  /** Writes a descriptor row; it is taken after the batch, or at the start of the next run. */
  put(row: Row): void {
    const index = this.control(control.rows)
    if (index === this.layout.rowCapacity) throw new Error('row table is full')
    const [low, high] = halves(row.offset ?? 0)
    const [lengthLow, lengthHigh] = halves(row.length ?? 0)
    const [sourceLow, sourceHigh] = halves(row.source?.offset ?? 0)
    const long = row.op >= op.allocate && row.op <= op.copy
    const words = [
      row.op + 256 * (row.headerBytes ?? 0),
      row.file ?? 0,
      row.token ?? 0,
      low,
      high,
      lengthLow,
      row.memory ?? 0,
      row.connection ?? 0,
      row.source?.file ?? row.header ?? NONE,
      long ? lengthHigh : (row.slot ?? NONE),
      sourceLow,
      sourceHigh,
    ]
    this.words.set(words, this.layout.rowTable / 4 + index * 12)
    this.setControl(control.rows, index + 1)
  }

  take(stack: '4k' | '64k' | '1m' | 'header'): number {
    const [index, at] = {
      '4k': [control.free4k, this.layout.stack4k] as const,
      '64k': [control.free64k, this.layout.stack64k] as const,
      '1m': [control.free1m, this.layout.stack1m] as const,
      header: [control.freeHeaders, this.layout.stackHeaders] as const,
    }[stack]
    const top = this.control(index)
    if (top === 0) throw new Error(`no free ${stack}`)
    this.setControl(index, top - 1)
    return this.words[at / 4 + top - 1] ?? NONE
  }

  /** Free entries of all stacks: the same at the end as at the beginning, or something leaked. */
  freeCounts(): number[] {
    return [control.free4k, control.free64k, control.free1m, control.freeHeaders].map(i =>
      this.control(i),
    )
  }

  job(index: number): number {
    return this.layout.jobs + index * 1048576
  }

  at(offset: number, length: number): Uint8Array {
    return this.bytes.subarray(offset, offset + length)
  }

  connection(name: number): { replies: number; unsent: number; open: number; generation: number } {
    const at = this.layout.connectionTable / 4 + (name % 65536) * 4
    const [replies = 0, unsent = 0, open = 0, generation = 0] = this.words.subarray(at, at + 4)
    return { replies, unsent, open, generation }
  }

  /** A header slot with these bytes, as words of a row. */
  header(bytes: Uint8Array): { header: number; headerBytes: number } {
    const header = this.take('header')
    this.bytes.set(bytes, this.layout.headers + header * 256)
    return { header, headerBytes: bytes.length }
  }

  /** A slot of 4 KiB with these bytes, to be given back by the engine. */
  payload(bytes: Uint8Array): { memory: number; slot: number; length: number } {
    const slot = this.take('4k')
    this.bytes.set(bytes, slot)
    return { memory: slot, slot, length: bytes.length }
  }

  /** Runs engine and event loop in turns until `holds`; the file's time limit ends it otherwise. */
  async until(holds: () => boolean): Promise<void> {
    while (!holds()) {
      this.engine.run(2)
      await new Promise(setImmediate)
    }
  }

  /** The done row of a token, once it is there. */
  async completed(token: number): Promise<DoneRow> {
    const find = () => this.done.find(row => row.kind === kind.operation && row.id === token)
    await this.until(() => find() !== undefined)
    return find() as DoneRow
  }

  saw(rowKind: number, connection: number): DoneRow | undefined {
    return this.done.find(row => row.kind === rowKind && row.id === connection)
  }

  /** A connection of the engine and its peer. */
  connect(t: Test): { connection: number; peer: Peer } {
    const [ours, theirs] = this.addon.socketPair()
    const connection = this.engine.addConnection(ours)
    this.addon.closeFile(ours)
    return { connection, peer: new Peer(t, new net.Socket({ fd: theirs, allowHalfOpen: true })) }
  }
}

function halves(value: number): [number, number] {
  return [value % fourGiB, Math.floor(value / fourGiB)]
}

/** The other end of a connection: gathers what comes. */
export class Peer {
  readonly socket: net.Socket
  #chunks: Buffer[] = []
  receivedBytes = 0
  ended = false
  closed = false
  error: Error | undefined

  constructor(t: Test, socket: net.Socket) {
    this.socket = socket
    socket.on('data', chunk => {
      this.#chunks.push(chunk)
      this.receivedBytes += chunk.length
    })
    socket.on('end', () => (this.ended = true))
    socket.on('close', () => (this.closed = true))
    socket.on('error', error => (this.error = error))
    t.teardown(() => socket.destroy())
  }

  get received(): Buffer {
    return Buffer.concat(this.#chunks)
  }
}

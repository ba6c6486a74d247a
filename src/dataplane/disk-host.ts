// SPDX-License-Identifier: MIT
/**
 * Runs the file operations of one disk on the engine.
 *
 * A token of the engine is the number of the export (upper 8 bits) and the disk's own token.
 */
import type { DiskHost } from '../disk/host.js'
import type { DiskRequest } from '../disk/request.js'
import type { NativeEngine } from '../io/native.js'
import type { Slots } from './slots.js'
import { control, rowOp, type Rows } from './tables.js'

export const tokenUnit = 0x1000000
/** Numbers of exports are below this; the rest of the tokens belongs to the data plane. */
export const exportCountMax = 254

export class EngineDiskHost implements DiskHost {
  readonly memory: Uint8Array
  readonly #rows: Rows
  readonly #slots: Slots
  readonly #control: Uint32Array
  readonly #tokenBase: number
  readonly #reply: (request: DiskRequest) => void
  readonly #freed: () => void

  /**
   * @param freed a job buffer was given back: disks that wait for one may go on
   */
  constructor(
    engine: NativeEngine,
    rows: Rows,
    slots: Slots,
    exportIndex: number,
    reply: (request: DiskRequest) => void,
    freed: () => void,
  ) {
    this.memory = new Uint8Array(engine.memory)
    this.#rows = rows
    this.#slots = slots
    this.#control = new Uint32Array(engine.memory, engine.layout.control, 32)
    this.#tokenBase = exportIndex * tokenUnit
    this.#reply = reply
    this.#freed = freed
  }

  read(file: number, offset: number, length: number, buffer: number, token: number): void {
    this.#rows.transfer(rowOp.read, file, offset, length, buffer, this.#tokenBase + token)
  }

  write(file: number, offset: number, length: number, buffer: number, token: number): void {
    this.#rows.transfer(rowOp.write, file, offset, length, buffer, this.#tokenBase + token)
  }

  sync(file: number, token: number): void {
    this.#rows.space(rowOp.sync, file, 0, 0, this.#tokenBase + token)
  }

  allocate(file: number, offset: number, length: number, token: number): void {
    this.#rows.space(rowOp.allocate, file, offset, length, this.#tokenBase + token)
  }

  zero(file: number, offset: number, length: number, token: number): void {
    this.#rows.space(rowOp.zero, file, offset, length, this.#tokenBase + token)
  }

  punch(file: number, offset: number, length: number, token: number): void {
    this.#rows.space(rowOp.punch, file, offset, length, this.#tokenBase + token)
  }

  copy(
    source: number,
    sourceOffset: number,
    target: number,
    targetOffset: number,
    length: number,
    token: number,
  ): void {
    this.#rows.copy(source, sourceOffset, target, targetOffset, length, this.#tokenBase + token)
  }

  takeBuffer(): number {
    return this.#slots.takeJob()
  }

  giveBuffer(buffer: number): void {
    this.#slots.giveJob(buffer)
    this.#freed()
  }

  reply(request: DiskRequest): void {
    this.#reply(request)
  }

  oldEpochIdle(): boolean {
    const parity = this.#control[control.epoch] ?? 0
    return this.#control[control.epochInFlight + 1 - parity] === 0
  }

  advanceEpoch(): void {
    this.#control[control.epoch] = 1 - (this.#control[control.epoch] ?? 0)
  }
}

// SPDX-License-Identifier: MIT
/**
 * Memory of requests: payload slots of three sizes, reply headers, and job buffers.
 *
 * Owns:     taking from and returning to the free stacks, and who is next when there is too little.
 * Promises: never more memory than the arena has; a request gets all of its memory or none, so two
 *           long requests cannot block each other half-way.
 */
import { pieceBytes } from '../disk/host.js'
import type { NativeEngine } from '../io/native.js'
import { control, NONE } from './tables.js'

const small = 4096
const medium = 65536

export class Slots {
  readonly #control: Uint32Array
  readonly #stack4k: Uint32Array
  readonly #stack64k: Uint32Array
  readonly #stack1m: Uint32Array
  readonly #stackHeaders: Uint32Array
  readonly #end4k: number
  readonly #end64k: number
  readonly #start64k: number
  readonly #start4k: number
  readonly #headers: number
  readonly #headerBytes: number
  readonly #jobs: number[] = []
  #reservedFor = NONE
  /** pieces of 1 MiB that the arena has in all */
  readonly pieceCount: number

  constructor(engine: NativeEngine, headerBytes: number) {
    const { memory, layout } = engine
    this.#control = new Uint32Array(memory, layout.control, 32)
    this.#stack4k = new Uint32Array(memory, layout.stack4k, layout.count4k)
    this.#stack64k = new Uint32Array(memory, layout.stack64k, layout.count64k)
    this.#stack1m = new Uint32Array(memory, layout.stack1m, layout.count1m)
    this.#stackHeaders = new Uint32Array(memory, layout.stackHeaders, layout.headerCount)
    this.#start4k = layout.slots4k
    this.#end4k = layout.slots4k + layout.count4k * small
    this.#start64k = layout.slots64k
    this.#end64k = layout.slots64k + layout.count64k * medium
    this.#headers = layout.headers
    this.#headerBytes = headerBytes
    this.pieceCount = layout.count1m
    for (let at = layout.jobCount - 1; at >= 0; at--) {
      this.#jobs.push(layout.jobs + at * pieceBytes)
    }
  }

  /** A slot of at least that many bytes (at most 1 MiB), or NONE. */
  take(lengthBytes: number): number {
    const words = this.#control
    if (lengthBytes <= small) {
      const top = words[control.free4k] ?? 0
      if (top > 0) {
        words[control.free4k] = top - 1
        return this.#stack4k[top - 1] ?? NONE
      }
    }
    if (lengthBytes <= medium) {
      const top = words[control.free64k] ?? 0
      if (top > 0) {
        words[control.free64k] = top - 1
        return this.#stack64k[top - 1] ?? NONE
      }
    }
    return this.#takePiece()
  }

  #takePiece(): number {
    const top = this.#control[control.free1m] ?? 0
    if (top === 0) return NONE
    this.#control[control.free1m] = top - 1
    return this.#stack1m[top - 1] ?? NONE
  }

  /**
   * All pieces for a long request, or none: then others do not get any until this connection has
   * had its turn.
   */
  takePieces(count: number, connection: number): number[] | undefined {
    if ((this.#control[control.free1m] ?? 0) < count) {
      if (this.#reservedFor === NONE) this.#reservedFor = connection
      return undefined
    }
    this.dropReservation(connection)
    const pieces: number[] = []
    for (let i = 0; i < count; i++) pieces.push(this.#takePiece())
    return pieces
  }

  /**
   * Most slots of this size are taken. What is left is for connections that take their replies, so
   * that those who do not cannot hold all the memory.
   */
  isScarce(lengthBytes: number): boolean {
    const words = this.#control
    if (lengthBytes <= small) return (words[control.free4k] ?? 0) * 4 < this.#stack4k.length
    if (lengthBytes <= medium) return (words[control.free64k] ?? 0) * 4 < this.#stack64k.length
    return (words[control.free1m] ?? 0) * 4 < this.#stack1m.length
  }

  /** Another connection waits for many pieces: who asks for one now has to wait behind it. */
  isReserved(connection: number): boolean {
    return this.#reservedFor !== NONE && this.#reservedFor !== connection
  }

  dropReservation(connection: number): void {
    if (this.#reservedFor === connection) this.#reservedFor = NONE
  }

  give(slot: number): void {
    const words = this.#control
    if (slot >= this.#start4k && slot < this.#end4k) {
      const top = words[control.free4k] ?? 0
      this.#stack4k[top] = slot
      words[control.free4k] = top + 1
    } else if (slot >= this.#start64k && slot < this.#end64k) {
      const top = words[control.free64k] ?? 0
      this.#stack64k[top] = slot
      words[control.free64k] = top + 1
    } else {
      const top = words[control.free1m] ?? 0
      this.#stack1m[top] = slot
      words[control.free1m] = top + 1
    }
  }

  /** Index of a header slot, or NONE. */
  takeHeader(): number {
    const top = this.#control[control.freeHeaders] ?? 0
    if (top === 0) return NONE
    this.#control[control.freeHeaders] = top - 1
    return this.#stackHeaders[top - 1] ?? NONE
  }

  giveHeader(header: number): void {
    const top = this.#control[control.freeHeaders] ?? 0
    this.#stackHeaders[top] = header
    this.#control[control.freeHeaders] = top + 1
  }

  /** Where a header slot lies in the arena. */
  headerAt(header: number): number {
    return this.#headers + header * this.#headerBytes
  }

  takeJob(): number {
    return this.#jobs.pop() ?? NONE
  }

  giveJob(buffer: number): void {
    this.#jobs.push(buffer)
  }

  /** Ask the engine to call back when it has returned something. */
  wantFree(wanted: boolean): void {
    this.#control[control.wantsFree] = wanted ? 1 : 0
  }
}

// SPDX-License-Identifier: MIT
/**
 * A plain array of bytes that says what a served disk must hold, and a random workload on both.
 *
 * Owns:     what is in flight, and therefore what a read may be compared with.
 * Promises: the server executes overlapping writes of one connection in the order in which they
 *           were sent, so the model takes them in that order, whatever the order of the answers.
 *           Of a discarded range every sector may be as before or zeros; it is looked at, and
 *           until then left alone.
 */
import type { Random } from '../simulation/random.js'
import { describeSector, stamp } from '../simulation/stamp.js'
import type { NbdClient } from './nbd-client.js'

const sectorBytes = 512

interface InFlight {
  readonly from: number
  readonly to: number
  /** a write of any kind, or a read that wants to be compared */
  readonly writes: boolean
  /** nothing may overlap it */
  readonly alone: boolean
  isTainted: boolean
}

/** Where two contents differ first, in words; undefined when they are the same. */
export function firstDifference(
  actual: Uint8Array,
  wanted: Uint8Array,
  offsetBytes = 0,
): string | undefined {
  if (actual.length !== wanted.length) return `${actual.length} bytes, not ${wanted.length}`
  if (Buffer.compare(actual, wanted) === 0) return undefined
  const at = actual.findIndex((byte, index) => byte !== wanted[index])
  const start = Math.max(0, at - ((offsetBytes + at) % sectorBytes))
  const sector = (bytes: Uint8Array): string =>
    describeSector(bytes.subarray(start, start + sectorBytes))
  return `at byte ${offsetBytes + at}: ${sector(actual)} instead of ${sector(wanted)}`
}

export interface WorkloadOptions {
  readonly operationCount: number
  readonly depth: number
  readonly clusterBytes: number
}

export class DiskModel {
  /** numbers the writes, and stamps them */
  #tag = 1000
  readonly #inFlight = new Set<InFlight>()

  constructor(readonly content: Buffer) {}

  /**
   * Random requests; up to `depth` of them in flight.
   * @param writer the one connection that changes the disk
   * @param reader may be the same; sees what was acknowledged on the other
   * @throws Error that says which bytes are wrong
   */
  async run(
    writer: NbdClient,
    reader: NbdClient,
    random: Random,
    options: WorkloadOptions,
  ): Promise<void> {
    const running = new Set<Promise<void>>()
    for (let turn = 0; turn < options.operationCount; turn++) {
      while (running.size >= options.depth) await Promise.race(running)
      const operation = this.#start(writer, reader, random, options)
      if (operation === undefined) continue
      const ended = operation.finally(() => running.delete(ended))
      running.add(ended)
      // told by the race or at the end
      ended.catch(() => undefined)
    }
    await Promise.all(running)
  }

  /** Reads everything and compares. */
  async verify(client: NbdClient, pieceBytes = 1024 * 1024): Promise<void> {
    for (let at = 0; at < this.content.length; at += pieceBytes) {
      const length = Math.min(pieceBytes, this.content.length - at)
      this.#compare(await client.read(at, length), this.content.subarray(at, at + length), at)
    }
  }

  #start(
    writer: NbdClient,
    reader: NbdClient,
    random: Random,
    options: WorkloadOptions,
  ): Promise<void> | undefined {
    const dice = random.below(100)
    if (dice < 4) return writer.flush()
    const [from, length] = this.#range(random, options.clusterBytes)
    if (dice < 34) return this.#read(reader, from, length)
    if (dice < 75) return this.#write(writer, from, length, random.chance(0.1))
    if (dice < 88) {
      const flags = { fua: random.chance(0.1), noHole: random.chance(0.3) }
      return this.#zero(writer, from, length, flags)
    }
    return this.#trim(writer, from, length)
  }

  #range(random: Random, clusterBytes: number): [from: number, length: number] {
    const size = this.content.length
    const unit = random.pick([1, 512, 4096, clusterBytes, clusterBytes])
    const longest = random.pick([1, 3, random.between(1, 6)]) * clusterBytes
    const count = Math.max(1, Math.floor(random.between(1, longest) / unit))
    const length = Math.min(count * unit, size)
    const from = Math.floor(random.below(size - length + 1) / unit) * unit
    return [from, length]
  }

  #enter(from: number, length: number, writes: boolean, alone: boolean): InFlight | undefined {
    const to = from + length
    const entry: InFlight = { from, to, writes, alone, isTainted: false }
    const others = [...this.#inFlight].filter(other => other.from < to && from < other.to)
    if (others.some(other => other.alone || (alone && other.writes))) return undefined
    for (const other of others) {
      if (writes) other.isTainted = true
      if (other.writes) entry.isTainted = true
    }
    this.#inFlight.add(entry)
    return entry
  }

  async #during(entry: InFlight, work: Promise<void>): Promise<void> {
    try {
      await work
    } finally {
      this.#inFlight.delete(entry)
    }
  }

  #read(client: NbdClient, from: number, length: number): Promise<void> | undefined {
    const entry = this.#enter(from, length, false, false)
    if (entry === undefined) return undefined
    const wanted = Buffer.from(this.content.subarray(from, from + length))
    const work = client.read(from, length).then(data => {
      if (!entry.isTainted) this.#compare(data, wanted, from)
    })
    return this.#during(entry, work)
  }

  #write(client: NbdClient, from: number, length: number, fua: boolean): Promise<void> | undefined {
    const entry = this.#enter(from, length, true, false)
    if (entry === undefined) return undefined
    const payload = new Uint8Array(length)
    stamp(payload, from, this.#tag++)
    this.content.set(payload, from)
    return this.#during(entry, client.write(from, payload, { fua }))
  }

  #zero(
    client: NbdClient,
    from: number,
    length: number,
    flags: { fua: boolean; noHole: boolean },
  ): Promise<void> | undefined {
    const entry = this.#enter(from, length, true, false)
    if (entry === undefined) return undefined
    this.content.fill(0, from, from + length)
    return this.#during(entry, client.zero(from, length, flags))
  }

  #trim(client: NbdClient, from: number, length: number): Promise<void> | undefined {
    const entry = this.#enter(from, length, true, true)
    if (entry === undefined) return undefined
    return this.#during(entry, this.#trimAndLook(client, from, length))
  }

  async #trimAndLook(client: NbdClient, from: number, length: number): Promise<void> {
    await client.trim(from, length)
    const data = await client.read(from, length)
    const to = from + length
    for (let at = from; at < to;) {
      const end = Math.min(to, at - (at % sectorBytes) + sectorBytes)
      const found = data.subarray(at - from, end - from)
      if (found.every(byte => byte === 0)) this.content.fill(0, at, end)
      else this.#compare(found, this.content.subarray(at, end), at)
      at = end
    }
  }

  #compare(actual: Uint8Array, wanted: Uint8Array, offsetBytes: number): void {
    const difference = firstDifference(actual, wanted, offsetBytes)
    if (difference !== undefined) throw new Error(difference)
  }
}

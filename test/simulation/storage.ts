// SPDX-License-Identifier: MIT
/**
 * Simulated storage: files and directory entries in memory, in seeded disorder.
 *
 * Operations are put and stay in flight until `step` lets one of them go on: it takes effect at one
 * moment (a write possibly in two halves) and is reported at a later one. `cutPower` decides what is
 * left: what was reported before a successful fdatasync was put stays; the rest may be kept, lost or
 * torn. Names are durable once their directory was synced. The same seed gives the same day.
 */
import { Random } from './random.js'
import { randomCutPolicy, sectorBytes, SimFile, type CutPolicy } from './sim-file.js'
import { Directory } from './sim-directory.js'

export const errno = {
  EIO: 5,
  EBADF: 9,
  EINVAL: 22,
  EXDEV: 18,
  ENOSPC: 28,
  EOPNOTSUPP: 95,
} as const

/** What goes wrong. Counts are 1-based: `failWriteAt: 3` fails the third write. */
export interface Faults {
  failReadAt?: number
  failWriteAt?: number
  failSyncAt?: number
  /** from that one on, not only that one */
  failWritesFrom?: number
  shortReadAt?: number
  /** space of the whole storage; beyond it ENOSPC */
  budgetBytes?: number
  /** negative errno that these answer always, e.g. -95 */
  allocateAnswer?: number
  zeroAnswer?: number
  punchAnswer?: number
  copyAnswer?: number
  /** a lying device: an fdatasync for which this says true reports success and does nothing */
  ignoreSync?: (file: SimFile) => boolean
  /** hears of each write as it takes effect */
  watchWrite?: (file: SimFile, offsetBytes: number) => void
}

export type OperationKind =
  'read' | 'write' | 'sync' | 'allocate' | 'zero' | 'punch' | 'truncate' | 'copy'

export interface Operation {
  readonly kind: OperationKind
  readonly file: SimFile
  readonly offsetBytes: number
  readonly lengthBytes: number
  /** read: memory to fill; write: bytes, already the storage's own */
  readonly bytes?: Uint8Array | undefined
  readonly source?: SimFile | undefined
  readonly sourceOffsetBytes?: number
  /** bytes or 0, or a negative errno */
  readonly done: (result: number) => void
}

class Flight {
  reportedAt = Infinity
  /** of a write: bytes before this landed (or not) in a step of its own */
  split = 0
  landed: 'nothing' | 'head' | 'tail' | 'all' = 'nothing'
  result = 0
  constructor(
    readonly operation: Operation,
    readonly putAt: number,
    /** how often it lets others go first: some operations take far longer than all the others */
    public delay = 0,
  ) {}

  hasEnded(): boolean {
    return this.landed === 'all'
  }
}

export class Storage {
  readonly random: Random
  readonly directory = new Directory()
  faults: Faults = {}
  /** Events so far: every put, landing and report is one. */
  clock = 0
  readonly counts: Record<OperationKind, number> = {
    read: 0,
    write: 0,
    sync: 0,
    allocate: 0,
    zero: 0,
    punch: 0,
    truncate: 0,
    copy: 0,
  }
  #flights: Flight[] = []
  #nextInode = 1

  constructor(seed: number | Random) {
    this.random = typeof seed === 'number' ? new Random(seed) : seed
  }

  createFile(): SimFile {
    return new SimFile(this.#nextInode++)
  }

  get inFlightCount(): number {
    return this.#flights.length
  }

  get allocatedBytes(): number {
    let sum = 0
    for (const file of this.directory.files()) sum += file.allocatedBytes
    return sum
  }

  put(operation: Operation): void {
    const delay = this.random.chance(0.04) ? this.random.below(120) : 0
    this.#flights.push(new Flight(operation, ++this.clock, delay))
  }

  /**
   * Lets one operation in flight go on: part of it lands, all of it lands, or it is reported.
   * @returns false when nothing is in flight
   */
  step(): boolean {
    const flights = this.#flights
    if (flights.length === 0) return false
    const index = this.random.below(flights.length)
    const flight = flights[index] as Flight
    this.clock++
    if (flight.delay > 0) {
      flight.delay = flights.length === 1 ? 0 : flight.delay - 1
      return true
    }
    if (!flight.hasEnded()) {
      this.#land(flight)
      if (!flight.hasEnded() || this.random.chance(0.3)) return true
    }
    flights[index] = flights[flights.length - 1] as Flight
    flights.pop()
    flight.reportedAt = ++this.clock
    flight.operation.done(flight.result)
    return true
  }

  /** Puts one operation and finishes it before anything else moves. */
  perform(operation: Omit<Operation, 'done'>): number {
    let result = 0
    const flight = new Flight({ ...operation, done: r => (result = r) }, ++this.clock)
    while (!flight.hasEnded()) this.#land(flight)
    flight.reportedAt = ++this.clock
    flight.operation.done(flight.result)
    return result
  }

  /**
   * The power fails and comes back: operations in flight end nowhere, nobody hears of them.
   * @param inFlight also takes into account this operation, as if it had been put
   */
  cutPower(
    random: Random = this.random,
    policy: CutPolicy = randomCutPolicy(random),
    inFlight?: Omit<Operation, 'done'>,
  ): void {
    if (inFlight !== undefined) this.put({ ...inFlight, done: () => undefined })
    this.#abandonFlights(random)
    this.directory.cutPower(random)
    for (const file of this.directory.files()) file.cutPower(policy, random)
  }

  /** The process dies, the machine lives: what has landed stays, nobody hears of the rest. */
  killProcess(random: Random = this.random): void {
    const flights = this.#flights
    this.#abandonFlights(random)
    // a later barrier takes in what has landed
    for (const flight of flights) flight.reportedAt = ++this.clock
  }

  #abandonFlights(random: Random): void {
    for (const flight of random.shuffle(this.#flights.slice())) {
      if (flight.hasEnded()) continue
      if (flight.operation.kind === 'read') continue
      // whether it takes effect at all; what of it survives is then the policy's matter
      if (random.chance(0.5)) this.#land(flight, random)
      if (!flight.hasEnded() && random.chance(0.5)) this.#land(flight, random)
    }
    this.#flights = []
  }

  /** A copy to try a power cut on; callbacks are lost, the original goes on undisturbed. */
  clone(seed: number): Storage {
    const copy = new Storage(seed)
    const files = new Map<SimFile, SimFile>()
    const twin = (file: SimFile): SimFile => {
      const known = files.get(file)
      if (known !== undefined) return known
      const made = file.clone()
      files.set(file, made)
      return made
    }
    copy.directory.copyFrom(this.directory, twin)
    copy.clock = this.clock
    copy.#nextInode = this.#nextInode
    copy.#flights = this.#flights.map(flight => {
      const { operation } = flight
      const made = new Flight(
        {
          ...operation,
          file: twin(operation.file),
          source: operation.source === undefined ? undefined : twin(operation.source),
          done: () => undefined,
        },
        flight.putAt,
      )
      made.split = flight.split
      made.landed = flight.landed
      made.result = flight.result
      return made
    })
    return copy
  }

  #land(flight: Flight, random = this.random): void {
    const { operation } = flight
    if (flight.landed === 'nothing') {
      const refusal = this.#refuse(operation, random, flight)
      if (refusal !== undefined) {
        flight.result = refusal
        flight.landed = 'all'
        return
      }
    }
    if (operation.kind === 'write') this.#landWrite(flight, random)
    else {
      flight.result = this.#execute(flight)
      flight.landed = 'all'
    }
  }

  /** Large writes often land in two pieces, in either order. */
  #landWrite(flight: Flight, random: Random): void {
    const { file, offsetBytes, lengthBytes } = flight.operation
    const bytes = flight.operation.bytes as Uint8Array
    this.faults.watchWrite?.(file, offsetBytes)
    const write = (from: number, to: number): void => {
      if (to > from) {
        file.write(offsetBytes + from, bytes.subarray(from, to), flight, this.clock)
      }
    }
    flight.result = lengthBytes
    if (flight.landed === 'nothing' && lengthBytes > sectorBytes && random.chance(0.4)) {
      flight.split = this.#sectorSplit(flight.operation, random)
      flight.landed = random.chance(0.5) ? 'head' : 'tail'
      if (flight.landed === 'head') write(0, flight.split)
      else write(flight.split, lengthBytes)
      return
    }
    if (flight.landed === 'nothing') write(0, lengthBytes)
    else if (flight.landed === 'head') write(flight.split, lengthBytes)
    else write(0, flight.split)
    flight.landed = 'all'
  }

  /** A place inside a write, at the border of a sector of the file. */
  #sectorSplit(operation: Operation, random: Random): number {
    const { offsetBytes, lengthBytes } = operation
    const middle = offsetBytes + random.below(lengthBytes + 1)
    return Math.max(0, Math.floor(middle / sectorBytes) * sectorBytes - offsetBytes)
  }

  #execute(flight: Flight): number {
    const { kind, file, offsetBytes, lengthBytes, bytes, source } = flight.operation
    switch (kind) {
      case 'read':
        return file.read(offsetBytes, bytes as Uint8Array)
      case 'sync':
        if (this.faults.ignoreSync?.(file) !== true) file.makeDurable(flight.putAt)
        return 0
      case 'allocate':
        file.allocate(offsetBytes, lengthBytes, flight, this.clock)
        return 0
      case 'zero':
        file.zero(offsetBytes, lengthBytes, flight, this.clock)
        return 0
      case 'punch':
        file.zero(offsetBytes, lengthBytes, flight, this.clock)
        file.release(offsetBytes, lengthBytes)
        return 0
      case 'truncate':
        file.truncate(offsetBytes, flight, this.clock)
        return 0
      case 'copy': {
        const copied = new Uint8Array(lengthBytes)
        const from = flight.operation.sourceOffsetBytes ?? 0
        const count = (source as SimFile).read(from, copied)
        if (count > 0) file.write(offsetBytes, copied.subarray(0, count), flight, this.clock)
        return count
      }
      case 'write':
        return lengthBytes
    }
  }

  /** @returns a negative errno or a short count when a fault strikes, else undefined */
  #refuse(operation: Operation, random: Random, flight: Flight): number | undefined {
    const { faults } = this
    const { kind, file, offsetBytes, lengthBytes, bytes } = operation
    const nth = ++this.counts[kind]
    if (kind === 'read') {
      if (nth === faults.failReadAt) return -errno.EIO
      if (nth !== faults.shortReadAt) return undefined
      return file.read(offsetBytes, (bytes as Uint8Array).subarray(0, random.below(lengthBytes)))
    }
    if (kind === 'sync') {
      if (nth !== faults.failSyncAt) return undefined
      file.dropUnflushed(random)
      return -errno.EIO
    }
    const answer = this.#fixedAnswer(kind)
    if (answer !== undefined) return answer
    if (
      kind === 'write' &&
      (nth === faults.failWriteAt || nth >= (faults.failWritesFrom ?? Infinity))
    ) {
      const part = this.#sectorSplit(operation, random)
      if (part > 0) {
        file.write(offsetBytes, (bytes as Uint8Array).subarray(0, part), flight, this.clock)
      }
      return -errno.EIO
    }
    if (
      faults.budgetBytes !== undefined &&
      (kind === 'write' || kind === 'allocate' || kind === 'copy')
    ) {
      const needed = file.spaceNeeded(offsetBytes, lengthBytes)
      if (needed > 0 && this.allocatedBytes + needed > faults.budgetBytes) return -errno.ENOSPC
    }
    return undefined
  }

  #fixedAnswer(kind: OperationKind): number | undefined {
    switch (kind) {
      case 'allocate':
        return this.faults.allocateAnswer
      case 'zero':
        return this.faults.zeroAnswer
      case 'punch':
        return this.faults.punchAnswer
      case 'copy':
        return this.faults.copyAnswer
      default:
        return undefined
    }
  }
}

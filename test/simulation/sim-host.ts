// SPDX-License-Identifier: MIT
/**
 * Runs a disk on the simulated storage, and watches its manners.
 *
 * Every promise that the real host relies on is checked: memory that somebody else owns, payloads
 * that change while they are being written, alignment of direct files, tokens, writes to files that
 * are not the top, replies given twice or too early, calls at the wrong time. A breach throws
 * {@link Misbehaviour}.
 *
 * Job buffers are few, and another disk takes some of them for a while. Operations belong to the
 * epoch in which they were put, as in the engine.
 */
import { NONE, pieceBytes, type DiskHost } from '../../src/disk/host.js'
import type { DiskRequest } from '../../src/disk/request.js'
import type { Random } from './random.js'
import type { SimFile } from './sim-file.js'
import type { Operation, OperationKind, Storage } from './storage.js'

/** The disk broke a rule of the host. */
export class Misbehaviour extends Error {
  override name = 'Misbehaviour'
}

function demand(condition: boolean, sentence: () => string): asserts condition {
  if (!condition) throw new Misbehaviour(sentence())
}

export interface HostFile {
  readonly file: SimFile
  readonly writable: boolean
  /** 0 = buffered; else what direct I/O demands of memory, offset and length */
  readonly directAlignmentBytes: number
}

/** The part of a disk that a host calls. */
export interface HostedDisk {
  complete(token: number, result: number): void
  buffersFreed(): void
}

interface InFlight {
  readonly kind: OperationKind
  readonly buffer: number
  readonly lengthBytes: number
  readonly parity: 0 | 1
}

interface Region {
  readonly from: number
  readonly to: number
}

/** Tokens at and above this one are the data plane's own. */
const readerToken = 0x80000000

export class SimHost implements DiskHost {
  readonly memory: Uint8Array
  disk: HostedDisk | undefined
  /** Requests answered since somebody last took them. */
  readonly replies: DiskRequest[] = []
  jobsTakenMax = 0
  readonly operationCounts = new Map<OperationKind, number>()
  #freeJobs: number[] = []
  readonly #takenJobs = new Set<number>()
  readonly #othersJobs: number[] = []
  readonly #requests = new Set<DiskRequest>()
  readonly #inFlight = new Map<number, InFlight>()
  readonly #epochCounts: [number, number] = [0, 0]
  #parity: 0 | 1 = 0
  #isStarved = false
  #insideDisk = false
  #nextReader = readerToken
  #readers = new Map<number, (result: number) => void>()

  /**
   * @param memory arena; the job buffers are its first `jobCount` pieces
   */
  constructor(
    readonly storage: Storage,
    readonly files: readonly HostFile[],
    memory: Uint8Array,
    readonly jobCount: number,
    readonly random: Random,
  ) {
    this.memory = memory
    for (let job = 0; job < jobCount; job++) this.#freeJobs.push(job * pieceBytes)
  }

  get inFlightCount(): number {
    return this.#inFlight.size
  }

  /** Calls into the disk; the only way to do so. */
  enter(action: () => void): void {
    demand(!this.#insideDisk, () => 'the disk was entered again from inside a call')
    this.#insideDisk = true
    try {
      action()
    } finally {
      this.#insideDisk = false
    }
  }

  /** The request's memory belongs to the disk from now to its reply. Call before `submit`. */
  lend(request: DiskRequest): void {
    this.#requests.add(request)
  }

  /** Lent memory of a reader past the disk comes back. */
  takeBack(request: DiskRequest): void {
    this.#requests.delete(request)
  }

  /** A read that the data plane does by itself, from the map: the disk never hears of it. */
  readPast(
    file: number,
    offsetBytes: number,
    lengthBytes: number,
    buffer: number,
    done: (result: number) => void,
  ): void {
    const token = this.#nextReader++
    this.#readers.set(token, done)
    this.#put('read', file, offsetBytes, lengthBytes, buffer, token)
  }

  /** Another disk takes a job buffer, or gives one back. */
  stirBuffers(): void {
    if (this.#othersJobs.length > 0 && this.random.chance(0.5)) {
      this.#freeJobs.push(this.#othersJobs.pop() as number)
    } else if (this.#freeJobs.length > 0) {
      this.#othersJobs.push(this.#freeJobs.pop() as number)
    }
  }

  /** All other disks are idle: whoever starves now starves by its own doing. */
  giveBackOthersBuffers(): void {
    this.#freeJobs.push(...this.#othersJobs.splice(0))
  }

  /** Tells the disk of buffers that came back while it waited. @returns false: nothing to tell */
  feedStarved(): boolean {
    if (!this.#isStarved || this.#freeJobs.length === 0) return false
    this.#isStarved = false
    const { disk } = this
    this.enter(() => disk?.buffersFreed())
    return true
  }

  /** After quiesce nothing may be left behind. */
  assertIdle(): void {
    demand(this.#inFlight.size === 0, () => `${this.#inFlight.size} operations still in flight`)
    demand(this.#takenJobs.size === 0, () => `${this.#takenJobs.size} job buffers never given back`)
    demand(this.#requests.size === 0, () => `${this.#requests.size} requests never answered`)
  }

  // --- DiskHost

  read(
    file: number,
    offsetBytes: number,
    lengthBytes: number,
    buffer: number,
    token: number,
  ): void {
    this.#assertInside('read')
    this.#put('read', file, offsetBytes, lengthBytes, buffer, token)
  }

  write(
    file: number,
    offsetBytes: number,
    lengthBytes: number,
    buffer: number,
    token: number,
  ): void {
    this.#assertInside('write')
    this.#put('write', file, offsetBytes, lengthBytes, buffer, token)
  }

  sync(file: number, token: number): void {
    this.#assertInside('sync')
    this.#put('sync', file, 0, 0, NONE, token)
  }

  allocate(file: number, offsetBytes: number, lengthBytes: number, token: number): void {
    this.#assertInside('allocate')
    demand(lengthBytes > 0, () => 'allocate of nothing')
    this.#put('allocate', file, offsetBytes, lengthBytes, NONE, token)
  }

  zero(file: number, offsetBytes: number, lengthBytes: number, token: number): void {
    this.#assertInside('zero')
    demand(lengthBytes > 0, () => 'zero of nothing')
    this.#put('zero', file, offsetBytes, lengthBytes, NONE, token)
  }

  punch(file: number, offsetBytes: number, lengthBytes: number, token: number): void {
    this.#assertInside('punch')
    demand(lengthBytes > 0, () => 'punch of nothing')
    this.#put('punch', file, offsetBytes, lengthBytes, NONE, token)
  }

  copy(
    source: number,
    sourceOffsetBytes: number,
    target: number,
    targetOffsetBytes: number,
    lengthBytes: number,
    token: number,
  ): void {
    this.#assertInside('copy')
    demand(lengthBytes > 0, () => 'copy of nothing')
    const from = this.#file(source)
    this.#put('copy', target, targetOffsetBytes, lengthBytes, NONE, token, {
      source: from.file,
      sourceOffsetBytes,
    })
  }

  takeBuffer(): number {
    this.#assertInside('takeBuffer')
    const buffer = this.#freeJobs.pop()
    if (buffer === undefined) {
      this.#isStarved = true
      return NONE
    }
    this.#takenJobs.add(buffer)
    this.jobsTakenMax = Math.max(this.jobsTakenMax, this.#takenJobs.size)
    // what the last user left behind must not matter
    this.memory.fill(0xa5, buffer, buffer + this.random.pick([4096, 65536, pieceBytes]))
    return buffer
  }

  giveBuffer(buffer: number): void {
    this.#assertInside('giveBuffer')
    demand(
      this.#takenJobs.delete(buffer),
      () => `gave back buffer ${buffer}, which it does not own`,
    )
    this.#assertUnused({ from: buffer, to: buffer + pieceBytes }, 'a buffer was given back')
    this.#freeJobs.push(buffer)
  }

  reply(request: DiskRequest): void {
    this.#assertInside('reply')
    demand(this.#requests.delete(request), () => 'a request was answered twice')
    demand(
      Number.isInteger(request.errno) && request.errno >= 0,
      () => `the answer's errno is ${request.errno}`,
    )
    for (const region of regionsOf(request)) this.#assertUnused(region, 'a request was answered')
    this.replies.push(request)
  }

  oldEpochIdle(): boolean {
    return this.#epochCounts[this.#parity === 0 ? 1 : 0] === 0
  }

  advanceEpoch(): void {
    demand(this.oldEpochIdle(), () => 'the epoch was advanced while the old one has readers')
    this.#parity = this.#parity === 0 ? 1 : 0
  }

  // --- inside

  #assertInside(call: string): void {
    demand(this.#insideDisk, () => `${call} was called by nobody's leave: not from inside the disk`)
  }

  #file(index: number): HostFile {
    const file = this.files[index]
    demand(file !== undefined, () => `there is no file ${index}`)
    return file
  }

  #put(
    kind: OperationKind,
    index: number,
    offsetBytes: number,
    lengthBytes: number,
    buffer: number,
    token: number,
    more: Pick<Operation, 'source' | 'sourceOffsetBytes'> = {},
  ): void {
    const entry = this.#file(index)
    const where = (): string => `${kind} of file ${index} at ${offsetBytes}, ${lengthBytes} bytes`
    demand(
      Number.isSafeInteger(offsetBytes) && offsetBytes >= 0 && Number.isSafeInteger(lengthBytes),
      () => `${where()}: not a range`,
    )
    demand(!this.#inFlight.has(token), () => `${where()}: token ${token} is in use`)
    if (kind !== 'read') demand(entry.writable, () => `${where()}: the file is read-only`)
    let bytes: Uint8Array | undefined
    if (kind === 'read' || kind === 'write') {
      this.#assertMemory(kind, buffer, lengthBytes, where)
      this.#assertAligned(entry, offsetBytes, lengthBytes, buffer, where)
      bytes = this.memory.subarray(buffer, buffer + lengthBytes)
      if (kind === 'write') bytes = bytes.slice()
    }
    const parity = this.#parity
    this.#inFlight.set(token, { kind, buffer, lengthBytes, parity })
    this.#epochCounts[parity]++
    this.operationCounts.set(kind, (this.operationCounts.get(kind) ?? 0) + 1)
    this.storage.put({
      kind,
      file: entry.file,
      offsetBytes,
      lengthBytes,
      bytes,
      ...more,
      done: result => {
        if (kind === 'write') this.#assertUnchanged(bytes as Uint8Array, buffer, where)
        this.#ended(token, result)
      },
    })
  }

  #ended(token: number, result: number): void {
    const operation = this.#inFlight.get(token) as InFlight
    this.#inFlight.delete(token)
    this.#epochCounts[operation.parity]--
    const reader = this.#readers.get(token)
    if (reader !== undefined) {
      this.#readers.delete(token)
      reader(result)
      return
    }
    const { disk } = this
    this.enter(() => disk?.complete(token, result))
  }

  #assertAligned(
    entry: HostFile,
    offsetBytes: number,
    lengthBytes: number,
    buffer: number,
    where: () => string,
  ): void {
    const unit = entry.directAlignmentBytes
    if (unit === 0) return
    demand(
      offsetBytes % unit === 0 && lengthBytes % unit === 0 && buffer % unit === 0,
      () => `${where()}, memory at ${buffer}: the file is direct, ${unit} bytes aligned`,
    )
  }

  #assertMemory(
    kind: 'read' | 'write',
    from: number,
    lengthBytes: number,
    where: () => string,
  ): void {
    demand(lengthBytes > 0, () => `${where()}: of nothing`)
    const to = from + lengthBytes
    demand(to <= this.memory.length, () => `${where()}: beyond the memory`)
    demand(this.#isOwned(from, to), () => `${where()}: memory ${from}-${to} is not the disk's`)
    for (const other of this.#inFlight.values()) {
      if (other.buffer === NONE || (other.kind === 'write' && kind === 'write')) continue
      demand(
        other.buffer >= to || other.buffer + other.lengthBytes <= from,
        () => `${where()}: memory ${from}-${to} belongs to a ${other.kind} in flight`,
      )
    }
  }

  #isOwned(from: number, to: number): boolean {
    for (const buffer of this.#takenJobs) {
      if (from >= buffer && to <= buffer + pieceBytes) return true
    }
    for (const request of this.#requests) {
      for (const region of regionsOf(request))
        if (from >= region.from && to <= region.to) return true
    }
    return false
  }

  #assertUnused(region: Region, event: string): void {
    for (const operation of this.#inFlight.values()) {
      if (operation.buffer === NONE) continue
      demand(
        operation.buffer >= region.to || operation.buffer + operation.lengthBytes <= region.from,
        () => `${event} while a ${operation.kind} on its memory is in flight`,
      )
    }
  }

  #assertUnchanged(bytes: Uint8Array, buffer: number, where: () => string): void {
    const now = this.memory.subarray(buffer, buffer + bytes.length)
    demand(
      Buffer.compare(bytes, now) === 0,
      () => `${where()}: the memory was changed before the write had ended`,
    )
  }
}

/** The pieces of memory of a request; direct I/O may touch it up to the next 4096. */
function regionsOf(request: DiskRequest): Region[] {
  if (request.buffer === NONE) return []
  const { pieces } = request
  if (pieces === undefined)
    return [{ from: request.buffer, to: request.buffer + request.lengthBytes }]
  return pieces.map((from, index) => ({
    from,
    to: from + Math.min(pieceBytes, request.lengthBytes - index * pieceBytes),
  }))
}

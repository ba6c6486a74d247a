// SPDX-License-Identifier: MIT
/**
 * The disk as a state machine: requests and completions in, file operations and replies out.
 *
 * Owns:     the life of a request: range lock, parts, publication for FUA, reply; quiescing.
 * Leaves:   I/O, time and sockets to its host; what the parts do to its modules. Nothing else of
 *           this folder is called from outside, except the map (for reading) and extents.ts.
 * Promises: a reply is given once; an acknowledged write is seen by every later read; after a
 *           flush everything acknowledged before it survives a power cut.
 */
import { assert } from '../base/assert.js'
import { roundDown, roundUp } from '../base/math.js'
import { FileAccess, type Party } from './access.js'
import { Allocator } from './allocator.js'
import { CopyOnWrite, type Part } from './copy-on-write.js'
import { DiskCore } from './core.js'
import { errno } from './errno.js'
import type { DiskMap } from './map.js'
import type { DiskLevel, DiskOptions } from './options.js'
import { Publisher } from './publisher.js'
import { RangeLocks } from './range-locks.js'
import { Releaser } from './releaser.js'
import { memoryAt, memoryRest } from './request-memory.js'
import { diskCommand, DiskRequest } from './request.js'
import type { WriteTracker } from './write-tracker.js'
import { ZeroAndTrim } from './zero-and-trim.js'

export type { DiskLevel, DiskOptions } from './options.js'

export class Disk {
  readonly map: DiskMap
  readonly clusterBytes: number
  readonly sizeBytes: number
  readonly readOnly: boolean

  readonly #core: DiskCore
  readonly #access: FileAccess
  readonly #allocator: Allocator
  readonly #publisher: Publisher
  readonly #releaser: Releaser
  readonly #jobs: CopyOnWrite
  readonly #zeroes: ZeroAndTrim
  readonly #locks = new RangeLocks()
  readonly #lockUnit: number
  #activeCount = 0
  #quiesced: ((code: number) => void) | undefined = undefined
  #isPublishingLast = false

  constructor(options: DiskOptions) {
    const core = new DiskCore(options)
    this.#core = core
    this.map = options.map
    this.clusterBytes = options.clusterBytes
    this.sizeBytes = options.sizeBytes
    this.readOnly = options.readOnly
    this.#lockUnit = core.top.direct ? core.top.alignmentBytes : 1
    this.#access = new FileAccess(core)
    this.#allocator = new Allocator(core)
    this.#releaser = new Releaser(core, this.#allocator)
    this.#publisher = new Publisher(
      core,
      request => {
        this.#published(request)
      },
      fileClusters => {
        this.#releaser.add(fileClusters)
      },
    )
    const party = this.#party
    this.#jobs = new CopyOnWrite(
      core,
      this.#access,
      this.#allocator,
      this.#publisher,
      party,
      (part, clusterIndex) => {
        this.#putPart(part, clusterIndex)
      },
    )
    this.#zeroes = new ZeroAndTrim(core, this.#access, this.#jobs, this.#publisher, party)
  }

  // --- what the opener and the control plane ask

  /** Whole clusters that the top's file must keep; what follows is prepared space. */
  get allocHead(): number {
    return this.#allocator.head
  }

  /** A barrier or a BAT write failed: flushes fail and the image must not be marked clean. */
  get failed(): boolean {
    return this.#core.failedErrno !== 0
  }

  get activeCount(): number {
    return this.#activeCount
  }

  /** Mappings that are not yet in the BAT on disk. */
  get pendingCount(): number {
    return this.#publisher.pendingCount
  }

  get counters(): Readonly<DiskCore['counters']> {
    return this.#core.counters
  }

  get levels(): readonly DiskLevel[] {
    return this.#core.levels
  }

  set tracker(tracker: WriteTracker | undefined) {
    this.#core.tracker = tracker
  }

  // --- what the host calls

  /**
   * Takes a request. Its range lies inside the disk and, on a read-only disk, it is a READ or a
   * FLUSH. The answer comes by `host.reply`, possibly before this returns.
   */
  submit(request: DiskRequest): void {
    assert(this.#quiesced === undefined, 'a request came to a quiesced disk')
    this.#activeCount += 1
    request.errno = 0
    request.pendingCount = 1
    switch (request.command) {
      case diskCommand.read:
        this.#read(request)
        break
      case diskCommand.flush:
        this.#flush(request)
        break
      case diskCommand.write:
      case diskCommand.trim:
      case diskCommand.writeZeroes:
        this.#change(request)
        break
      default:
        assert(false, `the disk has no command ${request.command}`)
    }
  }

  complete(token: number, result: number): void {
    this.#core.operations.complete(token, result)
    if (this.#drained !== undefined) this.#drain()
  }

  /** The host has job buffers again after it had none. */
  buffersFreed(): void {
    this.#core.buffersFreed()
  }

  get waitsForBuffer(): boolean {
    return this.#core.waitsForBuffer
  }

  /** Long ranges to be gone on with: call {@link work} between batches. */
  get hasWork(): boolean {
    return this.#zeroes.hasWork
  }

  work(): void {
    this.#zeroes.work()
  }

  /** @param nowMs of any monotonic clock; call it some times a second */
  tick(nowMs: number): void {
    this.#publisher.tick(nowMs)
    if (this.#drained === undefined) this.#releaser.pump()
    else this.#drain()
  }

  /**
   * Finishes all requests and makes everything durable. The caller submits nothing from now on
   * until {@link resume}.
   * @param done 0, or the errno with which the image is left marked in use
   */
  quiesce(done: (code: number) => void): void {
    assert(this.#quiesced === undefined, 'the disk is being quiesced already')
    this.#quiesced = done
    this.#quiesceStep()
  }

  resume(): void {
    this.#quiesced = undefined
  }

  /**
   * Quiesces for good, and gives back the space of clusters released last. {@link tick} must go on
   * until `done`; {@link allocHead} is final then.
   */
  close(done: (code: number) => void): void {
    this.quiesce(code => {
      this.#drained = () => {
        this.#allocator.trimHead()
        done(code)
      }
      this.#drain()
    })
  }

  #drained: (() => void) | undefined = undefined

  #drain(): void {
    // Once for those released last to become old, once for the old ones to be punched.
    this.#releaser.pump()
    this.#releaser.pump()
    if (!this.#releaser.isIdle && !this.failed) return
    const done = this.#drained
    this.#drained = undefined
    done?.()
  }

  // --- requests

  #read(request: DiskRequest): void {
    const { clusterBytes, map } = this.#core
    const { offsetBytes, lengthBytes } = request
    let position = 0
    while (position < lengthBytes) {
      const offset = offsetBytes + position
      let clusterIndex = Math.floor(offset / clusterBytes)
      const inside = offset - clusterIndex * clusterBytes
      const mark = map.levels[clusterIndex] ?? 0
      const start = this.#core.clusterOffsetBytes(clusterIndex)
      let count = Math.min(clusterBytes - inside, lengthBytes - position)
      // Neighbours of one file that lie behind each other there are one part.
      while (position + count < lengthBytes) {
        clusterIndex += 1
        if (map.levels[clusterIndex] !== mark) break
        const next = this.#core.clusterOffsetBytes(clusterIndex)
        if (mark !== 0 && next !== start + inside + count) break
        count = Math.min(count + clusterBytes, lengthBytes - position)
      }
      if (mark === 0) this.#fillZeros(request, position, count)
      else {
        const level = this.#core.level(mark)
        this.#access.read(this.#party, request, level, start + inside, position, count)
      }
      position += count
    }
    this.#partEnded(request, 0)
  }

  #fillZeros(request: DiskRequest, position: number, count: number): void {
    for (let done = 0; done < count;) {
      const at = memoryAt(request, position + done)
      const run = Math.min(count - done, memoryRest(request, position + done))
      this.#core.memory.fill(0, at, at + run)
      done += run
    }
  }

  #flush(request: DiskRequest): void {
    if (this.readOnly) this.#reply(request)
    else this.#publisher.flush(request)
  }

  #change(request: DiskRequest): void {
    if (request.lengthBytes === 0) {
      this.#reply(request)
      return
    }
    request.lockedFromBytes = roundDown(request.offsetBytes, this.#lockUnit)
    request.lockedToBytes = roundUp(request.offsetBytes + request.lengthBytes, this.#lockUnit)
    if (this.#locks.acquire(request)) this.#startChange(request)
  }

  /** The request holds its range. */
  readonly #startChange = (request: DiskRequest): void => {
    if (this.#core.failedErrno !== 0) this.#partEnded(request, errno.EIO)
    else if (request.command === diskCommand.write) this.#write(request)
    else this.#zeroes.start(request)
  }

  #write(request: DiskRequest): void {
    const { clusterBytes, map, topMark } = this.#core
    const { offsetBytes, lengthBytes } = request
    let position = 0
    while (position < lengthBytes) {
      const offset = offsetBytes + position
      const clusterIndex = Math.floor(offset / clusterBytes)
      const inside = offset - clusterIndex * clusterBytes
      const count = Math.min(clusterBytes - inside, lengthBytes - position)
      if (map.levels[clusterIndex] === topMark) {
        const target = this.#core.clusterOffsetBytes(clusterIndex) + inside
        this.#access.write(this.#party, request, target, position, count)
      } else {
        const part = { request, position, lengthBytes: count, insideBytes: inside, isZero: false }
        this.#jobs.park(part, clusterIndex)
      }
      position += count
    }
    this.#partEnded(request, 0)
  }

  /** A part that waited for a job on its cluster, which the top owns by now. */
  #putPart(part: Part, clusterIndex: number): void {
    const { request, position, lengthBytes, insideBytes } = part
    if (part.isZero) {
      this.#zeroes.zeroPresent(request, clusterIndex, insideBytes, lengthBytes)
      return
    }
    const target = this.#core.clusterOffsetBytes(clusterIndex) + insideBytes
    this.#access.write(this.#party, request, target, position, lengthBytes)
  }

  // --- parts and replies

  readonly #party: Party = {
    partStarted: request => {
      request.pendingCount += 1
    },
    partEnded: (request, code) => {
      this.#partEnded(request, code)
    },
  }

  #partEnded(request: DiskRequest, code: number): void {
    if (code !== 0 && request.errno === 0) request.errno = code
    request.pendingCount -= 1
    if (request.pendingCount > 0) {
      const { command } = request
      if (command === diskCommand.trim || command === diskCommand.writeZeroes) {
        this.#zeroes.advance(request)
      }
      return
    }
    if (request.command === diskCommand.read) this.#reply(request)
    else this.#changed(request)
  }

  #changed(request: DiskRequest): void {
    this.#publisher.noteWritten()
    this.#locks.release(request, this.#startChange)
    const waits = request.fua || this.#publisher.mustPublish
    if (waits && request.errno === 0) this.#publisher.flush(request)
    else this.#reply(request)
  }

  #published(request: DiskRequest): void {
    if (request === this.#lastFlush) this.#lastFlushed(request.errno)
    else this.#reply(request)
  }

  #reply(request: DiskRequest): void {
    this.#activeCount -= 1
    this.#core.host.reply(request)
    if (this.#quiesced !== undefined) this.#quiesceStep()
  }

  // --- quiescing

  readonly #lastFlush = new DiskRequest()

  #quiesceStep(): void {
    if (this.#activeCount > 0 || this.#isPublishingLast) return
    if (this.readOnly) {
      this.#lastFlushed(0)
      return
    }
    this.#isPublishingLast = true
    this.#lastFlush.errno = 0
    this.#publisher.flush(this.#lastFlush)
  }

  #lastFlushed(code: number): void {
    this.#isPublishingLast = false
    this.#quiesced?.(code)
  }
}

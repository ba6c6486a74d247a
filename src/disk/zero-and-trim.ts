// SPDX-License-Identifier: MIT
/**
 * WRITE_ZEROES and TRIM, cluster by cluster, never letting a lower level's data show through.
 *
 * | cluster is              | WRITE_ZEROES                   | … with NO_HOLE   | TRIM        |
 * | ----------------------- | ------------------------------ | ---------------- | ----------- |
 * | the top's alone         | released                       | zeroed in place  | released    |
 * | the top's, shadowing    | punched, entry kept            | zeroed in place  | punched     |
 * | a lower level's         | a zero cluster is mapped       | same             | left        |
 * | nobody's                | nothing to do                  | mapped           | left        |
 *
 * A part of a cluster is zeroed in place, or by copy-on-write when a lower level owns it; TRIM
 * leaves parts alone. Ranges may be as long as the disk: they are walked with a bounded number of
 * operations under way and in bounded slices ({@link ZeroAndTrim.work}), and buffer nothing.
 */
import { roundDown, roundUp } from '../base/math.js'
import type { FileAccess, Party } from './access.js'
import type { CopyOnWrite } from './copy-on-write.js'
import type { DiskCore } from './core.js'
import { clientErrno, errno, isUnsupported } from './errno.js'
import { isShadowed } from './map.js'
import type { Publisher } from './publisher.js'
import { diskCommand, type DiskRequest } from './request.js'

const partsMax = 32
const sliceClusters = 65536
/** In-place zeroing by the file system works on whole blocks; the rest is written as data. */
const blockBytes = 4096

export class ZeroAndTrim {
  readonly #core: DiskCore
  readonly #access: FileAccess
  readonly #jobs: CopyOnWrite
  readonly #publisher: Publisher
  readonly #party: Party
  /** requests whose slice is over, to be gone on with */
  #paused: DiskRequest[] = []
  #canPunch = true
  #canZero = true

  constructor(
    core: DiskCore,
    access: FileAccess,
    jobs: CopyOnWrite,
    publisher: Publisher,
    party: Party,
  ) {
    this.#core = core
    this.#access = access
    this.#jobs = jobs
    this.#publisher = publisher
    this.#party = party
  }

  get hasWork(): boolean {
    return this.#paused.length > 0
  }

  /** Goes on with long ranges; call it between batches while {@link hasWork}. */
  work(): void {
    const paused = this.#paused
    this.#paused = []
    for (const request of paused) {
      request.isPaused = false
      this.advance(request)
    }
  }

  /** Begins a request that holds its range lock and has one part open, which this ends. */
  start(request: DiskRequest): void {
    request.cursorBytes = request.offsetBytes
    if (request.fastZero && !this.#isFast(request)) {
      request.cursorBytes = endOf(request)
      this.#party.partEnded(request, errno.ENOTSUP)
      return
    }
    this.advance(request)
  }

  /** Also called when a part of the request has ended. */
  advance(request: DiskRequest): void {
    const end = endOf(request)
    if (request.isAdvancing || request.isPaused || request.cursorBytes >= end) return
    request.isAdvancing = true
    let left = sliceClusters
    while (request.cursorBytes < end && request.pendingCount <= partsMax && left > 0) {
      if (request.errno !== 0) request.cursorBytes = end
      else this.#step(request, end)
      left -= 1
    }
    request.isAdvancing = false
    if (request.cursorBytes >= end) this.#party.partEnded(request, 0)
    else if (left === 0) {
      request.isPaused = true
      this.#paused.push(request)
    }
  }

  #step(request: DiskRequest, end: number): void {
    const { clusterBytes } = this.#core
    const clusterIndex = Math.floor(request.cursorBytes / clusterBytes)
    const start = clusterIndex * clusterBytes
    const insideBytes = request.cursorBytes - start
    const lengthBytes = Math.min(end - start, clusterBytes) - insideBytes
    request.cursorBytes += lengthBytes
    if (request.command === diskCommand.trim) this.#trim(request, clusterIndex, lengthBytes)
    else this.#zero(request, clusterIndex, insideBytes, lengthBytes)
  }

  #trim(request: DiskRequest, clusterIndex: number, lengthBytes: number): void {
    const { map, topMark, clusterBytes, top } = this.#core
    if (map.levels[clusterIndex] !== topMark || this.#jobs.has(clusterIndex)) return
    if (lengthBytes < clusterBytes) return
    if (!top.raw && !isShadowed(map, clusterIndex)) this.#release(clusterIndex)
    else if (this.#canPunch) this.#inPlace(request, clusterIndex, 0, lengthBytes, false)
  }

  #zero(
    request: DiskRequest,
    clusterIndex: number,
    insideBytes: number,
    lengthBytes: number,
  ): void {
    const { map, topMark, clusterBytes, top } = this.#core
    const mark = map.levels[clusterIndex] ?? 0
    const isWhole = lengthBytes === clusterBytes
    if (mark !== topMark || this.#jobs.has(clusterIndex)) {
      if (mark === 0 && !request.noHole && !this.#jobs.has(clusterIndex)) return
      const part = { request, position: 0, lengthBytes, insideBytes, isZero: true }
      this.#jobs.park(part, clusterIndex)
      return
    }
    if (isWhole && !request.noHole && !top.raw && !isShadowed(map, clusterIndex)) {
      this.#release(clusterIndex)
      return
    }
    this.#inPlace(request, clusterIndex, insideBytes, lengthBytes, request.noHole)
  }

  /** Zeroes bytes of a cluster that the top owns: also the way of parts that met a job. */
  zeroPresent(request: DiskRequest, clusterIndex: number, inside: number, length: number): void {
    this.#inPlace(request, clusterIndex, inside, length, request.noHole)
  }

  #release(clusterIndex: number): void {
    const { map } = this.#core
    const fileCluster = map.clusters[clusterIndex] ?? 0
    map.levels[clusterIndex] = 0
    map.clusters[clusterIndex] = 0
    this.#publisher.noteMapped(clusterIndex, fileCluster)
  }

  #inPlace(
    request: DiskRequest,
    clusterIndex: number,
    insideBytes: number,
    lengthBytes: number,
    keepSpace: boolean,
  ): void {
    const from = this.#core.clusterOffsetBytes(clusterIndex) + insideBytes
    const end = from + lengthBytes
    const first = Math.min(end, roundUp(from, blockBytes))
    const last = Math.max(first, roundDown(end, blockBytes))
    if (from < first) this.#access.writeZeros(this.#party, request, from, first - from)
    if (last < end) this.#access.writeZeros(this.#party, request, last, end - last)
    if (first === last) return
    if (keepSpace ? this.#canZero : this.#canPunch || this.#canZero) {
      this.#zeroBlocks(request, first, last - first, keepSpace)
    } else this.#access.writeZeros(this.#party, request, first, last - first)
  }

  #zeroBlocks(request: DiskRequest, from: number, lengthBytes: number, keepSpace: boolean): void {
    const { host, top } = this.#core
    const punches = !keepSpace && this.#canPunch
    this.#access.mark(from, lengthBytes)
    this.#party.partStarted(request)
    this.#core.perform(
      token => {
        if (punches) host.punch(top.file, from, lengthBytes, token)
        else host.zero(top.file, from, lengthBytes, token)
      },
      result => {
        this.#access.mark(from, lengthBytes)
        if (result < 0 && isUnsupported(result)) {
          if (punches) this.#canPunch = false
          else this.#canZero = false
          if (request.command !== diskCommand.trim) {
            this.#access.writeZeros(this.#party, request, from, lengthBytes)
          }
          this.#party.partEnded(request, 0)
        } else this.#party.partEnded(request, result < 0 ? clientErrno(result) : 0)
      },
    )
  }

  /** Can the whole range be zeroed without writing data? Decided before anything changes. */
  #isFast(request: DiskRequest): boolean {
    const { clusterBytes, map, topMark } = this.#core
    const end = endOf(request)
    const last = Math.ceil(end / clusterBytes)
    for (let index = Math.floor(request.offsetBytes / clusterBytes); index < last; index++) {
      const from = Math.max(request.offsetBytes, index * clusterBytes)
      const isWhole = Math.min(end, (index + 1) * clusterBytes) - from === clusterBytes
      const mark = map.levels[index] ?? 0
      if (request.noHole) {
        if (!isWhole || mark !== topMark || !this.#canZero) return false
      } else if (this.#jobs.has(index)) return false
      else if (mark !== 0 && !(isWhole && (this.#canPunch || this.#canZero))) return false
    }
    return true
  }
}

function endOf(request: DiskRequest): number {
  return request.offsetBytes + request.lengthBytes
}

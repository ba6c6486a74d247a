// SPDX-License-Identifier: MIT
/**
 * Moves parts of a request between its memory and one file.
 *
 * Owns:     cutting at the borders of the request's memory, alignment of direct files (through a
 *           job buffer: read the surrounding blocks, change the bytes, write them back), the end
 *           of raw files, marks of the write tracker.
 * Leaves:   where a cluster lies, and who may write when, to its callers. A read-modify-write is
 *           safe because RangeLocks rounds each writer's range outward to the alignment.
 */
import { roundDown, roundUp } from '../base/math.js'
import type { DiskCore } from './core.js'
import { clientErrno, errno } from './errno.js'
import { pieceBytes } from './host.js'
import type { Operation } from './operation.js'
import type { DiskLevel } from './options.js'
import { gather, memoryAt, memoryRest } from './request-memory.js'
import type { DiskRequest } from './request.js'

/** Who counts the parts of a request: the disk itself, or a job on a cluster. */
export interface Party {
  partStarted(request: DiskRequest): void
  /** @param code 0 or a positive errno */
  partEnded(request: DiskRequest, code: number): void
}

export class FileAccess {
  readonly #core: DiskCore
  readonly #topAlignment: number

  constructor(core: DiskCore) {
    this.#core = core
    this.#topAlignment = core.top.alignmentBytes
  }

  /** Reads a part that lies in one file; beyond the end of a raw file are zeros. */
  read(
    party: Party,
    request: DiskRequest,
    level: DiskLevel,
    fileOffsetBytes: number,
    position: number,
    lengthBytes: number,
  ): void {
    const limit = level.direct ? pieceBytes - level.alignmentBytes * 2 : pieceBytes
    let done = 0
    while (done < lengthBytes) {
      const buffer = memoryAt(request, position + done)
      let count = Math.min(lengthBytes - done, memoryRest(request, position + done))
      const from = fileOffsetBytes + done
      if (level.direct && !isFit(level, from, count, buffer)) {
        count = Math.min(count, limit)
        this.#readThroughBuffer(party, request, level, from, count, buffer)
      } else this.#readDirectly(party, request, level, from, count, buffer)
      done += count
    }
  }

  /** Writes a part to the top. */
  write(
    party: Party,
    request: DiskRequest,
    fileOffsetBytes: number,
    position: number,
    lengthBytes: number,
  ): void {
    const { top } = this.#core
    let done = 0
    while (done < lengthBytes) {
      const buffer = memoryAt(request, position + done)
      let count = Math.min(lengthBytes - done, memoryRest(request, position + done))
      const to = fileOffsetBytes + done
      if (top.direct && !isFit(top, to, count, buffer)) {
        count = this.#bounceBytes(to, lengthBytes - done)
        this.#writeThroughBuffer(party, request, to, count, position + done)
      } else this.#writeDirectly(party, request, to, count, buffer)
      done += count
    }
  }

  /** Writes zeros to a range of the top's file, as data. */
  writeZeros(
    party: Party,
    request: DiskRequest,
    fileOffsetBytes: number,
    lengthBytes: number,
  ): void {
    let done = 0
    while (done < lengthBytes) {
      const to = fileOffsetBytes + done
      const count = this.#bounceBytes(to, lengthBytes - done)
      this.#writeThroughBuffer(party, request, to, count, undefined)
      done += count
    }
  }

  /** Marks the file clusters of a range of the top's file as written. */
  mark(fileOffsetBytes: number, lengthBytes: number): void {
    const { tracker, clusterBytes } = this.#core
    if (tracker === undefined) return
    const last = Math.floor((fileOffsetBytes + lengthBytes - 1) / clusterBytes)
    for (let at = Math.floor(fileOffsetBytes / clusterBytes); at <= last; at++) tracker.mark(at)
  }

  // --- reading

  #readDirectly(
    party: Party,
    request: DiskRequest,
    level: DiskLevel,
    from: number,
    count: number,
    buffer: number,
  ): void {
    const present = level.raw ? Math.max(0, Math.min(count, level.sizeBytes - from)) : count
    if (present === 0) {
      this.#core.memory.fill(0, buffer, buffer + count)
      return
    }
    const operation = this.#core.operations.take(this.#readOwner)
    operation.request = request
    operation.context = party
    operation.expectedBytes = present
    operation.lengthBytes = count
    operation.buffer = buffer
    party.partStarted(request)
    // A direct file takes whole blocks only; beyond its end comes a short count.
    this.#core.host.read(level.file, from, level.direct ? count : present, buffer, operation.token)
  }

  readonly #readOwner = {
    completed: (operation: Operation, result: number): void => {
      const { request, expectedBytes, lengthBytes, buffer } = operation
      if (request === undefined) return
      const party = operation.context as Party
      if (result < expectedBytes) {
        party.partEnded(request, result < 0 ? clientErrno(result) : errno.EIO)
        return
      }
      if (expectedBytes < lengthBytes) {
        this.#core.memory.fill(0, buffer + expectedBytes, buffer + lengthBytes)
      }
      party.partEnded(request, 0)
    },
  }

  #readThroughBuffer(
    party: Party,
    request: DiskRequest,
    level: DiskLevel,
    from: number,
    count: number,
    target: number,
  ): void {
    const core = this.#core
    const start = roundDown(from, level.alignmentBytes)
    const end = roundUp(from + count, level.alignmentBytes)
    const present = level.raw ? Math.max(0, Math.min(from + count, level.sizeBytes) - start) : end
    const expected = Math.min(present, end - start)
    party.partStarted(request)
    core.withBuffer(buffer => {
      core.perform(
        token => {
          core.host.read(level.file, start, end - start, buffer, token)
        },
        result => {
          if (result >= expected) {
            if (result < end - start) core.memory.fill(0, buffer + result, buffer + end - start)
            const skip = from - start
            core.memory.copyWithin(target, buffer + skip, buffer + skip + count)
          }
          core.giveBuffer(buffer)
          const code = result < 0 ? clientErrno(result) : errno.EIO
          party.partEnded(request, result >= expected ? 0 : code)
        },
      )
    })
  }

  // --- writing

  #writeDirectly(
    party: Party,
    request: DiskRequest,
    to: number,
    count: number,
    buffer: number,
  ): void {
    const operation = this.#core.operations.take(this.#writeOwner)
    operation.request = request
    operation.context = party
    operation.expectedBytes = count
    operation.fileCluster = Math.floor(to / this.#core.clusterBytes)
    this.#core.tracker?.mark(operation.fileCluster)
    party.partStarted(request)
    this.#core.host.write(this.#core.top.file, to, count, buffer, operation.token)
  }

  readonly #writeOwner = {
    completed: (operation: Operation, result: number): void => {
      const { request, expectedBytes } = operation
      if (request === undefined) return
      const party = operation.context as Party
      this.#core.tracker?.mark(operation.fileCluster)
      party.partEnded(request, writeErrno(result, expectedBytes))
    },
  }

  /**
   * How much of a write goes through one job buffer. It ends with a block unless it is the last:
   * two read-modify-writes of one block at the same time would lose the bytes of one of them.
   */
  #bounceBytes(to: number, lengthBytes: number): number {
    const unit = this.#topAlignment
    return Math.min(lengthBytes, roundDown(to + pieceBytes - unit * 2, unit) - to)
  }

  /** @param position where in the request's memory the bytes are, or undefined for zeros */
  #writeThroughBuffer(
    party: Party,
    request: DiskRequest,
    to: number,
    count: number,
    position: number | undefined,
  ): void {
    const core = this.#core
    const { file } = core.top
    const start = roundDown(to, this.#topAlignment)
    const end = roundUp(to + count, this.#topAlignment)
    const change = (buffer: number): void => {
      const at = buffer + to - start
      if (position === undefined) core.memory.fill(0, at, at + count)
      else gather(core.memory, request, position, count, at)
    }
    party.partStarted(request)
    core.withBuffer(buffer => {
      const finish = (code: number): void => {
        core.giveBuffer(buffer)
        party.partEnded(request, code)
      }
      const store = (): void => {
        change(buffer)
        this.mark(start, end - start)
        core.perform(
          token => {
            core.host.write(file, start, end - start, buffer, token)
          },
          result => {
            this.mark(start, end - start)
            finish(writeErrno(result, end - start))
          },
        )
      }
      if (start === to && end === to + count) {
        store()
        return
      }
      core.perform(
        token => {
          core.host.read(file, start, end - start, buffer, token)
        },
        result => {
          // A raw top may end inside its last block: what is missing there was never data.
          if (result < 0) finish(clientErrno(result))
          else if (result < end - start && !core.top.raw) finish(errno.EIO)
          else {
            core.memory.fill(0, buffer + result, buffer + end - start)
            store()
          }
        },
      )
    })
  }
}

export function writeErrno(result: number, expectedBytes: number): number {
  if (result === expectedBytes) return 0
  return result < 0 ? clientErrno(result) : errno.EIO
}

function isFit(level: DiskLevel, offsetBytes: number, count: number, buffer: number): boolean {
  const unit = level.alignmentBytes
  return offsetBytes % unit === 0 && count % unit === 0 && buffer % unit === 0
}

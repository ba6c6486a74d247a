// SPDX-License-Identifier: MIT
/**
 * What the disk asks of whoever runs it: the data plane in production, the simulation in tests.
 *
 * The disk does no I/O. It puts file operations here, each with a token, and hears of the end of
 * each by `Disk.complete(token, result)`. The host may perform operations in any order and at the
 * same time; only `sync` is a barrier, and only for writes whose completion was reported before
 * the sync was put. Results are bytes (read, write, copy) or 0, or a negative errno. A host never
 * calls back from inside one of these calls.
 *
 * Memory is one arena; positions in it are byte offsets ("buffer"). A buffer belongs to the
 * operation until it completes.
 */
import type { DiskRequest } from './request.js'

/** No such buffer or slot. */
export const NONE = 0xffffffff

/** Size of a job buffer, and of each piece of a long request's memory. */
export const pieceBytes = 1024 * 1024

export interface DiskHost {
  readonly memory: Uint8Array

  read(file: number, offsetBytes: number, lengthBytes: number, buffer: number, token: number): void
  write(file: number, offsetBytes: number, lengthBytes: number, buffer: number, token: number): void
  /** fdatasync */
  sync(file: number, token: number): void
  /** Reserves a range at the end of the file that reads as zeros; extends the file. */
  allocate(file: number, offsetBytes: number, lengthBytes: number, token: number): void
  /** The range reads as zeros afterwards and stays allocated. May answer -EOPNOTSUPP. */
  zero(file: number, offsetBytes: number, lengthBytes: number, token: number): void
  /** The range reads as zeros afterwards and its space is given back. May answer -EOPNOTSUPP. */
  punch(file: number, offsetBytes: number, lengthBytes: number, token: number): void
  /** Copies between files inside the kernel; bytes copied, or -EXDEV, -EOPNOTSUPP, -EINVAL. */
  copy(
    source: number,
    sourceOffsetBytes: number,
    target: number,
    targetOffsetBytes: number,
    lengthBytes: number,
    token: number,
  ): void

  /** An aligned buffer of {@link pieceBytes}, or NONE: then `Disk.buffersFreed` is called later. */
  takeBuffer(): number
  giveBuffer(buffer: number): void

  /** The request is done; `request.errno` is 0 or a positive errno. */
  reply(request: DiskRequest): void

  /**
   * Grace periods for memory-less readers (see epoch.ts): all file operations put by the data plane
   * before the last `advanceEpoch` have ended.
   */
  oldEpochIdle(): boolean
  advanceEpoch(): void
}

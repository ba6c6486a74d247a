// SPDX-License-Identifier: MIT
/**
 * One request to the disk, pooled and reused by whoever makes it.
 *
 * The first block is filled by the caller, the second belongs to the caller alone (the disk neither
 * reads nor writes it), the third belongs to the disk from submit until `DiskHost.reply`.
 * The range was checked against the disk's size by the caller.
 */
import { NONE } from './host.js'

/** The values are those of the NBD protocol, so that nobody translates. */
export const diskCommand = { read: 0, write: 1, flush: 3, trim: 4, writeZeroes: 6 } as const

export class DiskRequest {
  command = 0
  offsetBytes = 0
  lengthBytes = 0
  fua = false
  /** WRITE_ZEROES: the range must be provisioned afterwards */
  noHole = false
  /** WRITE_ZEROES: refuse with ENOTSUP, before any change, where data would have to be written */
  fastZero = false
  /** arena offset of the first byte of memory; READ and WRITE */
  buffer = NONE
  /** memory in pieces of `pieceBytes` when one does not hold it all: then `buffer` is pieces[0] */
  pieces: number[] | undefined = undefined

  // of the caller
  connection = 0
  cookieHigh = 0
  cookieLow = 0
  tag = 0

  // of the disk; errno is the result
  errno = 0
  /** parts under way, plus one while the request is still being cut into parts */
  pendingCount = 0
  /** the range that no other writer may touch, aligned outward */
  lockedFromBytes = 0
  lockedToBytes = 0
  /** place among the active writers, or -1 */
  lockIndex = -1
  /** WRITE_ZEROES and TRIM: how far the range has been looked at */
  cursorBytes = 0
  /** the cursor is being moved further up the call stack */
  isAdvancing = false
  /** its slice is over: only {@link ZeroAndTrim.work} goes on with it */
  isPaused = false
}

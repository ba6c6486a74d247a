// SPDX-License-Identifier: MIT
/**
 * Where pending logs lie: one folder per user in shared memory, one file per image in it.
 *
 * Shared memory outlives a process and not the machine, which is what a pending log must do. The
 * folder above belongs to everybody, so ours is used only when it is ours alone: who could put files
 * into it could change our images.
 */
import { lstatSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { errnoName, PloopError } from '../base/errors.js'
import type { FileStat } from './files.js'

export interface PendingPlace {
  /** of the user's logs */
  readonly directory: string
  /** of this kernel; 16 bytes */
  readonly bootId: Uint8Array
}

/** @returns undefined where the kernel does not say which boot this is */
export function pendingPlace(uid = process.getuid?.() ?? 0): PendingPlace | undefined {
  const bootId = readBootId()
  return bootId === undefined ? undefined : { directory: `/dev/shm/ploop-nbd-${uid}`, bootId }
}

/** The log of an image: by the identity of its top delta's file. */
export function pendingPath(place: PendingPlace, image: FileStat): string {
  return join(place.directory, `${image.device}-${image.inode}`)
}

/**
 * @returns false when there is no folder
 * @throws {PloopError} `PENDING_DIRECTORY` when it is not ours alone
 */
export function checkPendingDirectory({ directory }: PendingPlace): boolean {
  const found = lstatSync(directory, { throwIfNoEntry: false })
  if (found === undefined) return false
  const isOurs = found.isDirectory() && found.uid === process.geteuid?.()
  if (isOurs && found.mode % 0o100 === 0) return true
  throw new PloopError('PENDING_DIRECTORY', 'this folder must be ours alone, mode 0700', {
    status: 'open',
    path: directory,
    hint: 'remove it when no server is running',
  })
}

/** @throws {PloopError} `PENDING_DIRECTORY` */
export function makePendingDirectory(place: PendingPlace): void {
  try {
    mkdirSync(place.directory, { mode: 0o700 })
  } catch (cause) {
    if (errnoName(cause) !== 'EEXIST') {
      throw new PloopError('PENDING_DIRECTORY', 'cannot make the folder for pending mappings', {
        ...{ status: 'create', path: place.directory, errno: errnoName(cause), cause },
      })
    }
  }
  checkPendingDirectory(place)
}

function readBootId(): Uint8Array | undefined {
  try {
    const text = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1')
    const hex = text.replace(/[-\s]/g, '')
    return /^[0-9a-f]{32}$/.test(hex) ? Uint8Array.from(Buffer.from(hex, 'hex')) : undefined
  } catch {
    return undefined
  }
}

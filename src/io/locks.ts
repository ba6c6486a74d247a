// SPDX-License-Identifier: MIT
/**
 * The lock of a descriptor, as genuine ploop takes it: flock on `<real path of the XML>.lck`.
 *
 * Owns:     making the lock file (0600), bounded waiting, giving the lock back.
 * Leaves:   locks on delta files, which say who has an image open, to those who open them.
 * Promises: what was read before the lock is stale; callers read the descriptor after this.
 * Facts:    the lock file stays where it is; only a failing init removes it, so after waiting
 *           we look whether the name still leads to the file that we have locked.
 */
import { performance } from 'node:perf_hooks'
import { setTimeout as delay } from 'node:timers/promises'
import { errnoName, PloopError } from '../base/errors.js'
import type { FileHandle, Files } from './files.js'

export interface DescriptorLock {
  readonly lockPath: string
  /** True when this lock made the lock file. */
  readonly created: boolean
  /** Idempotent. */
  release(): Promise<void>
}

export interface LockOptions {
  /** default 60 s, as genuine ploop */
  readonly timeoutMs?: number
  readonly signal?: AbortSignal | undefined
  /** Called once, when the lock is held by somebody else and waiting begins. */
  readonly onWait?: () => void
}

const waitMsMax = 200

/** @param descriptorPath real path: symbolic links resolved, so that all agree on one lock file */
export async function lockDescriptor(
  files: Files,
  descriptorPath: string,
  options: LockOptions = {},
): Promise<DescriptorLock> {
  const lockPath = `${descriptorPath}.lck`
  const timeoutMs = options.timeoutMs ?? 60_000
  const startMs = performance.now()
  let waitMs = 5
  let waiting = false
  for (;;) {
    const { file, created } = await openLockFile(files, lockPath)
    const handle = await tryHold(files, file)
    if (handle !== undefined) return { lockPath, created, release: () => handle.close() }
    if (performance.now() - startMs >= timeoutMs) throw lockedError(descriptorPath, timeoutMs)
    if (!waiting) options.onWait?.()
    waiting = true
    await delay(waitMs, undefined, { signal: options.signal })
    waitMs = Math.min(waitMs * 2, waitMsMax)
  }
}

/** Locks the file if nobody else has it and its name still leads to it; else closes it. */
async function tryHold(files: Files, file: FileHandle): Promise<FileHandle | undefined> {
  let held = false
  try {
    if (await file.tryLock('exclusive')) {
      const ours = await file.stat()
      const named = await files.stat(file.path)
      held = named?.inode === ours.inode && named.device === ours.device
    }
  } finally {
    if (!held) await file.close()
  }
  return held ? file : undefined
}

async function openLockFile(
  files: Files,
  lockPath: string,
): Promise<{ file: FileHandle; created: boolean }> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return { file: await files.open(lockPath, 'read-write'), created: false }
    } catch (cause) {
      if (errnoName(cause) !== 'ENOENT') throw lockFileError(cause, lockPath)
    }
    try {
      return { file: await files.open(lockPath, 'create', 0o600), created: true }
    } catch (cause) {
      // Somebody else made it between our two looks.
      if (errnoName(cause) !== 'EEXIST' || attempt >= 10) throw lockFileError(cause, lockPath)
    }
  }
}

function lockFileError(cause: unknown, lockPath: string): unknown {
  if (!(cause instanceof PloopError)) return cause
  return new PloopError('LOCK_FILE', cause.message, {
    status: 'lock',
    path: lockPath,
    operation: 'open',
    errno: cause.errno,
    cause,
  })
}

function lockedError(descriptorPath: string, timeoutMs: number): PloopError {
  const seconds = Math.round(timeoutMs / 1000)
  return new PloopError('DESCRIPTOR_LOCKED', `The ${descriptorPath} is locked`, {
    status: 'lock',
    operation: 'flock',
    hint: `another command has been working on this disk for more than ${String(seconds)} s; wait for it to end`,
  })
}

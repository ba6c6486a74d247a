// SPDX-License-Identifier: MIT
/**
 * The only file that loads the addon, and its TypeScript interface.
 *
 * The addon takes numbers, strings and typed arrays that TypeScript has already checked; it
 * answers with a value or throws a {@link NativeError} (`errno` name, `operation`). The tables of
 * the engine are described in native/README.md.
 */

import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { PloopError } from '../base/errors.js'

/** What native calls throw: TypeScript makes the sentence for people. */
export interface NativeError extends Error {
  /** errno name, e.g. 'EINVAL' */
  readonly code: string
  /** positive errno */
  readonly errno: number
  /** the system call */
  readonly operation: string
}

export type EngineKind = 'uring' | 'threads'

export interface EngineOptions {
  readonly kind: EngineKind
  readonly count4k: number
  readonly count64k: number
  readonly count1m: number
  readonly jobCount: number
  readonly headerCount: number
  readonly connectionCount: number
  readonly receiveBytes: number
  /** threads engine only */
  readonly threadCount: number
  /** spin that long before blocking; 0 = never */
  readonly busyPollMicroseconds: number
}

/** Byte offsets and counts in the arena; names and meanings as in native/README.md. */
export interface EngineLayout {
  readonly totalBytes: number
  readonly control: number
  readonly receiveTable: number
  readonly doneTable: number
  readonly doneCapacity: number
  readonly rowTable: number
  readonly rowCapacity: number
  readonly connectionTable: number
  readonly connectionCount: number
  readonly headers: number
  readonly headerCount: number
  readonly slots4k: number
  readonly count4k: number
  readonly slots64k: number
  readonly count64k: number
  readonly slots1m: number
  readonly count1m: number
  readonly jobs: number
  readonly jobCount: number
  readonly stack4k: number
  readonly stack64k: number
  readonly stack1m: number
  readonly stackHeaders: number
  readonly receiveBuffers: number
  readonly receiveBytes: number
}

export interface EngineStats {
  readonly kind: EngineKind
  /** io_uring_enter or epoll_wait calls, sends, batches */
  readonly waits: number
  readonly sends: number
  readonly batches: number
  readonly operations: number
}

export interface NativeEngine {
  readonly memory: ArrayBuffer
  readonly layout: EngineLayout
  /**
   * Takes over a file descriptor (duplicates it). @returns file index, 0 … 65535
   * @throws NativeError EMFILE when the table is full
   */
  addFile(fd: number): number
  /** Waits for nothing: TypeScript calls it only when no operation names the file. */
  removeFile(file: number): void
  /** Takes over a listening socket (duplicates it). @returns listener index */
  addListener(fd: number): number
  removeListener(listener: number): void
  /**
   * Takes over a connected socket (duplicates it).
   * @returns connection (slot | generation << 16), or 0xFFFFFFFF when full
   */
  addConnection(fd: number): number
  /** True when the peer has closed or shut down its sending side, read so far or not (POLLRDHUP). */
  peerHungUp(connection: number): boolean
  /** Peer credentials of a unix socket. @throws NativeError for other sockets */
  peerCredentials(connection: number): { pid: number; uid: number; gid: number }
  /** Called once per batch, synchronously, from inside `run`. What it throws comes out of `run`. */
  onBatch(callback: () => void): void
  /** From inside the batch call: takes the rows written so far, so that the table is empty again. */
  takeRows(): void
  /**
   * Serves until `sliceMs` are over, `wake` was called or control word 10 was set. Blocks.
   * A wake before the call makes it return at once.
   */
  run(sliceMs: number): void
  stats(): EngineStats
  /** Waits for operations in flight, closes everything. Idempotent. */
  close(): void
  /** Identifies this engine for {@link NativeAddon.wake}. */
  readonly wakeHandle: number
}

export interface ProbeResult {
  readonly available: boolean
  /** why not, or which flags and what is missing, in words */
  readonly reason: string
}

export interface NativeAddon {
  /** Tries to set up a small ring with the operations that are needed. */
  probeUring(): ProbeResult
  createEngine(options: EngineOptions): NativeEngine
  /** Makes `run` of that engine return. Any thread. Unknown handles are ignored. */
  wake(wakeHandle: number): void

  /** open(2) with O_CLOEXEC. Throws NativeError. */
  openFile(
    path: string,
    flags: { write: boolean; direct: boolean; create: boolean; mode: number },
  ): number
  closeFile(fd: number): void
  /**
   * What direct I/O needs: statx(STATX_DIOALIGN), else the logical block size, else 4096.
   * `direct` false: the file system refuses O_DIRECT.
   */
  directAlignment(fd: number): { direct: boolean; memoryBytes: number; offsetBytes: number }
  /**
   * Switches direct I/O of an open file on or off (fcntl F_SETFL): the lock stays on the very open
   * file that data are written through. Throws NativeError, EINVAL where the file system refuses.
   */
  setDirect(fd: number, direct: boolean): void
  /** flock(2), never waits. @returns false when somebody else holds it */
  flock(fd: number, kind: 'shared' | 'exclusive' | 'unlock'): boolean
  /** mode: 'allocate' (grows the file), 'zero' and 'punch' (keep the size). Throws NativeError. */
  fallocate(
    fd: number,
    mode: 'allocate' | 'zero' | 'punch',
    offsetBytes: number,
    lengthBytes: number,
  ): void
  /** lseek SEEK_DATA / SEEK_HOLE. @returns -1 for ENXIO. Throws NativeError. */
  seek(fd: number, what: 'data' | 'hole', offsetBytes: number): number
  /** @returns bytes copied (may be short). Throws NativeError. */
  copyFileRange(
    sourceFd: number,
    sourceOffsetBytes: number,
    targetFd: number,
    targetOffsetBytes: number,
    lengthBytes: number,
  ): number
  /** FICLONERANGE. Throws NativeError. */
  cloneRange(
    sourceFd: number,
    sourceOffsetBytes: number,
    targetFd: number,
    targetOffsetBytes: number,
    lengthBytes: number,
  ): void
  /** Listening unix socket, created with that mode from the first instant. Throws NativeError. */
  listenUnix(path: string, mode: number, backlog: number): number
  /** Listening TCP socket on a numeric address, SO_REUSEADDR. Throws NativeError. */
  listenTcp(address: string, port: number, backlog: number): { fd: number; port: number }
  /** A connected pair of stream sockets. */
  socketPair(): [number, number]
  /** One datagram to the service manager ($NOTIFY_SOCKET, also abstract). Throws NativeError. */
  notify(socketPath: string, text: string): void
  /**
   * prctl(PR_SET_PDEATHSIG, SIGTERM); then compares getppid with the parent seen at start.
   * @returns false when the parent is gone already
   */
  dieWithParent(): boolean
  /** magic number of the file system (statfs f_type) */
  fileSystemType(fd: number): number
  /**
   * Maps the beginning of a file, MAP_SHARED: what is stored there outlives this process. The file
   * must keep its length and have its space (fallocate). Unmapped with the buffer; `fd` may be
   * closed. Throws NativeError, EINVAL when the file is shorter.
   */
  mapShared(fd: number, sizeBytes: number): ArrayBuffer
}

/** native/ of the checkout or of the installed package: the same way from src/io and from dist/io. */
const nativeDirectory = fileURLToPath(new URL('../../native', import.meta.url))

let loaded: NativeAddon | PloopError | undefined

/**
 * The addon of this package: a prebuilt one, or what `npm run build:native` built. Every thread
 * (worker) that calls this has an instance of its own; handles for `wake` are good in all of them.
 *
 * @throws PloopError `NO_ADDON` when it is missing or does not load here; always the same one
 */
export function loadAddon(): NativeAddon {
  loaded ??= tryToLoad()
  if (loaded instanceof PloopError) throw loaded
  return loaded
}

/** @returns why {@link loadAddon} fails here, in words; undefined when it does not fail */
export function addonMissingReason(): string | undefined {
  loaded ??= tryToLoad()
  return loaded instanceof PloopError ? loaded.message : undefined
}

function tryToLoad(): NativeAddon | PloopError {
  const require = createRequire(import.meta.url)
  try {
    const load = require('node-gyp-build') as (directory: string) => NativeAddon
    return load(nativeDirectory)
  } catch (error) {
    const [reason = 'unknown'] = (error instanceof Error ? error.message : String(error)).split(
      '\n',
    )
    return new PloopError('NO_ADDON', `the native addon does not load: ${reason}`, {
      status: 'system',
      hint: 'build it with "npm run build:native" (needs a C++ compiler and liburing)',
      cause: error,
    })
  }
}

/** True for what calls of the addon throw when a system call fails. */
export function isNativeError(error: unknown): error is NativeError {
  return (
    error instanceof Error &&
    'operation' in error &&
    typeof error.operation === 'string' &&
    'errno' in error &&
    typeof error.errno === 'number'
  )
}

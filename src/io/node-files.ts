// SPDX-License-Identifier: MIT
/**
 * The file interface on `node:fs`, with the addon for what Node lacks.
 *
 * Owns:     the mapping of system errors to PloopErrors (one exit status per system call).
 * Leaves:   order and durability to the callers; this file does exactly what it is told.
 * Promises: reads and writes are complete or fail; `close` runs once and gives the lock back.
 * Facts:    without the addon flock(1) and fallocate(1) act on our descriptor, which they inherit
 *           (the lock belongs to the open file and outlives the program), and holes count as data.
 */
import { constants } from 'node:fs'
import * as fs from 'node:fs/promises'
import { errnoName, PloopError } from '../base/errors.js'
import type { ExitStatusName } from '../base/exit-status.js'
import type { FileHandle, Files, FileStat, LockKind, OpenMode } from './files.js'
import { runOnDescriptor } from './inherited-descriptor.js'
import { addonMissingReason, loadAddon, type NativeAddon } from './native.js'

/** The part of the addon this file uses. */
export type FileAddon = Pick<NativeAddon, 'flock' | 'fallocate' | 'seek'>

/** flock(1) is asked to say "held by somebody else" with this status. */
const heldStatus = 75

const openFlags: Readonly<Record<OpenMode, number>> = {
  read: constants.O_RDONLY,
  'read-write': constants.O_RDWR,
  create: constants.O_RDWR | constants.O_CREAT | constants.O_EXCL,
}

const sentences: Readonly<Record<string, string>> = {
  ENOENT: 'no such file or directory',
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  EEXIST: 'the file exists already',
  EISDIR: 'is a directory',
  ENOTDIR: 'a part of the path is not a directory',
  ENOSPC: 'no space left on the file system',
  EDQUOT: 'the disk quota is used up',
  EROFS: 'the file system is read-only',
  EIO: 'input/output error',
  EFBIG: 'the file would be larger than the file system allows',
  EXDEV: 'the two paths are on different file systems',
  ELOOP: 'too many symbolic links',
  ENAMETOOLONG: 'the path is too long',
  EMFILE: 'too many open files in this process',
  ENFILE: 'too many open files on this machine',
  ETXTBSY: 'the file is being executed',
  EBUSY: 'the file is busy',
}

interface Failure {
  readonly operation: string
  readonly status: ExitStatusName
  /** what could not be done, as in "cannot … " */
  readonly words: string
  readonly path: string
  readonly offset?: number
}

/** A system error as a sentence for people; what is not a system error is a bug and passes. */
function ioError(cause: unknown, failure: Failure): unknown {
  if (cause instanceof PloopError) return cause
  const errno = errnoName(cause)
  if (errno === undefined) return cause
  const reason = sentences[errno] ?? errno
  return new PloopError(`IO_${errno}`, `cannot ${failure.words}: ${reason}`, {
    status: failure.status,
    path: failure.path,
    offset: failure.offset,
    operation: failure.operation,
    errno,
    cause,
  })
}

async function wrap<Value>(failure: Failure, action: () => Promise<Value>): Promise<Value> {
  try {
    return await action()
  } catch (cause) {
    throw ioError(cause, failure)
  }
}

class NodeFile implements FileHandle {
  readonly path: string
  readonly #file: fs.FileHandle
  readonly #addon: FileAddon | undefined
  #closing: Promise<void> | undefined

  constructor(path: string, file: fs.FileHandle, addon: FileAddon | undefined) {
    this.path = path
    this.#file = file
    this.#addon = addon
  }

  get fd(): number {
    return this.#file.fd
  }

  async read(target: Uint8Array, offsetBytes: number): Promise<number> {
    const failure = this.#failure('read', 'read', 'read', offsetBytes)
    return wrap(failure, async () => {
      let doneBytes = 0
      while (doneBytes < target.length) {
        const { bytesRead } = await this.#file.read(
          target,
          doneBytes,
          target.length - doneBytes,
          offsetBytes + doneBytes,
        )
        if (bytesRead === 0) break
        doneBytes += bytesRead
      }
      return doneBytes
    })
  }

  async write(source: Uint8Array, offsetBytes: number): Promise<void> {
    await wrap(this.#failure('write', 'write', 'write', offsetBytes), async () => {
      let doneBytes = 0
      while (doneBytes < source.length) {
        const { bytesWritten } = await this.#file.write(
          source,
          doneBytes,
          source.length - doneBytes,
          offsetBytes + doneBytes,
        )
        doneBytes += bytesWritten
      }
    })
  }

  async sync(): Promise<void> {
    await wrap(this.#failure('fdatasync', 'sync', 'flush'), () => this.#file.datasync())
  }

  async truncate(sizeBytes: number): Promise<void> {
    const failure = this.#failure('ftruncate', 'truncate', 'change the size of', sizeBytes)
    await wrap(failure, () => this.#file.truncate(sizeBytes))
  }

  async allocate(offsetBytes: number, lengthBytes: number): Promise<void> {
    if (lengthBytes === 0) return
    await wrap(
      this.#failure('fallocate', 'allocate', 'reserve space in', offsetBytes),
      async () => {
        const unsupported = await this.#fallocate(offsetBytes, lengthBytes)
        if (!unsupported) return
        const endBytes = offsetBytes + lengthBytes
        if ((await this.#file.stat()).size < endBytes) await this.#file.truncate(endBytes)
      },
    )
  }

  /** @returns true when this file system cannot reserve space */
  async #fallocate(offsetBytes: number, lengthBytes: number): Promise<boolean> {
    if (this.#addon === undefined) {
      const range = ['--offset', String(offsetBytes), '--length', String(lengthBytes)]
      const arguments_ = [...range, '/proc/self/fd/3']
      const result = await runOnDescriptor(this.#file.fd, 'fallocate', arguments_)
      if (result.status === 0) return false
      if (!/no space|quota|too large/i.test(result.stderr)) return true
      const errno = /no space/i.test(result.stderr) ? 'ENOSPC' : 'EFBIG'
      throw Object.assign(new Error(result.stderr.trim()), { code: errno })
    }
    try {
      this.#addon.fallocate(this.#file.fd, 'allocate', offsetBytes, lengthBytes)
      return false
    } catch (cause) {
      if (['EOPNOTSUPP', 'ENOTSUP', 'ENOSYS'].includes(errnoName(cause) ?? '')) return true
      throw cause
    }
  }

  async stat(): Promise<FileStat> {
    return wrap(this.#failure('fstat', 'stat', 'query'), async () =>
      fileStat(await this.#file.stat({ bigint: true })),
    )
  }

  async nextData(
    offsetBytes: number,
  ): Promise<{ startBytes: number; endBytes: number } | undefined> {
    return wrap(this.#failure('lseek', 'read', 'look for data in', offsetBytes), async () => {
      if (this.#addon === undefined) {
        const { size } = await this.#file.stat()
        return offsetBytes >= size ? undefined : { startBytes: offsetBytes, endBytes: size }
      }
      const startBytes = this.#addon.seek(this.#file.fd, 'data', offsetBytes)
      if (startBytes < 0) return undefined
      return { startBytes, endBytes: this.#addon.seek(this.#file.fd, 'hole', startBytes) }
    })
  }

  async tryLock(kind: LockKind): Promise<boolean> {
    return wrap(this.#failure('flock', 'lock', 'lock'), async () => {
      if (this.#addon !== undefined) return this.#addon.flock(this.#file.fd, kind)
      const option = kind === 'shared' ? '--shared' : '--exclusive'
      const arguments_ = [option, '--nonblock', '--conflict-exit-code', String(heldStatus), '3']
      const result = await runOnDescriptor(this.#file.fd, 'flock', arguments_)
      if (result.status === 0) return true
      if (result.status === heldStatus) return false
      throw new PloopError('LOCK_FAILED', `cannot lock: flock says "${result.stderr.trim()}"`, {
        status: 'lock',
        path: this.path,
        operation: 'flock',
      })
    })
  }

  async close(): Promise<void> {
    this.#closing ??= wrap(this.#failure('close', 'write', 'close'), () => this.#file.close())
    await this.#closing
  }

  #failure(operation: string, status: ExitStatusName, words: string, offset?: number): Failure {
    const failure = { operation, status, words: `${words} the file`, path: this.path }
    return offset === undefined ? failure : { ...failure, offset }
  }
}

interface BigStat {
  readonly size: bigint
  readonly dev: bigint
  readonly ino: bigint
  readonly blocks: bigint
  readonly mtimeMs: bigint
  isFile(): boolean
  isDirectory(): boolean
}

function fileStat(stat: BigStat): FileStat {
  return {
    sizeBytes: Number(stat.size),
    kind: stat.isFile() ? 'file' : stat.isDirectory() ? 'directory' : 'other',
    device: stat.dev,
    inode: stat.ino,
    allocatedBytes: Number(stat.blocks) * 512,
    modifiedMs: Number(stat.mtimeMs),
  }
}

/** Opening a pipe for reading waits for a writer, and nothing ends that wait. */
async function refusePipe(path: string): Promise<void> {
  if (!(await fs.stat(path)).isFIFO()) return
  throw new PloopError('IO_PIPE', 'cannot open the file: it is a pipe', {
    status: 'open',
    path,
    operation: 'open',
  })
}

/** @param addon undefined: the programs of util-linux do its part, slower */
export function createNodeFiles(addon: FileAddon | undefined): Files {
  return {
    async open(path, mode, permissions = 0o600) {
      const failure: Failure =
        mode === 'create'
          ? { operation: 'open', status: 'create', words: 'create the file', path }
          : { operation: 'open', status: 'open', words: 'open the file', path }
      const file = await wrap(failure, async () => {
        if (mode === 'read') await refusePipe(path)
        return fs.open(path, openFlags[mode], permissions)
      })
      return new NodeFile(path, file, addon)
    },
    stat: path =>
      wrap({ operation: 'stat', status: 'stat', words: 'query the file', path }, async () => {
        try {
          return fileStat(await fs.stat(path, { bigint: true }))
        } catch (cause) {
          if (['ENOENT', 'ENOTDIR'].includes(errnoName(cause) ?? '')) return undefined
          throw cause
        }
      }),
    realPath: path =>
      wrap({ operation: 'realpath', status: 'open', words: 'find the file', path }, () =>
        fs.realpath(path),
      ),
    rename: (from, to) =>
      wrap({ operation: 'rename', status: 'rename', words: `rename to ${to}`, path: from }, () =>
        fs.rename(from, to),
      ),
    unlink: path =>
      wrap({ operation: 'unlink', status: 'unlink', words: 'remove the file', path }, () =>
        fs.unlink(path),
      ),
    syncDirectory: path =>
      wrap({ operation: 'fsync', status: 'sync', words: 'flush the directory', path }, async () => {
        const directory = await fs.open(path, constants.O_RDONLY | constants.O_DIRECTORY)
        try {
          await directory.sync()
        } finally {
          await directory.close()
        }
      }),
    list: path =>
      wrap({ operation: 'readdir', status: 'open', words: 'list the directory', path }, () =>
        fs.readdir(path),
      ),
  }
}

/** The real files of this machine. */
export const nodeFiles: Files = createNodeFiles(
  addonMissingReason() === undefined ? loadAddon() : undefined,
)

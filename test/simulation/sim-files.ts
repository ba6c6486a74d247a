// SPDX-License-Identifier: MIT
/**
 * The simulated storage behind the file interface of work at rest.
 *
 * Each call is one event. `cutPowerAt` makes the power fail in the middle of the n-th event: that
 * event may have happened, in part or not at all, and every later call fails with {@link PowerLost},
 * so that whatever the code under test still tries to tidy up has no effect. `restart` brings the
 * storage back with what survived; handles of before stay dead.
 */
import { PloopError } from '../../src/base/errors.js'
import type { ExitStatusName } from '../../src/base/exit-status.js'
import type { FileHandle, Files, FileStat, LockKind, OpenMode } from '../../src/io/files.js'
import { parentOf } from './sim-directory.js'
import type { SimFile } from './sim-file.js'
import { errno, type Operation, type Storage } from './storage.js'

/** The machine is off. Not a PloopError: no code may handle it. */
export class PowerLost extends Error {
  override name = 'PowerLost'
}

const device = 77n

const errnoNames = new Map<number, string>(
  Object.entries(errno).map(([name, value]) => [value, name]),
)

function failure(
  name: string,
  path: string,
  operation: string,
  status: ExitStatusName,
  offset?: number,
): PloopError {
  return new PloopError(`IO_${name}`, `cannot ${operation}: ${name}`, {
    status,
    path,
    operation,
    offset,
    errno: name,
  })
}

const statuses: Partial<Record<Operation['kind'], ExitStatusName>> = {
  read: 'read',
  write: 'write',
  sync: 'sync',
  truncate: 'truncate',
  allocate: 'allocate',
}

export class SimFiles implements Files {
  /** Events so far. */
  eventCount = 0
  /** The power fails in the middle of this event (1-based); 0 = never. */
  cutPowerAt = 0
  /** Fails this event (1-based) with EIO, whatever it is; 0 = never. */
  failEventAt = 0
  #generation = 0
  #isOff = false

  constructor(readonly storage: Storage) {}

  get isOff(): boolean {
    return this.#isOff
  }

  /** After a power cut, or in place of one: all handles and locks are gone. */
  restart(): void {
    if (!this.#isOff) this.storage.cutPower()
    this.#isOff = false
    this.#generation++
    this.cutPowerAt = 0
    this.failEventAt = 0
    this.eventCount = 0
  }

  /** The process dies, the machine lives: what was written stays visible, locks are given back. */
  killProcess(): void {
    this.#generation++
    this.cutPowerAt = 0
    this.failEventAt = 0
    for (const file of this.storage.directory.files()) {
      file.exclusiveLock = undefined
      file.sharedLocks.clear()
    }
  }

  async open(path: string, mode: OpenMode): Promise<FileHandle> {
    if (mode === 'create') {
      await this.event(path, 'open', 'open', () => {
        this.#assertDirectory(parentOf(path), path, 'open')
        if (this.storage.directory.get(path) !== undefined) {
          throw failure('EEXIST', path, 'open', 'open')
        }
        this.storage.directory.create(path, this.storage.createFile())
      })
    } else await this.#alive()
    const file = this.storage.directory.get(path)
    if (file === undefined) {
      const name = this.storage.directory.isDirectory(path) ? 'EISDIR' : 'ENOENT'
      throw failure(name, path, 'open', 'open')
    }
    return new SimHandle(this, path, file, mode !== 'read', this.#generation)
  }

  async stat(path: string): Promise<FileStat | undefined> {
    await this.#alive()
    const file = this.storage.directory.get(path)
    if (file !== undefined) return statOf(file)
    if (!this.storage.directory.isDirectory(path)) return undefined
    return {
      sizeBytes: 4096,
      kind: 'directory',
      device,
      inode: 1n,
      allocatedBytes: 4096,
      modifiedMs: 0,
    }
  }

  async realPath(path: string): Promise<string> {
    if ((await this.stat(path)) === undefined) throw failure('ENOENT', path, 'realpath', 'open')
    return path
  }

  async rename(from: string, to: string): Promise<void> {
    await this.event(from, 'rename', 'rename', () => {
      if (this.storage.directory.get(from) === undefined) {
        throw failure('ENOENT', from, 'rename', 'rename')
      }
      this.#assertDirectory(parentOf(to), to, 'rename')
      this.storage.directory.rename(from, to)
    })
  }

  async unlink(path: string): Promise<void> {
    await this.event(path, 'unlink', 'unlink', () => {
      if (this.storage.directory.get(path) === undefined) {
        throw failure('ENOENT', path, 'unlink', 'unlink')
      }
      this.storage.directory.unlink(path)
    })
  }

  async syncDirectory(path: string): Promise<void> {
    await this.event(path, 'fsync', 'sync', () => {
      this.#assertDirectory(path, path, 'fsync')
      this.storage.directory.sync(path)
    })
  }

  async list(path: string): Promise<string[]> {
    await this.#alive()
    this.#assertDirectory(path, path, 'readdir')
    return this.storage.directory.list(path)
  }

  /** One operation on a file, for the handles. */
  async perform(
    path: string,
    generation: number,
    operation: Omit<Operation, 'done'>,
  ): Promise<number> {
    this.assertGeneration(generation)
    let result = 0
    const status = statuses[operation.kind] ?? 'system'
    await this.event(
      path,
      operation.kind,
      status,
      () => {
        result = this.storage.perform(operation)
        if (result >= 0) return
        const name = errnoNames.get(-result) ?? 'EIO'
        throw failure(name, path, operation.kind, status, operation.offsetBytes)
      },
      operation,
    )
    return result
  }

  assertGeneration(generation: number): void {
    if (generation !== this.#generation) throw new PowerLost('a handle of before the power cut')
  }

  /** Counts, and lets the power fail or the fault strike at its turn. */
  async event(
    path: string,
    name: string,
    status: ExitStatusName,
    action: () => void,
    operation?: Omit<Operation, 'done'>,
  ): Promise<void> {
    await this.#alive()
    this.eventCount++
    if (this.eventCount === this.cutPowerAt) {
      this.#isOff = true
      if (operation === undefined && this.storage.random.chance(0.5)) action()
      this.storage.cutPower(undefined, undefined, operation)
      throw new PowerLost(`the power failed at event ${this.eventCount}, ${name} ${path}`)
    }
    if (this.eventCount === this.failEventAt) throw failure('EIO', path, name, status)
    action()
  }

  async #alive(): Promise<void> {
    await Promise.resolve()
    if (this.#isOff) throw new PowerLost('the power is off')
  }

  #assertDirectory(directory: string, path: string, operation: string): void {
    if (!this.storage.directory.isDirectory(directory)) {
      throw failure('ENOENT', path, operation, 'open')
    }
  }
}

function statOf(file: SimFile): FileStat {
  return {
    sizeBytes: file.sizeBytes,
    kind: 'file',
    device,
    inode: BigInt(file.inode),
    allocatedBytes: file.allocatedBytes,
    modifiedMs: 0,
  }
}

class SimHandle implements FileHandle {
  #isClosed = false

  constructor(
    readonly files: SimFiles,
    readonly path: string,
    readonly file: SimFile,
    readonly isWritable: boolean,
    readonly generation: number,
  ) {}

  async read(target: Uint8Array, offsetBytes: number): Promise<number> {
    this.#assertOpen('read')
    return this.files.perform(this.path, this.generation, {
      kind: 'read',
      file: this.file,
      offsetBytes,
      lengthBytes: target.length,
      bytes: target,
    })
  }

  async write(source: Uint8Array, offsetBytes: number): Promise<void> {
    this.#assertOpen('write', true)
    if (source.length === 0) return
    await this.files.perform(this.path, this.generation, {
      kind: 'write',
      file: this.file,
      offsetBytes,
      lengthBytes: source.length,
      bytes: source.slice(),
    })
  }

  async sync(): Promise<void> {
    this.#assertOpen('sync')
    await this.#perform('sync', 0, 0)
  }

  async truncate(sizeBytes: number): Promise<void> {
    this.#assertOpen('truncate', true)
    await this.#perform('truncate', sizeBytes, 0)
  }

  async allocate(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#assertOpen('allocate', true)
    await this.#perform('allocate', offsetBytes, lengthBytes)
  }

  async stat(): Promise<FileStat> {
    this.#assertOpen('stat')
    await Promise.resolve()
    this.files.assertGeneration(this.generation)
    return statOf(this.file)
  }

  async nextData(
    offsetBytes: number,
  ): Promise<{ startBytes: number; endBytes: number } | undefined> {
    this.#assertOpen('lseek')
    await Promise.resolve()
    this.files.assertGeneration(this.generation)
    const run = this.file.present.nextWritten(offsetBytes)
    if (run === undefined || run.startBytes >= this.file.sizeBytes) return undefined
    return { startBytes: run.startBytes, endBytes: Math.min(run.endBytes, this.file.sizeBytes) }
  }

  async tryLock(kind: LockKind): Promise<boolean> {
    this.#assertOpen('flock')
    await Promise.resolve()
    this.files.assertGeneration(this.generation)
    const { file } = this
    if (file.exclusiveLock !== undefined && file.exclusiveLock !== this) return false
    if (kind === 'exclusive') {
      for (const holder of file.sharedLocks) if (holder !== this) return false
      file.sharedLocks.delete(this)
      file.exclusiveLock = this
    } else {
      file.exclusiveLock = undefined
      file.sharedLocks.add(this)
    }
    return true
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    await Promise.resolve()
    if (this.file.exclusiveLock === this) this.file.exclusiveLock = undefined
    this.file.sharedLocks.delete(this)
  }

  async #perform(kind: Operation['kind'], offsetBytes: number, lengthBytes: number): Promise<void> {
    const { path, generation, file } = this
    await this.files.perform(path, generation, { kind, file, offsetBytes, lengthBytes })
  }

  #assertOpen(operation: string, writes = false): void {
    if (this.#isClosed) throw failure('EBADF', this.path, operation, 'system')
    if (writes && !this.isWritable) throw failure('EBADF', this.path, operation, 'write')
  }
}

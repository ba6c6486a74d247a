// SPDX-License-Identifier: MIT
/**
 * The one module through which descriptors are read and changed.
 *
 * A change is: lock, read again, write the future descriptor to `X.tmp`, work on files, rename
 * `X.tmp` to `X` (the commit), remove what became obsolete. Before the commit the old descriptor
 * describes a usable disk, after it the new one does.
 *
 * Owns:     the lock of the descriptor, X.tmp, and the list of files that exist only for the
 *           change under way.
 * Promises: a change that fails before its commit leaves the descriptor as it was, no X.tmp and
 *           none of the files it created; only files that this transaction created are removed.
 *           New files and their names are durable before the descriptor names them.
 * Facts:    X is the real path: lock, X.tmp and relative image names belong to its directory. A
 *           left-over X.tmp is never read. See docs/format.md, "Descriptor".
 */
import { basename, dirname, join } from 'node:path'
import { assert } from '../base/assert.js'
import { errnoName, PloopError } from '../base/errors.js'
import { type Logger, silentLogger } from '../base/log.js'
import { Descriptor, descriptorFileOf, imagePath } from '../format/descriptor.js'
import { descriptorBytesMax } from '../format/descriptor-xml.js'
import { removeStale, replaceFile } from '../io/atomic-file.js'
import type { Files } from '../io/files.js'
import { type DescriptorLock, lockDescriptor, type LockOptions } from '../io/locks.js'

export const descriptorName = 'DiskDescriptor.xml'

export interface TransactionOptions extends LockOptions {
  readonly log?: Logger
}

/** A descriptor and where it lies. */
export interface StoredDescriptor {
  /** real path of the XML file */
  readonly path: string
  /** its directory */
  readonly directory: string
  readonly descriptor: Descriptor
}

/** The real path of a descriptor. @throws PloopError status 39 */
export async function resolveDescriptor(files: Files, path: string): Promise<string> {
  try {
    return await files.realPath(path)
  } catch (cause) {
    throw descriptorError(cause, 'cannot find the descriptor', path)
  }
}

/** Reads a descriptor without locking it. @throws PloopError status 39 or 23 */
export async function readDescriptor(files: Files, path: string): Promise<StoredDescriptor> {
  const real = await resolveDescriptor(files, path)
  return { path: real, directory: dirname(real), descriptor: await loadDescriptor(files, real) }
}

async function loadDescriptor(files: Files, path: string): Promise<Descriptor> {
  let bytes: Uint8Array
  try {
    const file = await files.open(path, 'read')
    try {
      // One byte more than allowed, so that the parser sees that the file is too long.
      const target = new Uint8Array(Math.min((await file.stat()).sizeBytes, descriptorBytesMax) + 1)
      bytes = target.subarray(0, await file.read(target, 0))
    } finally {
      await file.close()
    }
  } catch (cause) {
    if (!(cause instanceof PloopError)) throw cause
    // Locking and reading are one step to scripts: one status.
    const { message, errno, operation } = cause
    const options = { status: 'lock', path, errno, operation, cause } as const
    throw new PloopError('DESCRIPTOR_READ', message, options)
  }
  return Descriptor.parse(bytes, path)
}

function descriptorError(cause: unknown, fact: string, path: string): unknown {
  if (!(cause instanceof PloopError)) return cause
  const reason = cause.message.replace(/^cannot [^:]*: /, '')
  return new PloopError('DESCRIPTOR_FILE', `${fact}: ${reason}`, {
    status: 'descriptor',
    path,
    operation: cause.operation,
    errno: cause.errno,
    cause,
  })
}

/** Runs `action` with the descriptor locked; undoes what it has not committed. */
export async function withTransaction<Value>(
  files: Files,
  path: string,
  options: TransactionOptions,
  action: (transaction: Transaction) => Promise<Value>,
): Promise<Value> {
  const transaction = await Transaction.open(files, path, options)
  try {
    return await action(transaction)
  } finally {
    await transaction.close()
  }
}

/** The same for a disk that has no descriptor yet. `directory` must exist. */
export async function withNewDescriptor<Value>(
  files: Files,
  directory: string,
  options: TransactionOptions,
  action: (transaction: Transaction) => Promise<Value>,
): Promise<Value> {
  const transaction = await Transaction.create(files, directory, options)
  try {
    return await action(transaction)
  } finally {
    await transaction.close()
  }
}

export class Transaction {
  /** real path of the XML file */
  readonly path: string
  readonly directory: string
  readonly files: Files
  readonly #lock: DescriptorLock
  readonly #log: Logger
  #descriptor: Descriptor | undefined
  #staged: Descriptor | undefined
  #created: string[] = []
  /** X.tmp may be there and is ours */
  #asideWritten = false
  /** no descriptor has ever been stored: closing takes the lock file along */
  #isNew = false

  private constructor(files: Files, path: string, lock: DescriptorLock, log: Logger) {
    this.files = files
    this.path = path
    this.directory = dirname(path)
    this.#lock = lock
    this.#log = log
  }

  /** Locks, then reads. @throws PloopError status 39 (not found), 23 (locked, unreadable, invalid) */
  static async open(
    files: Files,
    path: string,
    options: TransactionOptions = {},
  ): Promise<Transaction> {
    const real = await resolveDescriptor(files, path)
    const lock = await lockDescriptor(files, real, options)
    const transaction = new Transaction(files, real, lock, options.log ?? silentLogger)
    try {
      transaction.#descriptor = await loadDescriptor(files, real)
      return transaction
    } catch (cause) {
      await lock.release()
      throw cause
    }
  }

  /** Locks the place of a new descriptor. @throws PloopError status 39, 23, or 38 if it exists */
  static async create(
    files: Files,
    directory: string,
    options: TransactionOptions = {},
  ): Promise<Transaction> {
    let real: string
    try {
      real = await files.realPath(directory)
    } catch (cause) {
      throw descriptorError(cause, `cannot make a descriptor there`, directory)
    }
    const path = join(real, descriptorName)
    await refuseExisting(files, path)
    const lock = await lockDescriptor(files, path, options)
    const transaction = new Transaction(files, path, lock, options.log ?? silentLogger)
    transaction.#isNew = lock.created
    try {
      await refuseExisting(files, path)
      return transaction
    } catch (cause) {
      transaction.#isNew = false
      await lock.release()
      throw cause
    }
  }

  /** As stored. To change it, stage an edited clone. */
  get descriptor(): Descriptor {
    assert(this.#descriptor !== undefined, 'a new disk has no descriptor before the commit')
    return this.#descriptor
  }

  /** Absolute path of an image as the descriptor names it. */
  imagePath(image: { readonly file: string }): string {
    return imagePath(this.directory, image.file)
  }

  /** How the descriptor names a file: relative when it lies below the directory. */
  fileOf(path: string): string {
    return descriptorFileOf(this.directory, path)
  }

  /**
   * Says that this change has made a file, right after making it: it goes away when the change
   * fails, and its name is made durable before the commit.
   */
  created(path: string): void {
    this.#created.push(path)
  }

  /** Writes the future descriptor to X.tmp. May be called again with a better one. */
  async stage(next: Descriptor): Promise<void> {
    const text = next.toString()
    this.#asideWritten = true
    try {
      await replaceFile(this.files, this.#aside, new TextEncoder().encode(text))
    } catch (cause) {
      throw descriptorError(cause, 'cannot store the descriptor', this.path)
    }
    this.#staged = next
  }

  /** Makes the staged descriptor the truth. */
  async commit(): Promise<void> {
    assert(this.#staged !== undefined, 'a descriptor is staged before it is committed')
    for (const directory of new Set(this.#created.map(path => dirname(path)))) {
      await this.files.syncDirectory(directory)
    }
    this.#log.info(`Storing ${this.path}`)
    try {
      await this.files.rename(this.#aside, this.path)
    } catch (cause) {
      // On a network file system a rename may be done and its answer lost.
      const done = (await this.files.stat(this.#aside)) === undefined
      if (!done) throw descriptorError(cause, 'cannot store the descriptor', this.path)
    }
    this.#descriptor = this.#staged
    this.#staged = undefined
    this.#asideWritten = false
    this.#created = []
    this.#isNew = false
    await this.files.syncDirectory(this.directory)
  }

  /**
   * Removes a file that the committed descriptor no longer names.
   * @throws PloopError status 35; the change itself stays
   */
  async removeObsolete(path: string): Promise<void> {
    assert(this.#staged === undefined, 'files are removed after the commit')
    await this.files.unlink(path)
    await this.files.syncDirectory(dirname(path))
  }

  /** Undoes what was not committed, and unlocks. Idempotent. */
  async close(): Promise<void> {
    const leftovers = [...this.#created].reverse()
    if (this.#asideWritten) leftovers.push(this.#aside)
    if (this.#isNew) leftovers.push(this.#lock.lockPath)
    this.#created = []
    this.#staged = undefined
    this.#asideWritten = false
    this.#isNew = false
    for (const path of leftovers) {
      try {
        await removeStale(this.files, path)
      } catch (cause) {
        this.#log.warn(`${basename(path)} is left behind`, { path, errno: errnoName(cause) })
      }
    }
    await this.#lock.release()
  }

  get #aside(): string {
    return `${this.path}.tmp`
  }
}

async function refuseExisting(files: Files, path: string): Promise<void> {
  if ((await files.stat(path)) === undefined) return
  throw new PloopError('DESCRIPTOR_EXISTS', `Can't create ${descriptorName}: File exists`, {
    status: 'parameter',
    path,
    hint: 'the directory holds a disk already; choose another directory',
  })
}

// SPDX-License-Identifier: MIT
/**
 * One delta file at rest: opening, the in-use mark, closing.
 *
 * Owns:     the 64 bytes of the header on disk. Only the words that change are written, so that a
 *           stale copy never overwrites a size or a mark.
 * Leaves:   the BAT (bat-pages.ts), whether the content is sound (check-delta.ts), and chains
 *           (src/image).
 * Promises: the lock is taken before the header is read and sits on the very file handle. A handle
 *           opened for reading writes nothing.
 * Facts:    a file whose size is no whole number of clusters is the trace of an interrupted
 *           growth; its tail counts as unused. See docs/format.md.
 */
import { assert } from '../base/assert.js'
import { PloopError } from '../base/errors.js'
import { roundUp } from '../base/math.js'
import { sectorBytes } from '../base/units.js'
import type { FileHandle, Files } from '../io/files.js'
import { batClusterCount } from '../format/bat.js'
import { flagEmpty, headerBytes, headerField, inUseMark } from '../format/constants.js'
import { type FormatVersion, isLegalClusterSize } from '../format/geometry.js'
import { type DeltaHeader, decodeHeader, encodeHeader, validateHeader } from '../format/header.js'

export interface OpenDeltaOptions {
  readonly writable: boolean
  /** A headerless base with clusters of this size. */
  readonly rawClusterSectors?: number | undefined
  /** 'auto': exclusive when writable, else shared. Default: auto. */
  readonly lock?: 'auto' | 'shared' | 'exclusive' | 'none'
}

/** The lock of a delta file is held by somebody else. */
export function deltaInUseError(path: string, writable: boolean): PloopError {
  return new PloopError(
    'DELTA_LOCKED',
    writable
      ? 'the image is in use by another process, so it cannot be opened for writing'
      : 'the image is open for writing in another process',
    {
      status: 'inUse',
      path,
      operation: 'flock',
      hint: 'stop that process first; fuser(1) tells which one it is',
    },
  )
}

export class DeltaFile {
  readonly path: string
  readonly handle: FileHandle
  readonly writable: boolean
  readonly clusterSectors: number
  #header: DeltaHeader | undefined
  #fileSizeBytes: number

  private constructor(
    handle: FileHandle,
    writable: boolean,
    clusterSectors: number,
    header: DeltaHeader | undefined,
    fileSizeBytes: number,
  ) {
    this.path = handle.path
    this.handle = handle
    this.writable = writable
    this.clusterSectors = clusterSectors
    this.#header = header
    this.#fileSizeBytes = fileSizeBytes
  }

  /**
   * Opens, locks, reads and validates. Marks nothing.
   *
   * @throws {PloopError} status 37 when the lock is held elsewhere, 11 for a bad header
   */
  static async open(files: Files, path: string, options: OpenDeltaOptions): Promise<DeltaFile> {
    const handle = await files.open(path, options.writable ? 'read-write' : 'read')
    try {
      await takeLock(handle, options)
      const stat = await handle.stat()
      if (stat.kind !== 'file') {
        throw new PloopError('NOT_A_FILE', 'an image must be a regular file', {
          status: 'open',
          path,
        })
      }
      if (options.rawClusterSectors === undefined) {
        const header = await readHeader(handle)
        validateHeader(header, stat.sizeBytes, path)
        const { writable } = options
        return new DeltaFile(handle, writable, header.clusterSectors, header, stat.sizeBytes)
      }
      checkRaw(path, options.rawClusterSectors, stat.sizeBytes)
      const { writable, rawClusterSectors } = options
      return new DeltaFile(handle, writable, rawClusterSectors, undefined, stat.sizeBytes)
    } catch (error) {
      await handle.close().catch(() => undefined)
      throw error
    }
  }

  get isRaw(): boolean {
    return this.#header === undefined
  }

  /** undefined for a raw base */
  get header(): DeltaHeader | undefined {
    return this.#header
  }

  get version(): FormatVersion | undefined {
    return this.#header?.version
  }

  get clusterBytes(): number {
    return this.clusterSectors * sectorBytes
  }

  /** Of the virtual disk. A raw file is rounded up to whole sectors. */
  get sizeSectors(): number {
    return this.#header?.sizeSectors ?? Math.ceil(this.#fileSizeBytes / sectorBytes)
  }

  get sizeBytes(): number {
    return this.sizeSectors * sectorBytes
  }

  /** Clusters of the virtual disk; the last one of a raw file may be partial. */
  get clusterCount(): number {
    return this.#header?.clusterCount ?? Math.ceil(this.#fileSizeBytes / this.clusterBytes)
  }

  /** Clusters of header and BAT, 0 in a raw file. */
  get batClusterCount(): number {
    return this.#header === undefined ? 0 : batClusterCount(this.#header)
  }

  get fileSizeBytes(): number {
    return this.#fileSizeBytes
  }

  /** Whole clusters of the file: where the next cluster is appended. */
  get allocHead(): number {
    return Math.floor(this.#fileSizeBytes / this.clusterBytes)
  }

  /** Asks for the file's length again: whoever served the delta has changed it. */
  async refreshSize(): Promise<void> {
    this.#fileSizeBytes = (await this.handle.stat()).sizeBytes
  }

  /** Sets the file's length and remembers it. Not synced. */
  async truncate(sizeBytes: number): Promise<void> {
    assert(this.writable, 'a delta opened for reading is never written')
    await this.handle.truncate(sizeBytes)
    this.#fileSizeBytes = sizeBytes
  }

  /** Cuts a partial cluster off the end: debris of an interrupted extension. */
  async dropPartialCluster(): Promise<void> {
    const wholeBytes = this.allocHead * this.clusterBytes
    if (wholeBytes < this.#fileSizeBytes) await this.truncate(wholeBytes)
  }

  /** A raw file that ends inside a sector gets the rest of it: the disk has it, so it is written. */
  async fillLastSector(): Promise<void> {
    assert(this.isRaw, 'only a raw file may end inside a sector')
    if (this.sizeBytes > this.#fileSizeBytes) await this.truncate(this.sizeBytes)
  }

  /**
   * Sets the in-use mark and waits until it is durable. A format extension would be stale from now
   * on, so its offset goes in the same write.
   */
  async markInUse(): Promise<void> {
    await this.writeHeader({ inUse: inUseMark, extensionOffsetSectors: 0 })
  }

  /** Writes 0 into the in-use word, with the right "empty" flag, and waits until it is durable. */
  async markClosed(isEmpty: boolean): Promise<void> {
    const flags = this.#header?.flags ?? 0
    const others = flags - (flags % 2)
    await this.writeHeader({ inUse: 0, flags: others + (isEmpty ? flagEmpty : 0) })
  }

  /** Changes words from the in-use mark to the end of the header, synced. Other bytes stay. */
  async writeHeader(
    change: Partial<Pick<DeltaHeader, 'inUse' | 'flags' | 'extensionOffsetSectors'>>,
  ): Promise<void> {
    assert(this.writable, 'a delta opened for reading is never written')
    if (this.#header === undefined) return
    const header = { ...this.#header, ...change }
    // all in one sector, which is written as a whole or not at all
    await this.handle.write(encodeHeader(header).subarray(headerField.inUse), headerField.inUse)
    await this.handle.sync()
    this.#header = header
  }

  /** Gives the lock back too. Idempotent. */
  close(): Promise<void> {
    return this.handle.close()
  }
}

/** Reads and decodes the first 64 bytes. */
export async function readHeader(handle: FileHandle): Promise<DeltaHeader> {
  const bytes = new Uint8Array(headerBytes)
  const count = await handle.read(bytes, 0)
  return decodeHeader(bytes.subarray(0, count), handle.path)
}

async function takeLock(handle: FileHandle, options: OpenDeltaOptions): Promise<void> {
  const { lock = 'auto', writable } = options
  if (lock === 'none') return
  const kind = lock === 'auto' ? (writable ? 'exclusive' : 'shared') : lock
  if (!(await handle.tryLock(kind))) throw deltaInUseError(handle.path, kind === 'exclusive')
}

function checkRaw(path: string, clusterSectors: number, fileSizeBytes: number): void {
  if (!isLegalClusterSize(clusterSectors)) {
    throw new PloopError('CLUSTER_SIZE', `${clusterSectors} sectors is no legal cluster size`, {
      status: 'parameter',
      path,
    })
  }
  const sizeBytes = roundUp(fileSizeBytes, sectorBytes)
  if (sizeBytes === 0 || !Number.isSafeInteger(sizeBytes)) {
    throw new PloopError('RAW_SIZE', `a raw image cannot have ${fileSizeBytes} bytes`, {
      status: 'format',
      path,
    })
  }
}

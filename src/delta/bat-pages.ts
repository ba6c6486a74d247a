// SPDX-License-Identifier: MIT
/**
 * BATs of deltas at rest, page by page.
 *
 * {@link BatPages} is random access through a cache bounded by bytes: 127 tables of 64 MiB never
 * sit in memory together. Changed pages are kept apart until `flush`, because when a slot may reach
 * the disk is the caller's matter: data first, sync, slots, sync. {@link readBat} streams a whole
 * table once and skips what is a hole or all zero: so that 16 TiB open in seconds.
 *
 * A page that contains the header is written without its first 64 bytes.
 */
import { LRUCache } from 'lru-cache'
import { assert } from '../base/assert.js'
import { PloopError } from '../base/errors.js'
import { roundDown } from '../base/math.js'
import { sectorBytes } from '../base/units.js'
import { decodeEntries, encodeEntries, isAllZero, slotOf } from '../format/bat.js'
import { batPageBytes, entryBytes, headerBytes, headerSlots } from '../format/constants.js'
import type { DeltaHeader } from '../format/header.js'
import type { FileHandle } from '../io/files.js'

const entriesPerPage = batPageBytes / entryBytes
const chunkBytes = 1024 * 1024

export interface BatPagesOptions {
  /** of clean pages kept; default 8 MiB */
  readonly maxBytes?: number
}

export class BatPages {
  readonly #handle: FileHandle
  readonly #entryCount: number
  readonly #clean: LRUCache<number, Uint32Array>
  readonly #dirty = new Map<number, Uint32Array>()

  constructor(
    handle: FileHandle,
    header: Pick<DeltaHeader, 'clusterCount'>,
    options: BatPagesOptions = {},
  ) {
    this.#handle = handle
    this.#entryCount = header.clusterCount
    this.#clean = new LRUCache({
      maxSize: options.maxBytes ?? 8 * 1024 * 1024,
      sizeCalculation: page => page.byteLength,
    })
  }

  /** The entry as it stands: 0 when this delta does not own the cluster. */
  async entry(clusterIndex: number): Promise<number> {
    assert(clusterIndex >= 0 && clusterIndex < this.#entryCount, 'a cluster of this delta')
    const slot = slotOf(clusterIndex)
    const page = await this.#page(Math.floor(slot / entriesPerPage))
    return page[slot % entriesPerPage] ?? 0
  }

  /** Changes it in memory until {@link flush}. */
  async setEntry(clusterIndex: number, entry: number): Promise<void> {
    assert(clusterIndex >= 0 && clusterIndex < this.#entryCount, 'a cluster of this delta')
    const slot = slotOf(clusterIndex)
    const number = Math.floor(slot / entriesPerPage)
    const page = await this.#page(number)
    page[slot % entriesPerPage] = entry
    this.#dirty.set(number, page)
    this.#clean.delete(number)
  }

  /** Changed pages wait in memory; flush from time to time. */
  get dirtyPageCount(): number {
    return this.#dirty.size
  }

  /** Writes the changed pages. Syncs nothing: not before, not after. */
  async flush(): Promise<void> {
    for (const [number, page] of [...this.#dirty].sort(([left], [right]) => left - right)) {
      await writePage(this.#handle, number, page)
      this.#dirty.delete(number)
      this.#clean.set(number, page)
    }
  }

  async #page(number: number): Promise<Uint32Array> {
    const known = this.#dirty.get(number) ?? this.#clean.get(number)
    if (known !== undefined) return known
    const bytes = new Uint8Array(batPageBytes)
    await readTable(this.#handle, bytes, number * batPageBytes)
    const page = decodeEntries(bytes)
    this.#clean.set(number, page)
    return page
  }
}

/**
 * A run of entries that are not all zero.
 *
 * @param firstClusterIndex cluster index of `entries[0]`
 * @param entries valid during the call; changing it changes nothing
 */
export type OnBatPage = (firstClusterIndex: number, entries: Uint32Array) => void

/**
 * Reads the whole BAT area in order, slots beyond the last cluster included.
 *
 * Holes of the file and pages without an entry are skipped. Memory: one chunk.
 *
 * @throws {PloopError} status 6 when the file ends within the table
 */
export async function readBat(
  handle: FileHandle,
  header: Pick<DeltaHeader, 'firstBlockSectors'>,
  onPage: OnBatPage,
  signal?: AbortSignal,
): Promise<void> {
  await eachBatPage(
    handle,
    header,
    (firstClusterIndex, entries) => {
      onPage(firstClusterIndex, entries)
      return undefined
    },
    signal,
  )
}

/**
 * Like {@link readBat}; a page for which `onPage` answers true has been changed and is written
 * back before the next chunk is read.
 */
export async function eachBatPage(
  handle: FileHandle,
  header: Pick<DeltaHeader, 'firstBlockSectors'>,
  onPage: (firstClusterIndex: number, entries: Uint32Array) => boolean | undefined,
  signal?: AbortSignal,
): Promise<void> {
  const tableBytes = header.firstBlockSectors * sectorBytes
  const chunk = new Uint8Array(chunkBytes)
  const page = new Uint32Array(entriesPerPage)
  let offset = 0
  while (offset < tableBytes) {
    signal?.throwIfAborted()
    const data = await handle.nextData(offset)
    if (data === undefined || data.startBytes >= tableBytes) return checkEnd(handle, tableBytes)
    offset = roundDown(data.startBytes, batPageBytes)
    const end = Math.min(Math.max(data.endBytes, offset + 1), tableBytes)
    while (offset < end) {
      const length = Math.min(chunkBytes, tableBytes - offset)
      const bytes = chunk.subarray(0, length)
      await readTable(handle, bytes, offset)
      for (let start = 0; start < length; start += batPageBytes) {
        const part = bytes.subarray(start, Math.min(start + batPageBytes, length))
        if (isAllZero(part)) continue
        await visit((offset + start) / batPageBytes, part)
      }
      offset += length
    }
  }

  async function visit(number: number, part: Uint8Array): Promise<void> {
    decodeEntries(part, page)
    const skip = number === 0 ? headerSlots : 0
    const first = number * entriesPerPage + skip - headerSlots
    const entries = page.subarray(skip, part.length / entryBytes)
    if (onPage(first, entries) === true) await writePage(handle, number, page)
  }
}

async function writePage(handle: FileHandle, number: number, page: Uint32Array): Promise<void> {
  const skip = number === 0 ? headerBytes : 0
  await handle.write(encodeEntries(page).subarray(skip), number * batPageBytes + skip)
}

async function readTable(handle: FileHandle, target: Uint8Array, offset: number): Promise<void> {
  const count = await handle.read(target, offset)
  if (count < target.length) throw shortTable(handle.path, offset + count)
}

async function checkEnd(handle: FileHandle, tableBytes: number): Promise<void> {
  const { sizeBytes } = await handle.stat()
  if (sizeBytes < tableBytes) throw shortTable(handle.path, sizeBytes)
}

function shortTable(path: string, offset: number): PloopError {
  return new PloopError('BAT_SHORT', `Short read index table: the file ends at byte ${offset}`, {
    status: 'read',
    path,
    offset,
  })
}

// SPDX-License-Identifier: MIT
/**
 * Where the data of a disk lies: the chain flattened into extents, in order.
 *
 * Works through the disk window by window, so that memory does not depend on the size of the disk,
 * and takes no lock: a disk that is being served can be looked at. What such a disk has not
 * published yet is not seen.
 */
import { PloopError } from '../base/errors.js'
import type { Guid } from '../base/guid.js'
import { divCeil } from '../base/math.js'
import { DeltaFile } from '../delta/delta-file.js'
import { decodeEntries, entryOffsetBytes, entryToFileCluster } from '../format/bat.js'
import { entryBytes, levelCountMaxReadOnly } from '../format/constants.js'
import type { Files } from '../io/files.js'
import { isRawImage, pathOfGuid } from './info.js'
import type { StoredDescriptor } from './transaction.js'

/**
 * data: stored in a file. zero: a file holds its place, as a hole or reserved space.
 * hole: no delta has it. The last two read as zeros.
 */
export type ExtentKind = 'data' | 'zero' | 'hole'

export interface MapExtent {
  readonly kind: ExtentKind
  /** on the disk */
  readonly offsetBytes: number
  readonly lengthBytes: number
  /** 0 is the base; undefined in a hole, as are the next two */
  readonly level: number | undefined
  readonly path: string | undefined
  readonly fileOffsetBytes: number | undefined
}

/** A chain that is looked at without locks. */
export interface ViewedChain {
  /** base first */
  readonly deltas: readonly DeltaFile[]
  readonly clusterBytes: number
  readonly sizeBytes: number
  close(): Promise<void>
}

/** Opens the chain from the base up to a shot, for looking only. */
export async function viewChain(
  files: Files,
  stored: StoredDescriptor,
  guid: Guid = stored.descriptor.topGuid,
): Promise<ViewedChain> {
  const { descriptor } = stored
  pathOfGuid(stored, guid)
  const shots = descriptor.tree().chainOf(guid)
  return viewDeltas(
    files,
    shots.map(shot => ({
      path: pathOfGuid(stored, shot.guid),
      rawClusterSectors: isRawImage(descriptor, shot.guid) ? descriptor.clusterSectors : undefined,
    })),
  )
}

export async function viewDeltas(
  files: Files,
  places: readonly { readonly path: string; readonly rawClusterSectors?: number | undefined }[],
): Promise<ViewedChain> {
  if (places.length > levelCountMaxReadOnly) {
    throw new PloopError(
      'CHAIN_LENGTH',
      `the chain has ${places.length} deltas, at most ${levelCountMaxReadOnly} are possible`,
      { status: 'parameter' },
    )
  }
  const deltas: DeltaFile[] = []
  const close = async (): Promise<void> => {
    for (const delta of deltas) await delta.close()
  }
  try {
    for (const { path, rawClusterSectors } of places) {
      const options = { writable: false, rawClusterSectors, lock: 'none' } as const
      deltas.push(await DeltaFile.open(files, path, options))
    }
    const top = deltas.at(-1)
    if (top === undefined) throw new Error('a chain has at least one delta')
    for (const delta of deltas) checkLikeTop(delta, top)
    const { clusterBytes } = top
    return { deltas, clusterBytes, sizeBytes: top.clusterCount * clusterBytes, close }
  } catch (cause) {
    await close()
    throw cause
  }
}

function checkLikeTop(delta: DeltaFile, top: DeltaFile): void {
  if (delta.clusterSectors === top.clusterSectors) return
  throw new PloopError(
    'CHAIN_CLUSTER_SIZE',
    `Incorrect blocksize bs=${delta.clusterSectors} [current bs=${top.clusterSectors}]`,
    { status: 'parameter', path: delta.path },
  )
}

/** Clusters looked up at once: 1 MiB of each block table. */
const windowClusters = 262_144
const unowned = 255

/** Who owns each cluster of a window, and where. */
interface Window {
  readonly levels: Uint8Array
  readonly fileClusters: Uint32Array
}

/** Extents from the start of the disk to its end, neighbours joined. */
export async function* mapExtents(
  chain: ViewedChain,
  signal?: AbortSignal,
): AsyncGenerator<MapExtent> {
  const clusterCount = chain.sizeBytes / chain.clusterBytes
  let pending: Run | undefined
  for (let first = 0; first < clusterCount; first += windowClusters) {
    signal?.throwIfAborted()
    const count = Math.min(windowClusters, clusterCount - first)
    const window = await lookUpWindow(chain, first, count)
    for (const run of runsOf(window, first, count)) {
      if (pending !== undefined && joins(pending, run)) {
        pending = { ...pending, count: pending.count + run.count }
        continue
      }
      if (pending !== undefined) yield* extentsOf(chain, pending)
      pending = run
    }
  }
  if (pending !== undefined) yield* extentsOf(chain, pending)
}

/** Clusters that are neighbours on the disk and in one file. */
interface Run {
  readonly first: number
  readonly count: number
  /** {@link unowned} in a hole */
  readonly level: number
  readonly fileCluster: number
}

function joins(left: Run, right: Run): boolean {
  if (left.level !== right.level) return false
  return left.level === unowned || left.fileCluster + left.count === right.fileCluster
}

function* runsOf(window: Window, first: number, count: number): Generator<Run> {
  const { levels, fileClusters } = window
  let start = 0
  for (let index = 1; index <= count; index += 1) {
    const level = levels[start] ?? unowned
    const fileCluster = fileClusters[start] ?? 0
    const follows =
      index < count &&
      levels[index] === level &&
      (level === unowned || fileClusters[index] === fileCluster + index - start)
    if (follows) continue
    yield { first: first + start, count: index - start, level, fileCluster }
    start = index
  }
}

async function lookUpWindow(chain: ViewedChain, first: number, count: number): Promise<Window> {
  const levels = new Uint8Array(count).fill(unowned)
  const fileClusters = new Uint32Array(count)
  for (let level = chain.deltas.length - 1; level >= 0; level -= 1) {
    const delta = chain.deltas[level]
    if (delta === undefined) continue
    const ownCount = Math.min(count, delta.clusterCount - first)
    if (ownCount <= 0) continue
    const entries = await entriesOf(delta, first, ownCount)
    for (let index = 0; index < ownCount; index += 1) {
      const entry = entries === undefined ? first + index : (entries[index] ?? 0)
      if (levels[index] !== unowned || (entries !== undefined && entry === 0)) continue
      levels[index] = level
      fileClusters[index] = checkedFileCluster(delta, first + index, entry)
    }
  }
  return { levels, fileClusters }
}

/** Part of a block table; undefined for a raw file, where every cluster has its own place. */
async function entriesOf(
  delta: DeltaFile,
  first: number,
  count: number,
): Promise<Uint32Array | undefined> {
  if (delta.isRaw) return undefined
  const offset = entryOffsetBytes(first)
  const bytes = new Uint8Array(count * entryBytes)
  const data = await delta.handle.nextData(offset)
  const empty = data === undefined || data.startBytes >= offset + bytes.length
  if (empty) return new Uint32Array(count)
  const readBytes = await delta.handle.read(bytes, offset)
  if (readBytes === bytes.length) return decodeEntries(bytes)
  throw new PloopError('BAT_SHORT', 'Short read index table', {
    ...{ status: 'read', path: delta.path, offset: offset + readBytes },
  })
}

function checkedFileCluster(delta: DeltaFile, clusterIndex: number, entry: number): number {
  const { header, path } = delta
  if (header === undefined) return entry
  const fileCluster = entryToFileCluster(header.version, entry, header.clusterSectors)
  if (fileCluster >= delta.batClusterCount) return fileCluster
  const where = fileCluster < 0 ? 'no cluster boundary' : 'a place inside the block table'
  throw new PloopError('BAT_ENTRY', `BAT entry ${clusterIndex} is ${entry}: ${where}`, {
    ...{ status: 'format', path, offset: entryOffsetBytes(clusterIndex) },
    hint: `ploop(8) lists all that is wrong: "ploop check -f -c -r ${path}"`,
  })
}

/** A run as extents: what the file has no data for reads as zeros. */
async function* extentsOf(chain: ViewedChain, run: Run): AsyncGenerator<MapExtent> {
  const { clusterBytes } = chain
  const offsetBytes = run.first * clusterBytes
  const lengthBytes = run.count * clusterBytes
  const delta = run.level === unowned ? undefined : chain.deltas[run.level]
  if (delta === undefined) {
    const nowhere = { level: undefined, path: undefined, fileOffsetBytes: undefined }
    yield { kind: 'hole', offsetBytes, lengthBytes, ...nowhere }
    return
  }
  const start = run.fileCluster * clusterBytes
  const piece = (kind: ExtentKind, from: number, to: number): MapExtent => ({
    kind,
    offsetBytes: offsetBytes + from - start,
    lengthBytes: to - from,
    level: run.level,
    path: delta.path,
    fileOffsetBytes: from,
  })
  const end = start + lengthBytes
  await checkInsideFile(delta, run, end)
  let position = start
  while (position < end) {
    const data = await delta.handle.nextData(position)
    const dataStart = Math.min(data?.startBytes ?? end, end)
    if (dataStart > position) yield piece('zero', position, dataStart)
    const dataEnd = Math.min(data?.endBytes ?? end, end)
    if (dataEnd > dataStart) yield piece('data', dataStart, dataEnd)
    position = dataEnd
  }
}

/** A file may have grown since it was opened; a raw one may end anywhere. */
async function checkInsideFile(delta: DeltaFile, run: Run, endBytes: number): Promise<void> {
  if (delta.isRaw || endBytes <= delta.fileSizeBytes) return
  const { sizeBytes } = await delta.handle.stat()
  if (endBytes <= sizeBytes) return
  const last = run.fileCluster + run.count - 1
  throw new PloopError(
    'BAT_BEYOND_EOF',
    `BAT entry ${run.first + run.count - 1} names file cluster ${last}, ` +
      `the file has ${Math.floor(sizeBytes / delta.clusterBytes)}`,
    {
      ...{ status: 'format', path: delta.path },
      hint: `ploop(8) lists all that is wrong: "ploop check -f -c -r ${delta.path}"`,
    },
  )
}

/**
 * Reads a range of the disk through the chain.
 *
 * @returns bytes of the range; beyond the end of the disk zeros
 */
export async function readDisk(
  chain: ViewedChain,
  offsetBytes: number,
  lengthBytes: number,
): Promise<Uint8Array> {
  const { clusterBytes } = chain
  const result = new Uint8Array(lengthBytes)
  const first = Math.floor(offsetBytes / clusterBytes)
  const diskClusters = chain.sizeBytes / clusterBytes
  const last = Math.min(divCeil(offsetBytes + lengthBytes, clusterBytes), diskClusters)
  if (last <= first) return result
  const window = await lookUpWindow(chain, first, last - first)
  for (const run of runsOf(window, first, last - first)) {
    const delta = run.level === unowned ? undefined : chain.deltas[run.level]
    if (delta === undefined) continue
    const from = Math.max(run.first * clusterBytes, offsetBytes)
    const to = Math.min((run.first + run.count) * clusterBytes, offsetBytes + lengthBytes)
    const inFile = run.fileCluster * clusterBytes + from - run.first * clusterBytes
    await delta.handle.read(result.subarray(from - offsetBytes, to - offsetBytes), inFile)
  }
  return result
}

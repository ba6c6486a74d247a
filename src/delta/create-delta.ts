// SPDX-License-Identifier: MIT
/**
 * New image files: an empty delta, a preallocated one, a raw base.
 *
 * The whole BAT area is written as real zeros, never merely reserved: genuine kernels read it past
 * the file system. When this returns, file and name are durable. On failure and on cancelling the
 * file is removed, but only when this call has made it.
 */
import path from 'node:path'
import { assert } from '../base/assert.js'
import { PloopError } from '../base/errors.js'
import { isAligned } from '../base/math.js'
import { type Progress, silentProgress } from '../base/progress.js'
import { sectorBytes } from '../base/units.js'
import { fileClusterLimit, fileClusterToEntry } from '../format/bat.js'
import { entryBytes, headerBytes } from '../format/constants.js'
import { checkSize, type FormatVersion } from '../format/geometry.js'
import { type DeltaHeader, encodeHeader, newHeader } from '../format/header.js'
import type { FileHandle, Files } from '../io/files.js'

export interface CreateDeltaOptions {
  /** ignored for a raw image */
  readonly version: FormatVersion
  readonly clusterSectors: number
  /** of the disk: a whole number of clusters */
  readonly sizeSectors: number
  readonly mode: 'expanded' | 'preallocated' | 'raw'
  readonly signal?: AbortSignal | undefined
  readonly progress?: Progress
}

const pieceBytes = 1024 * 1024
/** Space is reserved in such steps, so that cancelling is heard. */
const reserveBytes = 1024 * 1024 * 1024

/**
 * @throws {PloopError} status 1 when the file exists or cannot be created, 38 for an impossible
 *         size
 */
export async function createDelta(
  files: Files,
  file: string,
  options: CreateDeltaOptions,
): Promise<void> {
  const header = plannedHeader(options)
  const handle = await files.open(file, 'create')
  try {
    if (header === undefined) await fillRaw(handle, options)
    else await fillDelta(handle, header, options)
    await handle.sync()
    await handle.close()
    await files.syncDirectory(path.dirname(file))
  } catch (error) {
    await handle.close().catch(() => undefined)
    await files.unlink(file).catch(() => undefined)
    throw error
  }
}

/** Everything that can be refused before a file exists. undefined for a raw image. */
function plannedHeader(options: CreateDeltaOptions): DeltaHeader | undefined {
  const { version, clusterSectors, sizeSectors, mode } = options
  if (mode === 'raw') {
    checkSize(2, sizeSectors, clusterSectors)
    assert(isAligned(sizeSectors, clusterSectors), 'the size is a whole number of clusters')
    return undefined
  }
  const header = newHeader({ version, clusterSectors, sizeSectors })
  const lastCluster = header.firstBlockSectors / clusterSectors + header.clusterCount - 1
  if (mode === 'preallocated' && lastCluster >= fileClusterLimit(version, clusterSectors)) {
    throw new PloopError(
      'SIZE',
      `a preallocated version ${version} image of ${sizeSectors} sectors is too large: ` +
        'its last clusters could not be addressed',
      { status: 'parameter', hint: 'version 2 allows larger disks' },
    )
  }
  return header
}

async function fillDelta(
  handle: FileHandle,
  header: DeltaHeader,
  options: CreateDeltaOptions,
): Promise<void> {
  const batBytes = header.firstBlockSectors * sectorBytes
  const filled = options.mode === 'preallocated'
  const sizeBytes = batBytes + (filled ? header.sizeSectors * sectorBytes : 0)
  if (filled) await reserve(handle, sizeBytes, options)
  const piece = new Uint8Array(Math.min(pieceBytes, batBytes))
  for (let offset = 0; offset < batBytes; offset += piece.length) {
    options.signal?.throwIfAborted()
    const bytes = piece.subarray(0, Math.min(piece.length, batBytes - offset))
    if (filled) fillEntries(bytes, offset, header)
    if (offset === 0) bytes.set(encodeHeader(header))
    await handle.write(bytes, offset)
    if (offset === 0) bytes.fill(0, 0, headerBytes)
  }
}

/** Cluster i of the disk lies in file cluster L1 + i. */
function fillEntries(bytes: Uint8Array, offsetBytes: number, header: DeltaHeader): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const firstCluster = header.firstBlockSectors / header.clusterSectors
  const firstIndex = (offsetBytes - headerBytes) / entryBytes
  for (let at = 0; at < bytes.length; at += entryBytes) {
    const index = firstIndex + at / entryBytes
    const owned = index >= 0 && index < header.clusterCount
    const entry = owned
      ? fileClusterToEntry(header.version, firstCluster + index, header.clusterSectors)
      : 0
    view.setUint32(at, entry, true)
  }
}

function fillRaw(handle: FileHandle, options: CreateDeltaOptions): Promise<void> {
  return reserve(handle, options.sizeSectors * sectorBytes, options)
}

async function reserve(
  handle: FileHandle,
  sizeBytes: number,
  options: CreateDeltaOptions,
): Promise<void> {
  const { signal, progress = silentProgress } = options
  for (let offset = 0; offset < sizeBytes; offset += reserveBytes) {
    signal?.throwIfAborted()
    progress.update(offset, sizeBytes)
    await handle.allocate(offset, Math.min(reserveBytes, sizeBytes - offset))
  }
  progress.update(sizeBytes, sizeBytes)
}

// SPDX-License-Identifier: MIT
/**
 * Facts about a disk at rest that need no more than its descriptor and one header: what the top
 * delta is, and the shots as snapshot-list shows them.
 *
 * Nothing is locked for long, nothing is written; also right while another process serves the disk.
 */
import { PloopError } from '../base/errors.js'
import { noneGuid, sameGuid, type Guid } from '../base/guid.js'
import { roundUp } from '../base/math.js'
import { sectorBytes } from '../base/units.js'
import type { Descriptor } from '../format/descriptor.js'
import { imagePath } from '../format/descriptor.js'
import type { FormatVersion } from '../format/geometry.js'
import { decodeHeader, isInUse, validateHeader, type DeltaHeader } from '../format/header.js'
import type { FileHandle, Files } from '../io/files.js'
import type { StoredDescriptor } from './transaction.js'

/** What genuine tools read to parse a header: a shorter file is no image. */
const headerReadBytes = 4096

/** The top delta of a disk, or one of its other deltas. */
export interface DeltaFacts {
  readonly path: string
  /** a headerless base */
  readonly raw: boolean
  readonly sizeSectors: number
  readonly clusterSectors: number
  /** 0 for a raw base */
  readonly version: FormatVersion | 0
  /** not closed cleanly, or open in some process now */
  readonly inUse: boolean
}

/** In raw mode only the base is raw: every delta above it has a header. */
export function isRawImage(descriptor: Descriptor, guid: Guid): boolean {
  if (descriptor.mode !== 'raw') return false
  const shot = descriptor.shot(guid)
  return shot !== undefined && sameGuid(shot.parentGuid, noneGuid)
}

/** Path of the image of a shot. @throws PloopError status 43 when there is no such snapshot */
export function pathOfGuid(stored: StoredDescriptor, guid: Guid): string {
  const image = stored.descriptor.image(guid)
  if (image !== undefined) return imagePath(stored.directory, image.file)
  throw new PloopError('NO_SNAPSHOT', `Uuid ${guid} not found`, {
    status: 'noSnapshot',
    path: stored.path,
  })
}

/** Header of an open delta. @throws PloopError status 4: whatever is wrong, it cannot be opened */
export async function readHeader(file: FileHandle): Promise<DeltaHeader> {
  const bytes = new Uint8Array(headerReadBytes)
  const readBytes = await file.read(bytes, 0)
  if (readBytes < headerReadBytes) {
    throw new PloopError(
      'HEADER_SHORT',
      `the file has ${String(readBytes)} bytes, too few for an image`,
      { status: 'open', path: file.path },
    )
  }
  try {
    const header = decodeHeader(bytes, file.path)
    validateHeader(header, undefined, file.path)
    return header
  } catch (cause) {
    if (!(cause instanceof PloopError)) throw cause
    const { code, message, path, offset } = cause
    throw new PloopError(code, message, { status: 'open', path, offset, cause })
  }
}

/** @throws PloopError status 4 when it cannot be opened or is no image */
export async function readDeltaFacts(
  files: Files,
  path: string,
  kind: { readonly raw: boolean; readonly clusterSectors: number },
): Promise<DeltaFacts> {
  const file = await files.open(path, 'read')
  try {
    if (kind.raw) {
      const { clusterSectors } = kind
      const { sizeBytes } = await file.stat()
      const sizeSectors = Math.floor(sizeBytes / sectorBytes)
      return { path, raw: true, sizeSectors, clusterSectors, version: 0, inUse: false }
    }
    const header = await readHeader(file)
    const { sizeSectors, clusterSectors, version } = header
    const inUse = isInUse(header.inUse)
    return { path, raw: false, sizeSectors, clusterSectors, version, inUse }
  } finally {
    await file.close()
  }
}

export function readTopFacts(files: Files, stored: StoredDescriptor): Promise<DeltaFacts> {
  const { descriptor } = stored
  return readDeltaFacts(files, pathOfGuid(stored, descriptor.topGuid), {
    raw: isRawImage(descriptor, descriptor.topGuid),
    clusterSectors: descriptor.clusterSectors,
  })
}

/** Size of the disk that clients see: whole clusters. */
export function diskSizeSectors(facts: DeltaFacts): number {
  return roundUp(facts.sizeSectors, facts.clusterSectors)
}

export interface ListedSnapshot {
  readonly uuid: Guid
  readonly parentUuid: Guid
  readonly current: boolean
  /** absolute path */
  readonly path: string
  readonly temporary: boolean
}

export interface ListOptions {
  /** from this one down to the base */
  readonly uuid?: Guid | undefined
  /** leave out the top; its parent counts as current */
  readonly snapshotsOnly?: boolean
}

/** In the order of the descriptor; from `uuid` down to the base when that is asked for. */
export function listSnapshots(
  stored: StoredDescriptor,
  options: ListOptions = {},
): ListedSnapshot[] {
  const { descriptor } = stored
  const tree = descriptor.tree()
  const top = tree.get(descriptor.topGuid)
  const current = options.snapshotsOnly === true ? top.parentGuid : top.guid
  let shots = descriptor.shots
  if (options.uuid !== undefined) {
    if (!tree.has(options.uuid)) {
      throw new PloopError('NO_SNAPSHOT', `Can't find snapshot by uuid ${options.uuid}`, {
        status: 'noSnapshot',
        path: stored.path,
      })
    }
    shots = tree.chainOf(options.uuid).reverse()
  }
  return shots
    .filter(shot => options.snapshotsOnly !== true || !sameGuid(shot.guid, top.guid))
    .map(shot => ({
      uuid: shot.guid,
      parentUuid: shot.parentGuid,
      current: sameGuid(shot.guid, current),
      path: pathOfGuid(stored, shot.guid),
      temporary: shot.temporary,
    }))
}

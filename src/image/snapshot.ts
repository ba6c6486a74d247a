// SPDX-License-Identifier: MIT
/**
 * snapshot of a disk at rest: the top delta is frozen, a new empty one goes on top.
 *
 * Order: stage the future descriptor, make the new delta (durable, its name too), commit. A crash
 * before the commit leaves a file that nothing names; after it an empty top.
 *
 * Facts: the frozen delta gets the snapshot's GUID, the new one inherits the GUID of the top. The
 *        new file is called after the first image plus a GUID that means nothing else.
 */
import { PloopError } from '../base/errors.js'
import { newGuid, noneGuid, sameGuid, topGuid, type Guid } from '../base/guid.js'
import { roundUp } from '../base/math.js'
import { checkOpenDelta } from '../delta/check-delta.js'
import { createDelta } from '../delta/create-delta.js'
import { DeltaFile } from '../delta/delta-file.js'
import { levelCountMaxWritable } from '../format/constants.js'
import { imagePath, type Descriptor } from '../format/descriptor.js'
import type { FormatVersion } from '../format/geometry.js'
import { isInUse } from '../format/header.js'
import type { Files } from '../io/files.js'
import type { PendingPlace } from '../io/pending-place.js'
import { isRawImage, pathOfGuid } from './info.js'
import { recoverPending } from './recover-pending.js'
import { type Transaction, type TransactionOptions, withTransaction } from './transaction.js'

export interface SnapshotOptions extends TransactionOptions {
  /** default: a new one */
  readonly uuid?: Guid | undefined
  /** as in open.ts: where dead servers left what they had not published */
  readonly pendingPlace?: PendingPlace | undefined
}

export interface SnapshotResult {
  readonly uuid: Guid
  /** the new top delta */
  readonly path: string
}

export async function createSnapshot(
  files: Files,
  descriptorPath: string,
  options: SnapshotOptions = {},
): Promise<SnapshotResult> {
  return withTransaction(files, descriptorPath, options, async transaction => {
    const uuid = options.uuid ?? newGuid()
    checkSnapshotPossible(transaction.descriptor, uuid)
    const top = await openIdleTop(transaction, options)
    try {
      const path = newDeltaPath(transaction.directory, transaction.descriptor)
      await transaction.stage(withSnapshot(transaction.descriptor, uuid, transaction.fileOf(path)))
      const size = newTopSize(top)
      const facts = `bs=${size.clusterSectors} size=${size.sizeSectors} sectors v${size.version}`
      options.log?.info(`Creating delta ${path} ${facts}`)
      await createDelta(files, path, { ...size, mode: 'expanded', signal: options.signal })
      transaction.created(path)
      await transaction.commit()
      return { uuid, path }
    } finally {
      await top.close()
    }
  })
}

/** What can be refused by looking at the descriptor. @throws PloopError status 38 */
export function checkSnapshotPossible(descriptor: Descriptor, uuid: Guid): void {
  const refuse = (code: string, message: string, hint?: string): never => {
    throw new PloopError(code, message, { status: 'parameter', hint })
  }
  if (descriptor.isOldFormat) refuse('OLD_DESCRIPTOR', 'Snapshot is in old format')
  if (sameGuid(uuid, noneGuid)) refuse('GUID_INVALID', `Incorrect uuid specified: ${uuid}`)
  if (descriptor.shot(uuid) !== undefined) {
    refuse('GUID_EXISTS', `The snapshot ${uuid} already exist`)
  }
  const foreign = descriptor.shots.find(shot => shot.foreignMerge !== undefined)
  if (foreign !== undefined) {
    refuse(
      'FOREIGN_MERGE',
      `snapshot ${foreign.guid} is marked ${foreign.foreignMerge ?? ''}: ` +
        'a merge by another generation of ploop was interrupted',
      'finish it with the tool that began it',
    )
  }
  const levelCount = descriptor.tree().chainOf(descriptor.topGuid).length
  if (levelCount >= levelCountMaxWritable) {
    refuse(
      'SNAPSHOT_LIMIT',
      `The disk has the maximum number of snapshots (${levelCountMaxWritable - 1})`,
      'merge some of them first, for example with "ploop snapshot-merge" of ploop(8)',
    )
  }
}

/** The descriptor after the snapshot: what was on top is `uuid`, a new top lies above it. */
export function withSnapshot(descriptor: Descriptor, uuid: Guid, newFile: string): Descriptor {
  const next = descriptor.clone()
  next.renameGuid(topGuid, uuid)
  next.addImage({ guid: topGuid, file: newFile })
  next.addShot({ guid: topGuid, parentGuid: uuid })
  next.setTopGuid(topGuid)
  return next
}

/**
 * Absolute path for another delta: the first image's, plus a fresh GUID. A GUID that the first
 * image carries already (it once was a delta itself) is dropped, else names would grow for ever.
 */
export function newDeltaPath(directory: string, descriptor: Descriptor): string {
  const first = descriptor.images[0]
  if (first === undefined) throw new Error('a valid descriptor has an image')
  const file = imagePath(directory, first.file)
  const plain = file.replace(/\.\{[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\}$/i, '')
  return `${plain}.${newGuid()}`
}

/**
 * The top delta, open and locked against writers until it is closed. One that was not closed
 * cleanly is checked, and repaired if that loses nothing.
 *
 * @throws PloopError status 37 when another process has it open for writing, that of the check
 *         when it is damaged
 */
async function openIdleTop(transaction: Transaction, options: SnapshotOptions): Promise<DeltaFile> {
  const { descriptor, files } = transaction
  const path = pathOfGuid(transaction, descriptor.topGuid)
  const raw = isRawImage(descriptor, descriptor.topGuid)
  const rawClusterSectors = raw ? descriptor.clusterSectors : undefined
  const open = (writable: boolean): Promise<DeltaFile> =>
    DeltaFile.open(files, path, { writable, rawClusterSectors }).catch((cause: unknown) => {
      throw openError(cause)
    })
  const top = await open(false)
  if (top.header === undefined || !isInUse(top.header.inUse)) return top
  await top.close()
  const repaired = await open(true)
  try {
    await recoverPending(transaction.files, repaired, {
      place: options.pendingPlace,
      log: options.log,
    })
    await repaired.refreshSize()
    await repairTop(repaired, options)
    return repaired
  } catch (cause) {
    await repaired.close()
    throw cause
  }
}

/** An image whose header is bad cannot be opened, to scripts: status 4. */
function openError(cause: unknown): unknown {
  if (!(cause instanceof PloopError) || cause.status !== 'format') return cause
  const { code, message, path, offset } = cause
  return new PloopError(code, message, { status: 'open', path, offset, cause })
}

/** An unreferenced tail is kept: it costs space, cutting it might cost data. */
async function repairTop(top: DeltaFile, options: SnapshotOptions): Promise<void> {
  const { log, signal } = options
  log?.warn('the image was not closed cleanly: checking it', { path: top.path })
  const result = await checkOpenDelta(top, {
    ...{ detailed: true, dropInUse: true, keepTail: true, signal },
    onMessage: message => log?.[message.level === 'warning' ? 'warn' : 'info'](message.text),
  })
  if (result.status === 'ok') return
  const words = result.messages.filter(message => message.level === 'error').at(-1)?.text
  throw new PloopError('TOP_DAMAGED', words ?? 'the image is damaged', {
    ...{
      status: result.status,
      path: top.path,
      hint: `ploop(8) lists all that is wrong: "ploop check -f -c -r ${top.path}"`,
    },
  })
}

/** A delta on a raw base is of version 2; all others are like what lies below. */
function newTopSize(top: DeltaFile): {
  version: FormatVersion
  clusterSectors: number
  sizeSectors: number
} {
  const { clusterSectors, version = 2 } = top
  return { version, clusterSectors, sizeSectors: roundUp(top.sizeSectors, clusterSectors) }
}

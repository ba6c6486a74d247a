// SPDX-License-Identifier: MIT
/**
 * Puts back the mappings that a dead server had acknowledged and not yet published.
 *
 * Owns:     when a pending log may touch an image, and how. Every opener for writing calls this with
 *           the exclusive lock held, before anything looks at the table: a check would cut off the
 *           very clusters that the log names.
 * Promises: a log that does not fit in every respect changes nothing: it is dropped, with a warning.
 *           Death at any point leaves log and image so that the next call does the rest.
 *
 * Order: data durable → entries written → durable → log removed. The in-use mark, the boot, the
 * file's identity and the geometry must be the log's; each entry must be as the log found it, or
 * changed already; each new file cluster must be in the file and named by nobody else.
 *
 * The image may have been served by somebody who cannot see the log (another user, another machine)
 * and died as well: then all of this may fit by chance. But such a server changed the file later
 * than the log's owner lived, so the time of the last change decides. Our own changes are preceded
 * by a new sign of life in the log.
 */
import { assert } from '../base/assert.js'
import { errnoName, PloopError } from '../base/errors.js'
import { type Logger, silentLogger } from '../base/log.js'
import { BatPages, readBat } from '../delta/bat-pages.js'
import type { DeltaFile } from '../delta/delta-file.js'
import { entryToFileCluster, fileClusterToEntry } from '../format/bat.js'
import { inUseMark } from '../format/constants.js'
import type { DeltaHeader } from '../format/header.js'
import {
  decodePendingLog,
  pendingCapacityMax,
  pendingField,
  pendingLogBytes,
  type PendingIdentity,
  type PendingLog,
} from '../format/pending-log.js'
import type { FileHandle, Files, FileStat } from '../io/files.js'
import {
  checkPendingDirectory,
  pendingPath,
  pendingPlace,
  type PendingPlace,
} from '../io/pending-place.js'
import { planReplay, type ReplayPlan, Unfit } from './replay-plan.js'

export interface RecoverPendingOptions {
  readonly log?: Logger | undefined
  /** default: this user's, on this machine */
  readonly place?: PendingPlace | undefined
}

export type PendingOutcome = 'none' | 'replayed' | 'dropped'

/** A server's last change may be that much later than its last sign of life. */
const livedOnMs = 5000
/** Pages of the table that are changed in memory before they are written. */
const dirtyPagesMax = 1024

/**
 * @param top open for writing, so that nobody else uses it
 * @throws {PloopError} when reading or writing fails: the log stays, unless the data are in doubt
 */
export async function recoverPending(
  files: Files,
  top: DeltaFile,
  options: RecoverPendingOptions = {},
): Promise<PendingOutcome> {
  assert(top.writable, 'only who holds the exclusive lock puts mappings back')
  const { log = silentLogger } = options
  const found = await findLog(files, top, 'read-write', options)
  if (found === undefined) return 'none'
  const { path, place, image, handle } = found
  const drop = (reason: string): void => {
    log.warn(`writes that a dead server answered, but never flushed, are given up: ${reason}`, {
      path: top.path,
    })
  }
  try {
    const content = await readLog(handle)
    const isEmpty = content.publishing.length === 0 && content.collecting.length === 0
    if (!isEmpty) {
      const header = fittingHeader(content, top, image, place)
      const count = await new Replay(top, header, handle).run(planReplay(content))
      log.warn(`put back ${count} mappings that a server left behind when it died`, {
        path: top.path,
      })
    }
    await files.unlink(path)
    return isEmpty ? 'none' : 'replayed'
  } catch (error) {
    if (!(error instanceof Unfit) && !isInvalid(error)) {
      if (error instanceof DataInDoubt) {
        drop(error.message)
        await files.unlink(path)
        throw error.cause
      }
      throw error
    }
    drop(error.message)
    await files.unlink(path)
    return 'dropped'
  } finally {
    await handle.close().catch(() => undefined)
  }
}

/** Does a dead server's log wait for somebody who opens the image for writing? Changes nothing. */
export async function hasPending(
  files: Files,
  delta: DeltaFile,
  options: RecoverPendingOptions = {},
): Promise<boolean> {
  const found = await findLog(files, delta, 'read', options)
  if (found === undefined) return false
  try {
    const { publishing, collecting } = await readLog(found.handle)
    return publishing.length + collecting.length > 0
  } catch {
    return false
  } finally {
    await found.handle.close().catch(() => undefined)
  }
}

interface FoundLog {
  readonly path: string
  readonly place: PendingPlace
  readonly image: FileStat
  readonly handle: FileHandle
}

async function findLog(
  files: Files,
  delta: DeltaFile,
  mode: 'read' | 'read-write',
  options: RecoverPendingOptions,
): Promise<FoundLog | undefined> {
  const place = options.place ?? pendingPlace()
  if (place === undefined) return undefined
  try {
    if (!checkPendingDirectory(place)) return undefined
    const image = await delta.handle.stat()
    const path = pendingPath(place, image)
    return { path, place, image, handle: await files.open(path, mode) }
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return undefined
    if (!(error instanceof PloopError) || error.code !== 'PENDING_DIRECTORY') throw error
    options.log?.warn(`not looking for pending mappings: ${error.userMessage}`)
    return undefined
  }
}

/** @throws {PloopError} `PENDING_INVALID` */
async function readLog(handle: FileHandle): Promise<PendingLog> {
  const { sizeBytes } = await handle.stat()
  // never more than a log may have, whatever lies there
  const bytes = new Uint8Array(Math.min(sizeBytes, pendingLogBytes(pendingCapacityMax)))
  const count = await handle.read(bytes, 0)
  return decodePendingLog(bytes.subarray(0, count))
}

function isInvalid(error: unknown): error is PloopError {
  return error instanceof PloopError && error.code === 'PENDING_INVALID'
}

/** @throws {Unfit} */
function fittingHeader(
  log: PendingLog,
  top: DeltaFile,
  image: FileStat,
  place: PendingPlace,
): DeltaHeader {
  const { header } = top
  const refuse = (reason: string): never => {
    throw new Unfit(reason)
  }
  if (header === undefined) return refuse('the image has no table any more')
  if (log.isVoid) refuse('writing or flushing the image had failed')
  if (header.inUse !== inUseMark) refuse('the image was closed by somebody since')
  const { identity } = log
  if (Buffer.compare(identity.bootId, place.bootId) !== 0) refuse('they are from an earlier boot')
  if (identity.device !== image.device || identity.inode !== image.inode) {
    refuse('they belong to another file')
  }
  if (!hasGeometry(identity, top, header)) refuse('the image has another size or format now')
  if (image.modifiedMs > log.aliveMs + livedOnMs) refuse('the image was changed by somebody since')
  return header
}

function hasGeometry(identity: PendingIdentity, top: DeltaFile, header: DeltaHeader): boolean {
  return (
    identity.version === header.version &&
    identity.clusterSectors === header.clusterSectors &&
    identity.clusterCount === header.clusterCount &&
    identity.batClusterCount === top.batClusterCount &&
    identity.sizeSectors === BigInt(header.sizeSectors)
  )
}

/** The image's data could not be made durable: a second attempt might seem to succeed. */
class DataInDoubt extends Error {
  override name = 'DataInDoubt'
}

class Replay {
  readonly #top: DeltaFile
  readonly #header: DeltaHeader
  readonly #logHandle: FileHandle

  constructor(top: DeltaFile, header: DeltaHeader, logHandle: FileHandle) {
    this.#top = top
    this.#header = header
    this.#logHandle = logHandle
  }

  /** @returns entries that were written */
  async run(plan: ReplayPlan): Promise<number> {
    await this.#top.refreshSize()
    this.#checkTargets(plan)
    await this.#checkOwners(plan)
    const pages = new BatPages(this.#top.handle, this.#header)
    const chosen = await this.#choose(plan, pages)
    try {
      await this.#top.handle.sync()
      await this.#write(plan, chosen, pages)
      await this.#top.handle.sync()
    } catch (cause) {
      if (cause instanceof PloopError && cause.status === 'sync') {
        throw new DataInDoubt(cause.message, { cause })
      }
      throw cause
    }
    return chosen.length
  }

  #checkTargets({ owners }: ReplayPlan): void {
    const { allocHead, batClusterCount } = this.#top
    for (const [fileCluster, clusterIndex] of owners) {
      if (fileCluster >= batClusterCount && fileCluster < allocHead) continue
      throw new Unfit(
        `file cluster ${fileCluster} of cluster ${clusterIndex} is not in the file any more`,
      )
    }
  }

  /** Nobody else on disk may name a file cluster that is about to get its owner. */
  async #checkOwners({ owners }: ReplayPlan): Promise<void> {
    await readBat(this.#top.handle, this.#header, (firstClusterIndex, entries) => {
      for (let at = 0; at < entries.length; at++) {
        const entry = entries[at] ?? 0
        if (entry === 0) continue
        const fileCluster = this.#fileCluster(entry)
        const owner = owners.get(fileCluster)
        if (owner === undefined || owner === firstClusterIndex + at) continue
        throw new Unfit(
          `file cluster ${fileCluster} belongs to cluster ${firstClusterIndex + at} already`,
        )
      }
    })
  }

  /** The clusters whose entries are to be written. */
  async #choose(plan: ReplayPlan, pages: BatPages): Promise<number[]> {
    const chosen: number[] = []
    for (const [clusterIndex, { expected, target }] of plan.steps) {
      const fileCluster = this.#fileCluster(await pages.entry(clusterIndex))
      if (expected.has(fileCluster)) {
        if (fileCluster !== target) chosen.push(clusterIndex)
      } else if (!plan.leavesOthers) {
        throw new Unfit(
          `cluster ${clusterIndex} is file cluster ${fileCluster}, which the server did not put there`,
        )
      }
    }
    return chosen
  }

  async #write(plan: ReplayPlan, chosen: readonly number[], pages: BatPages): Promise<void> {
    const { version, clusterSectors } = this.#header
    for (const clusterIndex of chosen) {
      const target = plan.steps.get(clusterIndex)?.target ?? 0
      const entry = target === 0 ? 0 : fileClusterToEntry(version, target, clusterSectors)
      await pages.setEntry(clusterIndex, entry)
      if (pages.dirtyPageCount >= dirtyPagesMax) await this.#flush(pages)
    }
    await this.#flush(pages)
  }

  /** Should we die here, the next opener must not take our change for a stranger's. */
  async #flush(pages: BatPages): Promise<void> {
    const now = new Float64Array([Date.now()])
    await this.#logHandle.write(new Uint8Array(now.buffer), pendingField.alive * 4)
    await pages.flush()
  }

  /** 0 stays 0; what is no cluster's beginning equals none. */
  #fileCluster(entry: number): number {
    const { version, clusterSectors } = this.#header
    return entry === 0 ? 0 : entryToFileCluster(version, entry, clusterSectors)
  }
}

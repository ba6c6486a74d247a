// SPDX-License-Identifier: MIT
/**
 * From a descriptor, or a list of deltas, to an open chain: locked, checked, ready to be served.
 *
 * Owns:     the order: descriptor lock → read → locks on all deltas → headers → recovery of a delta
 *           that was not closed → every table → in-use mark of the top.
 * Leaves:   the map's memory and the serving to others; closing the top properly to close.ts.
 * Promises: opened read-only nothing is written to any file. Locks sit on the very handles that are
 *           returned. When this throws everything is closed again; what was repaired stays repaired.
 * Facts:    an in-use mark without a live lock means that its writer died. The lower deltas of a
 *           chain are shared between disks, so they are locked shared; the writable top belongs to
 *           one opener. See docs/locking.md.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { errnoName, PloopError } from '../base/errors.js'
import type { Guid } from '../base/guid.js'
import { type Logger, silentLogger } from '../base/log.js'
import { eachBatPage } from '../delta/bat-pages.js'
import { checkOpenDelta, readExtension } from '../delta/check-delta.js'
import { DeltaFile } from '../delta/delta-file.js'
import { fileClusterLimit } from '../format/bat.js'
import { inUseMark } from '../format/constants.js'
import { dirtyBitmapMagic, extensionFileClusters, featureNecessary } from '../format/extension.js'
import type { FormatVersion } from '../format/geometry.js'
import { type DeltaHeader, isInUse } from '../format/header.js'
import { sectorBytes } from '../base/units.js'
import type { FileHandle, Files } from '../io/files.js'
import type { LockOptions } from '../io/locks.js'
import type { PendingPlace } from '../io/pending-place.js'
import {
  checkMapSize,
  type LevelScan,
  type MapTarget,
  maxMapBytesDefault,
  scanLevels,
} from './chain-map.js'
import {
  type ChainInput,
  type Place,
  type Plan,
  planOfDescriptor,
  planOfPaths,
} from './chain-plan.js'
import { checkLevelCount, checkRelations, refuseSameFile } from './chain-rules.js'
import { hasPending, recoverPending } from './recover-pending.js'
import { readDescriptor, type StoredDescriptor, withTransaction } from './transaction.js'

export { buildMap, mapBytes, type MapTarget } from './chain-map.js'
export type { ChainInput } from './chain-plan.js'

export interface OpenChainOptions extends LockOptions {
  readonly readOnly: boolean
  /** overrides the descriptor's cluster size, for raw disks */
  readonly rawClusterSectors?: number | undefined
  /** how long to wait for the lock of a delta, e.g. for a dying server; default 0 */
  readonly deltaLockTimeoutMs?: number
  readonly maxMapBytes?: number
  /** makes the map that is filled on the way; left out: tables are validated only */
  readonly newMap?: (clusterCount: number) => MapTarget
  /**
   * Where dead servers left what they had acknowledged and not yet published; default: this
   * user's place. It is put back with the lock of a writable top held, before anything looks at
   * its table.
   */
  readonly pendingPlace?: PendingPlace | undefined
  /** Called for a marked, writable top instead of looking there. */
  readonly recover?: (top: DeltaFile) => Promise<void>
  readonly log?: Logger
}

export interface ChainLevel {
  readonly path: string
  readonly handle: FileHandle
  readonly delta: DeltaFile
  /** undefined: opened from a list of deltas */
  readonly guid: Guid | undefined
  /** undefined for a raw base */
  readonly header: DeltaHeader | undefined
  readonly isRaw: boolean
  /** of the virtual disk at this level */
  readonly sizeBytes: number
  readonly clusterCount: number
  readonly scan: LevelScan
}

export interface OpenedChain {
  /** base first */
  readonly levels: readonly ChainLevel[]
  readonly top: ChainLevel
  readonly clusterBytes: number
  readonly clusterSectors: number
  /** of the disk: the top's */
  readonly sizeBytes: number
  readonly clusterCount: number
  readonly version: FormatVersion
  readonly readOnly: boolean
  /** the top was not closed properly last time */
  readonly wasInUse: boolean
  /** whole clusters of the top's file: where the next one goes */
  readonly allocHead: number
  /** the top's file may never have more clusters */
  readonly maxFileClusters: number
  /** filled, when asked for */
  readonly map: MapTarget | undefined
  readonly descriptor: StoredDescriptor | undefined
  /** Gives the locks back. Clears no mark: see closeTop. Idempotent. */
  close(): Promise<void>
}

/**
 * @throws {PloopError} status 39 no such descriptor, 23 locked or invalid, 43 unknown GUID, 38 not
 *         possible, 37 in use elsewhere, 11 damaged, 17 half-way through a version conversion
 */
export async function openChain(
  files: Files,
  input: ChainInput,
  options: OpenChainOptions,
): Promise<OpenedChain> {
  if (input.kind === 'deltas') return await openPlan(files, planOfPaths(input, options), options)
  if (input.kind === 'stored') {
    return await openPlan(files, planOfDescriptor(input.stored, input.guid, options), options)
  }
  const openStored = (stored: StoredDescriptor): Promise<OpenedChain> =>
    openPlan(files, planOfDescriptor(stored, input.guid, options), options)
  try {
    return await withTransaction(files, input.path, options, ({ path, directory, descriptor }) =>
      openStored({ path, directory, descriptor }),
    )
  } catch (error) {
    // on a medium that nobody can write to there is no lock file and nothing to lock against
    if (!options.readOnly || !isUnwritableLock(error)) throw error
    return await openStored(await readDescriptor(files, input.path))
  }
}

function isUnwritableLock(error: unknown): boolean {
  if (!(error instanceof PloopError) || error.code !== 'LOCK_FILE') return false
  return ['EROFS', 'EACCES', 'EPERM'].includes(error.errno ?? '')
}

async function openPlan(files: Files, plan: Plan, options: OpenChainOptions): Promise<OpenedChain> {
  checkLevelCount(plan.places, options.readOnly)
  await refuseSameFile(files, plan.places)
  const opener = new ChainOpener(files, plan, options)
  try {
    return await opener.run()
  } catch (error) {
    await opener.close()
    throw error
  }
}

class ChainOpener {
  readonly #files: Files
  readonly #plan: Plan
  readonly #options: OpenChainOptions
  readonly #log: Logger
  readonly #deltas: DeltaFile[] = []

  constructor(files: Files, plan: Plan, options: OpenChainOptions) {
    this.#files = files
    this.#plan = plan
    this.#options = options
    this.#log = options.log ?? silentLogger
  }

  async close(): Promise<void> {
    for (const delta of this.#deltas) await delta.close().catch(() => undefined)
  }

  async run(): Promise<OpenedChain> {
    const { readOnly } = this.#options
    for (const [level, place] of this.#plan.places.entries()) {
      const isTop = level === this.#plan.places.length - 1
      this.#deltas.push(await this.#openDelta(place, isTop && !readOnly))
    }
    checkRelations(this.#deltas, this.#plan.clusterSectors)
    for (let level = 0; level < this.#deltas.length - 1; level++) await this.#recoverLower(level)
    const top = this.#top
    const wasInUse = isMarked(top)
    await this.#putBackPending(wasInUse)
    if (wasInUse) await this.#recoverTop()
    const { clusterCount, clusterBytes, path } = top
    const map = this.#makeMap(clusterCount, clusterBytes, path)
    const scans = await scanLevels(this.#deltas, map, this.#options.signal)
    const extensionClusters = readOnly ? [] : await this.#extensionClusters()
    if (!readOnly) await this.#startWriting(scans.at(-1), extensionClusters)
    return this.#chain(scans, map, wasInUse)
  }

  get #top(): DeltaFile {
    const top = this.#deltas.at(-1)
    if (top === undefined) throw new TypeError('a chain without deltas')
    return top
  }

  async #openDelta(place: Place, writable: boolean): Promise<DeltaFile> {
    const { deltaLockTimeoutMs = 0, signal } = this.#options
    const { path, rawClusterSectors } = place
    const deadlineMs = Date.now() + deltaLockTimeoutMs
    for (;;) {
      try {
        return await DeltaFile.open(this.#files, path, { writable, rawClusterSectors })
      } catch (error) {
        if (!(error instanceof PloopError)) throw error
        if (error.code !== 'DELTA_LOCKED') throw this.#explained(error, place)
        if (Date.now() >= deadlineMs) throw error
      }
      await delay(50, undefined, { signal })
    }
  }

  /** Adds what the descriptor knows to an error about one of its images. */
  #explained(error: PloopError, place: Place): PloopError {
    const { stored } = this.#plan
    if (errnoName(error) === 'ENOENT') {
      const owner = stored === undefined ? '' : ` (named by ${stored.path})`
      return new PloopError('IMAGE_MISSING', `the image does not exist${owner}`, {
        status: 'open',
        path: place.path,
        errno: 'ENOENT',
        cause: error,
      })
    }
    if (error.code === 'HEADER_SIGNATURE' && stored && place === this.#plan.places[0]) {
      return new PloopError(error.code, error.message, {
        status: error.status,
        path: place.path,
        offset: 0,
        hint:
          'if a conversion to raw was interrupted, set the Type of its images to Plain in ' +
          stored.path,
        cause: error,
      })
    }
    return error
  }

  #makeMap(clusterCount: number, clusterBytes: number, path: string): MapTarget | undefined {
    const { newMap, maxMapBytes = maxMapBytesDefault } = this.#options
    if (newMap === undefined) return undefined
    checkMapSize(clusterCount, clusterBytes, maxMapBytes, path)
    return newMap(clusterCount)
  }

  /** A mark on a lower delta: its writer died before a snapshot or a merge was complete. */
  async #recoverLower(level: number): Promise<void> {
    const [delta, place] = [this.#deltas[level], this.#plan.places[level]]
    if (delta === undefined || place === undefined || !isMarked(delta)) return
    if (this.#options.readOnly) {
      await this.#checkContent(delta, 'ro')
      return
    }
    await delta.close()
    let repaired: DeltaFile | undefined
    try {
      repaired = await DeltaFile.open(this.#files, place.path, { writable: true })
    } catch (error) {
      // others read through it too: it stays as it is, and is only looked at
      if (!(error instanceof PloopError) || error.code !== 'DELTA_LOCKED') throw error
    }
    try {
      if (repaired !== undefined) {
        const { pendingPlace: place } = this.#options
        await recoverPending(this.#files, repaired, { place, log: this.#log })
        await this.#checkContent(repaired, 'clear')
      }
    } finally {
      await repaired?.close()
    }
    const again = await this.#openDelta(place, false)
    this.#deltas[level] = again
    if (isMarked(again)) await this.#checkContent(again, 'ro')
    checkRelations(this.#deltas, this.#plan.clusterSectors)
  }

  /** A log of an image that is not marked is stale: it goes, too. */
  async #putBackPending(wasInUse: boolean): Promise<void> {
    const top = this.#top
    const { pendingPlace: place, readOnly, recover } = this.#options
    if (top.header === undefined) return
    const options = { place, log: this.#log }
    if (!readOnly && recover !== undefined) {
      if (wasInUse) await recover(top)
    } else if (!readOnly) await recoverPending(this.#files, top, options)
    else if (wasInUse && (await hasPending(this.#files, top, options))) {
      this.#log.warn(
        'a server died here: some writes it answered appear only after the disk was opened for writing',
        { path: top.path },
      )
    }
  }

  async #recoverTop(): Promise<void> {
    const top = this.#top
    this.#log.warn('the image was not closed properly, checking it', { path: top.path })
    if (this.#options.readOnly) {
      await this.#checkContent(top, 'ro')
      return
    }
    await top.refreshSize()
    await this.#checkContent(top, 'keep')
  }

  async #checkContent(delta: DeltaFile, mark: 'ro' | 'keep' | 'clear'): Promise<void> {
    const result = await checkOpenDelta(delta, {
      force: true,
      detailed: true,
      readOnly: mark === 'ro',
      keepInUse: mark !== 'clear',
      dropInUse: mark === 'clear',
      signal: this.#options.signal,
      // "Hole at block …" is no fault, and there may be thousands
      onMessage: ({ level, text }) =>
        this.#log[level === 'info' ? 'debug' : 'info'](text, { path: delta.path }),
    })
    const errors = result.messages.filter(message => message.level === 'error')
    // without writing, what a check would repair is skipped by readers anyway
    if (result.status === 'ok' || (mark === 'ro' && errors.length === 0)) return
    const found = errors[0]?.text ?? 'it needs a repair'
    throw new PloopError(
      'DELTA_DAMAGED',
      `irrecoverable errors (${mark === 'ro' ? 'ro' : 'rw'}): ${found}`,
      {
        status: result.status,
        path: delta.path,
        hint:
          result.status === 'busy'
            ? 'the ploop that began the conversion finishes it'
            : `ploop(8) lists all of them: "ploop check -f -c -r ${delta.path}"`,
      },
    )
  }

  /** Clusters of an extension that is about to become stale; it may forbid writing at all. */
  async #extensionClusters(): Promise<readonly number[]> {
    const top = this.#top
    try {
      const extension = await readExtension(top)
      if (extension === undefined || top.header === undefined) return []
      const necessary = extension.features.find(feature => isUnknownNecessary(feature, extension))
      if (necessary !== undefined) {
        throw new PloopError(
          'EXTENSION_NECESSARY',
          `the image must not be written without knowing its feature 0x${necessary.magic.toString(16)}`,
          { status: 'format', path: top.path, hint: 'open it read-only (-r)' },
        )
      }
      this.#log.warn('the dirty bitmap of another program is dropped, since the disk will change', {
        path: top.path,
      })
      return extensionFileClusters(top.header, extension)
    } catch (error) {
      if (error instanceof PloopError && error.code === 'EXTENSION_INVALID') return []
      throw error
    }
  }

  /** Mark first; then the debris at the end of the file may go. */
  async #startWriting(scan: LevelScan | undefined, extension: readonly number[]): Promise<void> {
    const top = this.#top
    const { header } = top
    if (header === undefined) await top.fillLastSector()
    if (header === undefined || scan === undefined) return
    if (header.inUse !== inUseMark || header.extensionOffsetSectors !== 0) await top.markInUse()
    await top.dropPartialCluster()
    const stale = new Set(extension)
    const firstFree = Math.max(scan.highestFileCluster + 1, top.batClusterCount)
    let head = top.allocHead
    while (head > firstFree && stale.has(head - 1)) head--
    if (head < top.allocHead) await top.truncate(head * top.clusterBytes)
    if (scan.strayCount > 0) await this.#clearStrays(top, header)
  }

  /** Entries behind the last cluster would come alive when the disk grows. */
  async #clearStrays(top: DeltaFile, header: DeltaHeader): Promise<void> {
    this.#log.warn('clearing table entries beyond the end of the disk', { path: top.path })
    await eachBatPage(top.handle, header, (firstClusterIndex, entries) => {
      const first = Math.max(header.clusterCount - firstClusterIndex, 0)
      if (first >= entries.length) return false
      entries.fill(0, first)
      return true
    })
    await top.handle.sync()
  }

  #chain(scans: readonly LevelScan[], map: MapTarget | undefined, wasInUse: boolean): OpenedChain {
    const levels = this.#deltas.map((delta, level): ChainLevel => {
      const { path, handle, header, isRaw, sizeBytes, clusterCount } = delta
      const scan = scans[level] ?? { highestFileCluster: -1, usedClusterCount: 0, strayCount: 0 }
      const guid = this.#plan.places[level]?.guid
      return { path, handle, delta, guid, header, isRaw, sizeBytes, clusterCount, scan }
    })
    const top = levels.at(-1)
    if (top === undefined) throw new TypeError('a chain without deltas')
    const { clusterBytes, clusterSectors, allocHead } = top.delta
    const version = top.header?.version ?? 2
    const limit = fileClusterLimit(version, clusterSectors)
    const { maxDeltaSectors } = this.#plan
    const wanted =
      maxDeltaSectors === undefined
        ? limit
        : Math.floor((maxDeltaSectors * sectorBytes) / clusterBytes)
    return {
      levels,
      top,
      clusterBytes,
      clusterSectors,
      sizeBytes: top.sizeBytes,
      clusterCount: top.clusterCount,
      version,
      readOnly: this.#options.readOnly,
      wasInUse,
      allocHead,
      maxFileClusters: Math.min(limit, wanted),
      map,
      descriptor: this.#plan.stored,
      close: async () => {
        for (const { handle } of levels) await handle.close()
      },
    }
  }
}

function isMarked(delta: DeltaFile): boolean {
  return delta.header !== undefined && isInUse(delta.header.inUse)
}

function isUnknownNecessary(
  feature: { readonly flags: bigint; readonly magic: bigint },
  known: { readonly bitmaps: readonly unknown[]; readonly features: readonly { magic: bigint }[] },
): boolean {
  const isBitmap = known.bitmaps.length > 0 && feature.magic === dirtyBitmapMagic
  return !isBitmap && (feature.flags & featureNecessary) !== 0n
}

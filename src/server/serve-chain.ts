// SPDX-License-Identifier: MIT
/**
 * From a chain at rest to a disk that the data plane can serve, and back.
 *
 * Owns:     the order of opening (lock, check, map, in-use mark, then serve) and of closing
 *           (publish, cut the prepared tail, clear the mark, give the locks back), and which files
 *           are read and written past the page cache.
 * Leaves:   checks of images to the image layer, requests to the disk.
 * Promises: the mark is cleared only when everything is durable. A read-only chain is not touched.
 */
import { assert } from '../base/assert.js'
import { PloopError } from '../base/errors.js'
import type { Logger } from '../base/log.js'
import { decodeHeader, encodeHeader, isInUse } from '../format/header.js'
import type { ClosedExport, ExportSpec, LevelSpec } from '../dataplane/messages.js'
import { newDiskMap, type DiskMap } from '../disk/map.js'
import { closeTop } from '../image/close.js'
import { openChain, type ChainInput, type ChainLevel, type OpenedChain } from '../image/open.js'
import type { Files } from '../io/files.js'
import type { NativeAddon } from '../io/native.js'
import { PendingFile, type PendingMode } from './pending-file.js'

export type CacheMode = 'auto' | 'direct' | 'buffered'

export interface ServeChainOptions {
  readonly name: string
  readonly description?: string | undefined
  readonly input: ChainInput
  /** overrides the descriptor's cluster size, for raw disks */
  readonly rawClusterSectors?: number | undefined
  readonly readOnly: boolean
  readonly cache: CacheMode
  /** default auto */
  readonly pending?: PendingMode | undefined
  /** refuse disks whose map would need more; default 1 GiB */
  readonly maxMapBytes?: number | undefined
}

export interface ServeChainContext {
  readonly files: Files
  readonly addon: NativeAddon
  readonly log: Logger
  /** ends opening: waiting for a lock, checking */
  readonly signal?: AbortSignal | undefined
}

/** A dying server's last operations may take a moment; its lock is waited for that long. */
const deltaLockTimeoutMs = 2000

export class ServedChain {
  readonly name: string
  readonly spec: ExportSpec
  readonly #chain: OpenedChain
  readonly #addon: NativeAddon
  readonly #pending: PendingFile

  private constructor(
    chain: OpenedChain,
    spec: ExportSpec,
    addon: NativeAddon,
    pending: PendingFile,
  ) {
    this.name = spec.name
    this.spec = spec
    this.#chain = chain
    this.#addon = addon
    this.#pending = pending
  }

  /** Locks, checks and marks; the chain is ready to be served. */
  static async open(options: ServeChainOptions, context: ServeChainContext): Promise<ServedChain> {
    const { files, log, signal } = context
    const { input, name, description, readOnly, rawClusterSectors } = options
    const made: DiskMap[] = []
    const newMap = (clusterCount: number): DiskMap => {
      const map = newDiskMap(clusterCount)
      made.push(map)
      return map
    }
    const chain = await openChain(files, input, {
      ...{ readOnly, rawClusterSectors, newMap, deltaLockTimeoutMs, log, signal },
      ...(options.maxMapBytes === undefined ? {} : { maxMapBytes: options.maxMapBytes }),
    })
    let pending: PendingFile | undefined
    try {
      const [map] = made
      assert(map !== undefined, 'opening a chain fills its map')
      const levels = chain.levels.map(level => levelSpec(chain, level, options.cache, context))
      const { clusterBytes, sizeBytes, version, maxFileClusters, allocHead } = chain
      const { header, delta } = chain.top
      pending = await PendingFile.create(options.pending ?? 'auto', chain, context)
      const spec: ExportSpec = {
        ...{ name, description, clusterBytes, sizeBytes, version, readOnly, levels, map },
        ...{ maxFileClusters, allocHead },
        headerBytes: delta.header === undefined ? new Uint8Array(0) : encodeHeader(delta.header),
        firstDataCluster: delta.batClusterCount,
        copyRange: copiesInKernel(chain, levels, context.addon),
        pending: pending.spec,
      }
      assert(readOnly || header === undefined || isMarked(spec), 'the top is marked in use')
      return new ServedChain(chain, spec, context.addon, pending)
    } catch (error) {
      pending?.remove()
      await chain.close().catch(() => undefined)
      throw error
    }
  }

  /**
   * Ends serving: clears the in-use mark when the disk was left whole, and gives the locks back.
   * @throws PloopError when the image stays marked in use
   */
  async close(left: ClosedExport): Promise<void> {
    const chain = this.#chain
    try {
      this.#endDirect()
      if (chain.readOnly) {
        this.#pending.remove()
        return
      }
      if (left.errno !== 0 || left.failed) {
        throw new PloopError(
          'NOT_DURABLE',
          'writing or flushing the image failed, so it stays marked in use',
          {
            status: 'write',
            path: chain.top.path,
            hint: 'see to the storage; whoever opens the image next checks it first',
          },
        )
      }
      const usedEnd = usedClusters(this.spec)
      const firstData = this.spec.firstDataCluster
      const isEmpty = usedEnd <= firstData
      await closeTop(chain.top.delta, { allocHead: Math.max(usedEnd, firstData), isEmpty })
      this.#pending.remove()
    } catch (error) {
      this.#pending.leave()
      throw error
    } finally {
      await chain.close()
    }
  }

  /** Ends without touching any file: the image stays as it is. */
  async abandon(): Promise<void> {
    this.#endDirect()
    this.#pending.leave()
    await this.#chain.close()
  }

  #endDirect(): void {
    for (const level of this.spec.levels) {
      if (level.direct) this.#addon.setDirect(level.fd, false)
    }
  }
}

/** statfs f_type of file systems that share extents between files: XFS, btrfs. */
const reflinkTypes: readonly number[] = [0x58465342, 0x9123683e]

/**
 * Whether copy-on-write lets the kernel copy clusters. Where extents are shared that costs next to
 * nothing; elsewhere it is cheaper through the page cache, and dearer past it than our own reads
 * and writes. See docs/performance.md.
 */
function copiesInKernel(
  chain: OpenedChain,
  levels: readonly LevelSpec[],
  addon: NativeAddon,
): boolean {
  const top = levels.at(-1)
  if (chain.readOnly || top === undefined || levels.length === 1) return false
  return !top.direct || reflinkTypes.includes(addon.fileSystemType(top.fd))
}

function isMarked(spec: ExportSpec): boolean {
  return isInUse(decodeHeader(spec.headerBytes, spec.name).inUse)
}

/** How many clusters of the top's file are referred to, counted from its start. */
function usedClusters({ map, levels }: ExportSpec): number {
  const topMark = levels.length
  let end = 0
  for (let index = map.levels.indexOf(topMark); index >= 0;) {
    end = Math.max(end, (map.clusters[index] ?? 0) + 1)
    index = map.levels.indexOf(topMark, index + 1)
  }
  return end
}

function levelSpec(
  chain: OpenedChain,
  level: ChainLevel,
  cache: CacheMode,
  context: ServeChainContext,
): LevelSpec {
  const { fd } = level.handle
  assert(fd !== undefined, 'only real files can be served')
  const isWritten = level === chain.top && !chain.readOnly
  const wantsDirect = cache === 'direct' || (cache === 'auto' && isWritten)
  const alignmentBytes = wantsDirect ? beginDirect(level, fd, context) : 0
  return {
    fd,
    clusterCount: level.clusterCount,
    sizeBytes: level.delta.fileSizeBytes,
    raw: level.isRaw,
    direct: alignmentBytes > 0,
    alignmentBytes: Math.max(1, alignmentBytes),
  }
}

/** @returns the alignment that direct I/O needs, or 0 when the page cache is used instead */
function beginDirect(level: ChainLevel, fd: number, context: ServeChainContext): number {
  const { addon, log } = context
  const refused = (reason: string): number => {
    log.warn(`${level.path}: ${reason}; using the page cache for it`)
    return 0
  }
  const { direct, memoryBytes, offsetBytes } = addon.directAlignment(fd)
  const alignmentBytes = Math.max(memoryBytes, offsetBytes, 512)
  if (!direct) return refused('the file system does not allow direct I/O')
  if (alignmentBytes > 4096) return refused(`direct I/O here needs ${alignmentBytes}-byte blocks`)
  // The end of a raw file inside a block could be written only by making the file longer.
  if (level.isRaw && level.delta.fileSizeBytes % alignmentBytes !== 0) {
    return refused(`its size is no multiple of ${alignmentBytes} bytes, as direct I/O needs`)
  }
  try {
    addon.setDirect(fd, true)
  } catch {
    return refused('the file system does not allow direct I/O')
  }
  return alignmentBytes
}

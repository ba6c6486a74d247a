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
import { PloopError } from '../base/errors.js'
import type { Logger } from '../base/log.js'
import { encodeHeader } from '../format/header.js'
import type { DeltaFile } from '../delta/delta-file.js'
import type { ClosedExport, ExportSpec, LevelSpec } from '../dataplane/messages.js'
import { newDiskMap } from '../disk/map.js'
import { closeTop } from '../image/close.js'
import { buildMap, openChain, type Chain, type ChainInput } from '../image/open.js'
import type { Files } from '../io/files.js'
import type { NativeAddon } from '../io/native.js'

export type CacheMode = 'auto' | 'direct' | 'buffered'

export interface ServeChainOptions {
  readonly name: string
  readonly description?: string | undefined
  readonly input: ChainInput
  readonly readOnly: boolean
  readonly cache: CacheMode
}

export interface ServeChainContext {
  readonly files: Files
  readonly addon: NativeAddon
  readonly log: Logger
}

/** file cluster numbers of version 1 are sectors in 32 bits, those of version 2 clusters */
const entryMax = 0xffffffff

export class ServedChain {
  readonly name: string
  readonly chain: Chain
  readonly spec: ExportSpec
  readonly #context: ServeChainContext

  private constructor(name: string, chain: Chain, spec: ExportSpec, context: ServeChainContext) {
    this.name = name
    this.chain = chain
    this.spec = spec
    this.#context = context
  }

  /** Locks, checks and marks; the chain is ready to be served. */
  static async open(options: ServeChainOptions, context: ServeChainContext): Promise<ServedChain> {
    const { files, log } = context
    const chain = await openChain(files, options.input, { readOnly: options.readOnly, log })
    try {
      const map = newDiskMap(chain.clusterCount)
      await buildMap(chain, map)
      const top = topOf(chain)
      if (!chain.readOnly) await top.markInUse()
      const levels = chain.levels.map((level, index) =>
        levelSpec(chain, level, index, options.cache, context),
      )
      const { clusterBytes, sizeBytes, version, readOnly } = chain
      const spec: ExportSpec = {
        name: options.name,
        description: options.description,
        ...{ clusterBytes, sizeBytes, version, readOnly, levels, map },
        headerBytes: top.header === undefined ? new Uint8Array(0) : encodeHeader(top.header),
        firstDataCluster: top.batClusterCount,
        allocHead: top.allocHead,
        maxFileClusters: maxFileClusters(chain),
        copyRange: false,
      }
      return new ServedChain(options.name, chain, spec, context)
    } catch (error) {
      await chain.close().catch(() => undefined)
      throw error
    }
  }

  /**
   * Ends serving: clears the in-use mark when the disk was left whole, and gives the locks back.
   * @throws PloopError when the image stays marked in use
   */
  async close(left: ClosedExport): Promise<void> {
    const { chain } = this
    try {
      this.#endDirect()
      if (chain.readOnly) return
      if (left.errno !== 0 || left.failed) {
        throw new PloopError(
          'NOT_DURABLE',
          'writing or flushing the image failed, so it stays marked in use',
          {
            status: 'write',
            path: topOf(chain).path,
            hint: 'see to the storage below it; then "ploop-nbd check" or serving it checks the image',
          },
        )
      }
      await closeTop(chain, left.allocHead)
    } finally {
      await chain.close()
    }
  }

  /** Ends without touching any file: the image stays as it is. */
  async abandon(): Promise<void> {
    this.#endDirect()
    await this.chain.close()
  }

  #endDirect(): void {
    this.spec.levels.forEach(level => {
      if (level.direct) this.#context.addon.setDirect(level.fd, false)
    })
  }
}

function topOf(chain: Chain): DeltaFile {
  const top = chain.levels.at(-1)
  if (top === undefined) throw new RangeError('a chain has at least one level')
  return top
}

function maxFileClusters(chain: Chain): number {
  const unit = chain.version === 1 ? chain.clusterBytes / 512 : 1
  const byEntry = Math.floor(entryMax / unit)
  const byDescriptor = chain.maxDeltaSectors
  if (byDescriptor === undefined) return byEntry
  return Math.min(byEntry, Math.floor((byDescriptor * 512) / chain.clusterBytes))
}

function levelSpec(
  chain: Chain,
  level: DeltaFile,
  index: number,
  cache: CacheMode,
  context: ServeChainContext,
): LevelSpec {
  const { fd } = level.handle
  if (fd === undefined) throw new RangeError('only real files can be served')
  const isTop = index === chain.levels.length - 1
  const wantsDirect = cache === 'direct' || (cache === 'auto' && isTop && !chain.readOnly)
  const alignmentBytes = wantsDirect ? beginDirect(level, fd, context) : 0
  return {
    fd,
    clusterCount: level.clusterCount,
    sizeBytes: level.fileSizeBytes,
    raw: level.isRaw,
    direct: alignmentBytes > 0,
    alignmentBytes: Math.max(1, alignmentBytes),
  }
}

/** @returns the alignment that direct I/O needs, or 0 when the page cache is used instead */
function beginDirect(level: DeltaFile, fd: number, context: ServeChainContext): number {
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
  if (level.isRaw && level.fileSizeBytes % alignmentBytes !== 0) {
    return refused(`its size is no multiple of ${alignmentBytes} bytes, as direct I/O needs`)
  }
  try {
    addon.setDirect(fd, true)
  } catch {
    return refused('the file system does not allow direct I/O')
  }
  return alignmentBytes
}

// SPDX-License-Identifier: MIT
/**
 * The pending log of one served disk: a file in shared memory, made when the image is locked and
 * removed when it is closed properly.
 *
 * Owns:     whether there is one, and what is promised without.
 * Leaves:   filling it to the data plane, which maps the descriptor; reading it to the next opener.
 */
import { randomBytes } from 'node:crypto'
import { closeSync, openSync, rmSync, writeSync } from 'node:fs'
import { errnoName, PloopError } from '../base/errors.js'
import type { Logger } from '../base/log.js'
import type { PendingSpec } from '../dataplane/messages.js'
import {
  encodePendingHeader,
  pendingCapacityMax,
  pendingLogBytes,
  type PendingIdentity,
} from '../format/pending-log.js'
import type { OpenedChain } from '../image/open.js'
import type { FileStat } from '../io/files.js'
import type { NativeAddon } from '../io/native.js'
import {
  makePendingDirectory,
  pendingPath,
  pendingPlace,
  type PendingPlace,
} from '../io/pending-place.js'

/**
 * How answered writes to new places survive the death of the process: kept in shared memory where
 * that is possible (auto), published before they are answered, or not at all.
 */
export type PendingMode = 'auto' | 'publish' | 'none'

const tmpfsMagic = 0x01021994
const capacityMin = 1024

interface PendingContext {
  readonly addon: NativeAddon
  readonly log: Logger
  readonly place?: PendingPlace | undefined
}

export class PendingFile {
  readonly spec: PendingSpec | undefined
  readonly #path: string | undefined

  private constructor(spec: PendingSpec | undefined, path?: string) {
    this.spec = spec
    this.#path = path
  }

  /** @param chain locked; a log that was there before has been dealt with by its opener */
  static async create(
    mode: PendingMode,
    chain: OpenedChain,
    context: PendingContext,
  ): Promise<PendingFile> {
    const { header, handle, path } = chain.top
    if (chain.readOnly || header === undefined || mode === 'none') return new PendingFile(undefined)
    if (mode === 'publish') return new PendingFile('publish')
    try {
      const place = context.place ?? pendingPlace()
      if (place === undefined) throw new NoPlace('the kernel does not tell one boot from the next')
      return PendingFile.#make(chain, await handle.stat(), place, context.addon)
    } catch (error) {
      context.log.warn(
        `if this process is killed, the last seconds of writes may be lost: ${reasonOf(error)}; ` +
          'flushed writes are safe, and with --pending publish all are',
        { path },
      )
      return new PendingFile(undefined)
    }
  }

  static #make(
    chain: OpenedChain,
    image: FileStat,
    place: PendingPlace,
    addon: NativeAddon,
  ): PendingFile {
    makePendingDirectory(place)
    const path = pendingPath(place, image)
    // Nobody else: we hold the lock of the image.
    rmSync(path, { force: true })
    const fd = openSync(path, 'wx+', 0o600)
    try {
      if (addon.fileSystemType(fd) !== tmpfsMagic) {
        throw new NoPlace(`${place.directory} is not in shared memory`)
      }
      const capacity = Math.min(pendingCapacityMax, Math.max(capacityMin, chain.clusterCount))
      const sizeBytes = pendingLogBytes(capacity)
      addon.fallocate(fd, 'allocate', 0, sizeBytes)
      const session = randomBytes(8).readBigUInt64LE()
      const identity = identityOf(chain, image, place)
      writeSync(fd, encodePendingHeader(identity, capacity, session, Date.now()), 0)
      return new PendingFile({ fd, sizeBytes }, path)
    } catch (error) {
      closeSync(fd)
      rmSync(path, { force: true })
      throw error
    }
  }

  /** The image is closed properly: nothing is pending. */
  remove(): void {
    if (this.#path !== undefined) rmSync(this.#path, { force: true })
    this.leave()
  }

  /** For the next opener. */
  leave(): void {
    if (typeof this.spec === 'object') closeSync(this.spec.fd)
  }
}

function identityOf(chain: OpenedChain, image: FileStat, place: PendingPlace): PendingIdentity {
  const { delta } = chain.top
  return {
    bootId: place.bootId,
    device: image.device,
    inode: image.inode,
    version: chain.version,
    clusterSectors: chain.clusterSectors,
    clusterCount: chain.clusterCount,
    batClusterCount: delta.batClusterCount,
    sizeSectors: BigInt(delta.sizeSectors),
  }
}

/** Shared memory is not to be had. */
class NoPlace extends Error {
  override name = 'NoPlace'
}

function reasonOf(error: unknown): string {
  if (error instanceof NoPlace) return error.message
  if (error instanceof PloopError) return error.userMessage
  const errno = errnoName(error)
  if (errno === undefined) throw error
  return errno === 'ENOSPC' ? 'shared memory is full' : `shared memory cannot be used (${errno})`
}

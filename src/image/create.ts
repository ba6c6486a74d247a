// SPDX-License-Identifier: MIT
/**
 * A new disk: image file, partition table and file system in it, descriptor.
 *
 * Order: everything that can be refused is refused before a file exists; then the image is made,
 * filled and flushed; the descriptor comes last, so that a descriptor that exists names a complete
 * disk. A crash leaves at most an image file that nothing names.
 *
 * Leaves:   making a file system to others: it comes as a file whose data is copied in.
 * Promises: removes what this call has made, and nothing else, ever.
 */
import { randomUUID } from 'node:crypto'
import { basename, dirname, join } from 'node:path'
import { PloopError } from '../base/errors.js'
import { sectorBytes } from '../base/units.js'
import { createDelta } from '../delta/create-delta.js'
import { DeltaFile } from '../delta/delta-file.js'
import { clusterSectorsDefault } from '../format/constants.js'
import { Descriptor, type DiskMode } from '../format/descriptor.js'
import {
  checkSize,
  filesystemSizeSectorsMax,
  type FormatVersion,
  isLegalClusterSize,
  roundSizeSectors,
  sizeSectorsMax,
} from '../format/geometry.js'
import { createGpt, newPartition } from '../format/gpt.js'
import { type Progress, silentProgress } from '../base/progress.js'
import type { Files } from '../io/files.js'
import { FreshContent } from './fresh-content.js'
import { descriptorName, type TransactionOptions, withNewDescriptor } from './transaction.js'

export interface NewImageRequest {
  readonly imagePath: string
  /** as asked for; rounded to clusters */
  readonly sizeSectors: number
  readonly mode: DiskMode
  readonly version: FormatVersion
  readonly clusterSectors?: number | undefined
  /** a partition with a file system is wanted */
  readonly partitioned: boolean
}

/** A request that has passed all checks. */
export interface NewImagePlan {
  /** real directory, then the name asked for */
  readonly imagePath: string
  readonly directory: string
  readonly sizeSectors: number
  readonly clusterSectors: number
  readonly mode: DiskMode
  readonly version: FormatVersion
  /** where the file system goes; undefined: a bare disk */
  readonly partition: { readonly offsetBytes: number; readonly lengthBytes: number } | undefined
}

function refuse(code: string, message: string, path?: string, hint?: string): never {
  throw new PloopError(code, message, { status: 'parameter', path, hint })
}

/** Checks in the order of ploop(8); the first that fails decides. Makes nothing. */
export async function planImage(files: Files, request: NewImageRequest): Promise<NewImagePlan> {
  const { mode, version, partitioned } = request
  const descriptorPath = join(dirname(request.imagePath), descriptorName)
  if ((await files.stat(descriptorPath)) !== undefined) {
    const hint = 'the directory holds a disk already; choose another directory'
    refuse('DESCRIPTOR_EXISTS', `Can't create ${descriptorName}: File exists`, descriptorPath, hint)
  }
  const clusterSectors = request.clusterSectors ?? clusterSectorsDefault
  if (partitioned) checkFileSystemSize(version, request.sizeSectors, clusterSectors)
  if (!isLegalClusterSize(clusterSectors)) {
    const hint = 'a power of two from 64 to 131072 is possible'
    refuse('CLUSTER_SIZE', `Incorrect blocksize specified: ${clusterSectors}`, undefined, hint)
  }
  const sizeVersion = mode === 'raw' ? 2 : version
  checkSize(sizeVersion, request.sizeSectors, clusterSectors)
  const sizeSectors = roundSizeSectors(sizeVersion, request.sizeSectors, clusterSectors)
  const partition = partitioned ? partitionOf(sizeSectors, clusterSectors) : undefined
  // Last, as in ploop(8): what was asked for must make sense before it matters where it goes.
  const directory = await realDirectory(files, dirname(request.imagePath))
  const imagePath = join(directory, basename(request.imagePath))
  if ((await files.stat(imagePath)) !== undefined) {
    refuse('IMAGE_EXISTS', `Can't create the image: File exists`, imagePath)
  }
  return { imagePath, directory, sizeSectors, clusterSectors, mode, version, partition }
}

async function realDirectory(files: Files, directory: string): Promise<string> {
  try {
    return await files.realPath(directory)
  } catch (cause) {
    if (!(cause instanceof PloopError)) throw cause
    throw new PloopError('NO_DIRECTORY', cause.message, {
      status: 'create',
      path: directory,
      errno: cause.errno,
      hint: 'make the directory first',
      cause,
    })
  }
}

function checkFileSystemSize(
  version: FormatVersion,
  sizeSectors: number,
  clusterSectors: number,
): void {
  const max = Math.min(sizeSectorsMax(version, clusterSectors), filesystemSizeSectorsMax)
  if (sizeSectors <= max) return
  refuse(
    'SIZE',
    `An incorrect block device size is specified: ${sizeSectors} sectors. ` +
      `The maximum allowed size is ${max} sectors`,
  )
}

function partitionOf(
  sizeSectors: number,
  clusterSectors: number,
): { offsetBytes: number; lengthBytes: number } {
  const { firstLba, lastLba } = newPartition(sizeSectors, clusterSectors)
  return {
    offsetBytes: firstLba * sectorBytes,
    lengthBytes: (lastLba + 1 - firstLba) * sectorBytes,
  }
}

export interface CreateImageOptions extends TransactionOptions {
  readonly progress?: Progress
  /** file whose data becomes the partition: of the partition's length, sparse */
  readonly partitionFile?: string | undefined
}

/** @returns real path of the new descriptor */
export async function createImage(
  files: Files,
  plan: NewImagePlan,
  options: CreateImageOptions = {},
): Promise<string> {
  const { imagePath, directory, sizeSectors, clusterSectors, mode, version } = plan
  const { log, signal, progress = silentProgress } = options
  return withNewDescriptor(files, directory, options, async transaction => {
    const facts = `bs=${clusterSectors} size=${sizeSectors} sectors v${version}`
    log?.info(`Creating delta ${imagePath} ${facts}`)
    const size = { version, clusterSectors, sizeSectors, mode }
    await createDelta(files, imagePath, { ...size, signal, progress })
    transaction.created(imagePath)
    if (plan.partition !== undefined) await fillImage(files, plan, options)
    signal?.throwIfAborted()
    const file = transaction.fileOf(imagePath)
    await transaction.stage(Descriptor.create({ sizeSectors, clusterSectors, mode, file }))
    await transaction.commit()
    return transaction.path
  })
}

/** Partition table and partition go into the image, durable when this returns. */
async function fillImage(
  files: Files,
  plan: NewImagePlan,
  options: CreateImageOptions,
): Promise<void> {
  const { sizeSectors, clusterSectors } = plan
  const raw = plan.mode === 'raw' ? clusterSectors : undefined
  const delta = await DeltaFile.open(files, plan.imagePath, {
    writable: true,
    rawClusterSectors: raw,
  })
  try {
    const content = new FreshContent(delta, plan.mode)
    const guids = { diskGuid: randomUUID(), partitionGuid: randomUUID() }
    for (const piece of createGpt({ sizeSectors, clusterSectors, ...guids })) {
      await content.addSmall(piece.offsetBytes, piece.bytes)
    }
    if (options.partitionFile !== undefined && plan.partition !== undefined) {
      const source = await files.open(options.partitionFile, 'read')
      try {
        await content.addFile(source, plan.partition.offsetBytes, options)
      } finally {
        await source.close()
      }
    }
    await content.finish()
  } finally {
    await delta.close()
  }
}

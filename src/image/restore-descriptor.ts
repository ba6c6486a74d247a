// SPDX-License-Identifier: MIT
/**
 * A new descriptor for a base delta that lies there alone.
 *
 * Facts: an image with a header says everything about itself but whether it was preallocated; a raw
 * file says its size only. A delta that once had a parent looks like a base: only the user knows.
 */
import { PloopError } from '../base/errors.js'
import { isAligned } from '../base/math.js'
import { sectorBytes } from '../base/units.js'
import { clusterSectorsMin } from '../format/constants.js'
import { Descriptor } from '../format/descriptor.js'
import { isLegalClusterSize } from '../format/geometry.js'
import type { Files } from '../io/files.js'
import { readDeltaFacts, readHeader } from './info.js'
import { type TransactionOptions, withNewDescriptor } from './transaction.js'

export interface RestoreDescriptorOptions {
  readonly directory: string
  readonly imagePath: string
  readonly raw: boolean
  /** raw images only; undefined: the largest that divides the size */
  readonly clusterSectors?: number | undefined
}

/** Largest first; 1 MiB is the usual cluster. */
const rawClusterSectors = [2048, 1024, 512, 256, 128, 64]

/** @returns real path of the new descriptor */
export async function restoreDescriptor(
  files: Files,
  options: RestoreDescriptorOptions,
  transactionOptions: TransactionOptions = {},
): Promise<string> {
  const path = await files.realPath(options.imagePath)
  const facts = options.raw ? await rawFacts(files, path, options) : await headerFacts(files, path)
  return withNewDescriptor(files, options.directory, transactionOptions, async transaction => {
    const descriptor = Descriptor.create({
      ...facts,
      mode: options.raw ? 'raw' : 'expanded',
      file: transaction.fileOf(path),
    })
    await transaction.stage(descriptor)
    await transaction.commit()
    return transaction.path
  })
}

interface NewFacts {
  readonly sizeSectors: number
  readonly clusterSectors: number
  readonly cylinders?: number
  readonly heads?: number
}

/** An image that was not closed cleanly is welcome: its descriptor is what the check needs. */
async function headerFacts(files: Files, path: string): Promise<NewFacts> {
  const file = await files.open(path, 'read')
  try {
    const { sizeSectors, clusterSectors, cylinders, heads } = await readHeader(file)
    return { sizeSectors, clusterSectors, cylinders, heads }
  } finally {
    await file.close()
  }
}

async function rawFacts(
  files: Files,
  path: string,
  options: RestoreDescriptorOptions,
): Promise<NewFacts> {
  const clusterWanted = options.clusterSectors
  if (clusterWanted !== undefined && !isLegalClusterSize(clusterWanted)) {
    throw new PloopError(
      'CLUSTER_SIZE',
      `Incorrect blocksize specified: ${String(clusterWanted)}`,
      {
        status: 'parameter',
      },
    )
  }
  const kind = { raw: true, clusterSectors: clusterWanted ?? clusterSectorsMin }
  const { sizeSectors } = await readDeltaFacts(files, path, kind)
  const sizeBytes = (await files.stat(path))?.sizeBytes ?? 0
  const fits = (sectors: number): boolean => isAligned(sizeBytes, sectors * sectorBytes)
  if (sizeBytes === 0) refuseSize('The image file is empty', path)
  if (clusterWanted !== undefined) {
    if (!fits(clusterWanted)) {
      refuseSize('Image size must be aligned to the blocksize specified', path)
    }
    return { sizeSectors, clusterSectors: clusterWanted }
  }
  const clusterSectors = rawClusterSectors.find(fits)
  if (clusterSectors === undefined) return refuseSize('Image size must be aligned to 32K', path)
  return { sizeSectors, clusterSectors }
}

function refuseSize(message: string, path: string): never {
  throw new PloopError('IMAGE_SIZE', message, { status: 'parameter', path })
}

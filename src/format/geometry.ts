// SPDX-License-Identifier: MIT
/**
 * Sizes: legal cluster sizes, rounding, limits of each version, the length of the BAT area, and
 * the cylinders and heads that go into headers and descriptors for old readers' sake.
 *
 * Sizes are plain numbers of sectors below 2^53; no bit operations anywhere.
 */
import { PloopError } from '../base/errors.js'
import { divCeil, isAligned, isPowerOfTwo, roundDown, roundUp } from '../base/math.js'
import { sectorBytes, sizeLimitBytes } from '../base/units.js'
import {
  batBytesLimit,
  clusterSectorsMax,
  clusterSectorsMin,
  entryBytes,
  headerBytes,
} from './constants.js'

export type FormatVersion = 1 | 2

export interface Chs {
  readonly cylinders: number
  readonly heads: number
  /** per track; only descriptors carry it */
  readonly sectors: number
}

const word = 2 ** 32
const maxWord = word - 1
/** Largest size whose byte offsets a double still counts exactly. */
const sizeSectorsLimit = Math.floor(sizeLimitBytes / sectorBytes)
/** 16 TiB: what ploop(8) allows for a disk with a file system. */
export const filesystemSizeSectorsMax = 34_359_738_368

export function isLegalClusterSize(clusterSectors: number): boolean {
  return (
    clusterSectors >= clusterSectorsMin &&
    clusterSectors <= clusterSectorsMax &&
    isPowerOfTwo(clusterSectors)
  )
}

/** Cylinders, heads and sectors of a disk, as every ploop writes them; cylinders may wrap. */
export function chsOf(sizeSectors: number): Chs {
  if (sizeSectors > 1_032_192 && sizeSectors < 16_777_216) {
    return { cylinders: Math.floor(sizeSectors / 1008), heads: 16, sectors: 63 }
  }
  const sectors = [63, 32, 16, 8].find(unit => isAligned(sizeSectors, unit))
  if (sectors !== undefined) {
    const tracks = sizeSectors / sectors
    const heads = [16, 8, 4, 2].find(unit => isAligned(tracks, unit))
    if (heads !== undefined) return { cylinders: (tracks / heads) % word, heads, sectors }
  }
  return { cylinders: sizeSectors % word, heads: 1, sectors: 1 }
}

/** The Sectors element of a descriptor: 0 where genuine tools would divide by zero. */
export function descriptorSectorsPerTrack(sizeSectors: number, chs: Chs): number {
  const product = chs.cylinders * chs.heads
  return product === 0 ? 0 : Math.floor(sizeSectors / product)
}

/** Largest device of a version, in sectors. Not everything below is possible: see the BAT limit. */
export function sizeSectorsMax(version: FormatVersion, clusterSectors: number): number {
  return version === 1 ? maxWord : maxWord * clusterSectors
}

/**
 * Rounds a wanted size to clusters: up, except where that would leave the range of the version.
 */
export function roundSizeSectors(
  version: FormatVersion,
  sizeSectors: number,
  clusterSectors: number,
): number {
  const down =
    version === 1
      ? sizeSectors > maxWord - clusterSectors
      : sizeSectors / clusterSectors > maxWord - 1
  return down ? roundDown(sizeSectors, clusterSectors) : roundUp(sizeSectors, clusterSectors)
}

/** Bytes of header and BAT, whole clusters. */
export function batAreaBytes(clusterCount: number, clusterSectors: number): number {
  const used = roundUp(headerBytes + entryBytes * clusterCount, sectorBytes)
  return roundUp(used, clusterSectors * sectorBytes)
}

/** Start of the data area in sectors, for a new image. */
export function firstBlockSectorsOf(clusterCount: number, clusterSectors: number): number {
  return batAreaBytes(clusterCount, clusterSectors) / sectorBytes
}

export function clusterCountOf(sizeSectors: number, clusterSectors: number): number {
  return divCeil(sizeSectors, clusterSectors)
}

/**
 * Refuses a size or cluster size that an image of this version cannot have.
 *
 * @throws {PloopError} status 38
 */
export function checkSize(
  version: FormatVersion,
  sizeSectors: number,
  clusterSectors: number,
): void {
  const refuse = (code: string, message: string, hint?: string): never => {
    throw new PloopError(code, message, { status: 'parameter', hint })
  }
  if (!isLegalClusterSize(clusterSectors)) {
    refuse(
      'CLUSTER_SIZE',
      `cluster size ${clusterSectors} sectors is not a power of two in ` +
        `${clusterSectorsMin} … ${clusterSectorsMax}`,
    )
  }
  if (!Number.isSafeInteger(sizeSectors) || sizeSectors <= 0) {
    refuse('SIZE', `size ${sizeSectors} sectors is not a positive whole number`)
  }
  const max = Math.min(sizeSectorsMax(version, clusterSectors), sizeSectorsLimit)
  if (sizeSectors > max) {
    refuse(
      'SIZE',
      `An incorrect block device size is specified: ${sizeSectors} sectors. ` +
        `The maximum allowed size is ${max} sectors`,
      version === 1 ? 'version 2 allows larger disks' : undefined,
    )
  }
  const clusterCount = clusterCountOf(sizeSectors, clusterSectors)
  if (headerBytes + entryBytes * clusterCount >= batBytesLimit) {
    refuse(
      'SIZE',
      `${clusterCount} clusters of ${clusterSectors} sectors need a block table of 4 GiB or more`,
      'choose a larger cluster size',
    )
  }
}

// SPDX-License-Identifier: MIT
/**
 * The 64-byte header of a delta file, versions 1 and 2.
 *
 * Decoding refuses what no ploop would take (signature, type, cluster size, start of data);
 * {@link validateHeader} adds the relations between the fields and the file. The in-use word stays
 * raw: who may open the file decides elsewhere. See docs/format.md, "Header".
 */
import { assert } from '../base/assert.js'
import { PloopError } from '../base/errors.js'
import { sectorBytes, sizeLimitBytes } from '../base/units.js'
import {
  batBytesLimit,
  closedMark,
  closedWithExtensionMark,
  entryBytes,
  flagEmpty,
  headerBytes,
  headerField,
  headerType,
  signatureBytes,
  signatureV1,
  signatureV2,
} from './constants.js'
import {
  batAreaBytes,
  checkSize,
  chsOf,
  clusterCountOf,
  firstBlockSectorsOf,
  type FormatVersion,
  isLegalClusterSize,
} from './geometry.js'

export interface DeltaHeader {
  readonly version: FormatVersion
  readonly clusterSectors: number
  /** clusters of the virtual disk = valid BAT entries */
  readonly clusterCount: number
  readonly sizeSectors: number
  /** informational */
  readonly heads: number
  /** informational; may have wrapped to 0 */
  readonly cylinders: number
  /** the raw word; see {@link isInUse} */
  readonly inUse: number
  /** start of the data area, a multiple of the cluster */
  readonly firstBlockSectors: number
  readonly flags: number
  /** 0: none. Means something only when {@link hasExtension} */
  readonly extensionOffsetSectors: number
}

/** Anything but the two closed marks means "not closed cleanly". */
export function isInUse(word: number): boolean {
  return word !== closedMark && word !== closedWithExtensionMark
}

/** A format extension is present and may be believed. */
export function hasExtension(header: DeltaHeader): boolean {
  return header.extensionOffsetSectors !== 0 && header.inUse === closedWithExtensionMark
}

export function clusterBytesOf(header: DeltaHeader): number {
  return header.clusterSectors * sectorBytes
}

/**
 * @param bytes at least the first 64 bytes of the file
 * @throws {PloopError} status 11 for a header no ploop takes, 6 when it is short
 */
export function decodeHeader(bytes: Uint8Array, path?: string): DeltaHeader {
  if (bytes.length < headerBytes) {
    throw new PloopError(
      'HEADER_SHORT',
      `Short read PVD header: ${bytes.length} bytes instead of ${headerBytes}`,
      { status: 'read', path, offset: 0 },
    )
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, headerBytes)
  const version = decodeVersion(bytes, path)
  const type = view.getUint32(headerField.type, true)
  if (type !== headerType) {
    refuse('HEADER_TYPE', `Wrong type ${type} in image header, ${headerType} expected`, path)
  }
  const clusterSectors = view.getUint32(headerField.clusterSectors, true)
  if (!isLegalClusterSize(clusterSectors)) {
    refuse('HEADER_CLUSTER_SIZE', `Wrong cluster size ${clusterSectors} sectors`, path)
  }
  const firstBlockSectors = view.getUint32(headerField.firstBlockSectors, true)
  if (firstBlockSectors === 0 || firstBlockSectors % clusterSectors !== 0) {
    refuse(
      'HEADER_FIRST_BLOCK',
      `Wrong first block offset ${firstBlockSectors}, ` +
        `a multiple of the cluster size ${clusterSectors} expected`,
      path,
    )
  }
  return {
    version,
    clusterSectors,
    clusterCount: view.getUint32(headerField.clusterCount, true),
    sizeSectors: decodeSizeSectors(view, version, path),
    heads: view.getUint32(headerField.heads, true),
    cylinders: view.getUint32(headerField.cylinders, true),
    inUse: view.getUint32(headerField.inUse, true),
    firstBlockSectors,
    flags: view.getUint32(headerField.flags, true),
    extensionOffsetSectors: decodeExtensionOffset(view),
  }
}

/** @returns 64 new bytes */
export function encodeHeader(header: DeltaHeader): Uint8Array {
  const bytes = new Uint8Array(headerBytes)
  const view = new DataView(bytes.buffer)
  writeSignature(bytes, header.version)
  view.setUint32(headerField.type, headerType, true)
  view.setUint32(headerField.heads, header.heads, true)
  view.setUint32(headerField.cylinders, header.cylinders, true)
  view.setUint32(headerField.clusterSectors, header.clusterSectors, true)
  view.setUint32(headerField.clusterCount, header.clusterCount, true)
  if (header.version === 1) {
    assert(header.sizeSectors < 2 ** 32, 'the size fits version 1')
    view.setUint32(headerField.sizeSectors, header.sizeSectors, true)
  } else {
    view.setBigUint64(headerField.sizeSectors, BigInt(header.sizeSectors), true)
  }
  view.setUint32(headerField.inUse, header.inUse, true)
  view.setUint32(headerField.firstBlockSectors, header.firstBlockSectors, true)
  view.setUint32(headerField.flags, header.flags, true)
  view.setBigUint64(headerField.extensionOffsetSectors, BigInt(header.extensionOffsetSectors), true)
  return bytes
}

/** The 16 bytes that tell the versions apart, written into the start of `target`. */
export function writeSignature(target: Uint8Array, version: FormatVersion): void {
  const text = version === 1 ? signatureV1 : signatureV2
  for (let index = 0; index < signatureBytes; index++) target[index] = text.charCodeAt(index)
}

/**
 * The relations between the header's fields, and to the file when its size is given.
 *
 * A file that is no whole number of clusters long is fine: its tail counts as unused.
 *
 * @throws {PloopError} status 11
 */
export function validateHeader(header: DeltaHeader, fileSizeBytes?: number, path?: string): void {
  const { clusterSectors, clusterCount, sizeSectors } = header
  if (sizeSectors % clusterSectors !== 0) {
    refuse(
      'HEADER_SIZE',
      `Wrong size ${sizeSectors} sectors in image header, ` +
        `a multiple of the cluster size ${clusterSectors} expected`,
      path,
    )
  }
  if (clusterCount !== sizeSectors / clusterSectors) {
    refuse(
      'HEADER_SIZE',
      `Wrong size in image header: ${clusterCount} clusters of ${clusterSectors} sectors ` +
        `are not ${sizeSectors} sectors`,
      path,
    )
  }
  if (sizeSectors * sectorBytes > sizeLimitBytes) {
    refuse('HEADER_SIZE', `the size of ${sizeSectors} sectors is beyond 8 PiB`, path)
  }
  if (headerBytes + entryBytes * clusterCount >= batBytesLimit) {
    refuse('HEADER_SIZE', `the block table of ${clusterCount} entries is 4 GiB or longer`, path)
  }
  const areaBytes = header.firstBlockSectors * sectorBytes
  const neededBytes = batAreaBytes(clusterCount, clusterSectors)
  if (areaBytes >= batBytesLimit) {
    refuse(
      'HEADER_FIRST_BLOCK',
      `Wrong first block offset ${header.firstBlockSectors}: the block table is 4 GiB or longer`,
      path,
    )
  }
  if (areaBytes < neededBytes) {
    refuse(
      'HEADER_FIRST_BLOCK',
      `Wrong first block offset ${header.firstBlockSectors}: ` +
        `the block table of ${clusterCount} entries ends at sector ${neededBytes / sectorBytes}`,
      path,
    )
  }
  if (fileSizeBytes !== undefined && fileSizeBytes < areaBytes) {
    refuse(
      'HEADER_FILE_SHORT',
      `the file has ${fileSizeBytes} bytes, its header and block table alone need ${areaBytes}`,
      path,
    )
  }
}

/**
 * The header of a new, empty image. The size must be a whole number of clusters.
 *
 * @throws {PloopError} status 38 for sizes the version cannot have
 */
export function newHeader(options: {
  readonly version: FormatVersion
  readonly clusterSectors: number
  readonly sizeSectors: number
}): DeltaHeader {
  const { version, clusterSectors, sizeSectors } = options
  checkSize(version, sizeSectors, clusterSectors)
  assert(sizeSectors % clusterSectors === 0, 'the size is a whole number of clusters')
  const clusterCount = clusterCountOf(sizeSectors, clusterSectors)
  const { heads, cylinders } = chsOf(sizeSectors)
  return {
    version,
    clusterSectors,
    clusterCount,
    sizeSectors,
    heads,
    cylinders,
    inUse: closedMark,
    firstBlockSectors: firstBlockSectorsOf(clusterCount, clusterSectors),
    flags: flagEmpty,
    extensionOffsetSectors: 0,
  }
}

function decodeVersion(bytes: Uint8Array, path: string | undefined): FormatVersion {
  const text = Buffer.from(bytes.subarray(0, signatureBytes)).toString('latin1')
  if (text === signatureV1) return 1
  if (text === signatureV2) return 2
  const kind = foreignKinds.find(([start]) => text.startsWith(start))?.[1]
  if (kind !== undefined) {
    refuse('HEADER_SIGNATURE', `Wrong signature in image: this is ${kind}, not a ploop image`, path)
  }
  return refuse('HEADER_SIGNATURE', 'Wrong signature in image: not a ploop image', path)
}

/** Starts of files people hand us by mistake. */
const foreignKinds: readonly (readonly [string, string])[] = [
  ['QFI\xfb', 'a qcow2 image'],
  ['KDMV', 'a VMDK image'],
  ['vhdxfile', 'a VHDX image'],
  ['conectix', 'a VHD image'],
  ['LUKS\xba\xbe', 'an encrypted (LUKS) volume'],
  ['<?xml', 'an XML file'],
]

function decodeSizeSectors(view: DataView, version: FormatVersion, path?: string): number {
  if (version === 1) return view.getUint32(headerField.sizeSectors, true)
  const size = view.getBigUint64(headerField.sizeSectors, true)
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) {
    refuse('HEADER_SIZE', `Wrong size ${size} sectors in image header`, path)
  }
  return Number(size)
}

/** An offset beyond 2^53 names no place in any file; the mark alone decides whether it counts. */
function decodeExtensionOffset(view: DataView): number {
  return Number(view.getBigUint64(headerField.extensionOffsetSectors, true))
}

function refuse(code: string, message: string, path: string | undefined): never {
  throw new PloopError(code, message, { status: 'format', path, offset: 0 })
}

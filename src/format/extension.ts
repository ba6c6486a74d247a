// SPDX-License-Identifier: MIT
/**
 * The format extension: one cluster of features behind the data, and the dirty bitmap in it.
 *
 * Recognised so that it can be kept by readers and dropped properly by writers. MD5 is what the
 * format prescribes as a checksum; it protects nothing. See docs/format.md, "Format extension".
 */
import { createHash } from 'node:crypto'
import { assert } from '../base/assert.js'
import { PloopError } from '../base/errors.js'
import { divCeil, isPowerOfTwo, roundUp } from '../base/math.js'
import { sectorBytes } from '../base/units.js'
import { clusterBytesOf, type DeltaHeader } from './header.js'

export const extensionMagic = 0xab234cef23dcea87n
export const dirtyBitmapMagic = 0x20385fae252cb34an

const hashOffset = 8
const featuresOffset = 24
const featureHeaderBytes = 24
const bitmapHeaderBytes = 32
const featureCountMax = 1024

/** The image must not be written by who does not know the feature. */
export const featureNecessary = 1n

export interface ExtensionFeature {
  readonly magic: bigint
  readonly flags: bigint
  readonly data: Uint8Array
}

export interface DirtyBitmap {
  readonly sizeSectors: number
  /** 8-4-4-4-12, in the order of the bytes */
  readonly id: string
  readonly granularitySectors: number
  /** 0: all clear, 1: all set, else the first sector of the cluster that holds the bits */
  readonly tableSectors: readonly number[]
}

export interface Extension {
  readonly features: readonly ExtensionFeature[]
  readonly bitmaps: readonly DirtyBitmap[]
}

/**
 * @param cluster the whole extension cluster
 * @throws {PloopError} `EXTENSION_INVALID`
 */
export function decodeExtension(cluster: Uint8Array, header: DeltaHeader): Extension {
  if (cluster.length !== clusterBytesOf(header)) refuse('it is cut off by the end of the file')
  const view = viewOf(cluster)
  if (view.getBigUint64(0, true) !== extensionMagic) refuse('wrong magic')
  const stored = Buffer.from(cluster.subarray(hashOffset, featuresOffset))
  if (!stored.equals(hashOf(cluster))) refuse('wrong checksum')

  const features: ExtensionFeature[] = []
  let offset = featuresOffset
  while (offset + featureHeaderBytes <= cluster.length) {
    const magic = view.getBigUint64(offset, true)
    if (magic === 0n) break
    if (features.length === featureCountMax) refuse(`more than ${featureCountMax} features`)
    const flags = view.getBigUint64(offset + 8, true)
    const sizeBytes = view.getUint32(offset + 16, true)
    const start = offset + featureHeaderBytes
    if (sizeBytes > cluster.length - start) refuse(`a feature of ${sizeBytes} bytes leaves it`)
    features.push({ magic, flags, data: cluster.subarray(start, start + sizeBytes) })
    offset = start + roundUp(sizeBytes, 8)
  }
  const bitmaps = features
    .filter(feature => feature.magic === dirtyBitmapMagic)
    .map(feature => decodeDirtyBitmap(feature.data, header))
  return { features, bitmaps }
}

/** @returns a whole cluster, zero where no feature is */
export function encodeExtension(
  features: readonly ExtensionFeature[],
  clusterBytes: number,
): Uint8Array {
  const cluster = new Uint8Array(clusterBytes)
  const view = viewOf(cluster)
  view.setBigUint64(0, extensionMagic, true)
  let offset = featuresOffset
  for (const { magic, flags, data } of features) {
    assert(offset + featureHeaderBytes + data.length <= clusterBytes, 'the features fit')
    view.setBigUint64(offset, magic, true)
    view.setBigUint64(offset + 8, flags, true)
    view.setUint32(offset + 16, data.length, true)
    cluster.set(data, offset + featureHeaderBytes)
    offset += featureHeaderBytes + roundUp(data.length, 8)
  }
  cluster.set(hashOf(cluster), hashOffset)
  return cluster
}

/** The data of a dirty bitmap feature. @throws {PloopError} `EXTENSION_INVALID` */
export function decodeDirtyBitmap(data: Uint8Array, header: DeltaHeader): DirtyBitmap {
  if (data.length < bitmapHeaderBytes) refuse(`a dirty bitmap of ${data.length} bytes`)
  const view = viewOf(data)
  const sizeSectors = view.getBigUint64(0, true)
  if (sizeSectors !== BigInt(header.sizeSectors)) {
    refuse(`a dirty bitmap of ${sizeSectors} sectors, the disk has ${header.sizeSectors}`)
  }
  const granularitySectors = view.getUint32(24, true)
  if (!isPowerOfTwo(granularitySectors)) {
    refuse(`a dirty bitmap with ${granularitySectors} sectors per bit`)
  }
  const count = view.getUint32(28, true)
  const expected = bitmapClusterCount(header, granularitySectors)
  if (count !== expected || data.length < bitmapHeaderBytes + 8 * count) {
    refuse(`a dirty bitmap with ${count} table entries, ${expected} expected`)
  }
  const tableSectors: number[] = []
  for (let index = 0; index < count; index++) {
    const entry = Number(view.getBigUint64(bitmapHeaderBytes + 8 * index, true))
    if (entry > 1 && (!Number.isSafeInteger(entry) || entry % header.clusterSectors !== 0)) {
      refuse(`a dirty bitmap cluster at sector ${entry}`)
    }
    tableSectors.push(entry)
  }
  const id = formatId(data.subarray(8, 24))
  return { sizeSectors: header.sizeSectors, id, granularitySectors, tableSectors }
}

export function encodeDirtyBitmap(bitmap: DirtyBitmap): Uint8Array {
  const data = new Uint8Array(bitmapHeaderBytes + 8 * bitmap.tableSectors.length)
  const view = viewOf(data)
  view.setBigUint64(0, BigInt(bitmap.sizeSectors), true)
  data.set(Buffer.from(bitmap.id.replaceAll('-', ''), 'hex'), 8)
  view.setUint32(24, bitmap.granularitySectors, true)
  view.setUint32(28, bitmap.tableSectors.length, true)
  bitmap.tableSectors.forEach((sector, index) => {
    view.setBigUint64(bitmapHeaderBytes + 8 * index, BigInt(sector), true)
  })
  return data
}

/** Clusters that the bits of a bitmap take when all of them are stored. */
export function bitmapClusterCount(header: DeltaHeader, granularitySectors: number): number {
  const bits = divCeil(header.sizeSectors, granularitySectors)
  return divCeil(divCeil(bits, 8), clusterBytesOf(header))
}

/** File clusters that belong to the extension, though no BAT entry names them; ascending. */
export function extensionFileClusters(header: DeltaHeader, extension: Extension): number[] {
  const clusters = new Set([Math.floor(header.extensionOffsetSectors / header.clusterSectors)])
  for (const bitmap of extension.bitmaps) {
    for (const sector of bitmap.tableSectors) {
      if (sector > 1) clusters.add(sector / header.clusterSectors)
    }
  }
  return [...clusters].sort((left, right) => left - right)
}

/** Byte offset of the extension cluster, undefined when it lies outside of the file's data. */
export function extensionOffsetBytes(
  header: DeltaHeader,
  fileSizeBytes: number,
): number | undefined {
  const sectors = header.extensionOffsetSectors
  if (!Number.isSafeInteger(sectors * sectorBytes)) return undefined
  if (sectors % header.clusterSectors !== 0 || sectors < header.firstBlockSectors) return undefined
  const endBytes = sectors * sectorBytes + clusterBytesOf(header)
  return endBytes <= fileSizeBytes ? sectors * sectorBytes : undefined
}

function hashOf(cluster: Uint8Array): Buffer {
  return createHash('md5').update(cluster.subarray(featuresOffset)).digest()
}

function formatId(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes).toString('hex')
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    hex.slice(12, 16),
    hex.slice(16, 20),
    hex.slice(20),
  ].join('-')
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
}

function refuse(fact: string): never {
  throw new PloopError('EXTENSION_INVALID', `invalid format extension: ${fact}`, {
    status: 'format',
  })
}

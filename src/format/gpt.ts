// SPDX-License-Identifier: MIT
/**
 * Partition tables: protective MBR and GPT.
 *
 * Makes the table of a new disk (one Linux partition), reads and checks an existing one, and moves
 * its end when the disk grows or is about to shrink. Pure: it takes the first sectors of the disk
 * and answers with pieces to write. Facts: UEFI specification, chapter 5; the layout is the one
 * ploop(8) makes with parted. Tables of another shape are refused, never rewritten.
 */
import { crc32 } from 'node:zlib'
import { assert } from '../base/assert.js'
import { PloopError } from '../base/errors.js'
import { roundDown } from '../base/math.js'
import { sectorBytes } from '../base/units.js'

const entryCount = 128
const entrySizeBytes = 128
const entriesBytes = entryCount * entrySizeBytes
const headerSizeBytes = 92
const revision = 0x0001_0000
const gptSignature = 'EFI PART'
const linuxDataType = '0fc63daf-8483-4772-8e79-3d69d8477de4'
const mbrEntryOffset = 446
const maxWord = 2 ** 32 - 1

/** Byte offsets of the GPT header's fields. */
const field = {
  revision: 8,
  headerSize: 12,
  headerCrc: 16,
  myLba: 24,
  alternateLba: 32,
  firstUsable: 40,
  lastUsable: 48,
  diskGuid: 56,
  entriesLba: 72,
  entryCount: 80,
  entrySize: 84,
  entriesCrc: 88,
} as const

/** What {@link decodeGpt} and {@link resizeGpt} want of the disk: MBR, header, entries. */
export function gptReadBytes(logicalBytes: number = sectorBytes): number {
  return 2 * logicalBytes + entriesBytes
}

export interface DiskPiece {
  readonly offsetBytes: number
  readonly bytes: Uint8Array
}

export interface GptPartition {
  /** counted from 1 */
  readonly number: number
  readonly typeGuid: string
  readonly uniqueGuid: string
  readonly firstLba: number
  readonly lastLba: number
  readonly name: string
}

export interface Gpt {
  readonly diskGuid: string
  readonly firstUsableLba: number
  readonly lastUsableLba: number
  readonly alternateLba: number
  /** those in use */
  readonly partitions: readonly GptPartition[]
}

/** First and last sector of the partition that a new disk gets. */
export function newPartition(
  sizeSectors: number,
  clusterSectors: number,
): { firstLba: number; lastLba: number } {
  if (sizeSectors <= 2 * clusterSectors) {
    throw new PloopError('GPT_SIZE', `Image size should be greater than ${clusterSectors}`, {
      status: 'parameter',
    })
  }
  // the last cluster stays free for the backup table
  const end = roundDown(sizeSectors - clusterSectors, clusterSectors)
  return { firstLba: clusterSectors, lastLba: end - 1 }
}

/**
 * The partition table of a new disk with 512-byte sectors.
 *
 * @param guids in the form 8-4-4-4-12, no braces
 * @returns pieces to write, backup first: a table that is found is complete
 */
export function createGpt(options: {
  readonly sizeSectors: number
  readonly clusterSectors: number
  readonly diskGuid: string
  readonly partitionGuid: string
}): DiskPiece[] {
  const { sizeSectors } = options
  const { firstLba, lastLba } = newPartition(sizeSectors, options.clusterSectors)
  const entries = new Uint8Array(entriesBytes)
  writeGuid(entries, 0, linuxDataType)
  writeGuid(entries, 16, options.partitionGuid)
  const entryView = viewOf(entries)
  entryView.setBigUint64(32, BigInt(firstLba), true)
  entryView.setBigUint64(40, BigInt(lastLba), true)
  Buffer.from('primary', 'utf16le').copy(entries, 56)

  const header = new Uint8Array(headerSizeBytes)
  const view = viewOf(header)
  Buffer.from(gptSignature).copy(header)
  view.setUint32(field.revision, revision, true)
  view.setUint32(field.headerSize, headerSizeBytes, true)
  view.setBigUint64(field.myLba, 1n, true)
  view.setBigUint64(field.alternateLba, BigInt(sizeSectors - 1), true)
  view.setBigUint64(field.firstUsable, 34n, true)
  view.setBigUint64(field.lastUsable, BigInt(sizeSectors - 34), true)
  writeGuid(header, field.diskGuid, options.diskGuid)
  view.setBigUint64(field.entriesLba, 2n, true)
  view.setUint32(field.entryCount, entryCount, true)
  view.setUint32(field.entrySize, entrySizeBytes, true)
  return piecesOf(newMbr(sizeSectors), header, entries, sizeSectors, sectorBytes)
}

/**
 * @param disk at least {@link gptReadBytes} from the start of the disk
 * @returns undefined when there is no GPT
 * @throws {PloopError} status 38 when there is one that cannot be believed
 */
export function decodeGpt(disk: Uint8Array, logicalBytes: number = sectorBytes): Gpt | undefined {
  if (!hasGpt(disk, logicalBytes)) return undefined
  const header = checkedHeader(disk, logicalBytes)
  const entries = checkedEntries(disk, header, logicalBytes)
  const view = viewOf(header)
  return {
    diskGuid: readGuid(header, field.diskGuid),
    firstUsableLba: readLba(view, field.firstUsable),
    lastUsableLba: readLba(view, field.lastUsable),
    alternateLba: readLba(view, field.alternateLba),
    partitions: decodePartitions(entries),
  }
}

/** The last sector of partition 1 when the disk has this size. */
export function resizedLastLba(
  targetSectors: number,
  clusterSectors: number,
  logicalBytes: number = sectorBytes,
): number {
  const lastUsable = targetSectors - (logicalBytes + entriesBytes) / logicalBytes - 1
  return roundDown(lastUsable, clusterSectors) - 1
}

/**
 * Moves the end of the table and of partition 1.
 *
 * @param disk at least {@link gptReadBytes} from the start of the disk
 * @param options.targetSectors size that the table shall describe, in logical sectors
 * @param options.clusterSectors in logical sectors too
 * @returns pieces to write, backup first; none when the disk has no GPT
 * @throws {PloopError} status 38 when the table is damaged or partition 1 cannot end there
 */
export function resizeGpt(
  disk: Uint8Array,
  options: {
    readonly targetSectors: number
    readonly clusterSectors: number
    readonly logicalBytes?: number
  },
): DiskPiece[] {
  const { targetSectors, clusterSectors, logicalBytes = sectorBytes } = options
  const gpt = decodeGpt(disk, logicalBytes)
  if (gpt === undefined) return []
  const first = gpt.partitions.find(partition => partition.number === 1)
  if (first === undefined) refuse('it has no partition 1')
  const lastLba = resizedLastLba(targetSectors, clusterSectors, logicalBytes)
  if (lastLba < first.firstLba) {
    refuse(
      `partition 1 starts at sector ${first.firstLba}, a disk of ${targetSectors} sectors is too small`,
    )
  }
  const lastUsable = targetSectors - (logicalBytes + entriesBytes) / logicalBytes - 1
  for (const other of gpt.partitions) {
    if (other.number === 1) continue
    const apart = other.lastLba < first.firstLba || other.firstLba > lastLba
    if (!apart || other.lastLba > lastUsable) {
      refuse(`partition ${other.number} is in the way (${other.firstLba} … ${other.lastLba})`)
    }
  }

  const header = copyOf(checkedHeader(disk, logicalBytes))
  const view = viewOf(header)
  view.setBigUint64(field.alternateLba, BigInt(targetSectors - 1), true)
  view.setBigUint64(field.lastUsable, BigInt(lastUsable), true)
  const entries = copyOf(checkedEntries(disk, header, logicalBytes))
  viewOf(entries).setBigUint64(40, BigInt(lastLba), true)

  const mbr = copyOf(disk.subarray(0, logicalBytes))
  const mbrView = viewOf(mbr)
  if (mbr[mbrEntryOffset + 4] === 0xee) {
    const start = mbrView.getUint32(mbrEntryOffset + 8, true)
    mbr.set([0xfe, 0xff, 0xff], mbrEntryOffset + 5)
    mbrView.setUint32(mbrEntryOffset + 12, Math.min(maxWord, targetSectors - start), true)
  }
  return piecesOf(mbr, header, entries, targetSectors, logicalBytes)
}

/**
 * Fills in checksums, makes the backup, and puts everything in its place.
 *
 * @param mbr the first logical sector
 */
function piecesOf(
  mbr: Uint8Array,
  header: Uint8Array,
  entries: Uint8Array,
  sizeSectors: number,
  logicalBytes: number,
): DiskPiece[] {
  const entriesSectors = entriesBytes / logicalBytes
  assert(sizeSectors > 2 * (entriesSectors + 2), 'room for two tables')
  viewOf(header).setUint32(field.entriesCrc, crc32(entries), true)
  sealHeader(header)
  const backup = copyOf(header)
  const view = viewOf(backup)
  const backupEntriesLba = sizeSectors - 1 - entriesSectors
  view.setBigUint64(field.myLba, BigInt(sizeSectors - 1), true)
  view.setBigUint64(field.alternateLba, 1n, true)
  view.setBigUint64(field.entriesLba, BigInt(backupEntriesLba), true)
  sealHeader(backup)

  const primaryBlock = new Uint8Array(2 * logicalBytes + entriesBytes)
  primaryBlock.set(mbr)
  primaryBlock.set(header, logicalBytes)
  primaryBlock.set(entries, 2 * logicalBytes)
  const backupBlock = new Uint8Array(entriesBytes + logicalBytes)
  backupBlock.set(entries)
  backupBlock.set(backup, entriesBytes)
  return [
    { offsetBytes: backupEntriesLba * logicalBytes, bytes: backupBlock },
    { offsetBytes: 0, bytes: primaryBlock },
  ]
}

function newMbr(sizeSectors: number): Uint8Array {
  const mbr = new Uint8Array(sectorBytes)
  mbr.set([0x00, 0x00, 0x02, 0x00, 0xee, 0xfe, 0xff, 0xff], mbrEntryOffset)
  const view = viewOf(mbr)
  view.setUint32(mbrEntryOffset + 8, 1, true)
  view.setUint32(mbrEntryOffset + 12, Math.min(maxWord, sizeSectors - 1), true)
  mbr.set([0x55, 0xaa], 510)
  return mbr
}

function hasGpt(disk: Uint8Array, logicalBytes: number): boolean {
  if (disk.length < logicalBytes + headerSizeBytes) return false
  const signature = Buffer.from(disk.subarray(logicalBytes, logicalBytes + 8)).toString('latin1')
  return signature === gptSignature
}

function checkedHeader(disk: Uint8Array, logicalBytes: number): Uint8Array {
  if (disk.length < gptReadBytes(logicalBytes)) refuse('the disk ends within it')
  const sizeBytes = viewOf(disk).getUint32(logicalBytes + field.headerSize, true)
  if (sizeBytes < headerSizeBytes || sizeBytes > logicalBytes) {
    refuse(`its header claims ${sizeBytes} bytes`)
  }
  const header = disk.subarray(logicalBytes, logicalBytes + sizeBytes)
  const view = viewOf(header)
  if (view.getUint32(field.headerCrc, true) !== headerCrc(header)) {
    refuse('wrong checksum of its header')
  }
  if (readLba(view, field.myLba) !== 1 || readLba(view, field.entriesLba) !== 2) {
    refuse('its header or its entries are not where they belong')
  }
  const count = view.getUint32(field.entryCount, true)
  const size = view.getUint32(field.entrySize, true)
  if (count !== entryCount || size !== entrySizeBytes) {
    refuse(
      `it has ${count} entries of ${size} bytes, only ${entryCount} of ${entrySizeBytes} are supported`,
    )
  }
  return header
}

function checkedEntries(disk: Uint8Array, header: Uint8Array, logicalBytes: number): Uint8Array {
  const entries = disk.subarray(2 * logicalBytes, 2 * logicalBytes + entriesBytes)
  if (viewOf(header).getUint32(field.entriesCrc, true) !== crc32(entries)) {
    refuse('wrong checksum of its entries')
  }
  return entries
}

function decodePartitions(entries: Uint8Array): GptPartition[] {
  const view = viewOf(entries)
  const partitions: GptPartition[] = []
  for (let index = 0; index < entryCount; index++) {
    const start = index * entrySizeBytes
    const entry = entries.subarray(start, start + entrySizeBytes)
    if (entry.subarray(0, 16).every(byte => byte === 0)) continue
    const name = Buffer.from(entry.subarray(56)).toString('utf16le')
    partitions.push({
      number: index + 1,
      typeGuid: readGuid(entry, 0),
      uniqueGuid: readGuid(entry, 16),
      firstLba: readLba(view, start + 32),
      lastLba: readLba(view, start + 40),
      name: name.split('\0')[0] ?? '',
    })
  }
  return partitions
}

function headerCrc(header: Uint8Array): number {
  const copy = copyOf(header)
  viewOf(copy).setUint32(field.headerCrc, 0, true)
  return crc32(copy)
}

function sealHeader(header: Uint8Array): void {
  viewOf(header).setUint32(field.headerCrc, headerCrc(header), true)
}

function readLba(view: DataView, offset: number): number {
  const lba = Number(view.getBigUint64(offset, true))
  if (!Number.isSafeInteger(lba)) refuse(`it names sector ${lba}`)
  return lba
}

/** The first three groups are little-endian numbers. */
const guidOrder = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]

function writeGuid(target: Uint8Array, offset: number, guid: string): void {
  const bytes = Buffer.from(guid.replaceAll('-', ''), 'hex')
  assert(bytes.length === 16, 'a GUID without braces')
  guidOrder.forEach((from, to) => {
    target[offset + to] = bytes[from] ?? 0
  })
}

function readGuid(source: Uint8Array, offset: number): string {
  const bytes = guidOrder.map(from => source[offset + from] ?? 0)
  const hex = Buffer.from(bytes).toString('hex')
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    hex.slice(12, 16),
    hex.slice(16, 20),
    hex.slice(20),
  ].join('-')
}

/** A Buffer's own `slice` would share the memory. */
function copyOf(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes)
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
}

function refuse(fact: string): never {
  throw new PloopError('GPT_INVALID', `GPT validation failed: ${fact}`, { status: 'parameter' })
}

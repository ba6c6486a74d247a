// SPDX-License-Identifier: MIT
/**
 * The pending log: mappings that are not yet in the BAT on disk, kept where they outlive the process
 * and not the machine (a file in shared memory, see docs/integrity.md).
 *
 * Owns:     the layout, and reading it. Writing is pending-log-writer.ts.
 * Promises: whatever the bytes are, {@link decodePendingLog} gives a log that is sound in itself, or
 *           a PloopError.
 *
 * A header page, then two halves of records of four words: cluster index, file cluster (0: released),
 * the file cluster it had before, and a check over these, the place and the half's serial number. The
 * half with the later serial collects; the other one, if its serial is not 0, is being published.
 * So one store clears a half, and a record that was cut short by death is none. Words are in the
 * machine's own byte order: the log never leaves the machine.
 */
import { PloopError } from '../base/errors.js'
import type { FormatVersion } from './geometry.js'

/** What a log belongs to. All of it must be equal, or the log says nothing about the image. */
export interface PendingIdentity {
  /** of the kernel, 16 bytes: /proc/sys/kernel/random/boot_id */
  readonly bootId: Uint8Array
  /** of the top delta's file */
  readonly device: bigint
  readonly inode: bigint
  readonly version: FormatVersion
  readonly clusterSectors: number
  readonly clusterCount: number
  /** clusters of header and BAT */
  readonly batClusterCount: number
  readonly sizeSectors: bigint
}

export interface PendingChange {
  readonly clusterIndex: number
  /** 0: the cluster was released */
  readonly fileCluster: number
  /** what the entry was before, 0 = none */
  readonly formerFileCluster: number
}

export interface PendingLog {
  readonly identity: PendingIdentity
  readonly session: bigint
  /** when the writer was seen alive last, in milliseconds since 1970 */
  readonly aliveMs: number
  /** publishing failed: nothing in it can be trusted */
  readonly isVoid: boolean
  /** of the round that was under way: the BAT on disk has each of them, or not */
  readonly publishing: readonly PendingChange[]
  /** changes of that round are missing at the end, and nothing after them was acknowledged */
  readonly isCutShort: boolean
  /** noted since that round began */
  readonly collecting: readonly PendingChange[]
}

export const pendingHeaderBytes = 4096
export const recordWords = 4
/** Records in one half, at most. */
export const pendingCapacityMax = 32768

/** Word indexes in the header page. */
export const pendingField = {
  magic: 0,
  layout: 2,
  capacity: 3,
  bootId: 4,
  device: 8,
  inode: 10,
  version: 12,
  clusterSectors: 13,
  clusterCount: 14,
  batClusterCount: 15,
  sizeSectors: 16,
  session: 18,
  /** over all words before */
  check: 20,
  // from here on words change while the log lives
  /** a float of 64 bits */
  alive: 24,
  /** of half 0 and half 1; 0 = empty */
  serial: 32,
  /** of half 0 and half 1: equal to its serial when a change did not find room */
  cutShort: 34,
  void: 36,
} as const

const magicWords: readonly [number, number] = [0x6f6c7064, 0x676e6470]
const layoutNumber = 1

export function pendingLogBytes(capacity: number): number {
  return pendingHeaderBytes + 2 * capacity * recordWords * 4
}

/** Where a half's records begin, in words. */
export function halfStart(half: number, capacity: number): number {
  return pendingHeaderBytes / 4 + half * capacity * recordWords
}

export function nextSerial(serial: number): number {
  return serial === 0xffffffff ? 1 : serial + 1
}

/** What the checks of one half begin with. */
export function halfSeed(words: Uint32Array, serial: number): number {
  const low = words[pendingField.session] ?? 0
  const high = words[pendingField.session + 1] ?? 0
  return mix(mix(low, high), serial)
}

export function recordCheck(
  seed: number,
  position: number,
  clusterIndex: number,
  fileCluster: number,
  formerFileCluster: number,
): number {
  return mix(mix(mix(mix(seed, position), clusterIndex), fileCluster), formerFileCluster)
}

/** One step of a hash; for numbers of 32 bits. */
function mix(hash: number, word: number): number {
  const product = Math.imul(hash ^ word, 0x9e3779b1)
  return Math.imul(product ^ (product >>> 15), 0x85ebca6b) >>> 0
}

function headerCheck(words: Uint32Array): number {
  let hash = layoutNumber
  for (let at = 0; at < pendingField.check; at++) hash = mix(hash, (words[at] ?? 0) + at)
  return hash
}

/** The header page of a new log, whose first half collects. */
export function encodePendingHeader(
  identity: PendingIdentity,
  capacity: number,
  session: bigint,
  aliveMs: number,
): Uint8Array {
  const bytes = new Uint8Array(pendingHeaderBytes)
  const words = new Uint32Array(bytes.buffer)
  const setWide = (at: number, value: bigint): void => {
    new BigUint64Array(bytes.buffer)[at / 2] = value
  }
  words.set(magicWords, pendingField.magic)
  words[pendingField.layout] = layoutNumber
  words[pendingField.capacity] = capacity
  bytes.set(identity.bootId.subarray(0, 16), pendingField.bootId * 4)
  setWide(pendingField.device, identity.device)
  setWide(pendingField.inode, identity.inode)
  words[pendingField.version] = identity.version
  words[pendingField.clusterSectors] = identity.clusterSectors
  words[pendingField.clusterCount] = identity.clusterCount
  words[pendingField.batClusterCount] = identity.batClusterCount
  setWide(pendingField.sizeSectors, identity.sizeSectors)
  setWide(pendingField.session, session)
  words[pendingField.check] = headerCheck(words)
  new Float64Array(bytes.buffer)[pendingField.alive / 2] = aliveMs
  words[pendingField.serial] = 1
  return bytes
}

/** @throws {PloopError} `PENDING_INVALID` */
export function decodePendingLog(bytes: Uint8Array): PendingLog {
  if (bytes.length < pendingHeaderBytes) throw invalid(`it has only ${bytes.length} bytes`)
  const copy = bytes.slice(0, bytes.length - (bytes.length % 8))
  const words = new Uint32Array(copy.buffer)
  const identity = decodeIdentity(copy, words)
  const capacity = words[pendingField.capacity] ?? 0
  if (capacity < 1 || capacity > pendingCapacityMax || copy.length < pendingLogBytes(capacity)) {
    throw invalid(`${copy.length} bytes do not hold ${capacity} records twice`)
  }
  const first = words[pendingField.serial] ?? 0
  const second = words[pendingField.serial + 1] ?? 0
  const later = laterHalf(first, second)
  const older = 1 - later
  const cutShort = words[pendingField.cutShort + older] ?? 0
  const olderSerial = words[pendingField.serial + older] ?? 0
  const aliveMs = new Float64Array(copy.buffer)[pendingField.alive / 2] ?? 0
  if (!(aliveMs >= 0 && aliveMs < 2 ** 53)) throw invalid('its time is no time')
  return {
    identity,
    session: new BigUint64Array(copy.buffer)[pendingField.session / 2] ?? 0n,
    aliveMs,
    isVoid: words[pendingField.void] !== 0,
    publishing: decodeHalf(words, older, identity),
    isCutShort: olderSerial !== 0 && cutShort === olderSerial,
    collecting: decodeHalf(words, later, identity),
  }
}

function decodeIdentity(bytes: Uint8Array, words: Uint32Array): PendingIdentity {
  const isMagic = magicWords.every((word, index) => words[pendingField.magic + index] === word)
  if (!isMagic || words[pendingField.layout] !== layoutNumber)
    throw invalid('it is of another kind')
  if (words[pendingField.check] !== headerCheck(words)) throw invalid('its header is damaged')
  const wide = new BigUint64Array(bytes.buffer)
  const version = words[pendingField.version]
  if (version !== 1 && version !== 2) throw invalid('its header is damaged')
  return {
    bootId: bytes.slice(pendingField.bootId * 4, pendingField.bootId * 4 + 16),
    device: wide[pendingField.device / 2] ?? 0n,
    inode: wide[pendingField.inode / 2] ?? 0n,
    version,
    clusterSectors: words[pendingField.clusterSectors] ?? 0,
    clusterCount: words[pendingField.clusterCount] ?? 0,
    batClusterCount: words[pendingField.batClusterCount] ?? 0,
    sizeSectors: wide[pendingField.sizeSectors / 2] ?? 0n,
  }
}

function laterHalf(first: number, second: number): 0 | 1 {
  if (first !== 0 && (second === 0 || nextSerial(second) === first)) return 0
  if (second !== 0 && (first === 0 || nextSerial(first) === second)) return 1
  throw invalid(`its halves are numbered ${first} and ${second}`)
}

/** Records up to the first that is none; one behind it means damage. */
function decodeHalf(words: Uint32Array, half: number, identity: PendingIdentity): PendingChange[] {
  const serial = words[pendingField.serial + half] ?? 0
  if (serial === 0) return []
  const capacity = words[pendingField.capacity] ?? 0
  const seed = halfSeed(words, serial)
  const start = halfStart(half, capacity)
  const changes: PendingChange[] = []
  for (let position = 0; position < capacity; position++) {
    const at = start + position * recordWords
    const clusterIndex = words[at] ?? 0
    const fileCluster = words[at + 1] ?? 0
    const formerFileCluster = words[at + 2] ?? 0
    const check = recordCheck(seed, position, clusterIndex, fileCluster, formerFileCluster)
    if (words[at + 3] !== check) continue
    if (changes.length !== position) throw invalid(`record ${position} follows a damaged one`)
    const change = { clusterIndex, fileCluster, formerFileCluster }
    if (!isPossible(change, identity)) throw invalid(`record ${position} names no cluster`)
    changes.push(change)
  }
  return changes
}

function isPossible(change: PendingChange, identity: PendingIdentity): boolean {
  const isFileCluster = (value: number): boolean => value === 0 || value >= identity.batClusterCount
  return (
    change.clusterIndex < identity.clusterCount &&
    isFileCluster(change.fileCluster) &&
    isFileCluster(change.formerFileCluster)
  )
}

function invalid(fact: string): PloopError {
  return new PloopError('PENDING_INVALID', `the list of pending mappings is damaged: ${fact}`, {
    status: 'format',
  })
}

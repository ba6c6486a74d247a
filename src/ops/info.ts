// SPDX-License-Identifier: MIT
/**
 * info: facts about a disk, and how full its file system is.
 *
 * The counts of the file system come from what the last unmount left (`.statfs`), else from its
 * superblock, read through the chain: nothing is mounted and nothing is written.
 */
import { randomUUID } from 'node:crypto'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { PloopError } from '../base/errors.js'
import { sectorBytes } from '../base/units.js'
import { decodeGpt, gptReadBytes } from '../format/gpt.js'
import { readCounts, type FileSystemCounts } from '../host/filesystem.js'
import { readTopFacts } from '../image/info.js'
import { readDisk, viewChain, type ViewedChain } from '../image/map.js'
import { readDescriptor, type StoredDescriptor } from '../image/transaction.js'
import { removeStale } from '../io/atomic-file.js'
import type { Files } from '../io/files.js'
import type { OperationContext } from './context.js'

export interface InfoInput {
  readonly descriptorPath: string
  readonly size: boolean
  readonly device: boolean
  readonly fileSystem: boolean
}

export interface InfoResult {
  readonly size?: {
    readonly sizeSectors: number
    readonly clusterSectors: number
    readonly version: number
  }
  /** empty when the disk is not attached */
  readonly device?: string
  readonly fileSystem?: FileSystemCounts
}

/** Five little-endian words of 64 bits. */
const statfsName = '.statfs'
const statfsBytes = 40
/** The superblock and the first group descriptors. */
const superblockBytes = 64 * 1024
const superblockOffset = 1024
const magicOffset = superblockOffset + 56
const extMagic = 0xef53

export async function info(input: InfoInput, context: OperationContext): Promise<InfoResult> {
  const { files } = context
  if (input.fileSystem) {
    const saved = await readStatfs(files, join(dirname(input.descriptorPath), statfsName))
    if (saved !== undefined) return { fileSystem: saved }
  }
  const stored = await readDescriptor(files, input.descriptorPath)
  return {
    ...(input.size ? { size: await sizeOf(files, stored) } : {}),
    ...(input.device ? { device: '' } : {}),
    ...(input.fileSystem ? { fileSystem: await countsOf(stored, context) } : {}),
  }
}

async function sizeOf(
  files: Files,
  stored: StoredDescriptor,
): Promise<{ sizeSectors: number; clusterSectors: number; version: number }> {
  const facts = await readTopFacts(files, stored)
  const { sizeSectors, clusterSectors, version, path } = facts
  // Marked and locked: somebody serves it, and all is well. Marked only: it was not closed.
  if (facts.inUse && !(await isHeld(files, path))) {
    throw new PloopError('TOP_IN_USE', 'the image was not closed cleanly', {
      ...{ status: 'open', path, hint: 'serving it once checks and closes it: "ploop-nbd serve"' },
    })
  }
  return { sizeSectors, clusterSectors, version }
}

/** True when a process has the file open for writing. */
async function isHeld(files: Files, path: string): Promise<boolean> {
  const file = await files.open(path, 'read')
  try {
    return !(await file.tryLock('shared'))
  } finally {
    await file.close()
  }
}

/** What the last unmount has left, if it is complete. */
async function readStatfs(files: Files, path: string): Promise<FileSystemCounts | undefined> {
  if ((await files.stat(path))?.kind !== 'file') return undefined
  const file = await files.open(path, 'read')
  try {
    const bytes = new Uint8Array(statfsBytes)
    if ((await file.read(bytes, 0)) < statfsBytes) return undefined
    const view = new DataView(bytes.buffer)
    const word = (index: number): number => Number(view.getBigUint64(index * 8, true))
    return {
      ...{ blockBytes: word(0), blockCount: word(1), freeBlockCount: word(2) },
      ...{ inodeCount: word(3), freeInodeCount: word(4) },
    }
  } finally {
    await file.close()
  }
}

async function countsOf(
  stored: StoredDescriptor,
  context: OperationContext,
): Promise<FileSystemCounts> {
  const { files, signal } = context
  const chain = await viewChain(files, stored)
  try {
    const place = await partitionOf(chain)
    const head = await readDisk(chain, place.offsetBytes, superblockBytes)
    const magic = new DataView(head.buffer).getUint16(magicOffset, true)
    if (magic !== extMagic) {
      throw new PloopError('NO_FILE_SYSTEM', 'the disk holds no ext2, ext3 or ext4 file system', {
        ...{ status: 'mount', path: stored.path },
        hint: '"info -s" shows the size of the disk itself',
      })
    }
    return await countsFromHead(files, head, place.lengthBytes, signal)
  } finally {
    await chain.close()
  }
}

/** The first partition, or the whole disk when it has no partition table. */
async function partitionOf(
  chain: ViewedChain,
): Promise<{ offsetBytes: number; lengthBytes: number }> {
  const gpt = decodeGpt(await readDisk(chain, 0, gptReadBytes()))
  const first = gpt?.partitions[0]
  if (first === undefined) return { offsetBytes: 0, lengthBytes: chain.sizeBytes }
  const lengthBytes = (first.lastLba + 1 - first.firstLba) * sectorBytes
  return { offsetBytes: first.firstLba * sectorBytes, lengthBytes }
}

/** Lets dumpe2fs look at the first blocks in a sparse file of the file system's size. */
async function countsFromHead(
  files: Files,
  head: Uint8Array,
  lengthBytes: number,
  signal: AbortSignal,
): Promise<FileSystemCounts> {
  const path = join(tmpdir(), `ploop-nbd-${randomUUID()}.tmp`)
  const file = await files.open(path, 'create')
  try {
    try {
      await file.write(head, 0)
      await file.truncate(Math.max(lengthBytes, head.length))
    } finally {
      await file.close()
    }
    return await readCounts({ path }, { signal })
  } finally {
    await removeStale(files, path)
  }
}

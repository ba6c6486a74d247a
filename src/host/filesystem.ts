// SPDX-License-Identifier: MIT
/**
 * ext3 and ext4 through the programs of e2fsprogs: which program, which options, what its exit
 * status means.
 *
 * A file system is named by a file and the byte offset of its first block, so that none of these
 * needs a device, a mount or privileges.
 * Facts:    a question mark in a path starts an option list in these programs, so the file is
 *           named by its last part, in its directory; `?offset=` is only added by us.
 */
import { basename, dirname } from 'node:path'
import { PloopError } from '../base/errors.js'
import type { ExitStatusName } from '../base/exit-status.js'
import { lastWords, run, type RunOptions, type RunResult } from './run.js'

export type FileSystemType = 'ext3' | 'ext4'

export interface FileSystemPlace {
  /** no question mark in its last part */
  readonly path: string
  /** default 0 */
  readonly offsetBytes?: number
}

export interface HostOptions {
  readonly signal?: AbortSignal | undefined
}

/** Hidden and protected by the OpenVZ kernel; an ordinary empty file everywhere else. */
export const balloonName = '.balloon-c3a5ae3d-ce7f-43c4-a1ea-c61e2b4504e8'

export const journalBytes = 128 * 1024 * 1024
const resizeLimitBytes = 16 * 1024 ** 4
const resizeLimitBlocks = 4_294_967_295
/** e2fsck: errors were left, or it could not work. */
const fsckFailureStatus = 4

function placeArgument(place: FileSystemPlace): string {
  const name = `./${basename(place.path)}`
  return place.offsetBytes === undefined ? name : `${name}?offset=${String(place.offsetBytes)}`
}

async function runHere(
  program: string,
  argumentList: readonly string[],
  place: FileSystemPlace,
  status: ExitStatusName,
  options: HostOptions & Pick<RunOptions, 'input'>,
): Promise<RunResult> {
  const cwd = dirname(place.path)
  return run(program, argumentList, { status, package: 'e2fsprogs', cwd, ...options })
}

function failed(
  program: string,
  result: RunResult,
  status: ExitStatusName,
  hint?: string,
): PloopError {
  const words = lastWords(result.stderr === '' ? result.stdout : result.stderr)
  return new PloopError(
    'FILE_SYSTEM_PROGRAM',
    `${program} failed with status ${String(result.status)}: ${words}`,
    { status, operation: program, hint },
  )
}

export interface MakeFileSystemOptions extends HostOptions {
  readonly type: FileSystemType
  readonly blockBytes: number
  /** leave inode tables to be zeroed by the kernel later */
  readonly lazy: boolean
  /** size of the file system, so that the journal can be left to mkfs where 128 MiB do not fit */
  readonly sizeBytes: number
}

/** The options of `mkfs` that a ploop disk gets. The file must have its final size. */
export function mkfsArguments(options: MakeFileSystemOptions): string[] {
  const resizeBlocks = Math.min(
    Math.floor(resizeLimitBytes / options.blockBytes),
    resizeLimitBlocks,
  )
  const extended = options.lazy
    ? ['lazy_itable_init=1']
    : ['lazy_itable_init=0', 'lazy_journal_init=0']
  extended.push(`resize=${String(resizeBlocks)}`, 'root_owner=0:0')
  // mke2fs refuses a journal of more than half the file system.
  const journal = options.sizeBytes >= 2 * journalBytes ? ['-J', 'size=128'] : []
  return [
    ...['-q', '-F', '-j', '-b', String(options.blockBytes)],
    ...['-E', extended.join(','), ...journal, '-i', '16384'],
  ]
}

/** Makes a file system in a file that holds nothing else, then the settings that ploop gives it. */
export async function makeFileSystem(path: string, options: MakeFileSystemOptions): Promise<void> {
  const place = { path }
  const { signal } = options
  const program = `mkfs.${options.type}`
  const mkfs = [...mkfsArguments(options), placeArgument(place)]
  const made = await runHere(program, mkfs, place, 'mkfs', { signal })
  if (made.status !== 0) {
    throw failed(program, made, 'mkfs', 'choose a larger disk or a smaller file system block (-B)')
  }
  const settings = ['-o', 'user_xattr,acl', '-c0', '-i0', '-e', 'remount-ro', placeArgument(place)]
  const tuned = await runHere('tune2fs', settings, place, 'mkfs', { signal })
  if (tuned.status !== 0) throw failed('tune2fs', tuned, 'mkfs')
}

/** Adds the balloon file: in the root directory, of root, mode 0600, empty. */
export async function makeBalloonFile(
  place: FileSystemPlace,
  options: HostOptions = {},
): Promise<void> {
  const field = (name: string, value: string): string =>
    `set_inode_field ${balloonName} ${name} ${value}`
  const input = [
    `write /dev/null ${balloonName}`,
    field('mode', '0100600'),
    field('uid', '0'),
    field('gid', '0'),
    '',
  ].join('\n')
  const argumentList = ['-w', placeArgument(place)]
  const result = await runHere('debugfs', argumentList, place, 'mkfs', { ...options, input })
  // debugfs ends with 0 whatever happened to a command: ask for what should be there now.
  const look = ['-R', `stat ${balloonName}`, placeArgument(place)]
  const seen = await runHere('debugfs', look, place, 'mkfs', options)
  if (/Type: regular +Mode: +0600 /.test(seen.stdout)) return
  throw failed('debugfs', { ...result, stdout: '' }, 'mkfs')
}

/** Checks without changing anything. @throws PloopError `FSCK` when there is anything to repair */
export async function verifyFileSystem(
  place: FileSystemPlace,
  options: HostOptions = {},
): Promise<void> {
  const result = await runHere('e2fsck', ['-f', '-n', placeArgument(place)], place, 'fsck', options)
  if (result.status === 0) return
  const reason = result.status >= fsckFailureStatus ? 'finds errors' : 'wants to repair'
  throw new PloopError('FSCK', `e2fsck ${reason}: ${lastWords(result.stdout)}`, {
    status: 'fsck',
    operation: 'e2fsck',
  })
}

/** Counts of a file system as statfs(2) of its mount would give them. */
export interface FileSystemCounts {
  readonly blockBytes: number
  /** without what the file system needs for itself */
  readonly blockCount: number
  readonly freeBlockCount: number
  readonly inodeCount: number
  readonly freeInodeCount: number
}

/**
 * Reads the superblock: the file needs to hold no more than the first blocks. (dumpe2fs then
 * complains about the journal that it cannot see, after it has printed everything.)
 */
export async function readCounts(
  place: FileSystemPlace,
  options: HostOptions = {},
): Promise<FileSystemCounts> {
  const result = await runHere('dumpe2fs', ['-h', placeArgument(place)], place, 'system', options)
  const number = (label: string): number | undefined => {
    const match = new RegExp(`^${label}:\\s+(\\d+)`, 'm').exec(result.stdout)
    return match?.[1] === undefined ? undefined : Number(match[1])
  }
  const blockBytes = number('Block size')
  const blockCount = number('Block count')
  const freeBlockCount = number('Free blocks')
  const inodeCount = number('Inode count')
  const freeInodeCount = number('Free inodes')
  if (
    blockBytes === undefined ||
    blockCount === undefined ||
    freeBlockCount === undefined ||
    inodeCount === undefined ||
    freeInodeCount === undefined
  ) {
    throw failed('dumpe2fs', result, 'system')
  }
  const overhead = number('Overhead clusters') ?? 0
  return {
    ...{ blockBytes, blockCount: blockCount - overhead, freeBlockCount },
    ...{ inodeCount, freeInodeCount },
  }
}

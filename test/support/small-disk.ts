// SPDX-License-Identifier: MIT
/**
 * A disk of two deltas that fits into a megabyte, ways to spoil it, and what a refusal must be like.
 */
import { createHash } from 'node:crypto'
import * as fs from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { FileSource, writeBuilt } from './chain-files.js'
import { buildDelta } from './image-builder.js'
import { readDelta } from './image-reader.js'
import type { RunResult } from './programs.js'

export const clusterBytes = 65536
export const guids = {
  base: '{11111111-1111-4111-8111-111111111111}',
  top: '{22222222-2222-4222-8222-222222222222}',
  unknown: '{33333333-3333-4333-8333-333333333333}',
  none: '{00000000-0000-0000-0000-000000000000}',
} as const

/** base.hds with clusters 0, 1, 2 and top.hds with 1 and 3, of 16; and what describes them. */
export function makeDisk(folder: string): void {
  const bytes = new Uint8Array(clusterBytes).fill(7)
  const common = { version: 2, clusterBytes, sizeBytes: 16 * clusterBytes } as const
  const delta = (...indices: number[]): ReturnType<typeof buildDelta> =>
    buildDelta({ ...common, clusters: new Map(indices.map(index => [index, bytes])) })
  writeBuilt(join(folder, 'base.hds'), delta(0, 1, 2))
  writeBuilt(join(folder, 'top.hds'), delta(1, 3))
  fs.writeFileSync(join(folder, 'DiskDescriptor.xml'), descriptorText())
}

function descriptorText(): string {
  const image = (guid: string, file: string): string =>
    `<Image><GUID>${guid}</GUID><Type>Compressed</Type><File>${file}</File></Image>`
  const shot = (guid: string, parent: string): string =>
    `<Shot><GUID>${guid}</GUID><ParentGUID>${parent}</ParentGUID></Shot>`
  return `<?xml version="1.0"?>
<Parallels_disk_image>
<Disk_Parameters>
<Disk_size>2048</Disk_size><Cylinders>4</Cylinders><Heads>16</Heads><Sectors>32</Sectors><Padding>0</Padding>
</Disk_Parameters>
<StorageData><Storage><Start>0</Start><End>2048</End><Blocksize>128</Blocksize>
${image(guids.base, 'base.hds')}${image(guids.top, 'top.hds')}
</Storage></StorageData>
<Snapshots><TopGUID>${guids.top}</TopGUID>${shot(guids.base, guids.none)}${shot(guids.top, guids.base)}</Snapshots>
</Parallels_disk_image>
`
}

export function patch(file: string, offset: number, ...words: number[]): void {
  const fd = fs.openSync(file, 'r+')
  const bytes = Buffer.from(new Uint32Array(words).buffer)
  fs.writeSync(fd, bytes, 0, bytes.length, offset)
  fs.closeSync(fd)
}

export const patched =
  (name: string, offset: number, ...words: number[]) =>
  (folder: string): void => {
    patch(join(folder, name), offset, ...words)
  }

export const edited =
  (search: string | RegExp, replacement: string) =>
  (folder: string): void => {
    const path = join(folder, 'DiskDescriptor.xml')
    const before = fs.readFileSync(path, 'utf8')
    const after = before.replace(search, replacement)
    if (after === before) throw new Error('the descriptor was not changed')
    fs.writeFileSync(path, after)
  }

/** The in-use mark of a delta. */
export function markOf(path: string): number {
  const source = new FileSource(path)
  try {
    return readDelta(source).inUse
  } finally {
    source.close()
  }
}

export type Snapshot = Record<string, string>

/** Content and time of change of every file, the lock files left out. */
export function snapshotOf(folder: string): Snapshot {
  const state: Snapshot = {}
  for (const name of fs.readdirSync(folder)) {
    if (name.endsWith('.lck')) continue
    const path = join(folder, name)
    const stat = fs.lstatSync(path)
    if (!stat.isFile()) continue
    const sum = createHash('sha256').update(fs.readFileSync(path)).digest('hex')
    state[name] = `${sum} ${stat.mtimeMs}`
  }
  return state
}

export interface Refusal {
  readonly status: number
  /** of the one sentence */
  readonly says: RegExp
  /** the file that it names, below the folder; default: says tells */
  readonly names?: string
  /** the recovery reports what it finds before the error */
  readonly chatty?: boolean
}

/** One sentence, perhaps a hint; after a usage error the usage. */
export function judgeRefusal(t: Test, result: RunResult, wanted: Refusal, folder: string): void {
  const lines = result.stderr.trimEnd().split('\n')
  const usageAt = lines.findIndex(line => line.startsWith('Usage'))
  const said = usageAt < 0 ? lines : lines.slice(0, usageAt)
  const sentences = said.filter(line => !/^ploop-nbd: hint: /.test(line))
  t.equal(result.status, wanted.status, result.stderr)
  t.equal(result.stdout, '', 'nothing on standard output')
  t.notMatch(result.stderr, /^ +at |bug in ploop-nbd|\[object|undefined|NaN/m, 'no stack trace')
  const sentence = sentences.at(-1) ?? lines[0] ?? ''
  t.match(sentence, wanted.says)
  if (usageAt !== 0 && wanted.chatty !== true) {
    t.equal(sentences.length, 1, `one sentence: ${result.stderr}`)
  }
  if (wanted.names !== undefined) t.match(sentence, join(folder, wanted.names))
}

// SPDX-License-Identifier: MIT
/**
 * Images made by QEMU and the genuine ploop, served, changed, and judged by both when at rest.
 */
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Random } from '../simulation/random.js'
import { writeChain } from '../support/chain-files.js'
import { genuinePloop, requiresGenuinePloop } from '../support/genuine-ploop.js'
import { runJudge } from '../support/programs.js'
import { requires } from '../support/requires.js'
import { Served } from '../support/served.js'
import { imageFolder } from '../support/temp-dir.js'

t.setTimeout(300_000)

const kib = 1024
const mib = 1024 * kib
const seed = Number(process.env['TEST_SEED'] ?? Date.now() % 1_000_000)
t.comment(`TEST_SEED=${seed}`)
const random = new Random(seed)
const skip = requires('qemu-img', 'qemu-io') || requiresGenuinePloop()

/** Writes of all kinds, none of them aligned to a cluster as a rule. */
function changes(sizeBytes: number): string[] {
  const commands: string[] = []
  for (let turn = 0; turn < 12; turn++) {
    const length = random.between(1, random.pick([700, 9000, 3 * mib]))
    const offset = random.below(sizeBytes - length)
    const pattern = random.between(1, 255)
    commands.push(
      random.chance(0.25)
        ? `write -z ${random.chance(0.5) ? '-u ' : ''}${offset} ${length}`
        : `write -P ${pattern} ${random.chance(0.2) ? '-f ' : ''}${offset} ${length}`,
    )
  }
  return commands
}

const asArguments = (commands: readonly string[]): string[] => commands.flatMap(c => ['-c', c])

async function compare(left: string, right: string): Promise<string> {
  return await runJudge('qemu-img', [
    'compare',
    ...formatOf(left, '-f'),
    ...formatOf(right, '-F'),
    left,
    right,
  ])
}

function formatOf(source: string, option: string): string[] {
  if (source.startsWith('json:')) return []
  return [option, source.endsWith('.hds') ? 'parallels' : 'raw']
}

/** A chain as QEMU reads it. */
function nested(paths: readonly string[]): string {
  const node = (level: number): object => {
    const filename = paths[level] ?? ''
    const driver = filename.endsWith('.raw') ? 'raw' : 'parallels'
    const backing = level > 0 ? { backing: node(level - 1) } : {}
    return { driver, file: { driver: 'file', filename }, ...backing }
  }
  return `json:${JSON.stringify(node(paths.length - 1))}`
}

/** A raw file with stamped clusters and holes. */
function rawContent(folder: string, clusterBytes: number, sizeBytes: number): string {
  const clusterCount = sizeBytes / clusterBytes
  const shape = { levelCount: 1, clusterBytes, clusterCount, rawBase: true, density: 0.5 }
  return writeChain(folder, shape, random).paths[0] ?? ''
}

/** Applies the same changes to the served disk and to the reference. */
async function changeBoth(served: Served, reference: string, sizeBytes: number): Promise<void> {
  const commands = asArguments(changes(sizeBytes))
  await runJudge('qemu-io', ['-f', 'raw', ...commands, served.uri])
  await runJudge('qemu-io', ['-f', 'raw', ...commands, reference])
}

/** `check -f -c -r` of a copy without holes: the tables, the mark and the flags must be right. */
async function judgeWritten(t: Test, image: string): Promise<void> {
  const copy = `${image}.full`
  await runJudge('cp', ['--sparse=never', image, copy])
  const verdict = await genuinePloop(['check', '-f', '-c', '-r', copy])
  t.equal(verdict.status, 0, `genuine check: ${verdict.stdout}${verdict.stderr}`)
  rmSync(copy)
}

t.test(
  'an image of QEMU is served, changed and read back, with every cluster size',
  { skip },
  async t => {
    for (const clusterBytes of [64 * kib, 128 * kib, mib, 2 * mib]) {
      const folder = imageFolder(t)
      const sizeBytes = 32 * mib
      const reference = rawContent(folder, 64 * kib, sizeBytes)
      const image = join(folder, 'disk.hds')
      const make = ['convert', '-f', 'raw', '-O', 'parallels', '-o', `cluster_size=${clusterBytes}`]
      await runJudge('qemu-img', [...make, reference, image])
      const served = await Served.start(t, [image])
      await compare(served.uri, reference)
      await changeBoth(served, reference, sizeBytes)
      t.match(await compare(served.uri, reference), 'identical', `${clusterBytes} served`)
      await served.stop()
      t.match(await compare(image, reference), 'identical', `${clusterBytes} at rest`)
      await runJudge('qemu-img', ['check', '-q', '-f', 'parallels', image])
      await judgeWritten(t, image)
    }
  },
)

interface GenuineDisk {
  readonly folder: string
  readonly descriptor: string
  /** base first, all but the top */
  readonly snapshots: readonly string[]
  /** files, base first */
  readonly paths: readonly string[]
}

async function genuine(...programArguments: string[]): Promise<string> {
  const result = await genuinePloop(programArguments)
  if (result.status !== 0) throw new Error(`ploop ${programArguments.join(' ')}: ${result.stderr}`)
  return result.stdout
}

/** A chain of three deltas: snapshots by the genuine tool, content by QEMU, whole clusters. */
async function genuineChain(
  t: Test,
  clusterBytes: number,
  sizeBytes: number,
  version: 1 | 2,
  rawBase = false,
): Promise<GenuineDisk> {
  const folder = join(imageFolder(t), 'root.hdd')
  mkdirSync(folder)
  const content = rawContent(folder, clusterBytes, sizeBytes)
  const descriptor = join(folder, 'DiskDescriptor.xml')
  const base = rawBase ? content : join(folder, 'root.hds')
  if (rawBase) {
    const sectors = String(clusterBytes / 512)
    await genuine('restore-descriptor', '-f', 'raw', '-b', sectors, folder, base)
  } else {
    const make = ['convert', '-f', 'raw', '-O', 'parallels', '-o', `cluster_size=${clusterBytes}`]
    await runJudge('qemu-img', [...make, content, base])
    await genuine('restore-descriptor', '-f', 'ploop1', folder, base)
    if (version === 1) await genuine('convert', '-v', '1', descriptor)
  }
  const snapshots: string[] = []
  for (let level = 1; level < 3; level++) {
    const guid = `{${String(level).repeat(8)}-1111-4111-8111-111111111111}`
    await genuine('snapshot', '-u', guid, descriptor)
    snapshots.push(guid)
    const paths = await chainPaths(descriptor)
    const top = paths.at(-1) ?? ''
    await runJudge('qemu-io', [
      '-f',
      'parallels',
      ...asArguments(wholeClusters(clusterBytes, sizeBytes)),
      top,
    ])
  }
  return { folder, descriptor, snapshots, paths: await chainPaths(descriptor) }
}

function wholeClusters(clusterBytes: number, sizeBytes: number): string[] {
  return Array.from({ length: 6 }, () => {
    const index = random.below(sizeBytes / clusterBytes)
    return `write -P ${random.between(1, 255)} ${index * clusterBytes} ${clusterBytes}`
  })
}

/** As the genuine tool lists them: the snapshots from base to top. */
async function chainPaths(descriptor: string): Promise<string[]> {
  const text = await genuine('snapshot-list', '-H', '-o', 'parent_uuid,uuid,fname', descriptor)
  const rows = [...text.matchAll(/^(\{.*?\})\s+(\{.*?\})\s+(\S+)\s*$/gm)]
  const paths: string[] = []
  let parent = '{00000000-0000-0000-0000-000000000000}'
  for (;;) {
    const row = rows.find(candidate => candidate[1] === parent)
    if (row === undefined) return paths
    paths.push(row[3] ?? '')
    parent = row[2] ?? ''
  }
}

for (const [version, clusterBytes, rawBase] of [
  [2, mib, false],
  [1, 64 * kib, false],
  [2, 256 * kib, true],
] as const) {
  const what = rawBase ? 'a raw base' : `version ${version}`
  t.test(
    `a chain of the genuine ploop, ${what}, clusters of ${clusterBytes} bytes, reads as QEMU reads it and can be changed`,
    { skip },
    async t => {
      const sizeBytes = 24 * mib
      const disk = await genuineChain(t, clusterBytes, sizeBytes, version, rawBase)
      const { descriptor, paths, folder } = disk
      t.equal(paths.length, 3)
      await readsLikeQemu(t, disk, clusterBytes, rawBase)
      const reference = join(folder, 'reference')
      await runJudge('qemu-img', ['convert', '-O', 'raw', nested(paths), reference])
      const served = await Served.start(t, [descriptor])
      await changeBoth(served, reference, sizeBytes)
      t.match(await compare(served.uri, reference), 'identical')
      await served.stop()
      t.match(await compare(nested(paths), reference), 'identical', 'at rest')
      await judgeWritten(t, paths.at(-1) ?? '')
      await genuine('snapshot-merge', '-A', descriptor)
      const [merged] = await chainPaths(descriptor)
      t.match(
        await mergedEquals(merged ?? '', reference, rawBase),
        'identical',
        'merged by the genuine tool',
      )
    },
  )
}

async function mergedEquals(merged: string, reference: string, rawBase: boolean): Promise<string> {
  const format = rawBase ? 'raw' : 'parallels'
  return await runJudge('qemu-img', ['compare', '-f', format, '-F', 'raw', merged, reference])
}

/** The top, each snapshot and the base, through the descriptor and through a list of files. */
async function readsLikeQemu(
  t: Test,
  disk: GenuineDisk,
  clusterBytes: number,
  rawBase: boolean,
): Promise<void> {
  const { descriptor, paths, snapshots } = disk
  const views: [string[], number][] = [
    [['-r', '-u', snapshots[1] ?? '', descriptor], 2],
    [['-r', '-u', snapshots[0] ?? '', descriptor], 1],
    [['-r', '-u', 'base', descriptor], 1],
    [['-r', ...(rawBase ? ['-f', 'raw', '-b', String(clusterBytes / 512)] : []), ...paths], 3],
  ]
  for (const [serveArguments, levels] of views) {
    const served = await Served.start(t, serveArguments)
    const chain = nested(paths.slice(0, levels))
    t.match(await compare(chain, served.uri), 'identical', serveArguments.join(' '))
    await served.stop()
  }
}

t.test('several disks in one process keep apart', { skip }, async t => {
  const folder = imageFolder(t)
  const images: Record<string, { image: string; reference: string }> = {}
  for (const name of ['a', 'b', 'mit Leer/Zeichen?'.replace('/', '-')]) {
    const own = join(folder, String(Object.keys(images).length))
    mkdirSync(own)
    const reference = rawContent(own, mib, 16 * mib)
    const image = join(own, 'disk.hds')
    const make = ['convert', '-f', 'raw', '-O', 'parallels', '-o', 'cluster_size=1M']
    await runJudge('qemu-img', [...make, reference, image])
    images[name] = { image, reference }
  }
  const named = Object.entries(images).map(([name, { image }]) => `${name}=${image}`)
  const served = await Served.start(t, named)
  const list = JSON.parse(
    await runJudge('nbdinfo', ['--json', '--list', `nbd+unix://?socket=${served.socket}`]),
  ) as { exports: { 'export-name': string }[] }
  t.same(list.exports.map(each => each['export-name']).sort(), Object.keys(images).sort())
  await Promise.all(
    Object.entries(images).map(async ([name, { reference }]) => {
      const commands = asArguments(changes(16 * mib))
      await runJudge('qemu-io', ['-f', 'raw', ...commands, served.uriOf(name)])
      await runJudge('qemu-io', ['-f', 'raw', ...commands, reference])
      t.match(await compare(served.uriOf(name), reference), 'identical', name)
    }),
  )
  await served.stop()
  for (const [name, { image, reference }] of Object.entries(images)) {
    t.match(await compare(image, reference), 'identical', `${name} at rest`)
  }
})

// SPDX-License-Identifier: MIT
/**
 * init in every format and version, judged by others: genuine ploop, qemu-img, sgdisk, parted,
 * e2fsck, debugfs. Nothing is mounted.
 */
import { readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { PloopError } from '../../src/base/errors.js'
import { silentLogger } from '../../src/base/log.js'
import { silentProgress } from '../../src/base/progress.js'
import { balloonName } from '../../src/host/filesystem.js'
import { nodeFiles } from '../../src/io/node-files.js'
import type { OperationContext } from '../../src/ops/context.js'
import { info } from '../../src/ops/info.js'
import { init, type InitInput } from '../../src/ops/init.js'
import { map, type MapFacts } from '../../src/ops/map.js'
import { snapshot } from '../../src/ops/snapshot.js'
import type { MapExtent } from '../../src/image/map.js'
import { genuinePloop, requiresGenuinePloop } from '../support/genuine-ploop.js'
import { runJudge, runProgram } from '../support/programs.js'
import { requires } from '../support/requires.js'
import { imageFolder } from '../support/temp-dir.js'

t.setTimeout(240_000)
const mebibyte = 1024 * 1024
const noFileSystems = requires('mkfs.ext4', 'debugfs', 'e2fsck', 'dumpe2fs')
const skip = noFileSystems || requires('qemu-img', 'sgdisk', 'parted') || requiresGenuinePloop()

function context(signal = new AbortController().signal): OperationContext {
  return { files: nodeFiles, log: silentLogger, progress: silentProgress, signal }
}

const defaults = {
  mode: 'expanded',
  version: 2,
  fileSystem: 'ext4',
  fileSystemBlockBytes: 4096,
  lazy: true,
} as const

async function failureOf(action: Promise<unknown>): Promise<PloopError> {
  const cause: unknown = await action.then(
    () => undefined,
    (cause: unknown) => cause,
  )
  if (cause instanceof PloopError) return cause
  throw new Error(`expected a PloopError, got ${String(cause)}`)
}

async function judge(t: Test, folder: string, input: InitInput): Promise<void> {
  const { imagePath, mode, version, sizeSectors } = input
  const clusterSectors = input.clusterSectors ?? 2048
  const xml = join(folder, 'DiskDescriptor.xml')
  const shown = await genuinePloop(['info', '-s', xml])
  const expected = mode === 'raw' ? 0 : version
  const lines = `size:\t\t${sizeSectors}\nblocksize:\t${clusterSectors}\nfmt_version:\t${expected}\n`
  t.ok(shown.stdout.endsWith(lines), `genuine info: ${shown.stdout}${shown.stderr}`)
  const raw = join(folder, 'flat')
  if (mode === 'raw') {
    t.equal(statSync(imagePath).size, sizeSectors * 512)
    await runJudge('cp', ['--sparse=always', imagePath, raw])
  } else {
    const copy = join(folder, 'copy')
    await runJudge('cp', ['--sparse=never', imagePath, copy])
    const check = await genuinePloop(['check', '-f', '-c', copy])
    t.equal(check.status, 0, `${check.stdout}${check.stderr}`)
    await runJudge('rm', [copy])
    await runJudge('qemu-img', ['check', '-q', '-f', 'parallels', imagePath])
    await runJudge('qemu-img', ['convert', '-f', 'parallels', '-O', 'raw', imagePath, raw])
  }
  t.equal(statSync(raw).size, sizeSectors * 512)
  await judgeContent(t, raw, sizeSectors, clusterSectors)
  await runJudge('rm', [raw])
}

async function judgeContent(
  t: Test,
  raw: string,
  sizeSectors: number,
  clusterSectors: number,
): Promise<void> {
  t.match(await runJudge('sgdisk', ['-v', raw]), 'No problems found')
  const table = await runJudge('parted', ['-s', raw, 'unit', 's', 'print'])
  const first = clusterSectors
  const last = sizeSectors - clusterSectors - 1
  t.match(table, new RegExp(`^ 1 +${first}s +${last}s .*primary`, 'm'))
  const place = `${raw}?offset=${clusterSectors * 512}`
  await runJudge('e2fsck', ['-f', '-n', place])
  const balloon = await runJudge('debugfs', ['-R', `stat ${balloonName}`, place])
  t.match(balloon, /Type: regular +Mode: +0600 [^]*User: +0 +Group: +0 [^]*Size: 0\n/)
}

t.test('a disk of 1 GiB in every format and version, with a file system', { skip }, async t => {
  const gibibyteSectors = 2097152
  const cases: readonly Partial<InitInput>[] = [
    { version: 2 },
    { version: 1 },
    { mode: 'raw' },
    { mode: 'preallocated' },
    { mode: 'preallocated', version: 1 },
    { clusterSectors: 64, fileSystem: 'ext3' },
    { clusterSectors: 64, version: 1, fileSystemBlockBytes: 1024 },
    { clusterSectors: 16384, lazy: false },
  ]
  for (const one of cases) {
    await t.test(JSON.stringify(one), async t => {
      const folder = imageFolder(t)
      const imagePath = join(folder, 'root.hds')
      const input = { ...defaults, imagePath, sizeSectors: gibibyteSectors, ...one }
      const result = await init(input, context())
      t.equal(result.descriptorPath, join(folder, 'DiskDescriptor.xml'))
      t.same(readdirSync(folder).sort(), [
        ...['DiskDescriptor.xml', 'DiskDescriptor.xml.lck', 'root.hds'],
      ])
      t.equal(statSync(imagePath).mode & 0o777, 0o600)
      if (one.mode === undefined) {
        t.ok(statSync(imagePath).size < 100 * mebibyte, 'zeros take no space')
      }
      const counts = await info(
        {
          descriptorPath: result.descriptorPath,
          ...{ size: false, device: false },
          fileSystem: true,
        },
        context(),
      )
      t.equal(counts.fileSystem?.blockBytes, one.fileSystemBlockBytes ?? 4096)
      const { inodeCount = 0, freeInodeCount = 0 } = counts.fileSystem ?? {}
      t.equal(inodeCount - freeInodeCount, 12)
      await judge(t, folder, input)
    })
  }
})

t.test('small disks leave the size of the journal to mkfs', { skip }, async t => {
  const folder = imageFolder(t)
  const input = { ...defaults, imagePath: join(folder, 'x'), sizeSectors: 64 * 2048 }
  await init(input, context())
  await judge(t, folder, input)
})

t.test(
  'a size of cluster that cannot be is refused before the directory is looked for',
  async t => {
    const input = { sizeSectors: 2048, clusterSectors: 65, imagePath: '/no/such/folder/disk.hds' }
    const error = await failureOf(
      init(
        {
          ...input,
          ...{ mode: 'expanded', version: 2, fileSystem: 'none' },
          ...{ fileSystemBlockBytes: 4096, lazy: true },
        },
        context(),
      ),
    )
    t.match(error, { exitStatus: 38 })
  },
)

t.test('sizes are rounded up to clusters', async t => {
  const folder = imageFolder(t)
  const imagePath = join(folder, 'x')
  const result = await init(
    { ...defaults, imagePath, sizeSectors: 1_000_001, fileSystem: 'none' },
    context(),
  )
  t.equal(result.sizeSectors, 1_001_472)
  t.equal(statSync(imagePath).size, mebibyte)
  t.match(readFileSync(result.descriptorPath, 'utf8'), '<Disk_size>1001472</Disk_size>')
})

t.test('a disk without a file system is made as genuine ploop makes it', async t => {
  const folder = imageFolder(t)
  const imagePath = join(folder, 'x')
  const input = { ...defaults, imagePath, sizeSectors: 20480, fileSystem: 'none' } as const
  await init(input, context())
  const header = readFileSync(imagePath).subarray(0, 64).toString('hex')
  t.equal(
    header,
    Buffer.from('WithouFreSpacExt').toString('hex') +
      '02000000100000002800000000080000' +
      '0a000000005000000000000000000000' +
      '00080000010000000000000000000000',
  )
})

t.test('init with a file system refuses what is too small, and leaves nothing', async t => {
  const folder = imageFolder(t)
  const imagePath = join(folder, 'x')
  const tooSmall = init({ ...defaults, imagePath, sizeSectors: 4096 }, context())
  t.match(await failureOf(tooSmall), {
    exitStatus: 38,
    message: 'Image size should be greater than 2048',
  })
  t.same(readdirSync(folder), [])
})

t.test(
  'when mkfs refuses, status 24 and an empty directory remain',
  { skip: noFileSystems },
  async t => {
    const folder = imageFolder(t)
    const imagePath = join(folder, 'x')
    const input = { ...defaults, imagePath, sizeSectors: 4 * 2048, fileSystemBlockBytes: 4096 }
    t.match(await failureOf(init(input, context())), { exitStatus: 24 })
    const odd = { ...input, sizeSectors: 64 * 2048, fileSystemBlockBytes: 999 }
    t.match(await failureOf(init(odd, context())), { exitStatus: 24 })
    t.same(readdirSync(folder), [])
  },
)

t.test('an init that is interrupted leaves nothing', { skip: noFileSystems }, async t => {
  for (const mode of ['expanded', 'preallocated', 'raw'] as const) {
    const folder = imageFolder(t)
    const stop = new AbortController()
    const progress = {
      update: () => {
        stop.abort()
      },
    }
    const input = { ...defaults, mode, imagePath: join(folder, 'x'), sizeSectors: 64 * 2048 }
    await t.rejects(init(input, { ...context(stop.signal), progress }))
    t.same(readdirSync(folder), [], mode)
  }
})

t.test('names with blanks, quotes and question marks work', { skip: noFileSystems }, async t => {
  const folder = join(imageFolder(t), `a "b" & <c>?d`)
  await runJudge('mkdir', [folder])
  const imagePath = join(folder, `it's;x?y.hds`)
  const made = await init({ ...defaults, imagePath, sizeSectors: 64 * 2048 }, context())
  const descriptorPath = made.descriptorPath
  await snapshot({ descriptorPath }, context())
  const shown = await info(
    { descriptorPath, size: true, device: true, fileSystem: true },
    context(),
  )
  t.match(shown, { size: { sizeSectors: 64 * 2048 }, device: '', fileSystem: { blockBytes: 4096 } })
})

t.test('map covers the disk once, in order, and agrees with qemu-img', { skip }, async t => {
  const folder = imageFolder(t)
  const imagePath = join(folder, 'x')
  const sizeSectors = 300 * 2048
  const made = await init({ ...defaults, imagePath, sizeSectors }, context())
  const second = await snapshot({ descriptorPath: made.descriptorPath }, context())
  const extents: MapExtent[] = []
  let facts: MapFacts | undefined
  const input = { path: made.descriptorPath, isDescriptor: true }
  await map(
    input,
    context(),
    seen => (facts = seen),
    extent => void extents.push(extent),
  )
  t.same(facts, {
    ...{ sizeBytes: sizeSectors * 512, clusterBytes: mebibyte },
    paths: [imagePath, second.path],
  })
  let position = 0
  for (const extent of extents) {
    t.equal(extent.offsetBytes, position)
    t.equal(extent.level, extent.kind === 'hole' ? undefined : 0)
    position += extent.lengthBytes
  }
  t.equal(position, sizeSectors * 512)
  const theirs = JSON.parse(
    await runJudge('qemu-img', ['map', '--output=json', '-f', 'parallels', imagePath]),
  ) as { start: number; length: number; data: boolean; offset?: number }[]
  const owned = theirs.filter(one => one.data).reduce((sum, one) => sum + one.length, 0)
  const ours = extents
    .filter(one => one.kind !== 'hole')
    .reduce((sum, one) => sum + one.lengthBytes, 0)
  t.equal(ours, owned)
  for (const one of theirs.filter(one => one.data)) {
    const at = extents.find(
      extent =>
        extent.offsetBytes <= one.start && one.start < extent.offsetBytes + extent.lengthBytes,
    )
    t.equal((at?.fileOffsetBytes ?? 0) + one.start - (at?.offsetBytes ?? 0), one.offset)
  }
})

t.test('info says what is wrong with a disk that holds no file system', async t => {
  const folder = imageFolder(t)
  const imagePath = join(folder, 'x')
  const made = await init(
    { ...defaults, imagePath, sizeSectors: 20480, fileSystem: 'none' },
    context(),
  )
  const input = {
    descriptorPath: made.descriptorPath,
    size: false,
    device: false,
    fileSystem: true,
  }
  t.match(await failureOf(info(input, context())), { exitStatus: 21, code: 'NO_FILE_SYSTEM' })
  writeFileSync(join(folder, '.statfs'), 'short')
  t.match(await failureOf(info(input, context())), { code: 'NO_FILE_SYSTEM' })
})

t.test('map refuses entries that lead nowhere, and says who lists them', async t => {
  for (const [what, entry, code] of [
    ['beyond the end of the file', 9, 'BAT_BEYOND_EOF'],
    ['inside of a cluster', 2049, 'BAT_ENTRY'],
  ] as const) {
    const folder = imageFolder(t)
    const imagePath = join(folder, 'x')
    const version = code === 'BAT_ENTRY' ? 1 : 2
    await init(
      { ...defaults, version, imagePath, sizeSectors: 20480, fileSystem: 'none' },
      context(),
    )
    const bytes = readFileSync(imagePath)
    bytes.writeUInt32LE(entry, 64)
    writeFileSync(imagePath, bytes)
    const nothing = (): void => undefined
    const action = map({ path: imagePath, isDescriptor: false }, context(), nothing, nothing)
    t.match(await failureOf(action), { exitStatus: 11, code, hint: /check -f/ }, what)
  }
})

t.test('a chain whose clusters differ is refused', async t => {
  const folder = imageFolder(t)
  const imagePath = join(folder, 'x')
  const made = await init(
    { ...defaults, imagePath, sizeSectors: 20480, fileSystem: 'none' },
    context(),
  )
  const { path } = await snapshot({ descriptorPath: made.descriptorPath }, context())
  const bytes = readFileSync(path)
  bytes.writeUInt32LE(1024, 28)
  bytes.writeUInt32LE(20, 32)
  writeFileSync(path, bytes)
  truncateSync(path, mebibyte)
  const nothing = (): void => undefined
  const input = { path: made.descriptorPath, isDescriptor: true }
  t.match(await failureOf(map(input, context(), nothing, nothing)), { exitStatus: 38 })
})

t.test('nobody is left behind by programs', async t => {
  const left = await runProgram('sh', ['-c', 'ls /tmp/ploop-nbd-*.tmp 2>/dev/null'])
  t.equal(left.stdout, '')
})

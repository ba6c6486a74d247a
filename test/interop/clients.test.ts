// SPDX-License-Identifier: MIT
/** Programs that people use, against the built server: libnbd, QEMU, fio, a kernel file system. */
import { mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Random } from '../simulation/random.js'
import { writeChain } from '../support/chain-files.js'
import { NbdClient } from '../support/nbd-client.js'
import { checkout, runJudge, runProgram } from '../support/programs.js'
import { requires } from '../support/requires.js'
import { Served } from '../support/served.js'
import { imageFolder, socketFolder } from '../support/temp-dir.js'

t.setTimeout(300_000)

const mib = 1024 * 1024
const clusterBytes = 65536
const seed = Number(process.env['TEST_SEED'] ?? Date.now() % 1_000_000)
t.comment(`TEST_SEED=${seed}`)

/** An empty disk of one delta, made by QEMU. */
async function emptyImage(t: Test, size: string, cluster = clusterBytes): Promise<string> {
  const image = join(imageFolder(t), 'disk.hds')
  const options = ['-q', '-f', 'parallels', '-o', `cluster_size=${cluster}`]
  await runJudge('qemu-img', ['create', ...options, image, size])
  return image
}

const qemuIo = (target: readonly string[], commands: readonly string[]): Promise<string> =>
  runJudge('qemu-io', [...target.slice(1), ...commands.flatMap(c => ['-c', c]), target[0] ?? ''])

/** Offsets and lengths of every kind: inside a sector, over clusters, over many of them. */
const qemuIoScript = [
  'write -P 1 0 1',
  'write -P 2 511 2',
  'write -P 3 12345 100001',
  'write -P 4 65536 65536',
  'write -P 5 1000000 3000000',
  'read -P 5 1000001 2999999',
  'write -z 1048576 524288',
  'write -z 1600001 7',
  'write -z -u 2097152 1048576',
  'read -P 0 2097152 1048576',
  'read -P 5 1600000 1',
  'read -P 0 1600001 7',
  'read -P 5 1600008 4096',
  'write -P 6 -f 33554431 70000',
  'aio_write -P 7 8388608 1048577',
  'aio_write -P 8 10485760 4096',
  'aio_write -P 9 10489856 999',
  'aio_flush',
  'read -P 7 8388608 1048577',
  'flush',
  'write -P 10 67108863 1',
  'read -P 0 50331648 1048576',
  'discard 67043328 65535',
]

t.test(
  'qemu-io leaves the same disk as on a raw file, with both engines and all cache modes',
  { skip: requires('qemu-img', 'qemu-io') },
  async t => {
    const reference = join(imageFolder(t), 'reference.raw')
    writeFileSync(reference, '')
    await runJudge('truncate', ['-s', '64M', reference])
    await qemuIo([reference, '-f', 'raw'], qemuIoScript)
    for (const engine of ['uring', 'threads']) {
      for (const cache of ['direct', 'buffered', 'auto']) {
        const image = await emptyImage(t, '64M')
        const served = await Served.start(t, ['--engine', engine, '--cache', cache, image])
        const said = await qemuIo([served.uri, '-f', 'raw'], qemuIoScript)
        t.notMatch(said, /verification failed|error/i, `${engine} ${cache}`)
        await runJudge('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', served.uri, reference])
        await served.stop()
        await runJudge('qemu-img', ['check', '-q', '-f', 'parallels', image])
        const atRest = ['compare', '-f', 'parallels', '-F', 'raw', image, reference]
        t.match(await runJudge('qemu-img', atRest), 'identical', `${engine} ${cache} at rest`)
      }
    }
  },
)

t.test(
  'nbdinfo tells size, abilities and the owner of every cluster of a chain',
  { skip: requires('nbdinfo') },
  async t => {
    const random = new Random(seed)
    const shape = { levelCount: 3, clusterBytes, clusterCount: 200 }
    const chain = writeChain(imageFolder(t), shape, random)
    const served = await Served.start(t, [...chain.paths])
    const info = JSON.parse(await runJudge('nbdinfo', ['--json', served.uri])) as {
      exports: Record<string, unknown>[]
    }
    t.match(info.exports[0], {
      'export-size': 200 * clusterBytes,
      is_read_only: false,
      can_cache: true,
      can_df: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      block_size_minimum: 1,
    })
    t.match(await runJudge('nbdinfo', ['--list', served.uri]), 'level-2.hds')
    t.equal(await runJudge('nbdinfo', ['--size', served.uri]), `${200 * clusterBytes}\n`)
    const owners = ownersOf(chain.content)
    const maps: readonly [string, (owner: number) => number][] = [
      ['base:allocation', owner => (owner === 0 ? 3 : 0)],
      ['qemu:allocation-depth', owner => (owner === 0 ? 0 : 4 - owner)],
      ['x-ploop:layer', owner => owner],
    ]
    for (const [context, statusOf] of maps) {
      const text = await runJudge('nbdinfo', ['--json', `--map=${context}`, served.uri])
      const extents = JSON.parse(text) as { offset: number; length: number; type: number }[]
      const found = extents.flatMap(({ length, type }) =>
        Array<number>(length / clusterBytes).fill(type),
      )
      t.strictSame(found, owners.map(statusOf), context)
    }
    await served.stop()
  },
)

/** Level + 1 by cluster, as the stamps tell; 0 = nobody. */
function ownersOf(content: Buffer): number[] {
  const owners: number[] = []
  for (let at = 0; at < content.length; at += clusterBytes)
    owners.push(content.readUInt32LE(at + 4))
  return owners
}

t.test(
  'nbdcopy brings a file with holes in and out again over four connections',
  { skip: requires('nbdcopy', 'nbdinfo', 'cmp') },
  async t => {
    const random = new Random(seed + 1)
    const folder = imageFolder(t)
    const source = join(folder, 'source')
    const back = join(folder, 'back')
    const chain = writeChain(
      folder,
      { levelCount: 1, clusterBytes: 131072, clusterCount: 500, rawBase: true, density: 0.3 },
      random,
    )
    await runJudge('cp', ['--sparse=always', chain.paths[0] ?? '', source])
    const image = await emptyImage(t, String(500 * 131072))
    const served = await Served.start(t, [image])
    const many = ['--connections=4', '--requests=16', '--flush']
    await runJudge('nbdcopy', [...many, source, served.uri])
    await runJudge('nbdcopy', [...many, served.uri, back])
    await runJudge('cmp', [source, back])
    const totals = await runJudge('nbdinfo', ['--map', '--totals', served.uri])
    t.match(totals, /hole/, 'holes stay holes')
    await runJudge('nbdcopy', ['--synchronous', served.uri, back])
    await runJudge('cmp', [source, back])
    await served.stop()
    await runJudge('qemu-img', ['compare', '-f', 'parallels', '-F', 'raw', image, source])
  },
)

t.test(
  'qemu-img maps, converts in both directions, compares and benches a served disk',
  { skip: requires('qemu-img') },
  async t => {
    const random = new Random(seed + 2)
    const folder = imageFolder(t)
    const shape = { levelCount: 1, clusterBytes: mib, clusterCount: 60 }
    const chain = writeChain(folder, shape, random)
    const source = chain.paths[0] ?? ''
    const image = await emptyImage(t, '60M', mib)
    const served = await Served.start(t, ['--cache', 'auto', image])
    const convert = ['convert', '-n', '-f', 'parallels', '-O', 'raw', '-m', '8']
    await runJudge('qemu-img', [...convert, '-W', '-t', 'none', source, served.uri])
    await runJudge('qemu-img', ['compare', '-f', 'parallels', '-F', 'raw', source, served.uri])
    await runJudge('qemu-img', [...convert, '-t', 'writeback', source, served.uri])
    await runJudge('qemu-img', ['compare', '-f', 'parallels', '-F', 'raw', source, served.uri])
    const mapText = await runJudge('qemu-img', ['map', '--output=json', '-f', 'raw', served.uri])
    const map = JSON.parse(mapText) as { start: number; length: number; data: boolean }[]
    const hasData = map.flatMap(({ length, data }) => Array<boolean>(length / mib).fill(data))
    const wanted = [...Array(60).keys()].map(
      index => chain.content.readUInt32LE(index * mib + 4) !== 0,
    )
    t.strictSame(hasData, wanted, 'data where the source has it, and nowhere else')
    const out = join(folder, 'out.qcow2')
    await runJudge('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', served.uri, out])
    await runJudge('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', out, served.uri])
    for (const cache of ['none', 'writeback', 'unsafe']) {
      const bench = ['bench', '-f', 'raw', '-t', cache, '-d', '32', '-c', '500', '-s', '4096']
      await runJudge('qemu-img', [...bench, '-S', '69632', served.uri])
      const flushing = ['--flush-interval=50', '-w', '--pattern=7']
      await runJudge('qemu-img', [...bench, ...flushing, '-S', '4096', served.uri])
    }
    await served.stop()
    await runJudge('qemu-img', ['check', '-q', '-f', 'parallels', image])
  },
)

t.test(
  'fio verifies random writes, reads and discards on several connections',
  { skip: requires('fio') },
  async t => {
    for (const [engine, cache] of [
      ['uring', 'direct'],
      ['threads', 'buffered'],
    ] as const) {
      const image = await emptyImage(t, '96M')
      const served = await Served.start(t, ['--engine', engine, '--cache', cache, image])
      const common = ['--ioengine=nbd', `--uri=${served.uri}`, '--minimal', '--verify_fatal=1']
      const seeds = [`--randseed=${seed}`, '--verify=crc32c', '--iodepth=32', '--group_reporting']
      const jobs = ['--numjobs=4', '--size=16m', '--offset_increment=24m', '--io_size=16m']
      const work = [...common, ...seeds, ...jobs, `--aux-path=${imageFolder(t)}`]
      const fio = { cwd: imageFolder(t), timeoutMs: 120_000 }
      const mixed = [
        '--rw=randwrite',
        '--bsrange=512-70k',
        '--bs_unaligned=1',
        '--verify_backlog=64',
      ]
      await runJudge('fio', ['--name=mixed', ...mixed, ...work], fio)
      await runJudge('fio', ['--name=rw', '--rw=randrw', '--bs=4k', '--fsync=100', ...work], fio)
      // With --trim_percentage fio 3.33 frees a pointer twice, whatever it talks to.
      const trims = ['--rw=randtrimwrite', '--bs=64k']
      await runJudge('fio', ['--name=trim', ...trims, ...work], fio)
      t.pass(`${engine} ${cache}`)
      await served.stop()
      await runJudge('qemu-img', ['check', '-q', '-f', 'parallels', image])
    }
  },
)

t.test(
  'libnbd without its own checks gets the answers that the protocol asks for',
  { skip: requires('/usr/lib/python3/dist-packages/nbd.py') },
  async t => {
    for (const engine of ['uring', 'threads']) {
      const image = await emptyImage(t, '160M', mib)
      const readOnlyImage = await emptyImage(t, '160M', mib)
      const served = await Served.start(t, ['--engine', engine, image])
      const readOnly = await Served.start(t, ['--engine', engine, '-r', readOnlyImage])
      const script = join(checkout, 'test', 'interop', 'libnbd-session.py')
      const said = await runJudge('/usr/bin/python3', [script, served.uri, readOnly.uri])
      for (const line of said.trim().split('\n')) t.match(line, /^ok /, `${engine}: ${line}`)
      await served.stop()
      await readOnly.stop()
    }
  },
)

t.test('a command that nobody knows is refused, and the connection lives on', async t => {
  const image = await emptyImage(t, '8M')
  const served = await Served.start(t, [image])
  for (const structured of [true, false]) {
    const client = await NbdClient.connect(served.socket, '', { extended: false, structured })
    for (const command of [8, 9, 100, 0xffff]) {
      const request = { command, offsetBytes: 0, lengthBytes: 512 }
      await t.rejects(client.request(request), { name: 'Refused', error: 22 }, String(command))
    }
    t.strictSame(Buffer.from(await client.read(0, 512)), Buffer.alloc(512))
    await client.disconnect()
  }
  await served.stop()
})

const fuse = requires(
  'nbdfuse',
  'losetup',
  'mkfs.ext4',
  'fstrim',
  'root',
  '/dev/fuse',
  '/dev/loop0',
)

t.test('a real ext4 with real files lives on a served disk', { skip: fuse }, async t => {
  const image = await emptyImage(t, '256M', mib)
  const served = await Served.start(t, [image])
  const folder = socketFolder(t)
  const disk = join(folder, 'disk')
  const mountPoint = join(folder, 'mnt')
  mkdirSync(mountPoint)
  writeFileSync(disk, '')
  const nbdfuse = spawn('nbdfuse', [disk, served.uri], { stdio: 'inherit' })
  const fuseEnded = new Promise(resolve => nbdfuse.on('close', resolve))
  t.teardown(async () => {
    await runProgram('umount', [mountPoint])
    await runProgram('fusermount3', ['-u', disk])
    nbdfuse.kill()
    await fuseEnded
  })
  await appears(() => statSync(disk).size === 256 * mib)
  await runJudge('mkfs.ext4', ['-q', '-F', disk])
  await runJudge('mount', ['-o', 'loop,discard', disk, mountPoint])
  const tree = join(checkout, 'node_modules', 'typescript', 'lib')
  await runJudge('cp', ['-r', tree, join(mountPoint, 'one')])
  await runJudge('cp', ['-r', join(checkout, 'src'), join(mountPoint, 'src')])
  const sums = await sumsOf(tree)
  t.equal(await sumsOf(join(mountPoint, 'one')), sums, 'from the page cache')
  await runJudge('cp', ['-r', join(mountPoint, 'one'), join(mountPoint, 'two')])
  await runJudge('rm', ['-r', join(mountPoint, 'one')])
  await runJudge('sync', ['-f', mountPoint])
  t.match(await runJudge('fstrim', ['-v', mountPoint]), /trimmed/)
  await runJudge('umount', [mountPoint])
  await runJudge('mount', ['-o', 'loop', disk, mountPoint])
  t.equal(await sumsOf(join(mountPoint, 'two')), sums, 'after a remount')
  t.equal(await sumsOf(join(mountPoint, 'src')), await sumsOf(join(checkout, 'src')))
  await runJudge('umount', [mountPoint])
  await runJudge('e2fsck', ['-fn', disk])
  await runJudge('fusermount3', ['-u', disk])
  await fuseEnded
  await served.stop()
  const raw = join(imageFolder(t), 'raw')
  await runJudge('qemu-img', ['convert', '-f', 'parallels', '-O', 'raw', image, raw])
  await runJudge('e2fsck', ['-fn', raw])
  t.pass('e2fsck is content, served and at rest')
})

/** The checksums of a tree's files, in one text. */
async function sumsOf(folder: string): Promise<string> {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter(entry => entry.isFile())
    .map(entry => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort()
  return await runJudge('sha256sum', files, { cwd: folder })
}

/** Waits for what another process brings about without telling. */
async function appears(isThere: () => boolean): Promise<void> {
  for (let turn = 0; turn < 600; turn++) {
    if (isThere()) return
    await delay(50)
  }
  throw new Error('it did not appear within 30 s')
}

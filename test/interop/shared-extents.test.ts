// SPDX-License-Identifier: MIT
/**
 * Copy-on-write where the file system shares extents: the kernel copies clusters between deltas
 * without moving data, and QEMU's tools compare what comes out with a plain file.
 */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Random } from '../simulation/random.js'
import { ploopNbd, runJudge } from '../support/programs.js'
import { requires } from '../support/requires.js'
import { Served } from '../support/served.js'
import { imageFolder } from '../support/temp-dir.js'

const skip = requires('qemu-img', 'qemu-io', 'mkfs.xfs', 'mount', 'root')
const seed = Number(process.env['TEST_SEED'] ?? Date.now() % 1_000_000)
t.comment(`TEST_SEED=${seed}`)
t.setTimeout(120_000)

/** A folder on a new XFS, gone after the test. */
async function xfsFolder(t: Test): Promise<string> {
  const folder = imageFolder(t)
  const image = join(folder, 'xfs.img')
  const mountPoint = join(folder, 'xfs')
  mkdirSync(mountPoint)
  await runJudge('truncate', ['-s', '1G', image])
  await runJudge('mkfs.xfs', ['-q', '-m', 'reflink=1', image])
  await runJudge('mount', ['-o', 'loop', image, mountPoint])
  t.teardown(() => runJudge('umount', [mountPoint]))
  return mountPoint
}

for (const cache of ['direct', 'buffered']) {
  t.test(`XFS, ${cache}: copied clusters hold the parent's data and the new`, { skip }, async t => {
    const random = new Random(seed)
    const folder = await xfsFolder(t)
    const descriptor = join(folder, 'DiskDescriptor.xml')
    const plain = join(folder, 'plain')
    const commands = ['-c', 'write -P 0x11 0 64M']
    await ploopNbd(['init', '-s', '64M', '-t', 'none', join(folder, 'base.hds')])
    await runJudge('truncate', ['-s', '64M', plain])
    await runJudge('qemu-io', ['-f', 'raw', ...commands, plain])
    const base = await Served.start(t, ['--cache', cache, descriptor])
    await runJudge('qemu-io', ['-f', 'raw', ...commands, base.uri])
    await base.stop()
    await ploopNbd(['snapshot', descriptor])
    const top = await Served.start(t, ['--cache', cache, descriptor])
    const writes: string[] = []
    for (let turn = 0; turn < 40; turn++) {
      const length = random.between(1, 20_000)
      const offset = random.below(64 * 1024 * 1024 - length)
      writes.push('-c', `write -P ${random.between(1, 255)} ${offset} ${length}`)
    }
    for (const target of [plain, top.uri]) {
      await runJudge('qemu-io', ['-f', 'raw', ...writes, target])
    }
    t.match(
      await runJudge('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', plain, top.uri]),
      'Images are identical',
    )
    await top.stop()
    const shared = await runJudge('filefrag', ['-v', join(folder, 'base.hds')])
    t.match(shared, 'shared', 'the parent and the top share extents')
  })
}

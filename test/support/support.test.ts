// SPDX-License-Identifier: MIT
/** The judges themselves: a test that asks one must be able to believe its answer. */
import { statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { genuineCheck, requiresGenuinePloop } from './genuine-ploop.js'
import { runJudge, runProgram } from './programs.js'
import { requires } from './requires.js'
import { imageFolder, socketFolder } from './temp-dir.js'

t.test('a test that needs a missing program is skipped with a reason', async t => {
  t.equal(requires('sh'), false)
  t.equal(
    requires('sh', 'no-such-program', '/no/such/file'),
    'needs no-such-program, /no/such/file',
  )
})

t.test('folders of a test are gone when it has ended', async t => {
  let folders: string[] = []
  await t.test('inside', async t => {
    folders = [imageFolder(t), socketFolder(t)]
    for (const folder of folders) t.ok(statSync(folder).isDirectory())
    t.ok(Buffer.byteLength(folders[1] ?? '') < 80, 'a socket path in it stays below 107 bytes')
  })
  for (const folder of folders) t.throws(() => statSync(folder), { code: 'ENOENT' })
})

t.test('a judge that fails is quoted with its status and its words', async t => {
  await t.rejects(runJudge('sh', ['-c', 'echo said >&2; exit 7']), /status 7\nsaid/)
  t.equal((await runProgram('sh', ['-c', 'exit 7'])).status, 7)
})

t.test(
  'the genuine tool accepts an image of version 2 that qemu-img made, and refuses a broken one',
  { skip: requiresGenuinePloop() || requires('qemu-img') },
  async t => {
    const image = join(imageFolder(t), 'root.hds')
    await runJudge('qemu-img', ['create', '-q', '-f', 'parallels', image, '64M'])
    const sound = await genuineCheck(image)
    t.equal(sound.status, 0, sound.stderr)
    truncateSync(image, 0)
    writeFileSync(image, 'not an image'.padEnd(8192))
    t.equal((await genuineCheck(image)).status, 11)
  },
)

// SPDX-License-Identifier: MIT
/** Programs of the machine: deadlines, missing programs, and file systems made without a device. */
import { execFileSync } from 'node:child_process'
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { PloopError } from '../../src/base/errors.js'
import {
  balloonName,
  makeBalloonFile,
  makeFileSystem,
  mkfsArguments,
  readCounts,
  verifyFileSystem,
} from '../../src/host/filesystem.js'
import { findProgram, lastWords, run } from '../../src/host/run.js'

const mebibyte = 1024 * 1024
const hasE2fsprogs = findProgram('mkfs.ext4') !== undefined
const skip = hasE2fsprogs ? false : 'e2fsprogs is not installed'

async function failureOf(action: Promise<unknown>): Promise<PloopError> {
  const cause: unknown = await action.then(
    () => undefined,
    (cause: unknown) => cause,
  )
  if (cause instanceof PloopError) return cause
  throw new Error(`expected a PloopError, got ${String(cause)}`)
}

t.test('a program gets its arguments as they are, never through a shell', async t => {
  const result = await run('printf', ['%s|', '$(id)', 'a b', ';'], { status: 'system' })
  t.same(result, { status: 0, stdout: '$(id)|a b|;|', stderr: '' })
})

t.test('output, errors and status of a program are the caller’s to judge', async t => {
  const result = await run('sh', ['-c', 'cat; echo sorry >&2; exit 3'], {
    status: 'system',
    input: 'in',
  })
  t.same(result, { status: 3, stdout: 'in', stderr: 'sorry\n' })
})

t.test('a missing program is named together with the package that has it', async t => {
  const options = { status: 'mkfs', package: 'e2fsprogs' } as const
  const failure = await failureOf(run('no-such-program-here', [], options))
  t.match(failure, { exitStatus: 24, hint: 'install the package e2fsprogs' })
  t.match(failure.message, /no-such-program-here is not installed/)
})

t.test('a program that is late is ended, and says so', async t => {
  const failure = await failureOf(run('sleep', ['60'], { status: 'system', timeoutMs: 20 }))
  t.match(failure, { exitStatus: 12, message: 'sleep did not end within 0.02 s' })
})

t.test('a program is ended by an abort, also by one that came first', async t => {
  const signal = AbortSignal.abort()
  const failure = await failureOf(run('sleep', ['60'], { status: 'mkfs', signal }))
  t.match(failure, { code: 'INTERRUPTED', exitStatus: 12, message: 'sleep was interrupted' })
})

t.test('a program that dies of a signal fails', async t => {
  const failure = await failureOf(
    run('sh', ['-c', 'echo oops >&2; kill -9 $$'], { status: 'fsck' }),
  )
  t.equal(failure.message, 'sh died of SIGKILL; it said: oops')
})

t.test('the last words of a program are one short line', t => {
  t.equal(lastWords('a\n\n b \nc\n'), 'b; c')
  t.equal(lastWords('x'.repeat(900)).length, 400)
  t.end()
})

t.test('mkfs gets the options that ploop disks get', t => {
  const common = { type: 'ext4', blockBytes: 4096, sizeBytes: 1024 * mebibyte } as const
  t.equal(
    mkfsArguments({ ...common, lazy: true }).join(' '),
    '-q -F -j -b 4096 -E lazy_itable_init=1,resize=4294967295,root_owner=0:0 -J size=128 -i 16384',
  )
  t.match(mkfsArguments({ ...common, lazy: false }).join(' '), /=0,lazy_journal_init=0,resize=/)
  const small = mkfsArguments({ ...common, lazy: true, sizeBytes: 255 * mebibyte })
  t.notOk(small.includes('-J'), 'a journal of 128 MiB does not fit into half of it')
  t.end()
})

for (const type of ['ext3', 'ext4'] as const) {
  t.test(
    `${type} is made in a plain file with a balloon that e2fsck accepts`,
    { skip },
    async t => {
      const path = join(t.testdir({ 'part.raw': '' }), 'part.raw')
      truncateSync(path, 64 * mebibyte)
      const sizeBytes = 64 * mebibyte
      await makeFileSystem(path, { type, blockBytes: 1024, lazy: true, sizeBytes })
      await makeBalloonFile({ path })
      await verifyFileSystem({ path })
      const debugfs = (request: string): string =>
        execFileSync('debugfs', ['-R', request, path], { encoding: 'utf8', stdio: 'pipe' })
      t.match(debugfs(`stat ${balloonName}`), /Mode: +0600[^]*Size: 0/)
      const superblock = execFileSync('dumpe2fs', ['-h', path], { encoding: 'utf8', stdio: 'pipe' })
      t.match(superblock, /Default mount options: +user_xattr acl/)
      t.match(superblock, /Errors behavior: +Remount read-only/)
      t.match(superblock, /Maximum mount count: +-1/)
      const counts = await readCounts({ path })
      t.equal(counts.blockBytes, 1024)
      t.equal(counts.inodeCount - counts.freeInodeCount, 12)
      t.ok(counts.blockCount > counts.freeBlockCount && counts.blockCount < 65536)
    },
  )
}

t.test('counts are read from the first blocks alone', { skip }, async t => {
  const dir = t.testdir({ 'part.raw': '', head: '' })
  const path = join(dir, 'part.raw')
  const sizeBytes = 32 * mebibyte
  truncateSync(path, sizeBytes)
  await makeFileSystem(path, { type: 'ext4', blockBytes: 4096, lazy: true, sizeBytes })
  writeFileSync(join(dir, 'head'), readFileSync(path).subarray(0, 4096))
  truncateSync(join(dir, 'head'), sizeBytes)
  t.same(await readCounts({ path: join(dir, 'head') }), await readCounts({ path }))
})

t.test('a file too small for a file system is refused with status 24', { skip }, async t => {
  const path = join(t.testdir({ p: '' }), 'p')
  truncateSync(path, mebibyte)
  const options = { type: 'ext4', blockBytes: 4096, lazy: true, sizeBytes: mebibyte } as const
  const failure = await failureOf(makeFileSystem(path, options))
  t.match(failure, { exitStatus: 24, operation: 'mkfs.ext4' })
  t.match(failure.message, /mkfs\.ext4 failed with status 1: /)
})

t.test(
  'a file that holds no file system has no counts and does not pass the check',
  { skip },
  async t => {
    const path = join(t.testdir({ p: '' }), 'p')
    truncateSync(path, mebibyte)
    t.match(await failureOf(readCounts({ path })), { exitStatus: 12 })
    t.match(await failureOf(verifyFileSystem({ path })), { exitStatus: 41 })
    t.match(await failureOf(makeBalloonFile({ path })), { exitStatus: 24 })
  },
)

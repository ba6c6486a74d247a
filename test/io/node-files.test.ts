// SPDX-License-Identifier: MIT
/**
 * The real files: complete reads and writes, errors with their facts, locks, atomic replacement.
 * Everything runs twice: with the addon, if it is there, and with the programs in its place.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { errnoName, PloopError } from '../../src/base/errors.js'
import { removeStale, replaceFile } from '../../src/io/atomic-file.js'
import type { Files } from '../../src/io/files.js'
import { lockDescriptor } from '../../src/io/locks.js'
import { createNodeFiles, nodeFiles } from '../../src/io/node-files.js'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

async function failureOf(action: Promise<unknown>): Promise<PloopError> {
  try {
    await action
  } catch (cause) {
    if (cause instanceof PloopError) return cause
    throw cause
  }
  throw new Error('expected a failure')
}

async function suite(t: Test, files: Files): Promise<void> {
  t.test('a read fills its target and ends short only at the end of the file', async t => {
    const path = join(t.testdir({ a: 'hello' }), 'a')
    const file = await files.open(path, 'read')
    const target = new Uint8Array(10)
    t.equal(await file.read(target, 1), 4)
    t.equal(Buffer.from(target.subarray(0, 4)).toString(), 'ello')
    t.equal(await file.read(target, 99), 0)
    await file.close()
    await file.close()
  })

  t.test('create makes a new file with mode 0600 and refuses one that is there', async t => {
    const path = join(t.testdir(), 'new')
    const file = await files.open(path, 'create')
    await file.write(bytes('data'), 3)
    await file.sync()
    await file.truncate(8)
    t.equal((await file.stat()).sizeBytes, 8)
    await file.close()
    t.equal(statSync(path).mode & 0o777, 0o600)
    t.equal(readFileSync(path, 'latin1'), '\0\0\0data\0')
    const failure = await failureOf(files.open(path, 'create'))
    t.match(failure, { errno: 'EEXIST', exitStatus: 1, path, operation: 'open' })
    t.equal(failure.message, 'cannot create the file: the file exists already')
  })

  t.test('a pipe is refused at once instead of being waited on', async t => {
    const path = join(t.testdir(), 'pipe')
    t.equal(spawnSync('mkfifo', [path]).status, 0)
    t.match(await failureOf(files.open(path, 'read')), { code: 'IO_PIPE', exitStatus: 4, path })
  })

  t.test('failures carry path, errno and the exit status of the system call', async t => {
    const dir = t.testdir({ f: '' })
    const missing = join(dir, 'no', 'such')
    t.match(await failureOf(files.open(missing, 'read')), { errno: 'ENOENT', exitStatus: 4 })
    t.match(await failureOf(files.rename(missing, dir)), { errno: 'ENOENT', exitStatus: 28 })
    t.match(await failureOf(files.unlink(missing)), { errno: 'ENOENT', exitStatus: 35 })
    t.match(await failureOf(files.realPath(missing)), { errno: 'ENOENT', path: missing })
    t.match(await failureOf(files.syncDirectory(join(dir, 'f'))), { errno: 'ENOTDIR' })
    t.equal(await files.stat(missing), undefined)
    t.equal(await files.stat(join(dir, 'f', 'below')), undefined)
    const file = await files.open(join(dir, 'f'), 'read')
    t.match(await failureOf(file.write(bytes('x'), 4096)), { exitStatus: 7, offset: 4096 })
    await file.close()
  })

  t.test('reserved space reads as zeros and extends the file', async t => {
    const file = await files.open(join(t.testdir(), 'r'), 'create')
    await file.write(bytes('ab'), 0)
    await file.allocate(0, 70000)
    const stat = await file.stat()
    t.equal(stat.sizeBytes, 70000)
    t.ok(stat.allocatedBytes >= 65536, 'on this file system space is really reserved')
    const target = new Uint8Array(70000).fill(1)
    t.equal(await file.read(target, 0), 70000)
    t.equal(Buffer.from(target).indexOf(1), -1)
    await file.close()
  })

  t.test('data ranges cover all that was written', async t => {
    const file = await files.open(join(t.testdir(), 'h'), 'create')
    await file.truncate(8 * 1024 * 1024)
    await file.write(bytes('x'), 4 * 1024 * 1024)
    let found = false
    let offset = 0
    for (;;) {
      const range = await file.nextData(offset)
      if (range === undefined) break
      t.ok(range.startBytes >= offset && range.endBytes > range.startBytes)
      if (range.startBytes <= 4194304 && range.endBytes > 4194304) found = true
      offset = range.endBytes
    }
    t.ok(found)
    t.equal(await file.nextData(8 * 1024 * 1024), undefined)
    await file.close()
  })

  t.test('an exclusive lock shuts out everybody, shared ones only the exclusive', async t => {
    const path = join(t.testdir({ l: '' }), 'l')
    const [a, b, c] = await Promise.all([
      files.open(path, 'read-write'),
      files.open(path, 'read-write'),
      files.open(path, 'read'),
    ])
    t.ok(await a.tryLock('exclusive'))
    t.notOk(await b.tryLock('exclusive'))
    t.notOk(await b.tryLock('shared'))
    await a.close()
    t.ok(await b.tryLock('shared'))
    t.ok(await c.tryLock('shared'))
    t.notOk(await c.tryLock('exclusive'))
    await Promise.all([b.close(), c.close()])
  })

  t.test('realPath and list show what is there', async t => {
    const dir = t.testdir({ a: '', b: '' })
    symlinkSync('a', join(dir, 'link'))
    t.equal(await files.realPath(join(dir, 'link')), join(await files.realPath(dir), 'a'))
    t.same((await files.list(dir)).sort(), ['a', 'b', 'link'])
    t.match(await files.stat(dir), { kind: 'directory' })
  })
}

t.test('files of this machine', t => suite(t, nodeFiles))
t.test('files without the addon', t => suite(t, createNodeFiles(undefined)))

t.test('replacing a file leaves the new content alone, overwriting a stale leftover', async t => {
  const dir = t.testdir({ x: 'old', 'x.tmp': 'a crash left this behind, and it is longer' })
  await replaceFile(nodeFiles, join(dir, 'x'), bytes('new'))
  t.equal(readFileSync(join(dir, 'x'), 'utf8'), 'new')
  t.same(await nodeFiles.list(dir), ['x'])
})

t.test('a replacement that fails leaves the old content and nothing else', async t => {
  const dir = t.testdir({ x: 'old' })
  const failing: Files = {
    ...nodeFiles,
    rename: () => Promise.reject(new PloopError('X', 'no', { status: 'rename', errno: 'EIO' })),
  }
  t.match(await failureOf(replaceFile(failing, join(dir, 'x'), bytes('new'))), { errno: 'EIO' })
  t.equal(readFileSync(join(dir, 'x'), 'utf8'), 'old')
  t.same(await nodeFiles.list(dir), ['x'])
})

t.test('removing a leftover minds only failures other than absence', async t => {
  const dir = t.testdir({})
  await removeStale(nodeFiles, join(dir, 'absent'))
  mkdirSync(join(dir, 'd'))
  const failure = await failureOf(removeStale(nodeFiles, join(dir, 'd')))
  t.ok(['EISDIR', 'EPERM'].includes(errnoName(failure) ?? ''))
})

t.test('the descriptor lock is an empty 0600 file beside the XML that stays', async t => {
  const xml = join(t.testdir({ 'D.xml': '' }), 'D.xml')
  const lock = await lockDescriptor(nodeFiles, xml)
  t.ok(lock.created)
  t.equal(statSync(`${xml}.lck`).mode & 0o777, 0o600)
  await lock.release()
  await lock.release()
  const again = await lockDescriptor(nodeFiles, xml)
  t.notOk(again.created)
  await again.release()
})

t.test('other programs see the descriptor lock', async t => {
  const xml = join(t.testdir({ 'D.xml': '' }), 'D.xml')
  const flock = (): number | null =>
    spawnSync('flock', ['--nonblock', '--conflict-exit-code', '75', `${xml}.lck`, 'true']).status
  const lock = await lockDescriptor(nodeFiles, xml)
  t.equal(flock(), 75)
  await lock.release()
  t.equal(flock(), 0)
})

t.test('waiting for a descriptor lock is bounded and ends with status 23', async t => {
  const xml = join(t.testdir({ 'D.xml': '' }), 'D.xml')
  const lock = await lockDescriptor(nodeFiles, xml)
  let waits = 0
  const options = { timeoutMs: 30, onWait: () => (waits += 1) }
  const failure = await failureOf(lockDescriptor(nodeFiles, xml, options))
  t.match(failure, { exitStatus: 23, message: `The ${xml} is locked` })
  t.equal(waits, 1)
  await lock.release()
})

t.test('who waits gets the lock as soon as it is given back', async t => {
  const xml = join(t.testdir({ 'D.xml': '' }), 'D.xml')
  const lock = await lockDescriptor(nodeFiles, xml)
  const second = await lockDescriptor(nodeFiles, xml, { onWait: () => void lock.release() })
  t.notOk(second.created)
  await second.release()
})

t.test('a lock on a lock file that was removed meanwhile does not count', async t => {
  const xml = join(t.testdir({ 'D.xml': '' }), 'D.xml')
  const first = await lockDescriptor(nodeFiles, xml)
  const onWait = (): void => {
    void nodeFiles.unlink(first.lockPath).then(() => first.release())
  }
  const second = await lockDescriptor(nodeFiles, xml, { onWait })
  t.ok(statSync(`${xml}.lck`).isFile())
  const third = lockDescriptor(nodeFiles, xml, { timeoutMs: 10 })
  t.match(await failureOf(third), { exitStatus: 23 })
  await second.release()
})

t.test('a lock file that cannot be made is a lock error', async t => {
  const dir = t.testdir({ f: '' })
  writeFileSync(join(dir, 'f'), '')
  t.match(await failureOf(lockDescriptor(nodeFiles, join(dir, 'f', 'D.xml'))), { exitStatus: 23 })
})

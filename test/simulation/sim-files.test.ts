// SPDX-License-Identifier: MIT
/** The simulated storage as work at rest sees it: files, names, locks, and the power failing. */
import t from 'tap'
import { errnoName, PloopError } from '../../src/base/errors.js'
import { PowerLost, SimFiles } from './sim-files.js'
import { Storage } from './storage.js'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

async function textOf(files: SimFiles, path: string): Promise<string> {
  const handle = await files.open(path, 'read')
  const { sizeBytes } = await handle.stat()
  const target = new Uint8Array(sizeBytes)
  await handle.read(target, 0)
  await handle.close()
  return new TextDecoder().decode(target)
}

async function writeFile(files: SimFiles, path: string, text: string): Promise<void> {
  const handle = await files.open(path, 'create')
  await handle.write(bytes(text), 0)
  await handle.sync()
  await handle.close()
}

/** How the promise failed: errno and path, or 'done'. */
async function failureOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'done',
    (error: unknown) =>
      `${errnoName(error) ?? String(error)} ${error instanceof PloopError ? error.path : ''}`,
  )
}

/** What a power cut after these steps leaves, for many seeds. */
async function outcomesOf(
  steps: (files: SimFiles) => Promise<void>,
  look: (files: SimFiles) => Promise<string>,
): Promise<string[]> {
  const outcomes = new Set<string>()
  for (let seed = 1; seed <= 40; seed++) {
    const files = new SimFiles(new Storage(seed))
    files.storage.directory.makeDirectory('/d')
    await steps(files)
    files.restart()
    outcomes.add(await look(files))
  }
  return [...outcomes].sort()
}

const lookAt =
  (path: string) =>
  async (files: SimFiles): Promise<string> =>
    (await files.stat(path)) === undefined ? 'no such file' : textOf(files, path)

t.test('a new name is durable only after its directory was synced', async t => {
  const create = (files: SimFiles): Promise<void> => writeFile(files, '/d/a', 'hello')
  t.same(await outcomesOf(create, lookAt('/d/a')), ['hello', 'no such file'])
  const createAndSync = async (files: SimFiles): Promise<void> => {
    await create(files)
    await files.syncDirectory('/d')
  }
  t.same(await outcomesOf(createAndSync, lookAt('/d/a')), ['hello'])
})

t.test('a durable name of a file that was not synced may lead to nothing', async t => {
  const steps = async (files: SimFiles): Promise<void> => {
    const handle = await files.open('/d/a', 'create')
    await handle.write(bytes('hello'), 0)
    await files.syncDirectory('/d')
  }
  const outcomes = await outcomesOf(steps, lookAt('/d/a'))
  t.ok(outcomes.includes(''))
  t.ok(outcomes.includes('hello'))
})

t.test('a rename shows the old file or the new one, never none', async t => {
  const steps = async (files: SimFiles): Promise<void> => {
    await writeFile(files, '/d/a', 'old')
    await writeFile(files, '/d/a.new', 'new')
    await files.syncDirectory('/d')
    await files.rename('/d/a.new', '/d/a')
  }
  t.same(await outcomesOf(steps, lookAt('/d/a')), ['new', 'old'])
})

t.test(
  'the power fails in the middle of the chosen event, and nothing works afterwards',
  async t => {
    const files = new SimFiles(new Storage(1))
    await writeFile(files, '/a', 'old')
    await files.syncDirectory('/')
    files.eventCount = 0
    files.cutPowerAt = 2
    const handle = await files.open('/a', 'read-write')
    await handle.write(bytes('n'), 0)
    await t.rejects(handle.sync(), PowerLost)
    await t.rejects(files.unlink('/a'), PowerLost)
    await handle.close()
    files.restart()
    t.equal(await failureOf(handle.write(bytes('x'), 0)), 'EBADF /a')
    t.match(await textOf(files, '/a'), /^(old|nld)$/)
  },
)

t.test('locks exclude each other and end with the handle, the process or the machine', async t => {
  const files = new SimFiles(new Storage(1))
  await writeFile(files, '/a', '')
  await files.syncDirectory('/')
  const [one, two] = [await files.open('/a', 'read'), await files.open('/a', 'read')]
  t.ok(await one.tryLock('shared'))
  t.ok(await two.tryLock('shared'))
  t.notOk(await one.tryLock('exclusive'))
  await two.close()
  t.ok(await one.tryLock('exclusive'))
  const three = await files.open('/a', 'read')
  t.notOk(await three.tryLock('shared'))
  files.killProcess()
  await t.rejects(three.stat(), PowerLost)
  const four = await files.open('/a', 'read')
  t.ok(await four.tryLock('exclusive'))
})

t.test('failures carry errno and path', async t => {
  const files = new SimFiles(new Storage(1))
  t.equal(await failureOf(files.open('/none', 'read')), 'ENOENT /none')
  await writeFile(files, '/a', 'x')
  t.equal(await failureOf(files.open('/a', 'create')), 'EEXIST /a')
  const reader = await files.open('/a', 'read')
  t.equal(await failureOf(reader.write(bytes('y'), 0)), 'EBADF /a')
  files.storage.faults.budgetBytes = 4096
  const writer = await files.open('/a', 'read-write')
  t.equal(await failureOf(writer.write(new Uint8Array(1), 8192)), 'ENOSPC /a')
})

t.test('holes and sizes are told as a file system tells them', async t => {
  const files = new SimFiles(new Storage(1))
  const handle = await files.open('/a', 'create')
  await handle.write(bytes('x'), 1024 * 1024)
  t.equal((await handle.stat()).sizeBytes, 1024 * 1024 + 1)
  const data = await handle.nextData(0)
  t.same(data, { startBytes: 1024 * 1024, endBytes: 1024 * 1024 + 1 })
  t.equal(await handle.nextData(2 * 1024 * 1024), undefined)
  t.equal(await handle.read(new Uint8Array(10), 1024 * 1024), 1, 'short only at the end')
  t.same(await files.list('/'), ['a'])
})

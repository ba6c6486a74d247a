// SPDX-License-Identifier: MIT
/**
 * The real server killed under load that is never flushed: everything it answered is there when the
 * disk is opened next, whoever opens it. TEST_SEED=N repeats the load, TEST_KILLS=N how often.
 */
import { existsSync, statSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import t, { type Test } from 'tap'
import { Descriptor } from '../../src/format/descriptor.js'
import { checkPendingDirectory, pendingPath, pendingPlace } from '../../src/io/pending-place.js'
import { Random } from '../simulation/random.js'
import { readChainContent, writeChain, type ChainFiles } from '../support/chain-files.js'
import { CrashModel, readWhole } from '../support/crash-model.js'
import { NbdClient } from '../support/nbd-client.js'
import { ploopNbd } from '../support/programs.js'
import { Served } from '../support/served.js'
import { imageFolder } from '../support/temp-dir.js'

t.setTimeout(600_000)

const clusterBytes = 32_768
const clusterCount = 160
const seed = Number(process.env['TEST_SEED'] ?? Date.now() % 1_000_000)
const killCount = Number(process.env['TEST_KILLS'] ?? 12)
t.comment(`TEST_SEED=${seed}`)

function makeChain(t: Test, random: Random, levelCount: number): ChainFiles {
  const version = random.pick([1, 2] as const)
  const shape = { levelCount, clusterBytes, clusterCount, version, density: 0.15 }
  return writeChain(imageFolder(t), shape, random)
}

/** The file of an image's pending mappings. */
function logOf(image: string): string {
  const place = pendingPlace()
  if (place === undefined) throw new Error('the kernel does not name its boot')
  checkPendingDirectory(place)
  const { dev, ino } = statSync(image, { bigint: true })
  return pendingPath(place, {
    ...{ sizeBytes: 0, kind: 'file', allocatedBytes: 0, modifiedMs: 0, device: dev, inode: ino },
  })
}

/** A client that never flushes, whatever it is asked. */
async function carelessClient(served: Served): Promise<NbdClient> {
  const client = await NbdClient.connect(served.socket)
  const plain = { write: client.write.bind(client), trim: client.trim.bind(client) }
  const zero = client.zero.bind(client)
  client.flush = () => Promise.resolve()
  client.write = (offset, payload) => plain.write(offset, payload)
  client.trim = (offset, length) => plain.trim(offset, length)
  client.zero = (offset, length, options) =>
    zero(offset, length, { noHole: options?.noHole ?? false })
  return client
}

/** Serves, loads and kills; what was answered is certain from then on. */
async function lifeAndDeath(
  t: Test,
  model: CrashModel,
  random: Random,
  serveArguments: readonly string[],
): Promise<Served> {
  const served = await Served.start(t, serveArguments)
  const clients = await Promise.all([1, 2].map(() => carelessClient(served)))
  const [first] = clients
  if (first === undefined) throw new Error('no client')
  model.adopt(await readWhole(first))
  const loads = clients.map(client => model.load(client, random.fork(), 12))
  await model.answers(random.between(1, random.pick([20, 200, 500])), served.ended)
  await served.kill()
  await Promise.all(loads)
  model.everythingAnsweredIsDurable()
  return served
}

async function lastLook(t: Test, model: CrashModel, paths: readonly string[]): Promise<Served> {
  const served = await Served.start(t, paths)
  const client = await NbdClient.connect(served.socket)
  model.adopt(await readWhole(client))
  await client.disconnect()
  await served.stop()
  model.adopt(readChainContent(paths))
  return served
}

for (const [levelCount, engine, cache] of [
  [1, 'uring', 'direct'],
  [3, 'uring', 'buffered'],
  [3, 'threads', 'direct'],
  [2, 'threads', 'buffered'],
] as const) {
  const name = `${levelCount} levels, ${engine}, ${cache}`
  t.test(`${killCount} kills lose nothing that was answered, ${name}`, async t => {
    const random = new Random(seed)
    const { paths, content } = makeChain(t, random, levelCount)
    const model = new CrashModel(content)
    const log = logOf(paths.at(-1) ?? '')
    let putBackCount = 0
    for (let round = 0; round < killCount; round++) {
      const served = await lifeAndDeath(t, model, random, [
        ...['--engine', engine, '--cache', cache],
        ...paths,
      ])
      if (served.stderr.includes('put back')) putBackCount++
      t.notMatch(served.stderr, /are given up/)
      t.ok(existsSync(log), 'what is pending waits for the next opener')
    }
    const served = await lastLook(t, model, paths)
    t.notMatch(served.stderr, /are given up/)
    t.notOk(existsSync(log), 'and is gone when the image is closed')
    t.ok(putBackCount > 0, `${putBackCount} times something was put back`)
  })
}

t.test('published before each answer, nothing needs to be put back', async t => {
  const random = new Random(seed + 1)
  const { paths, content } = makeChain(t, random, 2)
  const model = new CrashModel(content)
  for (let round = 0; round < 3; round++) {
    const served = await lifeAndDeath(t, model, random, ['--pending', 'publish', ...paths])
    t.notOk(existsSync(logOf(paths.at(-1) ?? '')))
    t.notMatch(served.stderr, /put back/)
  }
  await lastLook(t, model, paths)
})

t.test('a snapshot puts back what the server left, reading alone does not', async t => {
  const random = new Random(seed + 2)
  const { paths, content } = makeChain(t, random, 1)
  const [image = ''] = paths
  const xml = join(image, '..', 'DiskDescriptor.xml')
  const descriptor = Descriptor.create({
    sizeSectors: (clusterBytes * clusterCount) / 512,
    clusterSectors: clusterBytes / 512,
    mode: 'expanded',
    file: basename(image),
  })
  writeFileSync(xml, descriptor.toString())
  const model = new CrashModel(content)
  await lifeAndDeath(t, model, random, [xml])
  const reader = await Served.start(t, ['-r', xml])
  await reader.stop()
  t.match(reader.stderr, /some writes it answered appear only after/)
  t.ok(existsSync(logOf(image)), 'a reader leaves it alone')
  const made = await ploopNbd(['snapshot', xml])
  t.equal(made.status, 0, made.stderr)
  t.match(made.stderr, /put back \d+ mappings/)
  t.notOk(existsSync(logOf(image)))
  const served = await Served.start(t, [xml])
  const client = await NbdClient.connect(served.socket)
  model.adopt(await readWhole(client))
  await client.disconnect()
  await served.stop()
})

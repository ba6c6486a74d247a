// SPDX-License-Identifier: MIT
/**
 * The real server killed and stopped under load. TEST_SEED=N repeats the load; the moment of the
 * kill follows the number of answers, so it is nearly the same.
 */
import { existsSync } from 'node:fs'
import { createConnection } from 'node:net'
import t, { type Test } from 'tap'
import { Random } from '../simulation/random.js'
import {
  FileSource,
  readChainContent,
  writeChain,
  type ChainFiles,
} from '../support/chain-files.js'
import { CrashModel, readWhole } from '../support/crash-model.js'
import { readDelta } from '../support/image-reader.js'
import { NbdClient } from '../support/nbd-client.js'
import { Served } from '../support/served.js'
import { imageFolder } from '../support/temp-dir.js'

t.setTimeout(600_000)

const clusterBytes = 32_768
const seed = Number(process.env['TEST_SEED'] ?? Date.now() % 1_000_000)
const killCount = Number(process.env['TEST_KILLS'] ?? 25)
t.comment(`TEST_SEED=${seed}`)

function makeChain(t: Test, random: Random): ChainFiles {
  const version = random.pick([1, 2] as const)
  return writeChain(
    imageFolder(t),
    { levelCount: 2, clusterBytes, clusterCount: 160, version, density: 0.3 },
    random,
  )
}

function inUseMark(path: string): number {
  const source = new FileSource(path)
  try {
    return readDelta(source).inUse
  } finally {
    source.close()
  }
}

for (const [engine, cache] of [
  ['uring', 'direct'],
  ['uring', 'buffered'],
  ['threads', 'direct'],
  ['threads', 'buffered'],
] as const) {
  const rounds = Math.ceil(killCount / 2)
  t.test(
    `${rounds} kills under load lose nothing that was answered, ${engine}, ${cache}`,
    async t => {
      const random = new Random(seed)
      const { paths, content } = makeChain(t, random)
      const model = new CrashModel(content)
      const top = paths.at(-1) ?? ''
      let olderCount = 0
      for (let round = 0; round <= rounds; round++) {
        const served = await Served.start(t, ['--engine', engine, '--cache', cache, ...paths])
        const clients = await Promise.all([1, 2].map(() => NbdClient.connect(served.socket)))
        const [first] = clients
        if (first === undefined) throw new Error('no client')
        try {
          olderCount += model.adopt(await readWhole(first))
        } catch (error) {
          t.fail(`TEST_SEED=${seed}, after kill ${round}: ${String(error)}\n${served.stderr}`)
          return
        }
        if (round === rounds) {
          for (const client of clients) await client.disconnect()
          await served.stop()
          break
        }
        const loads = clients.map(client => model.load(client, random.fork(), 12))
        await model.answers(random.between(1, random.pick([20, 200, 700])), served.ended)
        await served.kill()
        await Promise.all(loads)
        // What was answered outlives the process, flushed or not.
        model.everythingAnsweredIsDurable()
        // throws when an entry is not valid
        readChainContent(paths)
      }
      t.equal(inUseMark(top), 0, 'closed in the end')
      t.doesNotThrow(() => model.adopt(readChainContent(paths)), 'at rest as it was served')
      t.comment(`${olderCount} sectors went back to an older content`)
    },
  )
}

for (const [engine, cache] of [
  ['uring', 'direct'],
  ['threads', 'buffered'],
] as const) {
  t.test(`SIGTERM under load keeps everything that was answered, ${engine}, ${cache}`, async t => {
    const random = new Random(seed + 1)
    const { paths, content } = makeChain(t, random)
    const model = new CrashModel(content)
    const top = paths.at(-1) ?? ''
    for (const signalCount of [1, 2, 1, 3]) {
      const served = await Served.start(t, ['--engine', engine, '--cache', cache, ...paths])
      const clients = await Promise.all([1, 2].map(() => NbdClient.connect(served.socket)))
      const loads = clients.map(client => model.load(client, random.fork(), 16))
      await model.answers(random.between(50, 400), served.ended)
      t.not(inUseMark(top), 0, 'marked while it is served')
      for (let signal = 0; signal < signalCount; signal++) {
        served.signal('SIGTERM')
        if (signal + 1 < signalCount) await new Promise(setImmediate)
      }
      const ended = await served.ended
      t.strictSame(ended, { status: 0, signal: null }, served.stderr)
      await Promise.all(loads)
      t.equal(inUseMark(top), 0, 'closed')
      t.notOk(existsSync(served.socket), 'its socket is gone')
      model.everythingAnsweredIsDurable()
      try {
        model.adopt(readChainContent(paths))
      } catch (error) {
        t.fail(`TEST_SEED=${seed}, ${signalCount} signals: ${String(error)}\n${served.stderr}`)
        return
      }
    }
  })
}

t.test('clients that idle, negotiate or have said nothing do not delay the end', async t => {
  const { paths } = makeChain(t, new Random(seed + 2))
  const served = await Served.start(t, [...paths])
  const clients = await Promise.all(
    Array.from({ length: 20 }, () => NbdClient.connect(served.socket)),
  )
  const silent = Array.from({ length: 10 }, () => createConnection(served.socket))
  for (const socket of silent) {
    socket.on('error', () => undefined)
    await new Promise(resolve => socket.once('data', resolve))
  }
  // Requests in flight are waited for up to 10 seconds; here there are none.
  let isLate = false
  const deadline = setTimeout(() => (isLate = true), 8000)
  await served.stop()
  clearTimeout(deadline)
  t.equal(isLate, false)
  for (const client of clients) await client.closed
  for (const socket of silent) socket.destroy()
  t.equal(inUseMark(paths.at(-1) ?? ''), 0)
})

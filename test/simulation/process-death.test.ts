// SPDX-License-Identifier: MIT
/**
 * The process dies at random moments of random work that is seldom flushed; the machine lives.
 *
 * What was answered must be there after the pending log was put back, however often that dies, too.
 * The storage is simulated; the log is a file in a folder of the test, as it outlives both.
 */
import { existsSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { DeltaFile } from '../../src/delta/delta-file.js'
import { publishAlways } from '../../src/disk/pending-mirror.js'
import { encodePendingHeader, pendingLogBytes } from '../../src/format/pending-log.js'
import { PendingLogWriter } from '../../src/format/pending-log-writer.js'
import { recoverPending, type PendingOutcome } from '../../src/image/recover-pending.js'
import { pendingPath, type PendingPlace } from '../../src/io/pending-place.js'
import { bootId, Killed, MixedFiles, newPlace } from '../support/mixed-files.js'
import { basicPlan, randomPlan, seeds, type Plan } from './plans.js'
import { SimFiles } from './sim-files.js'
import { Session } from './workload.js'

/** A session whose disk keeps its pending mappings, and the ways to die and to come back. */
class MortalSession {
  readonly session: Session
  readonly #files: MixedFiles
  readonly #place: PendingPlace
  #memory = new ArrayBuffer(0)
  putBackCount = 0

  constructor(plan: Plan, place: PendingPlace) {
    this.session = new Session(plan)
    this.#place = place
    this.#files = new MixedFiles(new SimFiles(this.session.storage), place.directory)
  }

  async #withTop<Value>(work: (top: DeltaFile) => Promise<Value>): Promise<Value> {
    this.#files.sim.killProcess()
    const path = this.session.chain.paths.at(-1) ?? ''
    const top = await DeltaFile.open(this.#files, path, { writable: true })
    try {
      return await work(top)
    } finally {
      await top.close()
    }
  }

  /** A new log for the disk that is opened now. */
  async begin(capacity: number): Promise<void> {
    await this.#withTop(async top => {
      const { device, inode } = await top.handle.stat()
      const identity = {
        ...{ bootId, device, inode, version: top.version ?? 2 },
        ...{ clusterSectors: top.clusterSectors, clusterCount: top.clusterCount },
        ...{ batClusterCount: top.batClusterCount, sizeSectors: BigInt(top.sizeSectors) },
      }
      this.#memory = new ArrayBuffer(pendingLogBytes(capacity))
      const header = encodePendingHeader(identity, capacity, 0x1234_5678_9abc_def0n, Date.now())
      new Uint8Array(this.#memory).set(header)
    })
    this.session.pending = new PendingLogWriter(this.#memory)
    this.session.open()
  }

  die(): void {
    this.session.die()
  }

  async putBack(): Promise<void> {
    const { random } = this.session
    const log = await this.#withTop(async top => pendingPath(this.#place, await top.handle.stat()))
    writeFileSync(log, new Uint8Array(this.#memory))
    let outcome: PendingOutcome | undefined
    for (let changes = random.below(3); outcome === undefined; changes += random.between(1, 4)) {
      this.#files.changesLeft = changes
      outcome = await this.#withTop(top =>
        recoverPending(this.#files, top, { place: this.#place }),
      ).catch((error: unknown) => {
        if (!(error instanceof Killed)) throw error
        return undefined
      })
    }
    this.#files.changesLeft = Infinity
    if (outcome === 'dropped') throw new Error('a log that fits was dropped')
    if (outcome === 'replayed') this.putBackCount++
    if (existsSync(log)) throw new Error('the log is still there')
  }

  /** What is in the page cache now may be lost later; the model takes it for durable. */
  restart(): void {
    const { session } = this
    const file = session.chain.files(session.storage).at(-1)
    if (file === undefined) throw new Error('no top')
    session.storage.perform({ kind: 'sync', file, offsetBytes: 0, lengthBytes: 0 })
    session.restart()
  }
}

async function named(plan: Plan, work: () => Promise<void>): Promise<void> {
  try {
    await work()
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause)
    throw new Error(`SIM_SEED=${plan.seed}: ${message}\nplan: ${JSON.stringify(plan)}`, { cause })
  }
}

/** Raw tops have no table and nothing pending. */
const plans = (count: number) =>
  seeds(count)
    .map(randomPlan)
    .filter(plan => !(plan.rawBase && plan.levelCount === 1))

/** Clusters are mapped and released again within one round. */
const churn = (count: number) =>
  seeds(count).map(seed => ({
    ...{ ...basicPlan, seed, levelCount: 1, isChurn: true },
    ...{ clusterCount: 8, hotClusters: 3, queueDepth: 16 },
  }))

t.test('what was answered outlives the process', async t => {
  const place = newPlace(t)
  let [deaths, putBackCount] = [0, 0]
  for (const plan of [...plans(200), ...churn(200)]) {
    await named(plan, async () => {
      const mortal = new MortalSession(plan, place)
      const { session } = mortal
      const { random } = session
      for (let life = 0; life < 3; life++) {
        // so small that it overflows, or large enough
        await mortal.begin(random.pick([1, 2, 5, 20, 500]))
        session.work(random.between(1, 80))
        mortal.die()
        await mortal.putBack()
        mortal.restart()
        deaths++
      }
      session.pending = undefined
      session.open()
      session.work(random.between(1, 30))
      session.readAll()
      session.close()
      putBackCount += mortal.putBackCount
    })
  }
  t.comment(`${deaths} deaths, after ${putBackCount} of them something was put back`)
  t.ok(putBackCount > deaths / 4)
})

t.test('a power cut takes the log with it, and then all is as without', async t => {
  const place = newPlace(t)
  for (const plan of plans(60)) {
    await named(plan, async () => {
      const mortal = new MortalSession(plan, place)
      const { session } = mortal
      await mortal.begin(session.random.pick([2, 50]))
      session.work(session.random.between(1, 60))
      session.losePower()
      session.pending = undefined
      session.open()
      session.readAll()
      session.close()
    })
  }
  t.pass()
})

t.test('the power may fail after something was put back', async t => {
  const place = newPlace(t)
  for (const plan of plans(60)) {
    await named(plan, async () => {
      const mortal = new MortalSession(plan, place)
      const { session } = mortal
      await mortal.begin(100)
      session.work(session.random.between(1, 60))
      mortal.die()
      await mortal.putBack()
      mortal.restart()
      session.pending = undefined
      session.open()
      session.work(session.random.between(1, 20))
      session.losePower()
      session.readAll()
      session.close()
    })
  }
  t.pass()
})

t.test('published before each answer, all of it is there without a log', async t => {
  const place = newPlace(t)
  for (const plan of plans(60)) {
    await named(plan, async () => {
      const mortal = new MortalSession(plan, place)
      const { session } = mortal
      session.pending = publishAlways
      session.open()
      session.work(session.random.between(1, 60))
      mortal.die()
      mortal.restart()
      session.close()
    })
  }
  t.pass()
})

t.test('the judge notices when the log is not put back', async t => {
  const place = newPlace(t)
  let caught = 0
  for (let seed = 1; seed <= 20; seed++) {
    const mortal = new MortalSession({ ...basicPlan, seed }, place)
    await mortal.begin(500)
    mortal.session.work(60)
    mortal.die()
    try {
      mortal.restart()
    } catch {
      caught++
    }
  }
  t.ok(caught >= 10, `${caught} of 20`)
})

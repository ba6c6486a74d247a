// SPDX-License-Identifier: MIT
/** When a dead server's pending mappings are put back, and when they must not touch the image. */
import { chmodSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { DeltaFile } from '../../src/delta/delta-file.js'
import { inUseMark } from '../../src/format/constants.js'
import {
  encodePendingHeader,
  pendingField,
  pendingLogBytes,
  type PendingIdentity,
} from '../../src/format/pending-log.js'
import { PendingLogWriter } from '../../src/format/pending-log-writer.js'
import { openChain } from '../../src/image/open.js'
import { hasPending, recoverPending } from '../../src/image/recover-pending.js'
import { createSnapshot } from '../../src/image/snapshot.js'
import type { PendingPlace } from '../../src/io/pending-place.js'
import type { SimFiles } from '../simulation/sim-files.js'
import type { DeltaDescription } from '../support/image-builder.js'
import { bootId, Killed, MixedFiles, newPlace } from '../support/mixed-files.js'
import { clusterBytes, delta, newDisk, newMap, xml } from '../support/sim-disk.js'

const image = '/d/0'
const aliveMs = 1_000_000_000

/** A marked image of 8 clusters, 0 and 1 in use, and an appended cluster 3 that nothing names. */
class Scene {
  readonly warnings: string[] = []
  /** what differs from the log of this image */
  identity: Partial<PendingIdentity> = {}

  private constructor(
    readonly sim: SimFiles,
    readonly files: MixedFiles,
    readonly place: PendingPlace,
  ) {}

  static async make(t: Test, more: Partial<DeltaDescription> = {}): Promise<Scene> {
    const sim = await newDisk([delta(8, [0, 1], { inUse: inUseMark, ...more })])
    const place = newPlace(t)
    const files = new MixedFiles(sim, place.directory)
    files.modifiedMs = aliveMs
    const scene = new Scene(sim, files, place)
    const handle = await sim.open(image, 'read-write')
    await handle.truncate(5 * clusterBytes)
    await handle.close()
    return scene
  }

  get options() {
    const log = (text: string): void => {
      this.warnings.push(text)
    }
    const quiet = (): void => undefined
    return { place: this.place, log: { error: quiet, warn: log, info: quiet, debug: quiet } }
  }

  async withTop<Value>(work: (top: DeltaFile) => Promise<Value>, writable = true): Promise<Value> {
    this.sim.killProcess()
    const top = await DeltaFile.open(this.files, image, { writable })
    try {
      return await work(top)
    } finally {
      await top.close()
    }
  }

  /** The log of a server that did this and died. */
  async leave(record: (writer: PendingLogWriter) => void): Promise<void> {
    const memory = await this.withTop(async top => {
      const { device, inode } = await top.handle.stat()
      const identity: PendingIdentity = {
        ...{ bootId, device, inode, version: top.version ?? 2 },
        ...{ clusterSectors: top.clusterSectors, clusterCount: top.clusterCount },
        ...{ batClusterCount: top.batClusterCount, sizeSectors: BigInt(top.sizeSectors) },
        ...this.identity,
      }
      const made = new ArrayBuffer(pendingLogBytes(16))
      new Uint8Array(made).set(encodePendingHeader(identity, 16, 1n, aliveMs))
      return made
    })
    record(new PendingLogWriter(memory))
    const { inode } = (await this.sim.stat(image)) ?? { inode: 0n }
    writeFileSync(join(this.place.directory, `77-${inode}`), new Uint8Array(memory))
  }

  recover() {
    return this.withTop(top => recoverPending(this.files, top, this.options))
  }

  hasLog(): boolean {
    return readdirSync(this.place.directory).length > 0
  }

  /** All entries of the table, in file clusters. */
  async table(): Promise<number[]> {
    const handle = await this.sim.open(image, 'read')
    const bytes = new Uint8Array(8 * 4)
    await handle.read(bytes, 64)
    await handle.close()
    return [...new Uint32Array(bytes.buffer)]
  }
}

const before = [1, 2, 0, 0, 0, 0, 0, 0]

t.test('mappings and releases are put back in order, and the log goes', async t => {
  const scene = await Scene.make(t)
  await scene.leave(writer => {
    writer.record(5, 3, 0)
    writer.record(6, 4, 0)
    writer.roundStarted()
    writer.record(0, 0, 1)
    writer.record(6, 0, 4)
  })
  t.equal(await scene.recover(), 'replayed')
  t.same(await scene.table(), [0, 2, 0, 0, 0, 3, 0, 0])
  t.notOk(scene.hasLog())
  t.match(scene.warnings, [/put back 2 mappings that a server left behind/])
  t.equal(await scene.recover(), 'none')
})

t.test('entries that a round had written already are fine', async t => {
  for (const written of [[], [5], [0], [0, 5]]) {
    const scene = await Scene.make(t)
    const handle = await scene.sim.open(image, 'read-write')
    for (const index of written) {
      await handle.write(Uint8Array.of(index === 5 ? 3 : 0, 0, 0, 0), 64 + 4 * index)
    }
    await handle.close()
    await scene.leave(writer => {
      writer.record(5, 3, 0)
      writer.record(0, 0, 1)
      writer.roundStarted()
      writer.record(5, 4, 3)
    })
    t.equal(await scene.recover(), 'replayed')
    t.same(await scene.table(), [0, 2, 0, 0, 0, 4, 0, 0])
  }
})

t.test('a table of version 1 counts in sectors', async t => {
  const scene = await Scene.make(t, { version: 1 })
  await scene.leave(writer => {
    writer.record(5, 3, 0)
    writer.record(0, 0, 1)
  })
  t.equal(await scene.recover(), 'replayed')
  t.same(await scene.table(), [0, 128, 0, 0, 0, 192, 0, 0])
})

const one = (writer: PendingLogWriter): void => void writer.record(5, 3, 0)

interface Refusal {
  readonly title: string
  readonly reason: RegExp
  readonly image?: Partial<DeltaDescription>
  readonly identity?: Partial<PendingIdentity>
  readonly record?: (writer: PendingLogWriter) => void
  readonly change?: (scene: Scene) => void
}

const refusals: Refusal[] = [
  { title: 'a closed image', reason: /was closed by somebody since/, image: { inUse: 0 } },
  {
    title: 'an image with a foreign mark',
    reason: /was closed by somebody since/,
    image: { inUse: 1 },
  },
  {
    title: 'another boot',
    reason: /from an earlier boot/,
    identity: { bootId: new Uint8Array(16) },
  },
  { title: 'another inode', reason: /belong to another file/, identity: { inode: 999n } },
  { title: 'another device', reason: /belong to another file/, identity: { device: 999n } },
  { title: 'another version', reason: /another size or format/, identity: { version: 1 } },
  { title: 'another cluster size', reason: /another size/, identity: { clusterSectors: 128 } },
  { title: 'another cluster count', reason: /another size/, identity: { clusterCount: 9 } },
  { title: 'another size', reason: /another size/, identity: { sizeSectors: 511n } },
  { title: 'a longer table', reason: /another size/, identity: { batClusterCount: 2 } },
  {
    title: 'an image that was changed after the server died',
    reason: /was changed by somebody since/,
    change: scene => (scene.files.modifiedMs = aliveMs + 5001),
  },
  {
    title: 'a server whose flush had failed',
    reason: /writing or flushing the image had failed/,
    record: writer => {
      one(writer)
      writer.roundFailed()
    },
  },
  {
    title: 'an entry with another value',
    reason: /cluster 1 is file cluster 2, which the server did not put there/,
    record: writer => {
      one(writer)
      writer.record(1, 4, 3)
    },
  },
  {
    title: 'a file cluster that somebody owns',
    reason: /file cluster 2 belongs to cluster 1 already/,
    record: writer => {
      one(writer)
      writer.record(6, 2, 0)
    },
  },
  {
    title: 'a file cluster beyond the file',
    reason: /file cluster 5 of cluster 6 is not in the file/,
    record: writer => {
      one(writer)
      writer.record(6, 5, 0)
    },
  },
  {
    title: 'two owners of one file cluster',
    reason: /clusters 5 and 6 would both be file cluster 3/,
    record: writer => {
      one(writer)
      writer.record(6, 3, 0)
    },
  },
  {
    title: 'changes that do not follow each other',
    reason: /cluster 5 was file cluster 3, and then 4/,
    record: writer => {
      one(writer)
      writer.record(5, 0, 4)
    },
  },
  {
    title: 'a damaged log',
    reason: /its header is damaged/,
    change: ({ place }) => {
      for (const name of readdirSync(place.directory)) {
        const path = join(place.directory, name)
        const bytes = readFileSync(path)
        bytes[pendingField.inode * 4] = (bytes[pendingField.inode * 4] ?? 0) + 1
        writeFileSync(path, bytes)
      }
    },
  },
]

for (const { title, reason, image, identity, record, change } of refusals) {
  t.test(`${title}: nothing is changed, the log goes, a warning says why`, async t => {
    const scene = await Scene.make(t, image)
    scene.identity = identity ?? {}
    await scene.leave(record ?? one)
    change?.(scene)
    t.equal(await scene.recover(), 'dropped')
    t.same(await scene.table(), before)
    t.notOk(scene.hasLog())
    t.equal(scene.warnings.length, 1)
    t.match(scene.warnings[0], /never flushed, are given up: /)
    t.match(scene.warnings[0], reason)
  })
}

t.test('an empty log goes without a word, whatever it was', async t => {
  const scene = await Scene.make(t, { inUse: 0 })
  scene.identity = { bootId: new Uint8Array(16) }
  await scene.leave(() => undefined)
  t.equal(await scene.recover(), 'none')
  t.notOk(scene.hasLog())
  t.same(scene.warnings, [])
})

t.test('a folder that others can write to is not believed', async t => {
  const scene = await Scene.make(t)
  await scene.leave(one)
  chmodSync(scene.place.directory, 0o770)
  t.equal(await scene.recover(), 'none')
  t.same(await scene.table(), before)
  t.match(scene.warnings, [/must be ours alone/])
})

t.test('reading leaves it where it is', async t => {
  const scene = await Scene.make(t)
  t.equal(await scene.withTop(top => hasPending(scene.files, top, scene.options), false), false)
  await scene.leave(one)
  t.equal(await scene.withTop(top => hasPending(scene.files, top, scene.options), false), true)
  const { log } = scene.options
  const chain = await openChain(
    scene.files,
    { kind: 'descriptor', path: xml },
    { readOnly: true, newMap, log, pendingPlace: scene.place },
  )
  t.equal(chain.map?.levels[5], 0)
  await chain.close()
  t.match(scene.warnings.join('\n'), /appear only after the disk was opened for writing/)
  t.ok(scene.hasLog())
  t.same(await scene.table(), before)
})

t.test('opening for writing and snapshots put back before they check', async t => {
  const scene = await Scene.make(t)
  await scene.leave(one)
  const options = { pendingPlace: scene.place }
  scene.sim.killProcess()
  const chain = await openChain(
    scene.files,
    { kind: 'descriptor', path: xml },
    { readOnly: false, newMap, ...options },
  )
  t.equal(chain.map?.levels[5], 1)
  t.equal(chain.map?.clusters[5], 3)
  await chain.close()
  const frozen = await Scene.make(t)
  await frozen.leave(one)
  frozen.sim.killProcess()
  await createSnapshot(frozen.files, xml, {
    uuid: '{11111111-0000-4000-8000-000000000001}',
    pendingPlace: frozen.place,
  })
  t.same(await frozen.table(), [1, 2, 0, 0, 0, 3, 0, 0])
  t.notOk(frozen.hasLog())
})

t.test('a sync that fails leaves nothing to try again with', async t => {
  const scene = await Scene.make(t)
  await scene.leave(one)
  scene.sim.failEventAt = 0
  await scene.withTop(async top => {
    const sync = top.handle.sync.bind(top.handle)
    top.handle.sync = async () => {
      scene.sim.failEventAt = scene.sim.eventCount + 1
      await sync()
    }
    await t.rejects(recoverPending(scene.files, top, scene.options), { code: 'IO_EIO' })
  })
  scene.sim.failEventAt = 0
  t.notOk(scene.hasLog(), 'a second attempt would seem to succeed')
  t.same(await scene.table(), before)
})

t.test('a write that fails, and death, leave it to be done again', async t => {
  for (let changes = 0; ; changes++) {
    const scene = await Scene.make(t)
    await scene.leave(one)
    scene.files.changesLeft = changes
    const ended = await scene.recover().then(
      () => true,
      (error: unknown) => {
        if (!(error instanceof Killed)) throw error
        return false
      },
    )
    scene.files.changesLeft = Infinity
    if (ended) {
      t.ok(changes >= 5, 'sync, sign of life, table, sync, unlink')
      break
    }
    t.ok(existsSync(scene.place.directory) && scene.hasLog())
    t.equal(await scene.recover(), 'replayed')
    t.same(await scene.table(), [1, 2, 0, 0, 0, 3, 0, 0])
  }
})

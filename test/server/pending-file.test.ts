// SPDX-License-Identifier: MIT
/** Where a served disk keeps its pending mappings, and what is said when it cannot. */
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openChain, type OpenedChain } from '../../src/image/open.js'
import { loadAddon, type NativeAddon } from '../../src/io/native.js'
import { nodeFiles } from '../../src/io/node-files.js'
import { pendingPath, pendingPlace, type PendingPlace } from '../../src/io/pending-place.js'
import { PendingFile } from '../../src/server/pending-file.js'
import { Random } from '../simulation/random.js'
import { writeChain } from '../support/chain-files.js'
import { newMap } from '../support/sim-disk.js'
import { imageFolder } from '../support/temp-dir.js'

const addon = loadAddon()
const bootId = new Uint8Array(16)

async function chainOf(t: Test, readOnly = false): Promise<OpenedChain> {
  const shape = { levelCount: 1, clusterBytes: 32_768, clusterCount: 16 }
  const { paths } = writeChain(imageFolder(t), shape, new Random(1))
  const chain = await openChain(nodeFiles, { kind: 'deltas', paths }, { readOnly, newMap })
  t.teardown(() => chain.close())
  return chain
}

function sharedPlace(t: Test): PendingPlace {
  const parent = mkdtempSync('/dev/shm/ploop-nbd-test-')
  t.teardown(() => {
    rmSync(parent, { recursive: true })
  })
  return { directory: join(parent, 'logs'), bootId }
}

async function create(chain: OpenedChain, place: PendingPlace, more: Partial<NativeAddon> = {}) {
  const warnings: string[] = []
  const quiet = (): void => undefined
  const warn = (text: string): void => void warnings.push(text)
  const log = { error: quiet, warn, info: quiet, debug: quiet }
  const file = await PendingFile.create('auto', chain, { addon: { ...addon, ...more }, log, place })
  return { file, warnings }
}

t.test('a file of the user alone, which goes when the image is closed', async t => {
  const [chain, place] = [await chainOf(t), sharedPlace(t)]
  const { file, warnings } = await create(chain, place)
  const path = pendingPath(place, await chain.top.handle.stat())
  t.same(warnings, [])
  t.equal(statSync(path).mode & 0o777, 0o600)
  t.equal(statSync(place.directory).mode & 0o777, 0o700)
  t.equal(statSync(path).blocks * 512, 4096 * Math.ceil(statSync(path).size / 4096), 'all there')
  file.leave()
  t.ok(existsSync(path), 'left for the next opener')
  const again = await create(chain, place)
  t.same(again.warnings, [])
  again.file.remove()
  t.notOk(existsSync(path))
})

t.test('without shared memory the disk is served all the same, with a warning', async t => {
  const chain = await chainOf(t)
  const onDisk = { directory: join(imageFolder(t), 'logs'), bootId }
  const elsewhere = await create(chain, onDisk)
  t.equal(elsewhere.file.spec, undefined)
  t.match(elsewhere.warnings, [/if this process is killed, .* is not in shared memory; flushed/])
  const full = await create(chain, sharedPlace(t), {
    fallocate: () => {
      throw Object.assign(new Error('full'), { code: 'ENOSPC' })
    },
  })
  t.equal(full.file.spec, undefined)
  t.match(full.warnings, [/shared memory is full/])
  const nowhere = await create(chain, { directory: '/dev/shm/none/logs', bootId })
  t.match(nowhere.warnings, [/cannot make the folder for pending mappings/])
})

t.test('what needs no file gets none', async t => {
  const place = sharedPlace(t)
  const { file } = await create(await chainOf(t, true), place)
  t.equal(file.spec, undefined, 'read-only')
  t.notOk(existsSync(place.directory))
  const quiet = (): void => undefined
  const log = { error: quiet, warn: quiet, info: quiet, debug: quiet }
  const chain = await chainOf(t)
  t.equal((await PendingFile.create('none', chain, { addon, log, place })).spec, undefined)
  t.equal((await PendingFile.create('publish', chain, { addon, log, place })).spec, 'publish')
  t.notOk(existsSync(place.directory))
  t.match(pendingPlace(1234)?.directory, '/dev/shm/ploop-nbd-1234')
})

// SPDX-License-Identifier: MIT
/** The simulated storage itself: what may be lost, what may not, and that the seed decides. */
import t from 'tap'
import { Random } from './random.js'
import type { CutPolicy } from './sim-file.js'
import { errno, Storage, type OperationKind } from './storage.js'

const loseAll: CutPolicy = { keep: () => 'lose' }
const keepAll: CutPolicy = { keep: () => 'keep' }
const tearAll: CutPolicy = { keep: () => 'tear' }

function oneFile(
  seed: number,
  sizeBytes = 0,
): {
  storage: Storage
  put: (kind: OperationKind, offset?: number, length?: number, fill?: number) => number[]
  all: () => void
  content: () => Uint8Array
} {
  const storage = new Storage(seed)
  const file = storage.createFile()
  file.preset(() => undefined, sizeBytes)
  storage.directory.preset('/file', file)
  return {
    storage,
    /** @returns the results so far: empty until the operation was reported */
    put: (kind, offsetBytes = 0, lengthBytes = 0, fill = 0) => {
      const results: number[] = []
      const bytes =
        kind === 'write' || kind === 'read' ? new Uint8Array(lengthBytes).fill(fill) : undefined
      const done = (result: number): unknown => results.push(result)
      storage.put({ kind, file, offsetBytes, lengthBytes, bytes, done })
      return results
    },
    all: () => {
      while (storage.step());
    },
    content: () => {
      const bytes = new Uint8Array(file.sizeBytes)
      file.read(0, bytes)
      return bytes
    },
  }
}

t.test('a write that was reported before the fdatasync was put survives', t => {
  const { storage, put, all, content } = oneFile(1)
  put('write', 0, 4096, 7)
  all()
  put('sync')
  all()
  storage.cutPower(new Random(1), loseAll)
  t.same(content(), new Uint8Array(4096).fill(7))
  t.end()
})

t.test('a write that was put before the fdatasync but not reported may be lost', t => {
  const { storage, put, all, content } = oneFile(1, 4096)
  const reported = put('write', 0, 4096, 7)
  t.same(reported, [])
  put('sync')
  all()
  storage.cutPower(new Random(1), loseAll)
  t.same(content(), new Uint8Array(4096))
  t.end()
})

t.test('what was not flushed is kept, lost or torn between sectors, never inside one', t => {
  const outcomes = new Set<string>()
  for (let seed = 1; seed <= 200; seed++) {
    const { storage, put, all, content } = oneFile(seed, 4096)
    put('write', 0, 4096, 7)
    all()
    storage.cutPower()
    const sectors = Array.from({ length: 8 }, (_, sector) => {
      const bytes = content().subarray(sector * 512, (sector + 1) * 512)
      if (!bytes.every(byte => byte === bytes[0])) t.fail('a sector is torn')
      return bytes[0]
    })
    outcomes.add(sectors.every(byte => byte === 7) ? 'kept' : sectors.includes(7) ? 'torn' : 'lost')
  }
  t.same([...outcomes].sort(), ['kept', 'lost', 'torn'])
  t.end()
})

t.test('an fdatasync in flight may have happened or not', t => {
  const outcomes = new Set<number | undefined>()
  for (let seed = 1; seed <= 100; seed++) {
    const { storage, put, all, content } = oneFile(seed, 512)
    put('write', 0, 512, 7)
    all()
    put('sync')
    storage.cutPower(new Random(seed), loseAll)
    outcomes.add(content()[0])
  }
  t.same([...outcomes].sort(), [0, 7])
  t.end()
})

t.test('overlapping writes in flight land in either order', t => {
  const outcomes = new Set<number | undefined>()
  for (let seed = 1; seed <= 50; seed++) {
    const { put, all, content } = oneFile(seed, 512)
    put('write', 0, 512, 1)
    put('write', 0, 512, 2)
    all()
    outcomes.add(content()[0])
  }
  t.same([...outcomes].sort(), [1, 2])
  t.end()
})

t.test('the size of a file is lost without fdatasync, and bytes past it with it', t => {
  const { storage, put, all, content } = oneFile(1)
  put('write', 0, 4096, 7)
  all()
  storage.cutPower(new Random(1), { keep: kind => (kind === 'size' ? 'lose' : 'keep') })
  t.equal(content().length, 0)
  put('allocate', 0, 8192)
  all()
  t.same(content(), new Uint8Array(8192), 'nothing comes back when the file grows again')
  t.end()
})

t.test('a reservation that was cut short leaves part of the growth', t => {
  const sizes = new Set<number>()
  for (let seed = 1; seed <= 50; seed++) {
    const { storage, put, all, content } = oneFile(seed)
    put('allocate', 0, 65536)
    all()
    storage.cutPower(new Random(seed), tearAll)
    if (content().length % 512 !== 0) t.fail('a sector is torn')
    sizes.add(content().length)
  }
  t.ok(sizes.size > 10)
  t.end()
})

t.test('punched and zeroed ranges read as zeros, durable only after fdatasync', t => {
  for (const kind of ['punch', 'zero'] as const) {
    const { storage, put, all, content } = oneFile(1)
    put('write', 0, 8192, 7)
    all()
    put('sync')
    all()
    put(kind, 0, 4096)
    all()
    t.equal(content()[0], 0)
    t.equal(storage.allocatedBytes, kind === 'punch' ? 4096 : 8192)
    storage.cutPower(new Random(1), loseAll)
    t.equal(content()[0], 7)
  }
  t.end()
})

t.test('after a failed fdatasync the data is visible, and no later fdatasync saves it', t => {
  let lost = 0
  for (let seed = 1; seed <= 20; seed++) {
    const { storage, put, all, content } = oneFile(seed, 512)
    storage.faults.failSyncAt = 1
    put('write', 0, 512, 7)
    all()
    const first = put('sync')
    all()
    t.same(first, [-errno.EIO])
    t.equal(content()[0], 7)
    const second = put('sync')
    all()
    t.same(second, [0])
    storage.cutPower(new Random(seed), keepAll)
    if (content()[0] === 0) lost++
  }
  t.ok(lost > 5)
  t.end()
})

t.test('the n-th write fails, a full storage says so, copies and zeroing can be refused', t => {
  const { storage, put, all } = oneFile(1)
  storage.faults = { failWriteAt: 2, budgetBytes: 8192, zeroAnswer: -95, punchAnswer: -95 }
  const results = [put('write', 0, 4096, 1)]
  all()
  results.push(put('write', 0, 4096, 2))
  all()
  results.push(put('write', 4096, 4096, 2))
  all()
  results.push(put('write', 8192, 4096, 2))
  all()
  results.push(put('allocate', 8192, 1), put('zero', 0, 4096), put('punch', 0, 4096))
  all()
  t.same(results.flat(), [4096, -errno.EIO, 4096, -errno.ENOSPC, -errno.ENOSPC, -95, -95])
  t.end()
})

t.test('a copy shares nothing with the original but what both had', t => {
  const { storage, put, all, content } = oneFile(1, 512)
  put('write', 0, 512, 7)
  const copy = storage.clone(5)
  copy.cutPower(new Random(1), loseAll)
  t.equal(copy.directory.get('/file')?.sizeBytes, 512)
  all()
  t.equal(content()[0], 7, 'the original went on')
  t.end()
})

t.test('the same seed gives the same day', t => {
  const day = (seed: number): string => {
    const { storage, put, all, content } = oneFile(seed, 65536)
    for (let i = 0; i < 40; i++) put('write', (i % 16) * 4096, 8192, i)
    for (let i = 0; i < 30; i++) storage.step()
    storage.cutPower()
    all()
    return Buffer.from(content()).toString('base64')
  }
  t.equal(day(42), day(42))
  t.not(day(42), day(43))
  t.end()
})

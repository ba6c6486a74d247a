// SPDX-License-Identifier: MIT
/** File operations: results, errors as negative errno, direct I/O, epochs. */
import fs from 'node:fs'
import type { Test } from 'tap'
import type { EngineKind } from '../../src/io/native.js'
import { EngineFixture, control, kind as done, op } from './engine-fixture.js'

const EBADF = 9
const ENOSPC = 28
const MiB = 1048576

interface OpenedFile {
  readonly index: number
  readonly path: string
  readonly fd: number
}

function addFile(
  t: Test,
  f: EngineFixture,
  content: Uint8Array,
  { write = true, direct = false } = {},
): OpenedFile {
  const path = `${t.testdir({})}/file-${f.done.length}-${Math.random()}`
  fs.writeFileSync(path, content)
  const fd = f.addon.openFile(path, { write, direct, create: false, mode: 0 })
  t.teardown(() => {
    f.addon.closeFile(fd)
  })
  return { index: f.engine.addFile(fd), path, fd }
}

function pattern(length: number): Buffer {
  const bytes = Buffer.alloc(length)
  for (let i = 0; i < length; i += 4) bytes.writeUInt32LE(i >>> 2, i)
  return bytes
}

export function fileCases(t: Test, kind: EngineKind): void {
  plainCases(t, kind)
  lockCases(t, kind)
  rangeCases(t, kind)
  replyCases(t, kind)
  errorCases(t, kind)
}

function plainCases(t: Test, kind: EngineKind): void {
  void t.test('reads and writes move exactly their range', async t => {
    const f = new EngineFixture(t, kind)
    const content = pattern(3 * MiB)
    const file = addFile(t, f, content)
    f.put({
      op: op.read,
      file: file.index,
      token: 1,
      offset: MiB + 4,
      length: 5000,
      memory: f.job(0) + 8,
    })
    t.match(await f.completed(1), { result: 5000, extra: 0 })
    t.ok(content.subarray(MiB + 4, MiB + 5004).equals(f.at(f.job(0) + 8, 5000)))
    t.equal(
      f.at(f.job(0), 8).every(byte => byte === 0),
      true,
      'nothing before',
    )
    t.equal(
      f.at(f.job(0) + 5008, 100).every(byte => byte === 0),
      true,
      'nothing behind',
    )

    f.at(f.job(1), MiB).fill(0xab)
    f.put({ op: op.write, file: file.index, token: 2, offset: 100, length: MiB, memory: f.job(1) })
    t.equal((await f.completed(2)).result, MiB)
    f.put({ op: op.sync, file: file.index, token: 3 })
    t.equal((await f.completed(3)).result, 0)
    content.fill(0xab, 100, 100 + MiB)
    t.ok(fs.readFileSync(file.path).equals(content))
  })

  void t.test('a read at the end of the file is short, beyond it empty', async t => {
    const f = new EngineFixture(t, kind)
    const file = addFile(t, f, Buffer.alloc(1000, 1))
    f.put({ op: op.read, file: file.index, token: 1, offset: 900, length: 4096, memory: f.job(0) })
    f.put({ op: op.read, file: file.index, token: 2, offset: 5000, length: 4096, memory: f.job(1) })
    t.equal((await f.completed(1)).result, 100)
    t.equal((await f.completed(2)).result, 0)
  })

  void t.test('offsets beyond 4 GiB keep their high half', async t => {
    const f = new EngineFixture(t, kind)
    const file = addFile(t, f, Buffer.alloc(0))
    const offset = 5 * 2 ** 32 + 12345
    f.at(f.job(0), 3).set(Buffer.from('far'))
    f.put({ op: op.write, file: file.index, token: 1, offset, length: 3, memory: f.job(0) })
    t.equal((await f.completed(1)).result, 3)
    t.equal(fs.statSync(file.path).size, offset + 3)
    f.put({ op: op.read, file: file.index, token: 2, offset, length: 3, memory: f.job(1) })
    t.equal((await f.completed(2)).result, 3)
    t.equal(Buffer.from(f.at(f.job(1), 3)).toString(), 'far')
  })

  void t.test('direct I/O: aligned transfers, and the unaligned end of the file', async t => {
    const f = new EngineFixture(t, kind)
    const content = pattern(2 * MiB + 1000)
    const path = `${t.testdir({})}/direct`
    fs.writeFileSync(path, content)
    const plain = f.addon.openFile(path, { write: true, direct: false, create: false, mode: 0 })
    t.teardown(() => {
      f.addon.closeFile(plain)
    })
    const { direct } = f.addon.directAlignment(plain)
    if (!direct) {
      t.throws(
        () => {
          f.addon.setDirect(plain, true)
        },
        { code: 'EINVAL' },
      )
      return
    }
    f.addon.setDirect(plain, true)
    const file = f.engine.addFile(plain)
    f.put({ op: op.read, file, token: 1, offset: MiB, length: MiB, memory: f.job(0) })
    t.equal((await f.completed(1)).result, MiB)
    t.ok(content.subarray(MiB, 2 * MiB).equals(f.at(f.job(0), MiB)))
    f.put({ op: op.read, file, token: 2, offset: 2 * MiB, length: 65536, memory: f.job(1) })
    t.equal((await f.completed(2)).result, 1000, 'what there is')
    t.ok(content.subarray(2 * MiB).equals(f.at(f.job(1), 1000)))
    f.at(f.job(2), 65536).fill(7)
    f.put({ op: op.write, file, token: 3, offset: 65536, length: 65536, memory: f.job(2) })
    t.equal((await f.completed(3)).result, 65536)
    content.fill(7, 65536, 131072)
    t.ok(fs.readFileSync(path).equals(content))
  })

  void t.test('more operations than the row table has rows, in one call', async t => {
    const f = new EngineFixture(t, kind)
    const file = addFile(t, f, pattern(MiB))
    let left = 10000
    let put = false
    f.onReceive = row => {
      row.consumed = row.bytes.length
      put = true
      for (let i = 0; i < left; i++) {
        if (f.control(control.rows) === f.layout.rowCapacity) f.engine.takeRows()
        f.put({
          op: op.read,
          file: file.index,
          token: i,
          offset: i * 4,
          length: 4,
          memory: f.job(0) + i * 4,
        })
      }
    }
    f.onDone = () => left--
    const { peer } = f.connect(t)
    peer.socket.write('go')
    await f.until(() => put && left === 0)
    t.ok(pattern(40000).equals(f.at(f.job(0), 40000)))
    t.equal(f.engine.stats().operations, 10000)
  })

  void t.test('a file index is used again after the file was removed', t => {
    const f = new EngineFixture(t, kind)
    const one = addFile(t, f, Buffer.alloc(1))
    const two = addFile(t, f, Buffer.alloc(1))
    t.not(one.index, two.index)
    f.engine.removeFile(one.index)
    t.throws(
      () => {
        f.engine.removeFile(one.index)
      },
      { code: 'EBADF' },
    )
    t.equal(f.engine.addFile(two.fd), one.index)
    t.throws(() => f.engine.addFile(0x7fff), { code: 'EBADF' })
    t.end()
  })
}

function lockCases(t: Test, kind: EngineKind): void {
  void t.test(
    'a lock ends with the file: when it was removed, and when the engine was closed',
    t => {
      const f = new EngineFixture(t, kind)
      const path = `${t.testdir({})}/locked`
      fs.writeFileSync(path, '')
      const other = fs.openSync(path, 'r+')
      const flags = { write: true, direct: false, create: false, mode: 0 }
      for (const release of [
        (index: number) => f.engine.removeFile(index),
        () => f.engine.close(),
      ]) {
        const fd = f.addon.openFile(path, flags)
        t.equal(f.addon.flock(fd, 'exclusive'), true)
        const index = f.engine.addFile(fd)
        f.addon.closeFile(fd)
        t.equal(f.addon.flock(other, 'exclusive'), false, 'the engine has it open')
        release(index)
        t.equal(f.addon.flock(other, 'exclusive'), true)
        t.equal(f.addon.flock(other, 'unlock'), true)
      }
      fs.closeSync(other)
      t.end()
    },
  )
}

function rangeCases(t: Test, kind: EngineKind): void {
  void t.test('ALLOCATE extends with zeros; ZERO and PUNCH keep the size', async t => {
    const f = new EngineFixture(t, kind)
    const file = addFile(t, f, Buffer.alloc(MiB, 5))
    const range = { file: file.index, length: 65536 }
    f.put({ op: op.allocate, ...range, token: 1, offset: MiB })
    t.equal((await f.completed(1)).result, 0)
    t.equal(fs.statSync(file.path).size, MiB + 65536)
    f.put({ op: op.zero, ...range, token: 2, offset: 0 })
    f.put({ op: op.punch, ...range, token: 3, offset: 131072 })
    f.put({ op: op.punch, ...range, token: 4, offset: 16 * MiB })
    for (const token of [2, 3, 4]) t.equal((await f.completed(token)).result, 0)
    const expected = Buffer.alloc(MiB + 65536, 5)
    expected.fill(0, 0, 65536)
    expected.fill(0, 131072, 196608)
    expected.fill(0, MiB)
    t.ok(fs.readFileSync(file.path).equals(expected))
    t.equal(f.addon.seek(file.fd, 'hole', 65536), 131072, 'the space was given back')
  })

  void t.test('COPY copies between files, short only at the end of the source', async t => {
    const f = new EngineFixture(t, kind)
    const content = pattern(MiB + 100)
    const source = addFile(t, f, content)
    const target = addFile(t, f, Buffer.alloc(0))
    const row = { op: op.copy, file: target.index, source: { file: source.index, offset: 0 } }
    f.put({ ...row, token: 1, offset: 65536, length: MiB })
    t.equal((await f.completed(1)).result, MiB)
    f.put({
      ...row,
      token: 2,
      offset: 0,
      length: 4096,
      source: { file: source.index, offset: MiB },
    })
    t.equal((await f.completed(2)).result, 100)
    const bytes = fs.readFileSync(target.path)
    t.ok(bytes.subarray(65536).equals(content.subarray(0, MiB)))
    t.ok(bytes.subarray(0, 100).equals(content.subarray(MiB)))
  })
}

function replyCases(t: Test, kind: EngineKind): void {
  void t.test('READ_SEND sends header and payload and returns both slots', async t => {
    const f = new EngineFixture(t, kind)
    const before = f.freeCounts()
    const content = pattern(MiB)
    const file = addFile(t, f, content)
    const { connection, peer } = f.connect(t)
    for (let i = 0; i < 20; i++) {
      const slot = f.take('4k')
      const row = { op: op.readSend, file: file.index, token: i, offset: i * 7000, length: 4096 }
      f.put({ ...row, connection, memory: slot, slot, ...f.header(Buffer.of(i)) })
    }
    await f.until(() => peer.receivedBytes === 20 * 4097)
    const seen = new Set<number>()
    for (let at = 0; at < peer.receivedBytes; at += 4097) {
      const i = peer.received[at] ?? 0
      seen.add(i)
      t.ok(
        peer.received
          .subarray(at + 1, at + 4097)
          .equals(content.subarray(i * 7000, i * 7000 + 4096)),
      )
    }
    t.equal(seen.size, 20)
    await f.until(() => f.connection(connection).replies === 0)
    t.same(f.freeCounts(), before)
    t.equal(f.done.length, 0, 'no done row for success')
  })

  void t.test(
    'a READ_SEND that is short or fails comes back, its slots are still the caller’s',
    async t => {
      const f = new EngineFixture(t, kind)
      const file = addFile(t, f, Buffer.alloc(100))
      const directory = f.engine.addFile(fs.openSync(t.testdirName, 'r'))
      const { connection, peer } = f.connect(t)
      const slot = f.take('4k')
      const header = f.header(Buffer.from('H'))
      const row = {
        op: op.readSend,
        length: 4096,
        offset: 0,
        connection,
        memory: slot,
        slot,
        ...header,
      }
      const before = f.freeCounts()
      f.put({ ...row, file: file.index, token: 1 })
      t.equal((await f.completed(1)).result, 100)
      f.put({ ...row, file: directory, token: 2 })
      t.equal((await f.completed(2)).result, -21, 'EISDIR')
      t.same(f.freeCounts(), before)
      t.match(f.connection(connection), { replies: 0, unsent: 0 })
      t.equal(peer.receivedBytes, 0)
    },
  )

  void t.test(
    'CLOSE gracefully waits for READ_SENDs, and for the answer to one that failed',
    async t => {
      const f = new EngineFixture(t, kind)
      const file = addFile(t, f, Buffer.alloc(4096, 1))
      const { connection, peer } = f.connect(t)
      const slots = [f.take('4k'), f.take('4k')] as const
      const row = { op: op.readSend, file: file.index, length: 4096, connection }
      f.onDone = row => {
        if (row.kind === done.operation)
          f.put({ op: op.send, connection, slot: slots[1], ...f.header(Buffer.from('sorry')) })
      }
      f.put({ ...row, token: 1, offset: 0, memory: slots[0], slot: slots[0] })
      f.put({ ...row, token: 2, offset: 1, memory: slots[1], slot: slots[1] })
      f.put({ op: op.close, connection, length: 0 })
      await f.until(() => peer.ended)
      t.equal(peer.receivedBytes, 4096 + 5)
      peer.socket.end()
      await f.until(() => f.saw(done.closed, connection) !== undefined)
      t.same(f.freeCounts(), [32, 8, 4, 64])
    },
  )

  void t.test('CLOSE at once lets reads end first, then returns their slots', async t => {
    const f = new EngineFixture(t, kind)
    const before = f.freeCounts()
    const file = addFile(t, f, pattern(MiB))
    const { connection } = f.connect(t)
    for (let i = 0; i < 8; i++) {
      const slot = f.take('64k')
      const row = { op: op.readSend, file: file.index, length: 65536, offset: i * 65536 }
      f.put({ ...row, connection, memory: slot, slot, ...f.header(Buffer.alloc(16)) })
    }
    f.put({ op: op.close, connection, length: 1 })
    await f.until(() => f.saw(done.closed, connection) !== undefined)
    t.same(f.freeCounts(), before)
    t.same([f.control(control.inFlight0), f.control(control.inFlight1)], [0, 0])
  })
}

function errorCases(t: Test, kind: EngineKind): void {
  void t.test('errors are results: EBADF, ENOSPC', async t => {
    const f = new EngineFixture(t, kind)
    const readOnly = addFile(t, f, Buffer.alloc(4096), { write: false })
    const full = f.engine.addFile(fs.openSync('/dev/full', 'r+'))
    f.put({ op: op.write, file: readOnly.index, token: 1, length: 10, memory: f.job(0) })
    f.put({ op: op.write, file: full, token: 2, length: 10, memory: f.job(0) })
    f.put({ op: op.punch, file: readOnly.index, token: 3, length: 10 })
    f.put({
      op: op.copy,
      file: readOnly.index,
      token: 4,
      length: 10,
      source: { file: readOnly.index, offset: 0 },
    })
    t.equal((await f.completed(1)).result, -EBADF)
    t.equal((await f.completed(2)).result, -ENOSPC)
    t.equal((await f.completed(3)).result, -EBADF)
    t.equal((await f.completed(4)).result, -EBADF)
  })

  void t.test('operations are counted under the parity of their submission', async t => {
    const f = new EngineFixture(t, kind)
    const file = addFile(t, f, Buffer.alloc(4096))
    const counts = () => [f.control(control.inFlight0), f.control(control.inFlight1)]
    const during: number[][] = []
    f.onReceive = row => {
      row.consumed = row.bytes.length
      f.put({ op: op.sync, file: file.index, token: 1 })
      f.put({ op: op.write, file: file.index, token: 2, length: 100, memory: f.job(0) })
      f.engine.takeRows()
      during.push(counts())
      f.setControl(control.epoch, 1)
      f.put({ op: op.sync, file: file.index, token: 3 })
      f.engine.takeRows()
      during.push(counts())
    }
    const { peer } = f.connect(t)
    peer.socket.write('go')
    await f.until(() => f.done.length === 3)
    t.same(during, [
      [2, 0],
      [2, 1],
    ])
    t.same(counts(), [0, 0])
  })
}

// SPDX-License-Identifier: MIT
/** Connections: receiving, sending, back-pressure. */
import type { Test } from 'tap'
import type { EngineKind } from '../../src/io/native.js'
import {
  EngineFixture,
  NONE,
  STALL,
  control,
  kind as done,
  op,
  type ReceiveRow,
} from './engine-fixture.js'
import { echo, frames, sendJob } from './engine-toys.js'

export function connectionCases(t: Test, kind: EngineKind): void {
  receiving(t, kind)
  sending(t, kind)
  backPressure(t, kind)
}

function receiving(t: Test, kind: EngineKind): void {
  void t.test('frames cut at any place come back whole and in order', async t => {
    const f = new EngineFixture(t, kind)
    const before = f.freeCounts()
    echo(f)
    const { connection, peer } = f.connect(t)
    const sent = frames(200)
    for (let at = 0, step = 1; at < sent.length; at += step, step = ((step * 7) % 9973) + 1) {
      peer.socket.write(sent.subarray(at, at + step))
      if (step % 3 === 0) await f.until(() => peer.socket.writableLength === 0)
    }
    await f.until(() => peer.receivedBytes === sent.length)
    t.ok(peer.received.equals(sent))
    await f.until(() => f.connection(connection).replies === 0)
    t.same(f.freeCounts(), before, 'every slot and header was returned')
    t.match(f.connection(connection), { unsent: 0, open: 1 })
  })

  void t.test(
    'an unconsumed rest is shown again, from its first byte, when more has come',
    async t => {
      const f = new EngineFixture(t, kind)
      const seen: string[] = []
      f.onReceive = row => {
        seen.push(Buffer.from(row.bytes).toString())
        row.consumed = Math.min(2, row.bytes.length)
      }
      const { peer } = f.connect(t)
      peer.socket.write('abcde')
      await f.until(() => seen.length === 1)
      peer.socket.write('fg')
      await f.until(() => seen.length === 2)
      t.same(seen, ['abcde', 'cdefg'])
    },
  )

  void t.test('the limit of the next receive holds for that receive', async t => {
    const f = new EngineFixture(t, kind)
    const lengths: number[] = []
    f.onReceive = row => {
      lengths.push(row.bytes.length)
      row.consumed = row.bytes.length
      row.limit = 28
    }
    const { peer } = f.connect(t)
    peer.socket.write(Buffer.alloc(28))
    await f.until(() => lengths.length === 1)
    peer.socket.write(Buffer.alloc(100))
    await f.until(() => lengths.reduce((a, b) => a + b) === 128)
    t.same(lengths, [28, 28, 28, 28, 16])
  })

  void t.test(
    'a payload is received straight to its memory, and then bytes come normally',
    async t => {
      const f = new EngineFixture(t, kind)
      const slot = f.take('1m')
      const rows: string[] = []
      f.onReceive = row => {
        rows.push(Buffer.from(row.bytes).toString())
        row.consumed = row.bytes.length
        if (rows.length === 1) row.into = { offset: slot, length: 1048576, token: 77 }
      }
      const { connection, peer } = f.connect(t)
      peer.socket.write('head')
      await f.until(() => rows.length === 1)
      const payload = Buffer.alloc(1048576, 'payload.')
      peer.socket.write(payload)
      peer.socket.write('next')
      await f.until(() => rows.length === 2)
      t.same(rows, ['head', 'next'])
      t.strictSame(f.done, [{ kind: done.into, id: 77, result: 1048576, extra: connection }])
      t.ok(payload.equals(f.at(slot, 1048576)))
    },
  )

  void t.test(
    'the stream ends inside a payload: the token comes back with 0, then END',
    async t => {
      const f = new EngineFixture(t, kind)
      f.onReceive = row => {
        row.consumed = row.bytes.length
        row.into = { offset: f.job(0), length: 1000, token: 5 }
      }
      const { connection, peer } = f.connect(t)
      peer.socket.write('x')
      await f.until(() => f.batches === 1)
      peer.socket.end('short')
      await f.until(() => f.saw(done.end, connection) !== undefined)
      t.strictSame(f.done, [
        { kind: done.into, id: 5, result: 0, extra: connection },
        { kind: done.end, id: connection, result: 0, extra: 0 },
      ])
    },
  )

  void t.test('two hundred connections are served at once', async t => {
    const f = new EngineFixture(t, kind, { connectionCount: 200, count4k: 64, receiveBytes: 8192 })
    echo(f)
    const peers = Array.from({ length: 200 }, () => f.connect(t).peer)
    t.equal(f.engine.addConnection(f.addon.socketPair()[0]), NONE, 'one more finds no slot')
    const sent = frames(20)
    for (const peer of peers) peer.socket.write(sent)
    await f.until(() => peers.every(peer => peer.receivedBytes === sent.length))
    t.ok(peers.every(peer => peer.received.equals(sent)))
  })
}

function sending(t: Test, kind: EngineKind): void {
  void t.test('more replies than one send takes arrive in the order of their rows', async t => {
    const f = new EngineFixture(t, kind, { headerCount: 2048 })
    const { connection, peer } = f.connect(t)
    const sent = Array.from({ length: 1500 }, (_, i) => {
      const bytes = Buffer.alloc(1 + (i % 255))
      bytes[0] = i % 256
      return bytes
    })
    for (const bytes of sent) f.put({ op: op.send, connection, ...f.header(bytes) })
    const all = Buffer.concat(sent)
    await f.until(() => peer.receivedBytes === all.length)
    t.ok(peer.received.equals(all))
    t.ok(f.engine.stats().sends < 100, 'many replies per system call')
    t.equal(f.control(control.freeHeaders), 2048)
  })

  void t.test('a slow reader gets everything; the table tells how much is unsent', async t => {
    const f = new EngineFixture(t, kind)
    const { connection, peer } = f.connect(t)
    f.at(f.job(0), 1048576).fill(9)
    peer.socket.pause()
    sendJob(f, connection, 20)
    f.engine.run(20)
    t.equal(f.connection(connection).replies, 20)
    t.ok(f.connection(connection).unsent > 15 * 1048576)
    peer.socket.resume()
    await f.until(() => peer.receivedBytes === 20 * 1048576)
    await f.until(() => f.connection(connection).replies === 0)
    t.equal(f.connection(connection).unsent, 0)
    t.ok(peer.received.every(byte => byte === 9))
  })

  void t.test('a row for a connection that is gone is dropped and its slots come back', async t => {
    const f = new EngineFixture(t, kind)
    const before = f.freeCounts()
    const { connection } = f.connect(t)
    f.put({ op: op.close, connection, length: 1 })
    await f.until(() => f.saw(done.closed, connection) !== undefined)
    const { connection: next, peer } = f.connect(t)
    t.equal(next % 65536, connection % 65536, 'the slot is in use again')
    t.not(next, connection)
    f.put({ op: op.send, connection, ...f.header(Buffer.alloc(8)), ...f.payload(Buffer.alloc(9)) })
    f.put({ op: op.send, connection: next, ...f.header(Buffer.from('mine')) })
    await f.until(() => peer.receivedBytes === 4)
    t.equal(peer.received.toString(), 'mine')
    t.same(f.freeCounts(), before)
  })
}

function backPressure(t: Test, kind: EngineKind): void {
  void t.test('a stalled connection is not received from, and RESUME shows it again', async t => {
    const f = new EngineFixture(t, kind)
    let stalled = true
    let shown = 0
    f.onReceive = row => {
      shown++
      if (stalled) row.limit = STALL
      else row.consumed = row.bytes.length
    }
    const { connection, peer } = f.connect(t)
    const sent = Buffer.alloc(4 * 1048576, 1)
    peer.socket.write(sent)
    await f.until(() => shown === 1)
    f.engine.run(20)
    t.equal(shown, 1, 'nothing happened, so it was not shown again')
    stalled = false
    let consumed = 0
    f.onReceive = row => {
      consumed += row.bytes.length
      row.consumed = row.bytes.length
    }
    f.put({ op: op.resume, connection })
    await f.until(() => consumed === sent.length)
    t.equal(peer.socket.writableLength, 0)
  })

  void t.test('a connection stalled for want of a slot goes on when a reply was sent', async t => {
    const f = new EngineFixture(t, kind, { count4k: 3, headerCount: 4 })
    echo(f)
    const { peer } = f.connect(t)
    const sent = frames(300)
    peer.socket.write(sent)
    await f.until(() => peer.receivedBytes === sent.length)
    t.ok(peer.received.equals(sent))
    t.same([f.control(control.free4k), f.control(control.freeHeaders)], [3, 4])
  })

  void t.test('a full buffer of which nothing was consumed counts as stalled', async t => {
    const f = new EngineFixture(t, kind, { receiveBytes: 4096 })
    let rows: ReceiveRow[] = []
    f.onReceive = row => rows.push(row)
    const { connection, peer } = f.connect(t)
    peer.socket.write(Buffer.alloc(10000))
    await f.until(() => rows.at(-1)?.bytes.length === 4096)
    rows = []
    f.engine.run(20)
    t.equal(rows.length, 0)
    f.onReceive = row => {
      rows.push(row)
      row.consumed = row.bytes.length
    }
    f.put({ op: op.resume, connection })
    await f.until(() => rows.reduce((sum, row) => sum + row.bytes.length, 0) === 10000)
  })

  void t.test('who waits for slots is called when one was returned, without any row', async t => {
    const f = new EngineFixture(t, kind)
    const { connection } = f.connect(t)
    f.put({ op: op.send, connection, ...f.header(Buffer.alloc(8)) })
    f.engine.run(5)
    t.equal(f.batches, 0, 'nobody waits: no call')
    f.setControl(control.wantFree, 1)
    f.put({ op: op.send, connection, ...f.header(Buffer.alloc(8)) })
    await f.until(() => f.batches === 1)
    t.same([f.control(control.receiveRows), f.control(control.doneRows)], [0, 0])
  })
}

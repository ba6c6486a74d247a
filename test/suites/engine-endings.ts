// SPDX-License-Identifier: MIT
/** Connections: every way to end, and listeners, where they begin. */
import net from 'node:net'
import type { Test } from 'tap'
import type { EngineKind } from '../../src/io/native.js'
import { EngineFixture, Peer, kind as done, op } from './engine-fixture.js'
import { echo, frame, frames, sendJob } from './engine-toys.js'
import { scratchDirectory } from './scratch-directory.js'

const ECANCELED = 125
const ECONNRESET = 104

export function endingCases(t: Test, kind: EngineKind): void {
  ending(t, kind)
  listening(t, kind)
}

function ending(t: Test, kind: EngineKind): void {
  void t.test('half close: END after all bytes, and replies still reach the peer', async t => {
    const f = new EngineFixture(t, kind)
    echo(f)
    const { connection, peer } = f.connect(t)
    const sent = frames(30)
    peer.socket.end(Buffer.concat([sent, Buffer.from([1, 2, 3])]))
    await f.until(() => f.saw(done.end, connection) !== undefined)
    t.equal(f.saw(done.end, connection)?.extra, 3, 'three bytes of a frame were left over')
    t.equal(f.engine.peerHungUp(connection), true)
    f.put({ op: op.close, connection, length: 0 })
    await f.until(() => f.saw(done.closed, connection) !== undefined && peer.ended)
    t.ok(peer.received.equals(sent))
    t.same(
      f.done.map(row => row.kind),
      [done.end, done.closed],
    )
    t.equal(f.connection(connection).open, 0)
  })

  void t.test('CLOSE gracefully sends what is queued and drops what still comes', async t => {
    const f = new EngineFixture(t, kind)
    const { connection, peer } = f.connect(t)
    let shown = 0
    f.onReceive = () => shown++
    sendJob(f, connection, 8)
    f.put({ op: op.close, connection, length: 0 })
    peer.socket.write(Buffer.alloc(1048576))
    await f.until(() => peer.ended)
    t.equal(peer.receivedBytes, 8 * 1048576)
    t.equal(f.saw(done.closed, connection), undefined, 'the peer has not ended yet')
    peer.socket.end()
    await f.until(() => f.saw(done.closed, connection) !== undefined)
    t.equal(shown, 0)
    t.equal(peer.error, undefined)
  })

  void t.test('CLOSE gracefully does not wait for ever for a peer that never ends', async t => {
    const f = new EngineFixture(t, kind)
    const { connection, peer } = f.connect(t)
    f.put({ op: op.close, connection, length: 0 })
    await f.until(() => f.saw(done.closed, connection) !== undefined)
    t.equal(peer.ended, true)
  })

  void t.test('CLOSE gracefully gives the memory of a half received payload back', async t => {
    const f = new EngineFixture(t, kind)
    f.onReceive = row => {
      row.consumed = row.bytes.length
      row.into = { offset: f.job(0), length: 100, token: 3 }
    }
    const { connection, peer } = f.connect(t)
    peer.socket.write('a')
    await f.until(() => f.batches === 1)
    f.put({ op: op.close, connection, length: 0 })
    await f.until(() => f.done.some(row => row.kind === done.into))
    t.strictSame(f.done, [{ kind: done.into, id: 3, result: -ECANCELED, extra: connection }])
    peer.socket.end('late bytes')
    await f.until(() => f.saw(done.closed, connection) !== undefined)
  })

  void t.test(
    'CLOSE at once drops the queue, returns its slots and ends a direct receive',
    async t => {
      const f = new EngineFixture(t, kind)
      const before = f.freeCounts()
      f.onReceive = row => {
        row.consumed = row.bytes.length
        row.into = { offset: f.job(1), length: 100, token: 4 }
      }
      const { connection, peer } = f.connect(t)
      peer.socket.pause()
      peer.socket.write('a')
      await f.until(() => f.batches === 1)
      sendJob(f, connection, 8)
      for (let i = 0; i < 20; i++)
        f.put({
          op: op.send,
          connection,
          ...f.header(Buffer.alloc(8)),
          ...f.payload(Buffer.alloc(99)),
        })
      f.engine.run(5)
      t.ok(f.connection(connection).replies > 20)
      f.put({ op: op.close, connection, length: 1 })
      await f.until(() => f.saw(done.closed, connection) !== undefined)
      t.same(f.freeCounts(), before)
      t.strictSame(f.done, [
        { kind: done.into, id: 4, result: -ECANCELED, extra: connection },
        { kind: done.closed, id: connection, result: 0, extra: 0 },
      ])
      t.match(f.connection(connection), { replies: 0, unsent: 0, open: 0 })
      peer.socket.resume()
      await f.until(() => peer.closed || peer.ended)
    },
  )

  void t.test('CLOSE at once overtakes a graceful one whose peer does not read', async t => {
    const f = new EngineFixture(t, kind)
    const { connection, peer } = f.connect(t)
    peer.socket.pause()
    sendJob(f, connection, 8)
    f.put({ op: op.close, connection, length: 0 })
    f.engine.run(20)
    t.equal(f.saw(done.closed, connection), undefined)
    f.put({ op: op.close, connection, length: 1 })
    await f.until(() => f.saw(done.closed, connection) !== undefined)
  })

  void t.test(
    'a peer that goes away while replies are under way makes the connection FAIL',
    async t => {
      const f = new EngineFixture(t, kind)
      const before = f.freeCounts()
      const { connection, peer } = f.connect(t)
      peer.socket.pause()
      sendJob(f, connection, 8)
      f.put({
        op: op.send,
        connection,
        ...f.header(Buffer.alloc(8)),
        ...f.payload(Buffer.alloc(99)),
      })
      f.engine.run(5)
      peer.socket.destroy()
      await f.until(() => f.saw(done.failed, connection) !== undefined)
      t.ok((f.saw(done.failed, connection)?.result ?? 0) < 0)
      t.same(f.freeCounts(), before)
      f.put({
        op: op.send,
        connection,
        ...f.header(Buffer.alloc(8)),
        ...f.payload(Buffer.alloc(99)),
      })
      f.put({ op: op.close, connection, length: 0 })
      await f.until(() => f.saw(done.closed, connection) !== undefined)
      t.same(f.freeCounts(), before)
      t.equal(f.done.filter(row => row.kind === done.failed).length, 1)
    },
  )
}

function listening(t: Test, kind: EngineKind): void {
  void t.test('a unix listener accepts, names the peer, and closes who finds no slot', async t => {
    const f = new EngineFixture(t, kind, { connectionCount: 2 })
    echo(f)
    const path = `${scratchDirectory(t)}/s`
    const fd = f.addon.listenUnix(path, 0o600, 16)
    const listener = f.engine.addListener(fd)
    f.addon.closeFile(fd)
    const peers = [1, 2, 3].map(() => new Peer(t, net.connect({ path, allowHalfOpen: true })))
    await f.until(() => peers.some(peer => peer.ended || peer.closed))
    const accepted = f.done.filter(row => row.kind === done.accepted)
    t.same(
      accepted.map(row => row.result),
      [listener, listener],
    )
    const peerOf = f.engine.peerCredentials(accepted[0]?.id ?? 0)
    t.equal(peerOf.pid, process.pid)
    t.equal(f.engine.peerHungUp(accepted[0]?.id ?? 0), false)
    peers[0]?.socket.write(frame(1, 5))
    await f.until(() => peers[0]?.receivedBytes === 9)
  })

  void t.test(
    'a slot that became free is given to the next client, under a new generation',
    async t => {
      const f = new EngineFixture(t, kind, { connectionCount: 1 })
      const path = `${scratchDirectory(t)}/s`
      f.engine.addListener(f.addon.listenUnix(path, 0o600, 16))
      const accepted = () => f.done.filter(row => row.kind === done.accepted)
      const first = new Peer(t, net.connect({ path, allowHalfOpen: true }))
      await f.until(() => accepted().length === 1)
      first.socket.destroy()
      f.put({ op: op.close, connection: accepted()[0]?.id ?? 0, length: 0 })
      await f.until(() => f.done.some(row => row.kind === done.closed))
      new Peer(t, net.connect({ path, allowHalfOpen: true }))
      await f.until(() => accepted().length === 2)
      const [one, two] = accepted().map(row => row.id)
      t.not(one, two)
      t.equal((one ?? 0) % 65536, (two ?? 0) % 65536)
    },
  )

  void t.test('TCP: a reset by the peer is FAILED with ECONNRESET', async t => {
    const f = new EngineFixture(t, kind)
    const { fd, port } = f.addon.listenTcp('127.0.0.1', 0, 16)
    f.engine.addListener(fd)
    f.addon.closeFile(fd)
    const peer = new Peer(t, net.connect({ port, host: '127.0.0.1', allowHalfOpen: true }))
    await f.until(() => f.done.length === 1)
    const connection = f.done[0]?.id ?? 0
    t.throws(() => f.engine.peerCredentials(connection), { code: 'EOPNOTSUPP' })
    await f.until(() => peer.socket.readyState === 'open')
    peer.socket.resetAndDestroy()
    await f.until(() => f.saw(done.failed, connection) !== undefined)
    t.equal(f.saw(done.failed, connection)?.result, -ECONNRESET)
    f.put({ op: op.close, connection, length: 1 })
    await f.until(() => f.saw(done.closed, connection) !== undefined)
  })

  void t.test(
    'TCP: replies are not lost when the connection is closed with input unread',
    async t => {
      const f = new EngineFixture(t, kind)
      const { fd, port } = f.addon.listenTcp('::1', 0, 16)
      f.engine.addListener(fd)
      f.addon.closeFile(fd)
      const peer = new Peer(t, net.connect({ port, host: '::1', allowHalfOpen: true }))
      f.onReceive = row => {
        row.consumed = 1
        f.put({ op: op.send, connection: row.connection, memory: f.job(0), length: 1048576 })
        f.put({ op: op.close, connection: row.connection, length: 0 })
      }
      peer.socket.write(Buffer.alloc(300000))
      await f.until(() => peer.ended)
      t.equal(peer.receivedBytes, 1048576)
      t.equal(peer.error, undefined)
    },
  )

  void t.test('a removed listener accepts nobody any more', async t => {
    const f = new EngineFixture(t, kind)
    const path = `${scratchDirectory(t)}/s`
    const fd = f.addon.listenUnix(path, 0o600, 16)
    const listener = f.engine.addListener(fd)
    f.addon.closeFile(fd)
    f.engine.run(5)
    f.engine.removeListener(listener)
    t.throws(
      () => {
        f.engine.removeListener(listener)
      },
      { code: 'EBADF' },
    )
    f.engine.run(5)
    const peer = new Peer(t, net.connect({ path }))
    await f.until(() => peer.error !== undefined)
    t.match(peer.error, { code: 'ECONNREFUSED' })
    t.equal(f.done.length, 0)
  })

  void t.test('what is no listening socket is refused', async t => {
    const f = new EngineFixture(t, kind)
    const [one] = f.addon.socketPair()
    t.throws(() => f.engine.addListener(one), { code: 'EINVAL' })
    t.throws(() => f.engine.addConnection(0x7fff), { code: 'EBADF', operation: 'fcntl' })
  })
}

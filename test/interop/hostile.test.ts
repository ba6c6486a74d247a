// SPDX-License-Identifier: MIT
/**
 * Peers on raw sockets that do what no decent client does, while decent ones work on.
 * TEST_SEED=N repeats the random bytes, FUZZ_MS the time they get.
 */
import type { TcpNetConnectOpts } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import {
  NbdClientConnection,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  type ClientReply,
  type ClientSession,
} from 'nbd-server-protocol'
import { Random } from '../simulation/random.js'
import { readChainContent, writeChain } from '../support/chain-files.js'
import { DiskModel, firstDifference } from '../support/disk-model.js'
import { NbdClient } from '../support/nbd-client.js'
import { ploopNbd } from '../support/programs.js'
import { RawPeer, request } from '../support/raw-peer.js'
import { Served } from '../support/served.js'
import { imageFolder } from '../support/temp-dir.js'

t.setTimeout(300_000)

const mib = 1024 * 1024
const clusterBytes = 65536
const clusterCount = 160
const seed = Number(process.env['TEST_SEED'] ?? Date.now() % 1_000_000)
const fuzzMs = Number(process.env['FUZZ_MS'] ?? 2000)
t.comment(`TEST_SEED=${seed}`)

/** A server, and a decent client that keeps changing and checking the disk meanwhile. */
class Scene {
  readonly served: Served
  readonly #client: NbdClient
  readonly #model: DiskModel
  readonly #random = new Random(seed + 77)
  readonly #memoryBefore: number
  #isOver = false
  #work: Promise<void> | undefined

  private constructor(
    readonly address: string | TcpNetConnectOpts,
    served: Served,
    client: NbdClient,
    model: DiskModel,
  ) {
    this.served = served
    this.#client = client
    this.#model = model
    this.#memoryBefore = served.peakMemoryBytes()
  }

  static async begin(
    t: Test,
    options: { readonly engine?: string; readonly tcp?: boolean } = {},
  ): Promise<Scene> {
    const shape = { levelCount: 2, clusterBytes, clusterCount }
    const { paths, content } = writeChain(imageFolder(t), shape, new Random(seed))
    const { engine = 'auto', tcp = false } = options
    const served = await Served.start(t, ['--engine', engine, ...paths], { tcp })
    const address = tcp ? served.tcpAddress : served.socket
    const client = await NbdClient.connect(address)
    const scene = new Scene(address, served, client, new DiskModel(content))
    scene.#work = scene.#workOn()
    scene.#work.catch(() => undefined)
    return scene
  }

  async #workOn(): Promise<void> {
    const options = { operationCount: 20, depth: 4, clusterBytes }
    while (!this.#isOver) {
      await this.#model.run(this.#client, this.#client, this.#random, options)
      await new Promise(resolve => setTimeout(resolve, 20))
    }
    await this.#model.verify(this.#client)
  }

  /** The decent client was served all the time, memory did not grow beyond reason. */
  async end(t: Test, growthMax = 64 * mib): Promise<void> {
    this.#isOver = true
    try {
      await this.#work
    } catch (error) {
      t.fail(`TEST_SEED=${seed}: ${String(error)}\n${this.served.stderr.slice(-3000)}`)
      return
    }
    const grown = this.served.peakMemoryBytes() - this.#memoryBefore
    t.ok(grown < growthMax, `memory grew by ${Math.round(grown / mib)} MiB`)
    await this.#client.disconnect()
    await this.served.stop()
    t.notMatch(this.served.stderr, /bug in ploop-nbd|\n {4}at /, 'no stack trace')
  }
}

function requests(session: ClientSession): NbdClientConnection {
  return new NbdClientConnection(session)
}

function joined(parts: readonly Uint8Array[]): Buffer {
  return Buffer.concat(parts)
}

t.test('peers that flood the server and never read cost it no memory', async t => {
  const scene = await Scene.begin(t)
  const peers: RawPeer[] = []
  for (const [structured, lengthBytes] of [
    [true, 1],
    [false, 1],
    [true, 32 * mib],
    [false, 65536],
    [true, 2 ** 31],
  ] as const) {
    const peer = new RawPeer(scene.address)
    await peer.enter({ extended: false, structured, contexts: ['base:allocation'] })
    peer.socket.pause()
    const flood: Uint8Array[] = []
    for (let count = 0; count < 20_000; count++) {
      flood.push(request(count % 3 === 2 ? 7 : 0, { cookie: count, lengthBytes }))
    }
    // It is taken as far as the server reads; the rest stays with us.
    peer.socket.write(joined(flood))
    peers.push(peer)
  }
  const other = await NbdClient.connect(scene.address)
  for (let turn = 0; turn < 50; turn++) t.equal((await other.read(turn * 512, 512)).length, 512)
  await other.disconnect()
  for (const peer of peers) peer.destroy()
  // The arena may have been touched as a whole.
  await scene.end(t, 200 * mib)
})

t.test('a peer that half-closes and does not read its replies locks nobody out', async t => {
  const scene = await Scene.begin(t)
  const peer = new RawPeer(scene.address)
  await peer.enter({ extended: false })
  peer.socket.pause()
  const reads: Uint8Array[] = []
  for (let cookie = 0; cookie < 600; cookie++) reads.push(request(0, { cookie, lengthBytes: mib }))
  peer.socket.end(joined(reads))
  for (let turn = 0; turn < 3; turn++) {
    const client = await NbdClient.connect(scene.address)
    t.equal((await client.read(0, 512)).length, 512)
    await client.disconnect()
  }
  peer.destroy()
  await scene.end(t, 200 * mib)
})

t.test('requests sent before a half close are all answered, 50 times of 50', async t => {
  const scene = await Scene.begin(t)
  let answered = 0
  for (let turn = 0; turn < 50; turn++) {
    const peer = new RawPeer(scene.address)
    const session = await peer.enter(turn % 2 === 0 ? {} : { extended: false, structured: false })
    const client = requests(session)
    const parts: Uint8Array[] = []
    const count = 1 + (turn % 40)
    for (let index = 0; index < count; index++) {
      const offsetBytes = index * 200_000
      parts.push(
        ...client.request({ command: NBD_CMD_READ, offsetBytes, lengthBytes: 70_000 }).bytes,
      )
    }
    peer.socket.end(joined(parts))
    await peer.closed
    const replies: ClientReply[] = client.receive(await peer.take(0))
    if (replies.length === count && replies.every(reply => reply.error === 0)) answered++
    peer.destroy()
  }
  t.equal(answered, 50)
  await scene.end(t)
})

t.test('a payload cut short is never written, however the peer goes', async t => {
  const { paths, content } = writeChain(
    imageFolder(t),
    { levelCount: 1, clusterBytes, clusterCount },
    new Random(seed + 1),
  )
  const served = await Served.start(t, [...paths], { tcp: true })
  const random = new Random(seed + 2)
  for (let turn = 0; turn < 60; turn++) {
    const peer = new RawPeer(served.tcpAddress)
    const client = requests(await peer.enter())
    const length = random.pick([512, 4096, 65536, 300_000, 4 * mib])
    const payload = new Uint8Array(length).fill(0xbb)
    const offsetBytes = random.below(clusterCount * clusterBytes - length)
    const bytes = joined(client.request({ command: NBD_CMD_WRITE, offsetBytes, payload }).bytes)
    const cut = bytes.subarray(0, bytes.length - random.between(1, random.pick([1, length])))
    if (turn % 3 === 0) peer.socket.end(cut)
    else {
      await peer.send(cut)
      if (turn % 3 === 1) peer.socket.resetAndDestroy()
      else peer.destroy()
    }
    if (turn % 3 === 0) await peer.closed
    peer.destroy()
  }
  const client = await NbdClient.connect(served.tcpAddress)
  await t.resolves(new DiskModel(content).verify(client), `TEST_SEED=${seed}`)
  await client.disconnect()
  await served.stop()
})

for (const engine of ['uring', 'threads']) {
  t.test(`random bytes and spoilt sessions close their own connection only, ${engine}`, async t => {
    const scene = await Scene.begin(t, { engine })
    const random = new Random(seed + 3)
    const deadlineMs = Date.now() + fuzzMs / 2
    let count = 0
    for (; Date.now() < deadlineMs || count < 60; count++) {
      const peer = new RawPeer(scene.address)
      peer.socket.write(count % 4 === 0 ? noise(random) : spoiltSession(random))
      if (random.chance(0.4)) peer.socket.end()
      else if (random.chance(0.5)) await Promise.race([peer.take(), peer.closed])
      else await peer.send(new Uint8Array(0))
      peer.destroy()
    }
    t.comment(`${count} sessions`)
    await scene.end(t, 200 * mib)
  })
}

t.test('spoilt sessions that write leave a valid image', async t => {
  const shape = { levelCount: 2, clusterBytes, clusterCount }
  const { paths } = writeChain(imageFolder(t), shape, new Random(seed))
  const served = await Served.start(t, [...paths])
  const random = new Random(seed + 4)
  const deadlineMs = Date.now() + fuzzMs / 2
  let count = 0
  for (; Date.now() < deadlineMs || count < 60; count++) {
    const peer = new RawPeer(served.socket)
    peer.socket.write(spoiltSession(random, true))
    if (random.chance(0.5)) {
      peer.socket.end()
      if (random.chance(0.6)) await peer.closed
    } else await Promise.race([peer.take(), peer.closed])
    peer.destroy()
  }
  t.comment(`${count} sessions`)
  const client = await NbdClient.connect(served.socket)
  const content = Buffer.alloc(clusterBytes * clusterCount)
  for (let at = 0; at < content.length; at += mib) content.set(await client.read(at, mib), at)
  await client.disconnect()
  await served.stop()
  const difference = firstDifference(readChainContent(paths), content)
  t.equal(difference, undefined, `TEST_SEED=${seed}: at rest as it was served`)
})

function noise(random: Random): Buffer {
  const bytes = Buffer.alloc(random.between(1, 5000))
  for (let at = 0; at < bytes.length; at++) bytes[at] = random.below(256)
  // Sometimes behind proper client flags, where options are parsed.
  return random.chance(0.5) ? Buffer.concat([Buffer.from([0, 0, 0, 3]), bytes]) : bytes
}

const optionMagic = Buffer.from('IHAVEOPT')

function option(code: number, data: Uint8Array): Buffer {
  const head = Buffer.alloc(16)
  optionMagic.copy(head)
  head.writeUInt32BE(code, 8)
  head.writeUInt32BE(data.length, 12)
  return Buffer.concat([head, data])
}

/**
 * Options and requests as a client sends them, with a few bytes changed.
 * @param writes also with commands that change the disk
 */
function spoiltSession(random: Random, writes = false): Buffer {
  const name = Buffer.from([0, 0, 0, 0])
  const contexts = Buffer.concat([
    Buffer.from([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 15]),
    Buffer.from('base:allocation'),
  ])
  const negotiation: Buffer[] = [Buffer.from([0, 0, 0, 3])]
  if (random.chance(0.7)) negotiation.push(option(random.pick([8, 11]), Buffer.alloc(0)))
  if (random.chance(0.3)) negotiation.push(option(3, Buffer.alloc(0)))
  if (random.chance(0.5)) negotiation.push(option(random.pick([9, 10]), contexts))
  if (random.chance(0.3)) negotiation.push(option(6, Buffer.concat([name, Buffer.alloc(2)])))
  const isExtended = negotiation.some(part => part[11] === 11)
  const options = spoil(random, Buffer.concat(negotiation), 0.3)
  const go = option(7, Buffer.concat([name, Buffer.alloc(2)]))
  const parts = [options, go]
  for (let count = random.below(12); count > 0; count--) {
    const command = random.pick(
      writes ? [0, 1, 1, 1, 3, 4, 4, 6, 6, 7] : [0, 0, 3, 5, 7, 7, 8, 2000],
    )
    const head = request(command, {
      isExtended,
      flags: random.chance(0.3) ? random.below(65536) : command === 1 && isExtended ? 32 : 0,
      cookie: random.next(),
      offsetBytes: random.below(clusterBytes * clusterCount * 2),
      lengthBytes: random.pick([0, 1, 512, 70_000, 64 * mib, 0xffffffff]),
    })
    if (random.chance(0.1)) head.writeUInt8(random.below(256), random.below(4))
    parts.push(head)
    if (command === 1 && random.chance(0.9)) parts.push(Buffer.alloc(random.pick([512, 70_000]), 1))
    if (random.chance(0.1)) parts.push(noise(random))
  }
  const whole = Buffer.concat(parts)
  return random.chance(0.3) ? whole.subarray(0, random.below(whole.length)) : whole
}

function spoil(random: Random, bytes: Buffer, chance: number): Buffer {
  if (!random.chance(chance)) return bytes
  for (let count = random.between(1, 3); count > 0; count--) {
    bytes[random.below(bytes.length)] = random.below(256)
  }
  return bytes
}

t.test('hundreds of idle handshakes do not lock a new client out, and are ended', async t => {
  const scene = await Scene.begin(t)
  const idle: RawPeer[] = []
  for (let count = 0; count < 300; count++) {
    const peer = new RawPeer(scene.address)
    if (count % 3 === 1) void peer.send(Buffer.from([0, 0]))
    if (count % 3 === 2) void peer.send(Buffer.concat([Buffer.from([0, 0, 0, 3]), optionMagic]))
    idle.push(peer)
    if (count % 60 === 59) {
      const client = await NbdClient.connect(scene.address)
      t.equal((await client.read(0, 512)).length, 512, `after ${count + 1} idle handshakes`)
      await client.disconnect()
    }
  }
  const stalled = new RawPeer(scene.address)
  await stalled.enter()
  await stalled.send(Buffer.from([0x25, 0x60, 0x95]))
  // Each has its deadline; a client in transmission may idle for days, also inside a header.
  await Promise.all(idle.map(peer => peer.closed))
  const client = await NbdClient.connect(scene.address)
  await client.disconnect()
  let stalledIsClosed = false
  void stalled.closed.then(() => (stalledIsClosed = true))
  await client.closed
  t.equal(stalledIsClosed, false)
  for (const peer of idle) peer.destroy()
  stalled.destroy()
  await scene.end(t)
})

t.test('peers that reset at any moment leave nothing behind', async t => {
  const scene = await Scene.begin(t, { tcp: true })
  const random = new Random(seed + 5)
  for (let turn = 0; turn < 150; turn++) {
    const peer = new RawPeer(scene.address)
    const client = requests(await peer.enter())
    const parts: Uint8Array[] = []
    for (let count = random.below(30); count > 0; count--) {
      const lengthBytes = random.pick([512, 65536, 1_000_000, 8 * mib])
      parts.push(...client.request({ command: NBD_CMD_READ, offsetBytes: 0, lengthBytes }).bytes)
    }
    void peer.send(joined(parts))
    if (parts.length > 0 && random.chance(0.7)) await peer.take()
    peer.socket.resetAndDestroy()
  }
  // All slots must be back: as many clients as are allowed, at once.
  const clients: NbdClient[] = []
  for (let count = 0; count < 100; count++) clients.push(await NbdClient.connect(scene.address))
  await Promise.all(clients.map(client => client.read(0, 2 * mib)))
  for (const client of clients) await client.disconnect()
  await scene.end(t, 200 * mib)
})

t.test('a disk of 16 TiB is made, opened and served in little memory', async t => {
  const folder = imageFolder(t)
  const make = ['init', '-s', '16T', '-t', 'none', join(folder, 'root.hds')]
  const made = await ploopNbd(make)
  t.equal(made.status, 0, made.stderr)
  const served = await Served.start(t, [join(folder, 'DiskDescriptor.xml')], { readyMs: 30_000 })
  const client = await NbdClient.connect(served.socket, '', { contexts: ['base:allocation'] })
  const { sizeBytes } = client.session
  t.equal(sizeBytes, 16 * 2 ** 40)
  const payload = Buffer.alloc(100_000, 'x')
  const places = [0, 2 ** 32 - 50_000, 2 ** 41 + 12_345, sizeBytes - payload.length]
  for (const place of places) await client.write(place, payload, { fua: true })
  for (const place of places) {
    t.ok(payload.equals(await client.read(place, payload.length)), `at ${place}`)
  }
  let at = 0
  let dataBytes = 0
  while (at < sizeBytes) {
    const extents = await client.blockStatus(at, Math.min(2 ** 42, sizeBytes - at))
    for (const { lengthBytes, status } of extents.get('base:allocation') ?? []) {
      at += lengthBytes
      if (status === 0) dataBytes += lengthBytes
    }
  }
  t.equal(dataBytes, 5 * mib, 'the clusters written')
  t.ok(
    served.peakMemoryBytes() < 300 * mib,
    `${Math.round(served.peakMemoryBytes() / mib)} MiB in use`,
  )
  await client.disconnect()
  await served.stop()
})

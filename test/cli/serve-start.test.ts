// SPDX-License-Identifier: MIT
/** How `serve` is started and ended by others: sockets, locks, libnbd, a parent, a service manager. */
import { spawn } from 'node:child_process'
import * as fs from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { NbdClient } from '../support/nbd-client.js'
import {
  ploopNbd,
  ploopNbdPath,
  runJudge,
  runProgram,
  type RunResult,
} from '../support/programs.js'
import { requires } from '../support/requires.js'
import { Served } from '../support/served.js'
import {
  clusterBytes,
  guids,
  judgeRefusal,
  makeDisk,
  markOf,
  snapshotOf,
} from '../support/small-disk.js'
import { imageFolder, socketFolder } from '../support/temp-dir.js'

t.setTimeout(300_000)

const top = (folder: string): string => join(folder, 'top.hds')

t.test('a socket that cannot be had is refused before the image is touched', async t => {
  const folder = imageFolder(t)
  makeDisk(folder)
  const descriptor = join(folder, 'DiskDescriptor.xml')
  const sockets = socketFolder(t)
  const file = join(sockets, 'file')
  fs.writeFileSync(file, 'mine')
  const used = join(sockets, 'used')
  const other = createServer().listen(used)
  t.teardown(() => other.close())
  const stale = join(sockets, 'stale')
  await runProgram('/usr/bin/python3', [
    '-c',
    `import socket; socket.socket(socket.AF_UNIX).bind(${JSON.stringify(stale)})`,
  ])
  const long = join(sockets, 'l'.repeat(108))
  const cases: [string, number, RegExp][] = [
    [long, 38, /107 bytes/],
    [join(sockets, 'none', 's'), 1, /directory/],
    [file, 1, /not a socket/],
    [used, 1, /another server/],
  ]
  const untouched = fs.statSync(top(folder)).mtimeMs
  for (const [socket, status, says] of cases) {
    const result = await ploopNbd(['serve', '--socket', socket, descriptor])
    judgeRefusal(t, result, { status, says }, folder)
    t.match(result.stderr, socket)
    t.equal(markOf(top(folder)), 0, 'closed')
    t.equal(fs.statSync(top(folder)).mtimeMs, untouched, 'not written')
  }
  t.equal(fs.readFileSync(file, 'utf8'), 'mine')
  t.ok(fs.existsSync(used), "another one's socket is left alone")
  const served = await Served.start(t, [descriptor], { socket: stale })
  t.pass('a socket that nobody answers is replaced')
  t.equal(fs.statSync(stale).mode % 0o1000, 0o600)
  await served.stop()
  t.notOk(fs.existsSync(stale))
})

t.test('what another process has open is refused, and that one is not disturbed', async t => {
  const folder = imageFolder(t)
  makeDisk(folder)
  const descriptor = join(folder, 'DiskDescriptor.xml')
  const served = await Served.start(t, [descriptor])
  const client = await NbdClient.connect(served.socket)
  await client.write(0, Buffer.alloc(5000, 'a'))
  for (const own of [[descriptor], ['-r', descriptor], [top(folder)]]) {
    const socket = join(socketFolder(t), 's')
    const result = await ploopNbd(['serve', '--socket', socket, ...own])
    judgeRefusal(t, result, { status: 37, says: /use|lock|open/ }, folder)
    t.match(result.stderr, /top\.hds|DiskDescriptor\.xml/)
  }
  t.strictSame(Buffer.from(await client.read(0, 5000)), Buffer.alloc(5000, 'a'))
  await client.disconnect()
  const readers = [
    await Served.start(t, ['-r', '-u', guids.base, descriptor]),
    await Served.start(t, ['-r', '-u', 'base', descriptor]),
  ]
  t.pass('lower deltas are shared with read-only servers')
  for (const reader of readers) await reader.stop()
  await served.stop()
  t.equal(markOf(top(folder)), 0)
})

t.test('a locked descriptor is waited for, and SIGTERM ends the waiting', async t => {
  const folder = imageFolder(t)
  makeDisk(folder)
  const descriptor = join(folder, 'DiskDescriptor.xml')
  const before = snapshotOf(folder)
  const lock = spawn('flock', ['-x', `${descriptor}.lck`, 'sh', '-c', 'echo locked; read line'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  t.teardown(() => lock.kill())
  await new Promise(resolve => lock.stdout.once('data', resolve))
  const impatient = spawn(process.execPath, [
    ...[ploopNbdPath, 'serve', '--socket', join(socketFolder(t), 's'), descriptor],
  ])
  let words = ''
  impatient.stderr.setEncoding('utf8').on('data', (text: string) => (words += text))
  const ended = new Promise<number | null>(resolve => impatient.on('close', resolve))
  await opens(impatient.pid ?? 0, `${descriptor}.lck`)
  impatient.kill('SIGTERM')
  t.not(await ended, null, 'ended by itself')
  t.notMatch(words, /^ +at |bug in ploop-nbd/m)
  t.strictSame(snapshotOf(folder), before)
  const socket = join(socketFolder(t), 's')
  const patient = Served.start(t, [descriptor], { socket })
  await new Promise(resolve => setTimeout(resolve, 300))
  t.notOk(fs.existsSync(socket), 'nothing is served before the lock is had')
  lock.stdin.end('\n')
  await (await patient).stop()
  t.pass('the lock was waited for')
})

/** Waits until a process has a file open. */
async function opens(pid: number, path: string): Promise<void> {
  const folder = `/proc/${pid}/fd`
  const isOpen = (fd: string): boolean => {
    try {
      return fs.readlinkSync(join(folder, fd)) === path
    } catch {
      // It was closed meanwhile.
      return false
    }
  }
  for (let turn = 0; turn < 1500; turn++) {
    if (fs.readdirSync(folder).some(isOpen)) return
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  throw new Error(`${path} was not opened within 30 s`)
}

t.test(
  'libnbd starts the server with a listening socket',
  { skip: requires('nbdinfo', 'nbdcopy') },
  async t => {
    const folder = imageFolder(t)
    makeDisk(folder)
    const own = [process.execPath, ploopNbdPath, 'serve', join(folder, 'DiskDescriptor.xml')]
    const size = await runJudge('nbdinfo', ['--size', '--', '[', ...own, ']'])
    t.equal(size, `${16 * clusterBytes}\n`, 'nothing else on standard output')
    const out = join(folder, 'out')
    await runJudge('nbdcopy', ['--', '[', ...own, ']', out])
    t.equal(fs.statSync(out).size, 16 * clusterBytes)
    t.equal(markOf(top(folder)), 0, 'closed when libnbd ended it')
    const foreign = { LISTEN_PID: '1', LISTEN_FDS: '1' }
    const served = await Served.start(t, [join(folder, 'DiskDescriptor.xml')], { env: foreign })
    t.match(served.uri, /^nbd\+unix:/, 'sockets for another process are none of ours')
    await served.stop()
  },
)

t.test(
  '--run passes the URI to a command and its status on',
  { skip: requires('nbdinfo') },
  async t => {
    const folder = imageFolder(t)
    makeDisk(folder)
    const serve = ['serve', '--socket', join(socketFolder(t), 's')]
    const run = (command: string): Promise<RunResult> =>
      ploopNbd([...serve, '--run', command, join(folder, 'DiskDescriptor.xml')])
    for (const status of [0, 1, 7, 200]) {
      const result = await run(`exit ${status}`)
      t.equal(result.status, status)
      t.equal(result.stdout, '')
    }
    const asked = await run('nbdinfo --size "$uri"; test -S "$unixsocket"')
    t.match(asked, { status: 0, stdout: `${16 * clusterBytes}\n` })
    t.equal((await run('kill -9 $$')).status, 137)
    t.equal(markOf(top(folder)), 0)
  },
)

t.test('--exit-with-parent ends the server, cleanly, when its parent dies', async t => {
  const folder = imageFolder(t)
  makeDisk(folder)
  const socket = join(socketFolder(t), 's')
  const own = [process.execPath, ploopNbdPath, 'serve', '--exit-with-parent', '--socket', socket]
  const script = '"$@" & echo $!; wait'
  const parent = spawn('sh', ['-c', script, 'sh', ...own, join(folder, 'DiskDescriptor.xml')], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  parent.stdout.setEncoding('utf8')
  let said = ''
  const closed = new Promise(resolve => parent.stdout.on('close', resolve))
  await new Promise<void>(resolve => {
    parent.stdout.on('data', (text: string) => {
      said += text
      if (said.includes('nbd+unix:')) resolve()
    })
  })
  t.not(markOf(top(folder)), 0, 'it serves')
  parent.kill('SIGKILL')
  // The server holds the other end of the pipe as long as it lives.
  await closed
  t.equal(markOf(top(folder)), 0, 'closed')
  t.notOk(fs.existsSync(socket))
})

t.test(
  'TCP: the kernel chooses a port, the URI tells it',
  { skip: requires('nbdinfo') },
  async t => {
    const folder = imageFolder(t)
    makeDisk(folder)
    const descriptor = join(folder, 'DiskDescriptor.xml')
    const served = await Served.start(t, ['--bind', '127.0.0.1', '--export', 'a b', descriptor], {
      tcp: true,
    })
    t.match(served.uri, /^nbd:\/\/127\.0\.0\.1:\d+\/a%20b$/)
    t.equal(await runJudge('nbdinfo', ['--size', served.uri]), `${16 * clusterBytes}\n`)
    const { port } = served.tcpAddress
    const second = imageFolder(t)
    makeDisk(second)
    const taken = await ploopNbd([
      'serve',
      '--port',
      String(port),
      join(second, 'DiskDescriptor.xml'),
    ])
    t.equal(taken.status, 1, taken.stderr)
    t.match(taken.stderr, new RegExp(`${port}.*EADDRINUSE|in use`))
    t.equal(markOf(top(second)), 0)
    await served.stop()
  },
)

t.test(
  'the service manager hears READY=1 and STOPPING=1',
  { skip: requires('/usr/bin/python3') },
  async t => {
    const folder = imageFolder(t)
    makeDisk(folder)
    const socketPath = join(socketFolder(t), 'n')
    const listener = spawn('/usr/bin/python3', ['-u', '-c', notifyListener, socketPath])
    t.teardown(() => listener.kill())
    let heard = ''
    const line = (wanted: string): Promise<void> =>
      new Promise(resolve => {
        const look = (): void => {
          if (heard.includes(wanted)) resolve()
        }
        listener.stdout.on('data', look)
        look()
      })
    listener.stdout.setEncoding('utf8').on('data', (text: string) => (heard += text))
    await line('listening')
    const env = { NOTIFY_SOCKET: socketPath }
    const served = await Served.start(t, [join(folder, 'DiskDescriptor.xml')], { env })
    await line('READY=1')
    await served.stop()
    await line('STOPPING=1')
    t.ok(heard.indexOf('READY=1') < heard.indexOf('STOPPING=1'))
  },
)

const notifyListener = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print("listening")
while True:
    print(s.recv(4096).decode())
`

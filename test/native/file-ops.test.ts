// SPDX-License-Identifier: MIT
/** The file and socket calls that Node lacks. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { createInterface } from 'node:readline'
import t, { type Test } from 'tap'
import { isNativeError, loadAddon } from '../../src/io/native.js'
import { addonPath } from '../suites/addon-path.js'
import { scratchDirectory } from '../suites/scratch-directory.js'

const addon = loadAddon()
const read = { write: false, direct: false, create: false, mode: 0 }
const readWrite = { ...read, write: true }
const MiB = 1048576

function temporary(t: Test, content: string | Uint8Array = ''): { fd: number; path: string } {
  const name = path.join(t.testdir({}), 'file')
  fs.writeFileSync(name, content)
  return { fd: opened(t, name), path: name }
}

function opened(t: Test, name: string, flags = readWrite): number {
  const fd = addon.openFile(name, flags)
  t.teardown(() => {
    addon.closeFile(fd)
  })
  return fd
}

t.test('openFile', async t => {
  t.test('an error names errno and the system call', async t => {
    const missing = path.join(t.testdir({}), 'missing')
    try {
      addon.openFile(missing, read)
      t.fail('it opened')
    } catch (error) {
      t.ok(isNativeError(error))
      t.match(error, { code: 'ENOENT', errno: 2, operation: 'open' })
    }
    t.notOk(isNativeError(new Error('other')))
    t.throws(() => addon.openFile('a\0b', read), { code: 'EINVAL' })
  })

  t.test('create makes a new file with its mode and refuses one that exists', async t => {
    const name = path.join(t.testdir({}), 'new')
    const create = { ...readWrite, create: true, mode: 0o600 }
    const fd = opened(t, name, create)
    t.equal(fs.fstatSync(fd).mode & 0o777, 0o600)
    t.throws(() => addon.openFile(name, create), { code: 'EEXIST' })
  })

  t.test('a FIFO without a writer does not hang', async t => {
    const name = path.join(t.testdir({}), 'fifo')
    spawnSync('mkfifo', [name])
    const fd = opened(t, name, read)
    t.equal(fs.fstatSync(fd).isFIFO(), true)
  })

  t.test('a file is closed on exec and not O_NONBLOCK', async t => {
    const { fd } = temporary(t)
    const info = fs.readFileSync(`/proc/self/fdinfo/${String(fd)}`, 'utf8')
    const flags = parseInt(/flags:\s+(\d+)/.exec(info)?.[1] ?? '', 8)
    t.equal(flags & 0o2000000, 0o2000000)
    t.equal(flags & 0o4000, 0)
  })
})

t.test('direct I/O', async t => {
  t.test('alignment is a power of two, or direct I/O is refused', async t => {
    const { fd } = temporary(t, Buffer.alloc(8192))
    const { direct, memoryBytes, offsetBytes } = addon.directAlignment(fd)
    for (const bytes of [memoryBytes, offsetBytes]) t.equal(Math.log2(bytes) % 1, 0)
    if (direct) {
      addon.setDirect(fd, true)
      t.throws(() => fs.readSync(fd, new Uint8Array(5), 1, 3, 1), { code: 'EINVAL' })
      addon.setDirect(fd, false)
      t.equal(fs.readSync(fd, new Uint8Array(5), 1, 3, 1), 3)
    } else {
      t.throws(
        () => {
          addon.setDirect(fd, true)
        },
        { code: 'EINVAL' },
      )
    }
  })

  t.test('a pipe and a closed descriptor', async t => {
    const [one, two] = addon.socketPair()
    t.equal(addon.directAlignment(one).direct, false)
    addon.closeFile(one)
    addon.closeFile(two)
    t.throws(() => addon.directAlignment(0x7fff), { code: 'EBADF' })
    t.throws(
      () => {
        addon.closeFile(0x7fff)
      },
      { code: 'EBADF', operation: 'close' },
    )
  })
})

t.test('flock', async t => {
  t.test('shared locks go together, an exclusive one does not', async t => {
    const { fd: one, path: name } = temporary(t)
    const two = opened(t, name)
    t.equal(addon.flock(one, 'shared'), true)
    t.equal(addon.flock(two, 'shared'), true)
    t.equal(addon.flock(one, 'exclusive'), false)
    t.equal(addon.flock(two, 'unlock'), true)
    t.equal(addon.flock(one, 'exclusive'), true)
    t.equal(addon.flock(two, 'shared'), false)
  })

  t.test('it holds against another process, and ends with that process', async t => {
    const { fd, path: name } = temporary(t)
    const other = spawn('flock', ['-x', name, 'sh', '-c', 'echo held; exec cat'])
    await once(other.stdout, 'data')
    t.equal(addon.flock(fd, 'shared'), false)
    other.stdin.end()
    await once(other, 'exit')
    t.equal(addon.flock(fd, 'exclusive'), true)
    t.equal(spawnSync('flock', ['-n', '-s', name, 'true']).status, 1)
  })
})

t.test('space', async t => {
  t.test('allocate grows, zero and punch keep the size', async t => {
    const { fd, path: name } = temporary(t, Buffer.alloc(MiB, 1))
    addon.fallocate(fd, 'allocate', MiB, MiB)
    t.equal(fs.statSync(name).size, 2 * MiB)
    addon.fallocate(fd, 'zero', 0, 4096)
    addon.fallocate(fd, 'punch', 65536, 65536)
    addon.fallocate(fd, 'punch', 5 * MiB, 65536)
    const expected = Buffer.alloc(2 * MiB)
    expected.fill(1, 4096, 65536)
    expected.fill(1, 131072, MiB)
    t.ok(fs.readFileSync(name).equals(expected))
    t.throws(
      () => {
        addon.fallocate(fd, 'allocate', -1, 5)
      },
      { code: 'EINVAL', operation: 'fallocate' },
    )
  })

  t.test('data and holes are found; behind the end there is nothing', async t => {
    const { fd, path: name } = temporary(t)
    fs.writeSync(fd, Buffer.alloc(4096, 1), 0, 4096, MiB)
    fs.truncateSync(name, 3 * MiB)
    t.equal(addon.seek(fd, 'data', 0), MiB)
    t.equal(addon.seek(fd, 'hole', 0), 0)
    t.equal(addon.seek(fd, 'hole', MiB), MiB + 4096)
    t.equal(addon.seek(fd, 'data', 2 * MiB), -1)
    t.equal(addon.seek(fd, 'hole', 4 * MiB), -1)
  })

  t.test('offsets beyond 2^32 keep their value', async t => {
    const { fd, path: name } = temporary(t)
    addon.fallocate(fd, 'allocate', 6 * 2 ** 32 + 1, 5)
    fs.writeSync(fd, 'x', 5 * 2 ** 32)
    t.equal(fs.statSync(name).size, 6 * 2 ** 32 + 6)
    t.equal(addon.seek(fd, 'data', 2 ** 33), 5 * 2 ** 32)
  })

  t.test('copyFileRange copies, short at the end of the source', async t => {
    const dir = t.testdir({})
    const name = path.join(dir, 'source')
    fs.writeFileSync(name, Buffer.from('0123456789'))
    const source = opened(t, name)
    const target = opened(t, path.join(dir, 'target'), { ...readWrite, create: true, mode: 0o600 })
    t.equal(addon.copyFileRange(source, 4, target, 100, 50), 6)
    t.equal(fs.readFileSync(path.join(dir, 'target')).subarray(100).toString(), '456789')
    t.equal(addon.copyFileRange(source, 40, target, 0, 5), 0)
    t.throws(() => addon.copyFileRange(source, 0, 0x7fff, 0, 5), { code: 'EBADF' })
  })

  t.test('cloneRange shares, or is refused with an errno that says so', async t => {
    const { fd, path: name } = temporary(t, Buffer.alloc(MiB, 3))
    const clone = opened(t, `${name}-clone`, { ...readWrite, create: true, mode: 0o600 })
    try {
      addon.cloneRange(fd, 0, clone, 0, MiB)
      t.ok(fs.readFileSync(`${name}-clone`).equals(Buffer.alloc(MiB, 3)))
    } catch (error) {
      t.match(error, { code: /^(EOPNOTSUPP|ENOTTY|EINVAL)$/, operation: 'ioctl' })
      t.equal(fs.statSync(`${name}-clone`).size, 0)
    }
  })

  t.test('the type of the file system is that of stat(1)', async t => {
    const { fd, path: name } = temporary(t)
    const { stdout } = spawnSync('stat', ['-f', '-c', '%t', name], { encoding: 'utf8' })
    t.equal(addon.fileSystemType(fd).toString(16), stdout.trim())
  })
})

t.test('sockets', async t => {
  t.test('a socket file has the mode that was asked for, whatever the umask', async t => {
    const directory = scratchDirectory(t)
    const before = process.umask(0o077)
    t.teardown(() => process.umask(before))
    for (const mode of [0o600, 0o660, 0o666]) {
      const name = `${directory}/${mode.toString(8)}`
      const fd = addon.listenUnix(name, mode, 5)
      t.equal(fs.statSync(name).mode & 0o777, mode)
      addon.closeFile(fd)
    }
    process.umask(0)
    const fd = addon.listenUnix(`${directory}/open`, 0o600, 5)
    t.equal(fs.statSync(`${directory}/open`).mode & 0o777, 0o600)
    addon.closeFile(fd)
  })

  t.test('a path that is too long, taken or not there is refused', async t => {
    const directory = scratchDirectory(t)
    const long = directory + '/' + 'x'.repeat(107 - directory.length - 1)
    addon.closeFile(addon.listenUnix(long, 0o600, 5))
    t.equal(fs.existsSync(long), true)
    t.throws(() => addon.listenUnix(`${long}y`, 0o600, 5), { code: 'ENAMETOOLONG' })
    t.throws(() => addon.listenUnix(long, 0o600, 5), { code: 'EADDRINUSE', operation: 'bind' })
    t.equal(fs.existsSync(long), true, 'the socket that was there is left alone')
    t.throws(() => addon.listenUnix(`${directory}/no/s`, 0o600, 5), { code: 'ENOENT' })
    t.throws(() => addon.listenUnix('', 0o600, 5), { code: 'EINVAL' })
  })

  t.test('TCP: a free port, a taken one, no names', async t => {
    for (const address of ['127.0.0.1', '::1']) {
      const { fd, port } = addon.listenTcp(address, 0, 5)
      const client = net.connect({ host: address, port })
      await once(client, 'connect')
      client.destroy()
      t.throws(() => addon.listenTcp(address, port, 5), { code: 'EADDRINUSE' })
      addon.closeFile(fd)
    }
    t.throws(() => addon.listenTcp('localhost', 0, 5), { code: 'EINVAL' })
    t.throws(() => addon.listenTcp('192.0.2.1', 0, 5), { code: 'EADDRNOTAVAIL' })
  })

  t.test('the two ends of a pair are connected', async t => {
    const [one, two] = addon.socketPair()
    fs.writeSync(one, 'hello')
    const bytes = Buffer.alloc(10)
    t.equal(fs.readSync(two, bytes), 5)
    addon.closeFile(one)
    t.equal(fs.readSync(two, bytes), 0)
    addon.closeFile(two)
  })
})

t.test('the service manager', async t => {
  t.test('gets one datagram', async t => {
    const directory = scratchDirectory(t)
    const script = [
      'import socket, sys',
      's = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)',
      's.bind(sys.argv[1].replace("@", "\\0", 1))',
      'print("ready", flush=True)',
      'print(s.recv(100).decode(), flush=True)',
    ].join('\n')
    for (const name of [`${directory}/notify`, `@ploop-nbd-test-${String(process.pid)}`]) {
      const manager = spawn('/usr/bin/python3', ['-c', script, name])
      const lines: string[] = []
      for await (const line of createInterface(manager.stdout)) {
        lines.push(line)
        if (line === 'ready') addon.notify(name, 'READY=1\nSTATUS=fine')
      }
      t.same(lines, ['ready', 'READY=1', 'STATUS=fine'])
    }
  })

  t.test('that is not there: an error with errno', async t => {
    t.throws(
      () => {
        addon.notify('/nowhere/notify', 'x')
      },
      { code: 'ENOENT', operation: 'sendto' },
    )
    t.throws(
      () => {
        addon.notify('relative', 'x')
      },
      { code: 'EINVAL' },
    )
    t.throws(
      () => {
        addon.notify(`/${'x'.repeat(200)}`, 'x')
      },
      { code: 'ENAMETOOLONG' },
    )
  })
})

t.test('a process that dies with its parent gets SIGTERM when the parent is gone', async t => {
  const child = `
    const addon = require(${JSON.stringify(addonPath)})
    process.on('SIGTERM', () => { console.log('terminated'); process.exit() })
    console.log(addon.dieWithParent())
    setInterval(() => {}, 1000)`
  // the shell is the parent; it goes away when its input ends
  const parent = spawn('sh', ['-c', '"$0" -e "$1" & read x', process.execPath, child])
  const lines: string[] = []
  parent.stdout.on('data', (chunk: Buffer) => {
    lines.push(...chunk.toString().trim().split('\n'))
    if (lines.at(-1) === 'true') parent.stdin.end()
  })
  await once(parent.stdout, 'end')
  t.same(lines, ['true', 'terminated'])
})

t.test('mapShared', async t => {
  t.test(
    'what is stored in the mapping is in the file, also when the descriptor is closed',
    async t => {
      const name = path.join(t.testdir({}), 'file')
      fs.writeFileSync(name, Buffer.alloc(8192))
      const fd = addon.openFile(name, readWrite)
      const words = new Uint32Array(addon.mapShared(fd, 8192))
      addon.closeFile(fd)
      words[2047] = 0x12345678
      t.equal(fs.readFileSync(name).readUInt32LE(8188), 0x12345678)
      fs.writeFileSync(name, Buffer.alloc(8192, 1), { flag: 'r+' })
      t.equal(words[0], 0x01010101, 'and what others write is in the mapping')
    },
  )

  t.test('more than the file has, or nothing, is not mapped', async t => {
    const { fd } = temporary(t, Buffer.alloc(4096))
    t.throws(() => addon.mapShared(fd, 8192), { code: 'EINVAL', operation: 'mmap' })
    t.throws(() => addon.mapShared(fd, 0), TypeError)
    t.throws(() => addon.mapShared(fd, -1), TypeError)
  })
})

// SPDX-License-Identifier: MIT
/**
 * `serve` that cannot: one sentence with file and fact, the right status, and nothing touched. And
 * the ways in which others start it.
 */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import * as fs from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { FileSource, writeBuilt } from '../support/chain-files.js'
import { buildDelta, inUseMark } from '../support/image-builder.js'
import { readDelta } from '../support/image-reader.js'
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
import { imageFolder, socketFolder } from '../support/temp-dir.js'

t.setTimeout(300_000)

const clusterBytes = 65536
const guids = {
  base: '{11111111-1111-4111-8111-111111111111}',
  top: '{22222222-2222-4222-8222-222222222222}',
  unknown: '{33333333-3333-4333-8333-333333333333}',
  none: '{00000000-0000-0000-0000-000000000000}',
} as const

/** base.hds with clusters 0, 1, 2 and top.hds with 1 and 3, of 16; and what describes them. */
function makeDisk(folder: string): void {
  const bytes = new Uint8Array(clusterBytes).fill(7)
  const common = { version: 2, clusterBytes, sizeBytes: 16 * clusterBytes } as const
  const delta = (...indices: number[]): ReturnType<typeof buildDelta> =>
    buildDelta({ ...common, clusters: new Map(indices.map(index => [index, bytes])) })
  writeBuilt(join(folder, 'base.hds'), delta(0, 1, 2))
  writeBuilt(join(folder, 'top.hds'), delta(1, 3))
  fs.writeFileSync(join(folder, 'DiskDescriptor.xml'), descriptorText())
}

function descriptorText(): string {
  const image = (guid: string, file: string): string =>
    `<Image><GUID>${guid}</GUID><Type>Compressed</Type><File>${file}</File></Image>`
  const shot = (guid: string, parent: string): string =>
    `<Shot><GUID>${guid}</GUID><ParentGUID>${parent}</ParentGUID></Shot>`
  return `<?xml version="1.0"?>
<Parallels_disk_image>
<Disk_Parameters><Disk_size>2048</Disk_size><Cylinders>4</Cylinders><Heads>16</Heads><Sectors>32</Sectors><Padding>0</Padding></Disk_Parameters>
<StorageData><Storage><Start>0</Start><End>2048</End><Blocksize>128</Blocksize>${image(guids.base, 'base.hds')}${image(guids.top, 'top.hds')}</Storage></StorageData>
<Snapshots><TopGUID>${guids.top}</TopGUID>${shot(guids.base, guids.none)}${shot(guids.top, guids.base)}</Snapshots>
</Parallels_disk_image>
`
}

function patch(file: string, offset: number, ...words: number[]): void {
  const fd = fs.openSync(file, 'r+')
  const bytes = Buffer.from(new Uint32Array(words).buffer)
  fs.writeSync(fd, bytes, 0, bytes.length, offset)
  fs.closeSync(fd)
}

const patched =
  (name: string, offset: number, ...words: number[]) =>
  (folder: string): void => {
    patch(join(folder, name), offset, ...words)
  }

const edited =
  (search: string | RegExp, replacement: string) =>
  (folder: string): void => {
    const path = join(folder, 'DiskDescriptor.xml')
    const before = fs.readFileSync(path, 'utf8')
    const after = before.replace(search, replacement)
    if (after === before) throw new Error('the descriptor was not changed')
    fs.writeFileSync(path, after)
  }

interface BadCase {
  readonly prepare?: (folder: string) => unknown
  /** default: the descriptor; $ stands for the folder */
  readonly serve?: readonly string[]
  readonly status: number
  /** of the one sentence */
  readonly says: RegExp
  /** the file that it names, below the folder; default: says tells */
  readonly names?: string
  /** the recovery reports what it finds before the error */
  readonly chatty?: boolean
}

const entry = (index: number): number => 64 + 4 * index
const deltas = ['$/base.hds', '$/top.hds']

const badImages: Readonly<Record<string, BadCase>> = {
  'a foreign signature': {
    prepare: patched('base.hds', 0, 1, 2),
    status: 11,
    says: /signature/i,
    names: 'base.hds',
  },
  'a wrong type': { prepare: patched('top.hds', 16, 9), status: 11, says: /9/, names: 'top.hds' },
  'a cluster of 65 sectors': {
    prepare: patched('base.hds', 28, 65),
    status: 11,
    says: /65/,
    names: 'base.hds',
  },
  'a data area inside a cluster': {
    prepare: patched('base.hds', 48, 100),
    status: 11,
    says: /100/,
    names: 'base.hds',
  },
  'a size that contradicts the table': {
    prepare: patched('base.hds', 36, 4096),
    status: 11,
    says: /4096/,
    names: 'base.hds',
  },
  'a size beyond all bounds': {
    prepare: patched('base.hds', 36, 0, 0xffffffff),
    status: 11,
    says: /\d{6}/,
    names: 'base.hds',
  },
  'more clusters than its table holds': {
    prepare: patched('top.hds', 32, 0x7fffffff),
    status: 11,
    says: /\d{6}/,
    names: 'top.hds',
  },
  'an entry beyond the end of the file': {
    prepare: patched('base.hds', entry(5), 100),
    status: 11,
    says: /5.*100|100.*5/,
    names: 'base.hds',
  },
  'an entry into the table': {
    prepare: patched('top.hds', entry(5), 0xffffffff),
    status: 11,
    says: /4294967295/,
    names: 'top.hds',
  },
  'two entries for one cluster': {
    prepare: patched('top.hds', entry(5), 1),
    status: 11,
    says: /5|1/,
    names: 'top.hds',
  },
  'an unaligned entry of version 1': {
    prepare: folder => {
      fs.rmSync(join(folder, 'base.hds'))
      const clusters = new Map([[0, new Uint8Array(clusterBytes)]])
      const sizeBytes = 16 * clusterBytes
      const path = join(folder, 'base.hds')
      writeBuilt(path, buildDelta({ version: 1, clusterBytes, sizeBytes, clusters }))
      patch(path, entry(0), 129)
    },
    serve: ['$/base.hds'],
    status: 11,
    says: /129/,
    names: 'base.hds',
  },
  'versions mixed in one chain': {
    prepare: folder => {
      fs.rmSync(join(folder, 'base.hds'))
      const sizeBytes = 16 * clusterBytes
      const clusters = new Map<number, Uint8Array>()
      writeBuilt(
        join(folder, 'base.hds'),
        buildDelta({ version: 1, clusterBytes, sizeBytes, clusters }),
      )
    },
    status: 11,
    says: /version 2 .*version 1/,
    names: 'top.hds',
  },
  'a table cut off': {
    prepare: folder => fs.truncateSync(join(folder, 'base.hds'), 5000),
    status: 11,
    says: /5000|BAT|table/,
    names: 'base.hds',
  },
  'a header cut off': {
    prepare: folder => fs.truncateSync(join(folder, 'top.hds'), 30),
    status: 6,
    says: /30/,
    names: 'top.hds',
  },
  'an empty file': {
    prepare: folder => fs.truncateSync(join(folder, 'top.hds'), 0),
    status: 6,
    says: /0|empty/,
    names: 'top.hds',
  },
  'a damaged image that was not closed': {
    prepare: folder => {
      patch(join(folder, 'top.hds'), 44, inUseMark)
      patch(join(folder, 'top.hds'), entry(5), 100)
    },
    chatty: true,
    status: 11,
    says: /irrecoverable|100/,
    names: 'top.hds',
  },
  'a base larger than its top': {
    prepare: folder => {
      fs.rmSync(join(folder, 'base.hds'))
      const sizeBytes = 32 * clusterBytes
      const clusters = new Map<number, Uint8Array>()
      writeBuilt(
        join(folder, 'base.hds'),
        buildDelta({ version: 2, clusterBytes, sizeBytes, clusters }),
      )
    },
    status: 11,
    says: /2048 .*4096/,
    names: 'top.hds',
  },
  'one file twice': {
    serve: ['$/top.hds', '$/top.hds'],
    status: 38,
    says: /same file/,
    names: 'top.hds',
  },
  'a directory': { serve: ['$'], status: 4, says: /directory/ },
  'a FIFO': {
    prepare: folder => {
      fs.rmSync(join(folder, 'top.hds'))
      return runJudge('mkfifo', [join(folder, 'top.hds')])
    },
    serve: ['$/top.hds'],
    status: 4,
    says: /regular|FIFO|pipe/i,
    names: 'top.hds',
  },
  'a file that is not there': {
    serve: ['$/nothing.hds'],
    status: 4,
    says: /not exist|no such/i,
    names: 'nothing.hds',
  },
  'an image that is not there': {
    prepare: folder => {
      fs.rmSync(join(folder, 'base.hds'))
    },
    status: 4,
    says: /does not exist.*DiskDescriptor/,
    names: 'base.hds',
  },
  'a raw base of a crooked cluster size': {
    serve: ['-f', 'raw', '-b', '65', '$/base.hds'],
    status: 38,
    says: /65/,
  },
  'a chain of one raw file without a cluster size': {
    serve: ['-f', 'raw', ...deltas],
    status: 38,
    says: /Blocksize/,
  },
}

const badDescriptors: Readonly<Record<string, BadCase>> = {
  'no descriptor': {
    serve: ['$/Other.xml'],
    status: 39,
    says: /not exist|no such|cannot/i,
    names: 'Other.xml',
  },
  'an empty descriptor': {
    prepare: folder => {
      fs.writeFileSync(join(folder, 'DiskDescriptor.xml'), '')
    },
    status: 23,
    says: /\w/,
    names: 'DiskDescriptor.xml',
  },
  'a descriptor cut off': {
    prepare: edited(/<\/StorageData>[^]*/, ''),
    status: 23,
    says: /\w/,
    names: 'DiskDescriptor.xml',
  },
  'an unknown top': {
    prepare: edited(`<TopGUID>${guids.top}`, `<TopGUID>${guids.unknown}`),
    status: 23,
    says: /33333333/,
    names: 'DiskDescriptor.xml',
  },
  'an unknown parent': {
    prepare: edited(`<ParentGUID>${guids.base}`, `<ParentGUID>${guids.unknown}`),
    status: 23,
    says: /33333333|parent/i,
    names: 'DiskDescriptor.xml',
  },
  'a cycle': {
    prepare: edited(`<ParentGUID>${guids.none}`, `<ParentGUID>${guids.top}`),
    status: 23,
    says: /\w/,
    names: 'DiskDescriptor.xml',
  },
  'a GUID that is none': {
    prepare: edited(new RegExp(guids.top, 'g'), '{2222}'),
    status: 23,
    says: /2222/,
    names: 'DiskDescriptor.xml',
  },
  'a wrong cluster size': {
    prepare: edited('<Blocksize>128<', '<Blocksize>256<'),
    status: 38,
    says: /128.*256|256.*128/,
    names: 'base.hds',
  },
  'a cluster size of zero': {
    prepare: edited('<Blocksize>128<', '<Blocksize>0<'),
    status: 23,
    says: /\w/,
    names: 'DiskDescriptor.xml',
  },
  'an entity bomb': {
    prepare: folder => {
      const bomb =
        '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
      edited('<?xml version="1.0"?>', bomb)(folder)
      edited('base.hds', '&b;')(folder)
    },
    status: 23,
    says: /document type/i,
    names: 'DiskDescriptor.xml',
  },
  'an external entity': {
    prepare: edited(
      '<?xml version="1.0"?>',
      '<?xml version="1.0"?><!DOCTYPE x SYSTEM "file:///etc/passwd">',
    ),
    status: 23,
    says: /document type/i,
    names: 'DiskDescriptor.xml',
  },
  'thousands of levels of elements': {
    prepare: edited('<Snapshots>', `${'<a>'.repeat(50_000)}${'</a>'.repeat(50_000)}<Snapshots>`),
    status: 23,
    says: /\w/,
    names: 'DiskDescriptor.xml',
  },
  'a descriptor of two MiB': {
    prepare: edited('</Parallels', `<!--${'x'.repeat(2 ** 21)}--></Parallels`),
    status: 23,
    says: /\d/,
    names: 'DiskDescriptor.xml',
  },
  'an unknown uuid': {
    serve: ['-u', guids.unknown, '$/DiskDescriptor.xml'],
    status: 43,
    says: /33333333/,
    names: 'DiskDescriptor.xml',
  },
  'a snapshot with a child, writable': {
    serve: ['-u', guids.base, '$/DiskDescriptor.xml'],
    status: 38,
    says: /1 child/,
    names: 'DiskDescriptor.xml',
  },
  'the base of a chain, writable': {
    serve: ['-u', 'base', '$/DiskDescriptor.xml'],
    status: 38,
    says: /1 child/,
    names: 'DiskDescriptor.xml',
  },
}

const badOptions: Readonly<Record<string, BadCase>> = {
  'a malformed uuid': { serve: ['-u', 'xyz', '$/DiskDescriptor.xml'], status: 38, says: /xyz/ },
  'a uuid with a list of files': { serve: ['-u', guids.top, ...deltas], status: 38, says: /-u/ },
  'an unknown cache mode': {
    serve: ['--cache', 'fast', '$/DiskDescriptor.xml'],
    status: 38,
    says: /fast.*direct/,
  },
  'an unknown engine': {
    serve: ['--engine', 'steam', '$/DiskDescriptor.xml'],
    status: 38,
    says: /steam.*uring/,
  },
  'an unknown format': { serve: ['-f', 'qcow2', '$/base.hds'], status: 38, says: /qcow2/ },
  'a socket and a port': {
    serve: ['--port', '1', '$/DiskDescriptor.xml'],
    status: 38,
    says: /--socket.*--port/,
  },
  'no clients': {
    serve: ['--max-connections', '0', '$/DiskDescriptor.xml'],
    status: 38,
    says: /0/,
  },
  'an unknown option': {
    serve: ['--nonsense', '$/DiskDescriptor.xml'],
    status: 38,
    says: /nonsense/,
  },
  'two disks of one name': {
    serve: ['a=$/DiskDescriptor.xml', 'a=$/base.hds'],
    status: 38,
    says: /"a"/,
  },
  'two descriptors without names': {
    serve: ['$/DiskDescriptor.xml', '$/DiskDescriptor.xml'],
    status: 38,
    says: /NAME=/,
  },
  'a name of 256 bytes': {
    serve: ['--export', 'n'.repeat(256), '$/DiskDescriptor.xml'],
    status: 38,
    says: /255.*256/,
  },
  'no disk': { serve: [], status: 38, says: /^Usage/ },
}

type Snapshot = Record<string, string>

/** Content and time of change of every file, the lock files left out. */
function snapshotOf(folder: string): Snapshot {
  const state: Snapshot = {}
  for (const name of fs.readdirSync(folder)) {
    if (name.endsWith('.lck')) continue
    const path = join(folder, name)
    const stat = fs.lstatSync(path)
    if (!stat.isFile()) continue
    const sum = createHash('sha256').update(fs.readFileSync(path)).digest('hex')
    state[name] = `${sum} ${stat.mtimeMs}`
  }
  return state
}

/** One sentence, perhaps a hint; after a usage error the usage. */
function judgeRefusal(t: Test, result: RunResult, wanted: BadCase, folder: string): void {
  const lines = result.stderr.trimEnd().split('\n')
  const usageAt = lines.findIndex(line => line.startsWith('Usage'))
  const said = usageAt < 0 ? lines : lines.slice(0, usageAt)
  const sentences = said.filter(line => !/^ploop-nbd: hint: /.test(line))
  t.equal(result.status, wanted.status, result.stderr)
  t.equal(result.stdout, '', 'nothing on standard output')
  t.notMatch(result.stderr, /^ +at |bug in ploop-nbd|\[object|undefined|NaN/m, 'no stack trace')
  const sentence = sentences.at(-1) ?? lines[0] ?? ''
  t.match(sentence, wanted.says)
  if (usageAt !== 0 && wanted.chatty !== true) {
    t.equal(sentences.length, 1, `one sentence: ${result.stderr}`)
  }
  if (wanted.names !== undefined) t.match(sentence, join(folder, wanted.names))
}

for (const [group, cases] of Object.entries({ badImages, badDescriptors, badOptions })) {
  t.test(`${group}: serve refuses with one sentence and touches nothing`, async t => {
    for (const [name, wanted] of Object.entries(cases)) {
      await t.test(name, async t => {
        const folder = imageFolder(t)
        const socket = join(socketFolder(t), 's')
        makeDisk(folder)
        await Promise.resolve(wanted.prepare?.(folder))
        const before = snapshotOf(folder)
        const own = (wanted.serve ?? ['$/DiskDescriptor.xml']).map(text =>
          text.replace('$', () => folder),
        )
        const result = await ploopNbd(['serve', '--socket', socket, ...own], { timeoutMs: 30_000 })
        judgeRefusal(t, result, wanted, folder)
        t.strictSame(snapshotOf(folder), before, 'files as before')
        t.notOk(fs.existsSync(socket), 'no socket is left')
      })
    }
  })
}

const top = (folder: string): string => join(folder, 'top.hds')

function markOf(path: string): number {
  const source = new FileSource(path)
  try {
    return readDelta(source).inUse
  } finally {
    source.close()
  }
}

t.test('a socket that cannot be had is refused and the image left closed', async t => {
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
  for (const [socket, status, says] of cases) {
    const result = await ploopNbd(['serve', '--socket', socket, descriptor])
    judgeRefusal(t, result, { status, says }, folder)
    t.match(result.stderr, socket)
    t.equal(markOf(top(folder)), 0, 'closed')
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

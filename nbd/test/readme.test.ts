// SPDX-License-Identifier: MIT
/**
 * Runs the server of README.md as it stands there, against our client half and genuine clients,
 * and holds the package to its promise of purity.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, readdirSync } from 'node:fs'
import { type AddressInfo, type Server, type Socket, connect } from 'node:net'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import * as nbd from '../src/index.js'

const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8')
const [, code = ''] = /```js\n([^]*?)```/.exec(readme) ?? []

async function startReadmeServer(folder: string): Promise<{ server: Server; port: number }> {
  process.env['NBD_PORT'] = '0'
  const loaded = (await import(pathToFileURL(`${folder}/server.mjs`).href)) as { server: Server }
  if (!loaded.server.listening) await once(loaded.server, 'listening')
  return { server: loaded.server, port: (loaded.server.address() as AddressInfo).port }
}

/** Negotiates over a real socket. */
async function negotiate(socket: Socket, goal: nbd.ClientGoal): Promise<nbd.ClientSession> {
  const client = new nbd.ClientHandshake(goal)
  const queue = new nbd.ByteQueue()
  for await (const [bytes] of onData(socket)) {
    queue.push(bytes)
    for (let consumed = 1; consumed > 0;) {
      const step = client.receive(queue.peek())
      consumed = step.consumed
      queue.drop(consumed)
      socket.write(step.output)
      if (step.done?.kind === 'ready') return step.done.session
      if (step.done !== undefined) throw new Error(JSON.stringify(step.done))
    }
  }
  throw new Error('the server hung up')
}

async function* onData(socket: Socket): AsyncGenerator<[Buffer]> {
  for (;;) yield (await once(socket, 'data')) as [Buffer]
}

async function runProgram(program: string, args: string[]): Promise<string | undefined> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  child.stdout.on('data', (bytes: Buffer) => (output += bytes.toString()))
  child.stderr.on('data', (bytes: Buffer) => (output += bytes.toString()))
  try {
    const [status] = (await once(child, 'close')) as [number]
    return `${output}status ${status}`
  } catch {
    return undefined
  }
}

t.test('the server of the README serves clients', async t => {
  t.ok(code.split('\n').length < 60, 'it is short')
  const folder = t.testdir({ 'server.mjs': code })
  const { server, port } = await startReadmeServer(folder)
  t.teardown(() => server.close())

  await t.test('our client half writes and reads', async t => {
    const socket = connect(port, '127.0.0.1')
    const session = await negotiate(socket, {
      exportName: 'memory',
      use: 'go',
      contexts: [nbd.CONTEXT_BASE_ALLOCATION],
    })
    t.match(session, { mode: 'extended', sizeBytes: 67108864 })
    const client = new nbd.NbdClientConnection(session)
    const payload = Buffer.alloc(1000000, 'ploop')
    const sent = [
      client.request({ command: nbd.NBD_CMD_WRITE, offsetBytes: 777, payload }),
      client.request({ command: nbd.NBD_CMD_READ, offsetBytes: 777, lengthBytes: 1000000 }),
      client.request({ command: nbd.NBD_CMD_BLOCK_STATUS, lengthBytes: 67108864 }),
      client.request({ command: 99 }),
    ]
    for (const { bytes } of sent) for (const part of bytes) socket.write(part)
    for (const part of client.disconnect()) socket.write(part)
    const replies: nbd.ClientReply[] = []
    socket.on('data', bytes => replies.push(...client.receive(bytes)))
    await once(socket, 'end')
    socket.end()
    t.same(
      replies.map(reply => reply.error),
      [0, 0, 0, nbd.NBD_EINVAL],
    )
    t.ok(payload.equals(replies[1]?.data ?? Buffer.alloc(0)), 'the data came back')
    t.same(replies[2]?.extents.get('base:allocation'), [{ lengthBytes: 67108864, status: 0 }])
  })

  const uri = `nbd://127.0.0.1:${port}/memory`
  const genuine: readonly [string, string[], RegExp][] = [
    ['nbdinfo', [uri], /export-size: 67108864[^]*status 0/],
    ['nbdinfo', ['--list', `nbd://127.0.0.1:${port}`], /export="memory"[^]*gone when[^]*status 0/],
    ['nbdinfo', ['--map', uri], /0 +67108864 +0 +data[^]*status 0/],
    ['nbdcopy', ['--', uri, 'null:'], /^status 0/],
    ['qemu-img', ['map', '-f', 'raw', '--output=json', uri], /"length": 67108864[^]*status 0/],
    [
      'qemu-io',
      ['-f', 'raw', '-c', 'write -P 7 4096 65536', '-c', 'read -P 7 4096 65536', uri],
      /wrote 65536[^]*read 65536[^]*status 0/,
    ],
    [
      'qemu-io',
      ['-f', 'raw', '-c', 'write -z 4096 65536', '-c', 'read -P 0 4096 65536', uri],
      /read 65536[^]*status 0/,
    ],
    ['nbd-client', ['-l', '127.0.0.1', String(port)], /memory/],
  ]
  for (const [program, args, expected] of genuine) {
    const output = await runProgram(program, args)
    const skip = output === undefined && `${program} is not installed`
    const name = `${program} ${args.slice(0, -1).join(' ')}: works with it`
    await t.test(name, { skip }, async t => {
      t.match(output, expected)
    })
  }
})

t.test('the package imports only its own files, and uses no global of Node', async t => {
  const folder = new URL('../src/', import.meta.url)
  for (const file of readdirSync(folder)) {
    const source = readFileSync(new URL(file, folder), 'utf8')
    const imports = [...source.matchAll(/from '([^']+)'/g)].map(([, name = '']) => name)
    t.same(
      imports.filter(name => !/^\.\/[a-z0-9-]+\.js$/.test(name)),
      [],
      `${file}: imports`,
    )
    const code = source.replace(/\/\*[^]*?\*\/|\/\/.*/g, '')
    t.notMatch(code, /\b(Buffer\b|process\b|setTimeout|setInterval|setImmediate|require\()/, file)
  }
  const manifest = readFileSync(new URL('../package.json', import.meta.url), 'utf8')
  t.notMatch(manifest, /ependencies/, 'no dependency')
})

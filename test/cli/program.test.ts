// SPDX-License-Identifier: MIT
/** The built program as a process: streams, signals, exit statuses, what it says to programs. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, watch } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { addonMissingReason } from '../../src/io/native.js'
import { ploopNbd, ploopNbdPath, runJudge, runProgram } from '../support/programs.js'
import { requires } from '../support/requires.js'
import { imageFolder, socketFolder } from '../support/temp-dir.js'

t.setTimeout(120_000)
const skip = requires('mkfs.ext4', 'debugfs')
const noAddon = addonMissingReason() ?? false

t.test('help that was asked for goes to standard output with status 0', async t => {
  for (const words of [['--help'], ['-h'], ['help'], ['init', '--help'], ['help', 'map']]) {
    const result = await ploopNbd(words)
    t.match(result, { status: 0, stderr: '', stdout: /^Usage: ploop-nbd/ }, words.join(' '))
  }
})

t.test('a usage error prints the usage to standard error with status 38', async t => {
  const result = await ploopNbd(['snapshot', '--bogus', 'x.xml'])
  t.match(result, { status: 38, stdout: '' })
  t.match(result.stderr, /^ploop-nbd: unknown option '--bogus'\nUsage: ploop-nbd snapshot /)
  const nothing = await ploopNbd([])
  t.match(nothing, { status: 38, stdout: '', stderr: /^Usage: ploop-nbd \[-v\] COMMAND/ })
  const unknown = await ploopNbd(['snapshoot'])
  t.match(unknown, { status: 38, stderr: /^ploop-nbd: unknown command 'snapshoot'/ })
})

t.test('an error is a path, a fact and nothing of our insides', async t => {
  const result = await ploopNbd(['info', '-s', '/nowhere/D.xml'])
  t.match(result, { status: 39, stdout: '' })
  t.equal(
    result.stderr,
    'ploop-nbd: /nowhere/D.xml: cannot find the descriptor: no such file or directory\n',
  )
  const verbose = await ploopNbd(['-v', 'info', '-s', '/nowhere/D.xml'])
  t.match(verbose.stderr, /code DESCRIPTOR_FILE, status descriptor/)
})

t.test('with --json results and errors are JSON', async t => {
  const failed = await ploopNbd(['info', '--json', '/nowhere/D.xml'])
  t.match(JSON.parse(failed.stderr), {
    ...{ schema: 1, code: 'DESCRIPTOR_FILE', exitStatus: 39, path: '/nowhere/D.xml' },
  })
  const wrong = await ploopNbd(['snapshot', '--json'])
  t.match(JSON.parse(wrong.stderr), { code: 'USAGE', exitStatus: 38 })
  const folder = imageFolder(t)
  const words = ['init', '--json', '-s', '10M', '-t', 'none', 'x']
  const made = await ploopNbd(words, { cwd: folder })
  t.match(JSON.parse(made.stdout), { schema: 1, sizeSectors: 20480, clusterSectors: 2048 })
  const xml = join(folder, 'DiskDescriptor.xml')
  const snapshot = await ploopNbd(['snapshot', '--json', xml])
  t.match(JSON.parse(snapshot.stdout), { schema: 1, uuid: /^\{/, path: /^\// })
  const list = await ploopNbd(['snapshot-list', '--json', xml])
  t.match(JSON.parse(list.stdout), { snapshots: [{ current: false }, { current: true }] })
  const map = await ploopNbd(['map', '--json', xml])
  t.match(JSON.parse(map.stdout), {
    ...{ schema: 1, sizeBytes: 10485760, clusterBytes: 1048576, levels: [{ level: 0 }, {}] },
    extents: [{ kind: 'hole', offsetBytes: 0, lengthBytes: 10485760 }],
  })
  t.match(JSON.parse((await ploopNbd(['version', '--json'])).stdout), { version: /^\d/ })
})

t.test('results alone go to standard output, progress elsewhere', { skip }, async t => {
  const folder = imageFolder(t)
  const script = `"$0" "$1" init --progress=3 -s 64M x 3>progress`
  const result = await runProgram('sh', ['-c', script, process.execPath, ploopNbdPath], {
    cwd: folder,
  })
  t.match(result, { status: 0, stdout: '' })
  const lines = (await runJudge('cat', [join(folder, 'progress')])).trim().split('\n')
  t.ok(lines.every(line => /^\d{1,3}\/100$/.test(line)))
  t.equal(lines.at(-1), '100/100')
  const bad = await ploopNbd(['init', '--progress=x', '-s', '64M', 'y'], { cwd: folder })
  t.equal(bad.status, 38)
})

t.test('a reader that goes away is a normal end', async t => {
  const folder = imageFolder(t)
  await ploopNbd(['init', '-s', '10M', '-t', 'none', 'x'], { cwd: folder })
  const script = '"$0" "$1" map DiskDescriptor.xml | true; echo "${PIPESTATUS[0]}"'
  const words = ['-c', script, process.execPath, ploopNbdPath]
  const result = await runProgram('bash', words, { cwd: folder })
  t.match(result, { stdout: '0\n', stderr: '' })
})

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  t.test(`${signal} in the middle of init leaves nothing, status 12`, { skip }, async t => {
    const folder = imageFolder(t)
    const stdio = ['ignore', 'ignore', 'pipe'] as const
    const words = [ploopNbdPath, 'init', '-s', '50G', '-n', 'x']
    const watcher = watch(folder)
    const begun = once(watcher, 'change')
    const child = spawn(process.execPath, words, { cwd: folder, stdio: [...stdio] })
    let stderr = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
    await begun
    watcher.close()
    child.kill(signal)
    const [status] = (await once(child, 'close')) as [number | null]
    t.equal(status, 12, stderr)
    t.match(stderr, /interrupted/)
    t.notMatch(stderr, /bug|^ +at /m)
    t.same(readdirSync(folder), [])
  })
}

t.test('version says what runs and what is missing', async t => {
  const result = await ploopNbd(['version'])
  t.match(result, { status: 0, stdout: /^ploop-nbd \d+\.\d+\.\d+ \(node \d+/ })
  t.match(await ploopNbd(['--version']), { status: 0 })
  t.match(await ploopNbd(['version', 'x']), { status: 38 })
})

t.test('commands on one disk at the same time wait for each other', async t => {
  const folder = imageFolder(t)
  await ploopNbd(['init', '-s', '10M', '-t', 'none', 'x'], { cwd: folder })
  const words = ['snapshot', 'DiskDescriptor.xml']
  const results = await Promise.all([1, 2, 3, 4].map(() => ploopNbd(words, { cwd: folder })))
  t.same(
    results.map(result => result.status),
    [0, 0, 0, 0],
  )
  const list = await ploopNbd(['snapshot-list', '-H', 'DiskDescriptor.xml'], { cwd: folder })
  t.equal(list.stdout.trim().split('\n').length, 5)
})

t.test('a disk that is being served can be looked at, not frozen', { skip: noAddon }, async t => {
  const folder = imageFolder(t)
  await ploopNbd(['init', '-s', '10M', '-t', 'none', 'x'], { cwd: folder })
  const inside = async (words: string): Promise<{ status: number; stdout: string }> => {
    const script = `"${process.execPath}" "${ploopNbdPath}" ${words}`
    const socket = join(socketFolder(t), 's')
    const serve = ['serve', '--socket', socket, '--run', script, 'DiskDescriptor.xml']
    return ploopNbd(serve, { cwd: folder })
  }
  t.match(await inside('snapshot DiskDescriptor.xml'), { status: 37, stdout: '' })
  t.match(await inside('info -s DiskDescriptor.xml'), { status: 0, stdout: /^size:\t\t20480\n/ })
  t.match(await inside('map DiskDescriptor.xml'), { status: 0, stdout: /hole/ })
  t.match(await inside('snapshot-list DiskDescriptor.xml'), { status: 0, stdout: /\* \{5fbaabe3/ })
  const after = await ploopNbd(['snapshot', 'DiskDescriptor.xml'], { cwd: folder })
  t.equal(after.status, 0, 'afterwards it can')
})

// SPDX-License-Identifier: MIT
/** The scripts of the checkout: what they count, print and refuse. They are plain Node, untyped. */
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { checkout, runJudge, runProgram } from '../support/programs.js'
import { imageFolder } from '../support/temp-dir.js'

interface Reader {
  push(chunk: string): void
  summary(status: number): string
}
interface Scripts {
  TapReader: new (write: (line: string) => void) => Reader
  invitation: (demo: Record<string, string>) => string
}

function load(path: string): Promise<Scripts> {
  return import(pathToFileURL(join(checkout, 'scripts', path)).href) as Promise<Scripts>
}

t.test('the test run shows files, failures and skips, and counts assertions', async t => {
  const { TapReader } = await load('test/tap-reader.mjs')
  const shown: string[] = []
  const reader = new TapReader(line => shown.push(line))
  const stream = [
    '# Subtest: a.test.ts',
    '    ok 1 - fine',
    '    ok 2 - no judge # SKIP needs fio',
    'ok 1 - a.test.ts # time=1ms',
    '    not ok 1 - broken',
    '      ---',
    '      diff: ok 7 - not a point',
    '      ...',
    'not ok 2 - b.test.ts',
    '# { total: 3, pass: 1, fail: 1, skip: 1 }',
    '',
  ].join('\n')
  for (const chunk of stream.match(/.{1,7}/gs) ?? []) reader.push(chunk)
  t.same(shown, [
    '    ok 2 - no judge # SKIP needs fio',
    'ok 1 - a.test.ts # time=1ms',
    '    not ok 1 - broken',
    '      ---',
    '      diff: ok 7 - not a point',
    '      ...',
    'not ok 2 - b.test.ts',
  ])
  t.equal(reader.summary(1), '1 passed, 1 failed, 1 skipped')
})

t.test('a test run that dies before it has counted is a failure', async t => {
  const { TapReader } = await load('test/tap-reader.mjs')
  t.equal(new TapReader(() => undefined).summary(1), '0 passed, 1 failed')
})

t.test('the commands printed by npm start are whole words for a shell', async t => {
  const { invitation } = await load('start/invitation.mjs')
  const demoFolder = join(imageFolder(t), "it's a folder")
  const socketPath = join(demoFolder, 'nbd.sock')
  const uri = `nbd+unix:///demo?socket=${socketPath}`
  const text = invitation({ uri, socketPath, exportName: 'demo', demoFolder })
  const info = /^ +nbdinfo (.*)$/m.exec(text)?.[1] ?? ''
  t.equal(await runJudge('sh', ['-c', `printf %s ${info}`]), uri)
})

t.test('scripts refuse words they do not know, in one sentence', async t => {
  const refusals: [script: string, words: string[], status: number, text: RegExp][] = [
    ['setup.mjs', ['--for', 'fun'], 1, /^setup: usage: .*got "--for fun"\n$/],
    ['start.mjs', ['--old'], 1, /^setup: usage: .*got "--old"\n$/],
    ['vm-run.mjs', ['--nbd'], 125, /^vm-run: no command given/],
    ['vm-run.mjs', ['--bad', '--', 'true'], 125, /^vm-run: Unknown option '--bad'/],
    ['vm-run.mjs', ['--timeout', 'soon', '--', 'true'], 125, /--timeout takes a positive number/],
  ]
  for (const [script, words, status, text] of refusals) {
    const result = await runProgram(process.execPath, [join(checkout, 'scripts', script), ...words])
    t.equal(result.status, status, `${script} ${words.join(' ')}`)
    t.match(result.stderr, text)
  }
})

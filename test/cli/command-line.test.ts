// SPDX-License-Identifier: MIT
/** From an argument list to a command: options as genuine ploop's scripts write them, and help. */
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { PloopError } from '../../src/base/errors.js'
import { CommandUsageError, parseCommandLine, SummaryError } from '../../src/cli/build-program.js'
import { CommandInput, isDescriptorName, UsageError } from '../../src/cli/command-input.js'
import { allOptions, commandTable } from '../../src/cli/command-table.js'
import { formatCommandHelp, formatSummary } from '../../src/cli/help-text.js'
import { jsonLogger, plainLogger, underServiceManager } from '../../src/cli/logger.js'
import { formatColumns, humanBytes, writeJson, type Output } from '../../src/cli/output.js'
import {
  parseCount,
  parseFormat,
  parseSizeSectors,
  parseUuid,
  parseVersion,
} from '../../src/cli/parse-values.js'
import { createProgress } from '../../src/cli/progress-bar.js'
import { reportError } from '../../src/cli/report-error.js'

const words = (line: string): string[] => line.split(' ').filter(word => word !== '')

function collector(columns?: number): Output & { text: string } {
  return {
    text: '',
    columns,
    write(text) {
      this.text += text
    },
  }
}

function parse(line: string): { name: string | undefined; input: CommandInput; verbosity: number } {
  const { row, input, verbosity } = parseCommandLine(words(line))
  return { name: row?.name, input, verbosity }
}

/** `t.throws` compares fields; here the class decides, and the text if one is given. */
function throwsKind(
  t: Test,
  kind: { readonly name: string },
  action: () => unknown,
  message?: string,
): void {
  let thrown: unknown
  try {
    action()
  } catch (error) {
    thrown = error
  }
  t.type(thrown, Error)
  t.ok(thrown instanceof Object && thrown.constructor.name === kind.name, kind.name)
  if (message !== undefined) t.match(thrown, { message })
}

t.test('options and arguments may be mixed, values attached or apart', t => {
  for (const line of ['init -s 1G -b2048 x', 'init x -s1G -b 2048', 'init -b 2048 x -s 1G']) {
    const { input } = parse(line)
    t.same([input.text('size'), input.text('blocksize'), input.positionals], ['1G', '2048', ['x']])
  }
  t.end()
})

t.test('the same letter means verbosity before the command and its own option after it', t => {
  const { input, verbosity } = parse('-v init -v 1 -s 1 x')
  t.equal(input.text('version'), '1')
  t.equal(verbosity, 4)
  t.end()
})

t.test('-v counts, -vN sets', t => {
  const cases: [string, number][] = [
    ['help', 3],
    ['-v help', 4],
    ['-vv help', 5],
    ['-v -v help', 5],
    ['-v5 help', 5],
    ['-v0 help', 0],
    ['-v0 -v help', 1],
  ]
  for (const [line, verbosity] of cases) t.equal(parse(line).verbosity, verbosity, line)
  t.end()
})

t.test('short options may be clustered, the last may take a value', t => {
  const { input } = parse('snapshot-list -Hso uuid x.xml')
  t.ok(input.has('noHeader') && input.has('snapshot'))
  t.equal(input.text('output'), 'uuid')
  t.same(input.positionals, ['x.xml'])
  t.end()
})

t.test('long options may be cut short as long as they are unique', t => {
  t.ok(parse('snapshot-list --no-h x.xml').input.has('noHeader'))
  t.ok(parse('snapshot-list --no-header x.xml').input.has('noHeader'))
  t.equal(parse('snapshot-list --out=uuid x.xml').input.text('output'), 'uuid')
  t.equal(parse('snapshot-list --out uuid x.xml').input.text('output'), 'uuid')
  t.ok(parse('init --nol -s 1 x').input.has('nolazy'))
  throwsKind(t, CommandUsageError, () => parse('init --n= x'))
  throwsKind(t, CommandUsageError, () => parse('snapshot-list --foo x.xml'))
  t.end()
})

t.test('three spellings of one option are one option', t => {
  for (const line of ['-u A', '--uuid A', '--id A', '--uuid=A', '--id=A', '-uA']) {
    t.equal(parse(`snapshot-list ${line} x.xml`).input.text('uuid'), 'A', line)
  }
  t.end()
})

t.test('an option whose value may be absent does not swallow the next word', t => {
  const { input } = parse('init --progress x -s 1G')
  t.same([input.text('progress'), input.positionals], ['', ['x']])
  t.equal(parse('init --progress=3 x').input.text('progress'), '3')
  t.end()
})

t.test('a value may look like an option, and -- ends the options', t => {
  t.equal(parse('snapshot-list -o --foo x.xml').input.text('output'), '--foo')
  t.same(parse('snapshot-list -- -H --out').input.positionals, ['-H', '--out'])
  t.end()
})

t.test('what is no command gets the summary', t => {
  throwsKind(t, SummaryError, () => parse(''))
  throwsKind(t, SummaryError, () => parse('-x'), 'Bad option -x')
  throwsKind(t, SummaryError, () => parse('-vx help'), 'Bad option -vx')
  throwsKind(t, SummaryError, () => parse('nonsense'))
  try {
    parse('snapshoot')
  } catch (error) {
    t.match(error, { message: /snapshoot.*\n.*snapshot/s }, 'with a suggestion')
  }
  t.end()
})

t.test('what a command does not know is its own usage error', t => {
  const lines = ['snapshot --nope x.xml', 'snapshot -Q x.xml', 'snapshot -u', 'snapshot --json=1 x']
  for (const line of lines) {
    throwsKind(t, CommandUsageError, () => parse(line))
  }
  t.end()
})

t.test('every argument list is a command, a usage error, or the summary', t => {
  const vocabulary = commandTable.flatMap(row => [
    row.name,
    ...allOptions(row).flatMap(option => [`-${option.short ?? ''}`, `--${option.long ?? ''}`]),
  ])
  const word = fc.oneof(fc.constantFrom(...vocabulary, '--', '-', '', '='), fc.string())
  const property = fc.property(fc.array(word, { maxLength: 6 }), list => {
    try {
      parseCommandLine(list)
    } catch (error) {
      if (!(error instanceof UsageError)) throw error
    }
  })
  fc.assert(property, { interruptAfterTimeLimit: Number(process.env['FUZZ_MS'] ?? 2000) / 2 })
  t.end()
})

t.test('sizes are sectors, or bytes by K, M, G, T', t => {
  const cases: [string, number][] = [
    ['2048', 2048],
    ['0x10', 16],
    ['010', 8],
    ['0', 0],
    ['1K', 2],
    ['3k', 6],
    ['1M', 2048],
    ['1g', 2097152],
    ['16T', 34359738368],
    [' 5', 5],
    ['+5', 5],
    ['2199023255039', 2199023255039],
  ]
  for (const [text, sectors] of cases) t.equal(parseSizeSectors('-s', text), sectors, text)
  for (const text of ['', 'K', '-1', '1KB', '1P', '08', '1 K', '0x', '1.5G', 'G1', '٣']) {
    const message = `ERROR: Invalid argument for option -s: ${text}`
    throwsKind(t, UsageError, () => parseSizeSectors('-s', text), message)
  }
  for (const text of ['2199023255040', '4194304T', '99999999999999999999', '1023999999T']) {
    const message = `ERROR: Too large value for option -s: ${text}`
    throwsKind(t, UsageError, () => parseSizeSectors('-s', text), message)
  }
  t.end()
})

t.test('counts, formats, versions and UUIDs are read as ploop(8) reads them', t => {
  t.equal(parseCount('-b', '0x800'), 2048)
  throwsKind(t, UsageError, () => parseCount('-b', '1K'))
  t.equal(parseFormat('ploop1'), 'expanded')
  t.equal(parseFormat('raw'), 'raw')
  throwsKind(t, UsageError, () => parseFormat('RAW'), 'Bad -f argument: RAW')
  t.equal(parseVersion('1'), 1)
  throwsKind(t, UsageError, () => parseVersion('3'), 'Invalid -v argument: 3')
  const uuid = '5fbaabe3-6958-40ff-92a7-860e329aab41'
  t.equal(parseUuid(uuid), `{${uuid}}`)
  t.equal(parseUuid(`{${uuid}}`), `{${uuid}}`)
  t.throws(() => parseUuid('abc'), { message: 'Incorrect uuid specified: abc', exitStatus: 38 })
  t.end()
})

t.test('a descriptor is known by its name', t => {
  t.ok(isDescriptorName('a/b.xml'))
  t.notOk(isDescriptorName('DD.XML'))
  throwsKind(t, UsageError, () => new CommandInput(new Map(), ['x.hds']).descriptor())
  throwsKind(t, UsageError, () => new CommandInput(new Map(), []).single())
  throwsKind(t, UsageError, () => new CommandInput(new Map(), ['a', 'b']).single())
  t.same(new CommandInput(new Map([['k', ['a', 'b']]]), []).texts('k'), ['a', 'b'])
  t.same(new CommandInput(new Map([['k', ['a', 'b']]]), []).text('k'), 'b')
  t.end()
})

t.test('every command has help that names its options, examples and exit statuses', t => {
  const summary = formatSummary()
  for (const row of commandTable) {
    t.match(summary, `  ${row.name} `)
    const help = formatCommandHelp(row)
    t.match(help, `Usage: ploop-nbd ${row.name}`)
    const unwrapped = help.replace(/\s+/g, ' ')
    for (const option of row.options) t.match(unwrapped, option.text)
    t.ok(row.exits.some(([status]) => status === 0))
    t.ok(
      help.split('\n').every(line => line.length <= 100),
      'lines fit a terminal',
    )
    t.ok(new Set(allOptions(row).map(option => option.key)).size === allOptions(row).length)
  }
  t.end()
})

t.test('the help of a command is laid out in columns', t => {
  const row = commandTable.find(candidate => candidate.name === 'init')
  const lines = row === undefined ? [] : formatCommandHelp(row).split('\n')
  t.ok(lines.includes('  -s SIZE          size of the disk'), lines.slice(0, 9).join('\n'))
  t.ok(lines.includes('  --json           print the result as JSON'))
  t.match(lines[1], /^ {22}\[/, 'a long synopsis goes on below its options')
  t.end()
})

t.test('errors are path, fact and hint; JSON when asked for', t => {
  const error = new PloopError('CODE', 'a fact with 3 numbers', {
    ...{ status: 'format', path: 'root.hds', offset: 512, hint: 'do this' },
    cause: new Error('deeper'),
  })
  const plain = collector()
  const report = { stderr: plain, json: false, verbosity: 3, row: undefined }
  t.equal(reportError(error, report), 11)
  t.equal(plain.text, 'ploop-nbd: root.hds: a fact with 3 numbers\nploop-nbd: hint: do this\n')
  reportError(error, { ...report, verbosity: 4 })
  t.match(plain.text, 'code CODE, status format, cause: deeper')
  const json = collector()
  reportError(error, { ...report, stderr: json, json: true })
  t.same(JSON.parse(json.text), {
    ...{ schema: 1, code: 'CODE', exitStatus: 11, message: 'a fact with 3 numbers' },
    ...{ path: 'root.hds', offset: 512, hint: 'do this' },
  })
  t.end()
})

t.test('a bug shows its stack, asks for a report, and is status 12', t => {
  const stderr = collector()
  const report = { stderr, json: false, verbosity: 3, row: undefined }
  t.equal(reportError(new TypeError('x is not a function'), report), 12)
  t.match(stderr.text, /this is a bug in ploop-nbd; please report.*\nTypeError: x is.*\n +at /)
  const json = collector()
  t.equal(reportError('odd', { ...report, stderr: json, json: true }), 12)
  t.match(JSON.parse(json.text), { code: 'BUG', exitStatus: 12 })
  t.end()
})

t.test('logs are sentences, or JSON lines for a service manager', t => {
  const plain = collector()
  const log = plainLogger(plain, 3)
  log.debug('hidden')
  log.info('Storing x')
  log.warn('careful', { path: 'p', gone: undefined })
  log.error('bad')
  t.equal(plain.text, 'ploop-nbd: Storing x\nploop-nbd: warning: careful path=p\nploop-nbd: bad\n')
  const silent = collector()
  plainLogger(silent, 0).error('x')
  t.equal(silent.text, '')
  const json = collector()
  jsonLogger(json, 3).warn('careful', { path: 'p' })
  jsonLogger(json, 3).debug('hidden')
  jsonLogger(json, 0).error('hidden')
  t.match(JSON.parse(json.text), { level: 40, msg: 'careful', path: 'p' })
  t.ok(underServiceManager({ NOTIFY_SOCKET: '/x' }))
  t.notOk(underServiceManager({}))
  t.end()
})

t.test('progress is a bar that goes when the work is done', t => {
  const terminal = collector(60)
  const bar = createProgress('bar', terminal)
  t.equal(bar.describe(), undefined)
  bar.update(1, 4, 'copying')
  bar.update(1, 4, 'copying')
  t.equal(bar.describe(), '25 % done: copying')
  t.equal(terminal.text, `\r\u001b[K[${'#'.repeat(10)}${'-'.repeat(30)}]  25 % copying`)
  bar.finish()
  bar.finish()
  t.ok(terminal.text.endsWith('copying\r\u001b[K'))
  const none = createProgress('none', terminal)
  none.update(0, 0)
  t.equal(none.describe(), '100 % done')
  t.end()
})

t.test('columns, sizes and JSON documents', t => {
  const table = formatColumns(
    ['NAME', 'SIZE'],
    [
      ['a', 5],
      ['long', 12345],
    ],
  )
  t.equal(table, 'NAME   SIZE\na         5\nlong  12345\n')
  t.same([0, 1023, 1024, 1536, 1048576, 150 * 1024 ** 3].map(humanBytes), [
    ...['0 B', '1023 B', '1 KiB', '1.5 KiB', '1 MiB', '150 GiB'],
  ])
  const out = collector()
  writeJson(out, { a: 1 })
  t.same(JSON.parse(out.text), { schema: 1, a: 1 })
  t.end()
})

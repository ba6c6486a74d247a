// SPDX-License-Identifier: MIT
/**
 * Runs the sessions of transcripts/*.md against the server half.
 *
 * A block marked "nbd" is one connection: lines `S` are what the server sends, `C` what the client
 * sends, in hex, "text" or COUNT*BYTE; `#` starts a comment; a line `--` says how it ends. Each runs
 * three times: lines as they stand, byte by byte, and with everything the client says in one piece.
 */
import { readFileSync, readdirSync } from 'node:fs'
import t, { type Test } from 'tap'
import { MemoryServer, type MemoryServerOptions, memoryPolicy } from './memory-server.js'

const folder = new URL('./transcripts/', import.meta.url)

interface Turn {
  readonly side: 'C' | 'S'
  readonly bytes: Buffer
  readonly line: string
}

interface Transcript {
  readonly title: string
  readonly options: MemoryServerOptions
  readonly turns: readonly Turn[]
  readonly end: string
}

function parseBytes(line: string): Buffer {
  const token =
    /"((?:[^"\\]|\\.)*)"|([0-9]+)\*([0-9a-f]{2})|((?:[0-9a-f]{2})+)(?=\s|$)|(#.*)|(\S+)/g
  const parts: Buffer[] = []
  for (const [, text, count, byte, hex, comment, wrong] of line.matchAll(token)) {
    if (wrong !== undefined) throw new Error(`what is ${wrong} in: ${line}`)
    if (comment !== undefined) break
    if (text !== undefined) parts.push(Buffer.from(text.replace(/\\(.)/g, '$1')))
    if (count !== undefined) parts.push(Buffer.alloc(Number(count), Buffer.from(byte ?? '', 'hex')))
    if (hex !== undefined) parts.push(Buffer.from(hex, 'hex'))
  }
  return Buffer.concat(parts)
}

function parseOptions(text: string): MemoryServerOptions {
  const value = (name: string): string | undefined =>
    new RegExp(`${name}=(?:"([^"]*)"|(\\S+))`).exec(text)?.slice(1).find(Boolean)
  return {
    sizeBytes: Number(value('size') ?? 67108864),
    info: { description: value('description') },
    tls: (value('tls') ?? 'off') as 'off' | 'require',
  }
}

function parseTranscripts(file: string): Transcript[] {
  const text = readFileSync(new URL(file, folder), 'utf8')
  const blocks = [...text.matchAll(/^```nbd(.*)\n([^]*?)^```$/gm)]
  return blocks.map(([, options = '', body = ''], index) => {
    const lines = body.trimEnd().split('\n')
    const turns = lines
      .filter(line => /^[CS] /.test(line))
      .map(line => ({ side: line[0] as 'C' | 'S', bytes: parseBytes(line.slice(1)), line }))
    const end = lines.find(line => line.startsWith('-- '))?.slice(3) ?? ''
    return { title: `${file}, session ${index + 1}`, options: parseOptions(options), turns, end }
  })
}

/** Neighbouring lines of one side are one turn: the server may answer only to the whole. */
function join(turns: readonly Turn[]): Turn[] {
  const joined: Turn[] = []
  for (const turn of turns) {
    const last = joined.at(-1)
    if (last?.side !== turn.side) {
      joined.push(turn)
      continue
    }
    const bytes = Buffer.concat([last.bytes, turn.bytes])
    joined[joined.length - 1] = { side: turn.side, bytes, line: `${last.line}\n${turn.line}` }
  }
  return joined
}

function checkEnd(t: Test, server: MemoryServer, end: string): void {
  const { closed } = server
  if (end === 'open') t.equal(closed, undefined, 'the connection stays open')
  else
    t.equal(closed && `closes ${closed.graceful ? 'gracefully' : 'at once'}: ${closed.reason}`, end)
}

function runTurns(t: Test, transcript: Transcript, cut: number): void {
  const server = new MemoryServer(memoryPolicy(transcript.options))
  let sent: Uint8Array[] = [server.output()]
  for (const { side, bytes, line } of join(transcript.turns)) {
    if (side === 'S') {
      t.equal(Buffer.concat(sent).toString('hex'), bytes.toString('hex'), line)
      sent = []
      continue
    }
    for (let at = 0; at < bytes.length; at += cut) {
      sent.push(server.receive(bytes.subarray(at, at + cut)))
    }
  }
  t.equal(Buffer.concat(sent).length, 0, 'nothing more is sent')
  checkEnd(t, server, transcript.end)
}

function runAtOnce(t: Test, transcript: Transcript): void {
  const all = (side: string): Buffer =>
    Buffer.concat(transcript.turns.filter(turn => turn.side === side).map(turn => turn.bytes))
  const server = new MemoryServer(memoryPolicy(transcript.options))
  const sent = [server.output(), server.receive(all('C'))]
  t.equal(Buffer.concat(sent).toString('hex'), all('S').toString('hex'), 'the same bytes')
  checkEnd(t, server, transcript.end)
}

for (const file of readdirSync(folder).sort()) {
  for (const transcript of parseTranscripts(file)) {
    t.test(`${transcript.title} goes as written`, async t => runTurns(t, transcript, Infinity))
    t.test(`${transcript.title} goes the same byte by byte`, async t => runTurns(t, transcript, 1))
    if (transcript.options.tls === 'require') continue
    t.test(`${transcript.title} goes the same in one piece`, async t => runAtOnce(t, transcript))
  }
}

// SPDX-License-Identifier: MIT
/**
 * What the house rules ask of every file and no compiler checks. Each test names all offenders, so
 * that one run is enough to mend them.
 */
import { readFileSync, readdirSync } from 'node:fs'
import { extname, join } from 'node:path'
import t from 'tap'
import { checkout } from './support/programs.js'

interface SourceFile {
  /** from the root of the checkout */
  readonly path: string
  readonly text: string
  readonly lines: readonly string[]
}

const limits = { lineCharacters: 120, fileLines: 500, fileLinesWanted: 400 }
const folders = [
  'src',
  'nbd/src',
  'nbd/test',
  'test',
  'native/src',
  'native/test',
  'scripts',
  'bench',
]
const codeExtensions = new Set(['.ts', '.mjs', '.cc', '.h', '.c'])
const leftOut = /(^|\/)(fixtures|node_modules|build|results)\//

const files = readFiles()
const typescript = files.filter(({ path }) => path.endsWith('.ts'))
const product = typescript.filter(({ path }) => /^(nbd\/)?src\//.test(path))

t.test('there is code to look at in every part', async t => {
  for (const folder of ['src', 'nbd/src', 'test', 'native/src', 'scripts']) {
    t.ok(
      files.some(({ path }) => path.startsWith(`${folder}/`)),
      folder,
    )
  }
})

t.test('every file names its licence and says what it owns', async t => {
  const licence = /^(#!.*\n)?\/\/ SPDX-License-Identifier: MIT\n/
  const header = /^(#!.*\n)?\/\/ SPDX-License-Identifier: MIT\n(\/\*\*|\/\*|\/\/)/
  t.same(pathsOf(files.filter(({ text }) => !licence.test(text))), [], 'without licence')
  // what a .cc file owns is said in its header
  const speaking = files.filter(({ path }) => !path.endsWith('.cc'))
  t.same(pathsOf(speaking.filter(({ text }) => !header.test(text))), [], 'without header comment')
})

t.test('imports go down the layers only', async t => {
  const layersPath = join(checkout, 'scripts', 'layers.json')
  const layers = JSON.parse(readFileSync(layersPath, 'utf8')) as Record<string, string[]>
  t.same(
    product.flatMap(file => forbiddenImports(file, layers)),
    [],
  )
})

t.test('every folder of the product has its place among the layers', async t => {
  const layersPath = join(checkout, 'scripts', 'layers.json')
  const layers = JSON.parse(readFileSync(layersPath, 'utf8')) as Record<string, string[]>
  const known = new Set([...Object.keys(layers), 'cli'])
  const inSource = product.map(({ path }) => /^src\/([^/]+)\//.exec(path)?.[1])
  const unknown = inSource.filter(folder => folder !== undefined && !known.has(folder))
  t.same([...new Set(unknown)], [])
})

t.test('only the program prints', async t => {
  const below = product.filter(({ path }) => !path.startsWith('src/cli/'))
  t.same(offendingLines(below, /\bconsole\.|process\.(stdout|stderr)\b/), [])
})

t.test('no marker of unfinished work is left', async t => {
  const marker = new RegExp(
    `\\b(${['TO' + 'DO', 'FIX' + 'ME', 'XX' + 'X', 'HA' + 'CK'].join('|')})\\b`,
  )
  t.same(offendingLines(files, marker), [])
})

t.test('files and lines are short enough to read', async t => {
  const isLong = (line: string): boolean =>
    line.length > limits.lineCharacters && !/https?:\/\/|['"`].{60,}['"`]/.test(line)
  const long = files.flatMap(({ path, lines }) =>
    lines.flatMap((line, index) => (isLong(line) ? [`${path}:${index + 1}`] : [])),
  )
  t.same(long, [], `lines over ${limits.lineCharacters} characters`)
  const sized = files.map(({ path, lines }) => ({ path, count: lines.length }))
  for (const { path, count } of sized) {
    if (count > limits.fileLinesWanted) t.comment(`${path}: ${count} lines; split it soon`)
  }
  const tooLong = sized.filter(({ count }) => count > limits.fileLines)
  t.same(
    tooLong.map(({ path, count }) => `${path}: ${count} lines`),
    [],
  )
})

t.test('no bit operation touches a number of bytes or sectors', async t => {
  // they cut to 32 bits; offsets and sizes go to 2^53
  const operator = String.raw`(<<|>>>?|(?<![|])\|(?![|])|(?<!&)&(?!&)|\^)=?`
  const name = String.raw`\w*(Bytes|Sectors)\b`
  const bitOperation = new RegExp(
    String.raw`\b${name}\s*${operator}|${operator}\s*[\w.]*?${name}|~${name}`,
  )
  const code = product.map(file => ({ ...file, lines: file.lines.map(withoutTypesAndComments) }))
  t.same(offendingLines(code, bitOperation), [])
})

t.test('the project speaks of itself alone', async t => {
  // in pieces, so that this file does not name them either
  const words = ['/wo' + 'rk/', 'sub' + 'agent', String.raw`\b(spec|house)/?[a-z-]*\.m` + 'd']
  const foreign = new RegExp(words.join('|'))
  const texts = readTexts(['docs', '.'], new Set(['.md']))
  t.same(offendingLines([...files, ...texts], foreign), [])
})

t.test('names of files say what they own', async t => {
  const vague = /(^|\/|-)(utils?|helpers?|common|manager|misc)(\.|-)/
  t.same(pathsOf(files.filter(({ path }) => vague.test(path))), [])
})

function readFiles(): SourceFile[] {
  return folders.flatMap(folder => readTexts([folder], codeExtensions, true))
}

function readTexts(
  parents: readonly string[],
  extensions: ReadonlySet<string>,
  recursive = false,
): SourceFile[] {
  return parents.flatMap(parent =>
    listFiles(parent, recursive)
      .filter(path => extensions.has(extname(path)) && !leftOut.test(path))
      .map(path => {
        const text = readFileSync(join(checkout, path), 'utf8')
        return { path, text, lines: text.replace(/\n$/, '').split('\n') }
      }),
  )
}

function listFiles(folder: string, recursive: boolean): string[] {
  try {
    const entries = readdirSync(join(checkout, folder), { recursive, withFileTypes: true })
    return entries
      .filter(entry => entry.isFile())
      .map(entry => join(entry.parentPath, entry.name).slice(checkout.length + 1))
      .sort()
  } catch {
    return []
  }
}

function forbiddenImports(file: SourceFile, layers: Record<string, string[]>): string[] {
  const [, folder = ''] = /^src\/([^/]+)\//.exec(file.path) ?? []
  const allowed = layers[folder]
  const isProtocol = file.path.startsWith('nbd/')
  if (allowed === undefined && !isProtocol) return []
  const sources = [...file.text.matchAll(/^(?:import|export)\b[^'"]*?from '([^']+)'/gm)]
  return sources.flatMap(([, source = '']) => {
    const target = /^\.\.\/(?:\.\.\/)*([^/]+)\//.exec(source)?.[1]
    const isFine = isProtocol
      ? source.startsWith('./')
      : target === undefined || ['base', folder, ...(allowed ?? [])].includes(target)
    return isFine ? [] : [`${file.path} imports ${source}`]
  })
}

function offendingLines(
  list: readonly { path: string; lines: readonly string[] }[],
  pattern: RegExp,
): string[] {
  return list.flatMap(({ path, lines }) =>
    lines.flatMap((line, index) =>
      pattern.test(line) ? [`${path}:${index + 1}: ${line.trim()}`] : [],
    ),
  )
}

/** `sizeBytes: number | undefined` is no bit operation, nor is what a comment says. */
function withoutTypesAndComments(line: string): string {
  if (/^\s*(\*|\/\/|\/\*|type |export type |\|)/.test(line)) return ''
  return line.replace(/\/\/.*$/, '').replaceAll(/'[^']*'|`[^`]*`/g, "''")
}

function pathsOf(list: readonly SourceFile[]): string[] {
  return list.map(({ path }) => path)
}

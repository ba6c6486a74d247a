// SPDX-License-Identifier: MIT
/**
 * Builds what is out of date: the addon (a minute, once) and the TypeScript (incremental).
 *
 * The addon is current when the checksum of its sources, kept beside it, is; file times say
 * nothing after a fresh clone or a change of branch.
 */
import { createHash } from 'node:crypto'
import { chmodSync, existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { nodeHeaderFolder } from './node-headers.mjs'
import { root, run, say } from './step.mjs'

const stampPath = join(root, 'native', 'build', 'sources.sha256')

export async function buildNative() {
  const checksum = sourcesChecksum()
  if (builtChecksum() === checksum) return
  const nodedir = nodeHeaderFolder()
  say('building the addon')
  await run(process.execPath, ['scripts/build-native.mjs'], {
    env: { npm_config_nodedir: nodedir },
  })
  writeFileSync(stampPath, checksum)
}

function builtChecksum() {
  const release = join(root, 'native', 'build', 'Release')
  const isBuilt = existsSync(release) && readdirSync(release).some(name => name.endsWith('.node'))
  return isBuilt && existsSync(stampPath) ? readFileSync(stampPath, 'utf8') : undefined
}

function sourcesChecksum() {
  const hash = createHash('sha256')
  hash.update(`${process.arch} ${process.versions.modules} ${hasLiburing()}\n`)
  const folder = join(root, 'native')
  const files = readdirSync(join(folder, 'src'), { recursive: true })
    .map(name => join('src', name))
    .filter(name => /\.(cc|cpp|h|hpp)$/.test(name))
  for (const name of ['binding.gyp', ...files.sort()]) {
    hash.update(`${name}\n`).update(readFileSync(join(folder, name)))
  }
  return hash.digest('hex')
}

/** Without it the addon is built without a ring: once it is installed, build again. */
function hasLiburing() {
  return existsSync('/usr/include/liburing.h')
}

export async function buildTypeScript() {
  const main = join(root, 'dist', 'cli', 'main.js')
  if (!existsSync(main)) say('building the program: tsc -b')
  await run(process.execPath, [join('node_modules', 'typescript', 'bin', 'tsc'), '-b'])
  if (existsSync(main)) chmodSync(main, 0o755)
}

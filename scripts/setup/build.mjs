// SPDX-License-Identifier: MIT
/**
 * Builds what is out of date: the addon (a minute, once) and the TypeScript (incremental).
 *
 * Leaves: knowing what is out of date to scripts/build-native.mjs and to tsc; a line is said only
 *         where something is made for the first time, since that takes time.
 */
import { chmodSync, existsSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { nodeHeaderFolder } from './node-headers.mjs'
import { root, run, say } from './step.mjs'

const addon = join(root, 'native', 'build', 'Release', 'ploop_nbd.node')
const program = join(root, 'dist', 'cli', 'main.js')

/** @param installedPackages what was installed just now: with liburing the addon gets its ring */
export async function buildNative(installedPackages) {
  if (installedPackages.includes('liburing-dev')) rmSync(addon, { force: true })
  if (!existsSync(addon)) say('building the addon')
  const env = { npm_config_nodedir: nodeHeaderFolder() }
  await run(process.execPath, [join('scripts', 'build-native.mjs')], { env })
}

export async function buildTypeScript() {
  if (!existsSync(program)) say('building the program')
  await run(process.execPath, [join('node_modules', 'typescript', 'bin', 'tsc'), '-b'])
  const isExecutable = (statSync(program).mode & 0o100) !== 0
  if (!isExecutable) chmodSync(program, 0o755)
}

// SPDX-License-Identifier: MIT
/**
 * Node packages: `npm ci` when node_modules is not what package-lock.json says.
 *
 * npm writes node_modules/.package-lock.json as its last act, so the two files tell whether an
 * installation was completed and is still the right one, without a mark of our own.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { root, run, say } from './step.mjs'

export async function installNodeModules() {
  if (areNodeModulesCurrent()) return
  say('installing node packages: npm ci --ignore-scripts')
  await run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'])
}

function areNodeModulesCurrent() {
  const installedPath = join(root, 'node_modules', '.package-lock.json')
  if (!existsSync(installedPath)) return false
  const wanted = readPackages(join(root, 'package-lock.json'))
  const installed = readPackages(installedPath)
  return Object.entries(wanted).every(([path, { version, link, optional, peer }]) => {
    // the project itself, its workspace, and what npm leaves out on this kind of machine
    if (!path.includes('node_modules/') || link || optional || peer) return true
    return installed[path]?.version === version && existsSync(join(root, path))
  })
}

function readPackages(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8')).packages ?? {}
  } catch {
    return {}
  }
}

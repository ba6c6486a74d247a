// SPDX-License-Identifier: MIT
/**
 * System packages: only the missing ones, through apt-get, and only as root.
 *
 * Leaves: which ones (package-lists.mjs).
 */
import { readdirSync } from 'node:fs'
import { missingPackages, packageLists } from './package-lists.mjs'
import { SetupError, findProgram, run, say } from './step.mjs'

const env = { DEBIAN_FRONTEND: 'noninteractive' }
const aptOptions = ['-y', '-qq', '-o', 'DPkg::Lock::Timeout=600']

/** @returns the packages that were installed */
export async function installSystemPackages(purpose) {
  const { needed, wanted } = packageLists(purpose)
  const missing = missingPackages([...needed, ...wanted])
  if (missing.length === 0) return []
  const command = `apt-get install --no-install-recommends ${missing.join(' ')}`
  if (findProgram('apt-get') !== undefined && process.getuid?.() === 0) {
    say(`installing system packages: ${missing.join(' ')}`)
    await aptInstall(missing)
    return missing
  }
  const advice =
    findProgram('apt-get') === undefined
      ? `this machine has no apt-get; install what brings these Debian packages' programs: ${missing.join(' ')}`
      : `run as root: ${command}`
  const missingNeeded = missingPackages(needed)
  if (missingNeeded.length > 0) {
    throw new SetupError(`not on this machine: ${missing.join(' ')}\n${advice}`)
  }
  say(`going on without ${missing.join(' ')}: tests that need them are skipped; ${advice}`)
  return []
}

async function aptInstall(names) {
  const install = () =>
    run('apt-get', ['install', ...aptOptions, '--no-install-recommends', ...names], { env })
  const update = () => {
    say('apt-get update')
    return run('apt-get', ['update', '-qq'], { env })
  }
  if (!hasPackageIndex()) {
    await update()
    return install()
  }
  try {
    await install()
  } catch {
    // the index may be older than the archive: look again, once
    await update()
    await install()
  }
}

function hasPackageIndex() {
  try {
    return readdirSync('/var/lib/apt/lists').some(name => /_Packages(\.\w+)?$/.test(name))
  } catch {
    return false
  }
}

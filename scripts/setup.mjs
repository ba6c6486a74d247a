#!/usr/bin/env node
// SPDX-License-Identifier: MIT
/**
 * Makes a fresh clone ready: system packages, node packages, addon, program. Does only what is
 * missing, says one line for each thing it does, and nothing when there is nothing to do.
 *
 *   node scripts/setup.mjs [--for start|test|bench]
 *
 * Needs Node and npm alone: no package may be imported here or below scripts/setup/.
 */
import { existsSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { buildNative, buildTypeScript } from './setup/build.mjs'
import { installNodeModules } from './setup/node-modules.mjs'
import { oneAtATime } from './setup/one-at-a-time.mjs'
import { SetupError, say } from './setup/step.mjs'
import { installSystemPackages } from './setup/system-packages.mjs'
import { prepareKernel } from './vm/kernel-cache.mjs'
import { whyNoMachine } from './vm/machine-programs.mjs'

/**
 * @param purpose 'start': what serving and the printed commands need; 'test': all the tests need;
 *   'bench': what the benchmark compares with
 */
export async function setUp(purpose) {
  requireNode()
  await oneAtATime(async () => {
    const installedPackages = await installSystemPackages(purpose)
    await installNodeModules()
    if (purpose === 'test') await prepareKernelDevice()
    await buildNative(installedPackages)
    await buildTypeScript()
  })
}

/** The kernel of the virtual machine, where this machine's own has no nbd: tests go on without. */
async function prepareKernelDevice() {
  if (existsSync('/dev/nbd0') || whyNoMachine() !== undefined) return
  try {
    await prepareKernel()
  } catch (error) {
    say(`no kernel for the virtual machine, its tests cannot run: ${error.message}`)
  }
}

function requireNode() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major > 20 || (major === 20 && minor >= 19)) return
  throw new SetupError(
    `Node 20.19 or newer is needed, this is ${process.versions.node}; install it from nodejs.org or NodeSource`,
  )
}

/** Runs one of the project's scripts: a SetupError ends it with its message and status 1. */
export async function runScript(main) {
  try {
    process.exitCode = (await main()) ?? 0
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    say(error.message)
    process.exitCode = 1
  }
}

function parsePurpose(words) {
  const purpose = words[0] === '--for' ? words[1] : words[0]?.replace(/^--for=/, '')
  if (words.length === 0) return 'test'
  if (['start', 'test', 'bench'].includes(purpose)) return purpose
  throw new SetupError(
    `usage: node scripts/setup.mjs [--for start|test|bench]; got "${words.join(' ')}"`,
  )
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  await runScript(() => setUp(parsePurpose(process.argv.slice(2))))
}

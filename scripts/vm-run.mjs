#!/usr/bin/env node
// SPDX-License-Identifier: MIT
/**
 * Runs one command as root in a throw-away virtual machine whose kernel has /dev/nbd, on a machine
 * that has no nbd module and no hardware virtualisation.
 *
 * The guest sees all files of this machine at the same paths through virtiofs, under a writable
 * overlay that is thrown away: node, node_modules, nbd-client and e2fsprogs are the host's own.
 * The kernel is a stock Debian one, unpacked and never installed.
 */
import { SetupError, say } from './setup/step.mjs'
import { prepareKernel } from './vm/kernel-cache.mjs'
import { whyNoMachine } from './vm/machine-programs.mjs'
import { exitStatus, runInMachine } from './vm/machine.mjs'
import { UsageError, help, parseCommandLine } from './vm/options.mjs'

// a reader that went away (`| head`) is no reason to fail
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined)
for (const [signal, status] of Object.entries({ SIGINT: 130, SIGTERM: 143, SIGHUP: 129 })) {
  process.on(signal, () => process.exit(status))
}

try {
  process.exitCode = await main(parseCommandLine(process.argv.slice(2)))
} catch (error) {
  const isExpected = error instanceof UsageError || error instanceof SetupError
  say(isExpected ? error.message : error.stack, 'vm-run')
  process.exitCode = exitStatus.machineFailed
}
process.stdout.write('', () => process.exit())

async function main(options) {
  if (options.isHelp) {
    process.stdout.write(`${help}\n`)
    return 0
  }
  const obstacle = whyNoMachine()
  if (obstacle !== undefined) throw new SetupError(obstacle)
  const kernel = await prepareKernel(options)
  return options.isPrepareOnly ? 0 : runInMachine(options, kernel)
}

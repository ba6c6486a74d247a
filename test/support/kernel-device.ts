// SPDX-License-Identifier: MIT
/**
 * A kernel with /dev/nbd for tests: this machine's own, else that of a virtual machine which sees
 * the same files (scripts/vm-run.mjs; some 5 seconds to boot, and JavaScript is slow in it).
 *
 * So put a whole story into one command: `node dist/cli/main.js mount …` and what follows, as one
 * shell script that prints what the test then compares.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { checkout, runProgram } from './programs.js'
import { requires } from './requires.js'
import type { RunResult } from './programs.js'

const device = '/dev/nbd0'

/** The `skip` option of a test of the kernel client; the only one that may be skipped in CI. */
export function requiresKernelDevice(): false | string {
  if (existsSync(device)) return requires('root', 'nbd-client')
  if (process.arch !== 'x64') return 'needs /dev/nbd0, or an amd64 machine for the virtual one'
  return requires(
    ...['root', 'nbd-client', 'qemu-system-x86_64', 'busybox', 'mke2fs', 'setpriv'],
    existsSync('/usr/libexec/virtiofsd') ? '/usr/libexec/virtiofsd' : '/usr/lib/qemu/virtiofsd',
  )
}

/**
 * Runs a shell script as root where /dev/nbd0 is.
 *
 * @param options.writableFolders in the virtual machine only what is written there is kept
 * @returns status 124 when it took longer than the deadline, 125 when the machine failed
 */
export function runWithKernelDevice(
  script: string,
  options: { writableFolders?: readonly string[]; timeoutSeconds?: number } = {},
): Promise<RunResult> {
  const { writableFolders = [], timeoutSeconds = 180 } = options
  const timeoutMs = (timeoutSeconds + 20) * 1000
  if (existsSync(device)) return runProgram('sh', ['-c', script], { timeoutMs })
  const machineOptions = [
    ...['--nbd', '--cwd', checkout, '--timeout', String(timeoutSeconds)],
    ...writableFolders.flatMap(folder => ['--rw', folder]),
  ]
  const vmRun = join(checkout, 'scripts', 'vm-run.mjs')
  return runProgram(process.execPath, [vmRun, ...machineOptions, '--', 'sh', '-c', script], {
    timeoutMs,
  })
}

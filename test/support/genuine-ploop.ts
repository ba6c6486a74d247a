// SPDX-License-Identifier: MIT
/**
 * Runs the genuine ploop tool, a judge of what we write, without its kernel module.
 *
 * It asks for /sys/module/ploop/parameters/large_disk_support before it makes, converts to or
 * grows images of version 2; nothing else is needed at rest. So it is shown that file in a mount
 * namespace of its own (which takes root). What it cannot do so: mount, resize, `init` with a file
 * system, `info` of a file system.
 */
import { existsSync, mkdirSync, rmSync } from 'node:fs'
import { runJudge, runProgram } from './programs.js'
import { requires } from './requires.js'
import type { ProgramOptions, RunResult } from './programs.js'

const tool = '/usr/sbin/ploop'
const parameterFile = '/sys/module/ploop/parameters/large_disk_support'

const showParameterFile = `
mount -t tmpfs -o size=64k none /sys/module &&
mkdir -p /sys/module/ploop/parameters &&
: > ${parameterFile} &&
exec "$@"`

/** The `skip` option of a test that is judged by the genuine tool. */
export function requiresGenuinePloop(): false | string {
  return requires(tool, 'unshare', 'root')
}

export function genuinePloop(
  programArguments: readonly string[],
  options: ProgramOptions = {},
): Promise<RunResult> {
  mkdirSync('/var/lock/ploop', { recursive: true })
  if (existsSync(parameterFile)) return runProgram(tool, programArguments, options)
  const inNamespace = ['-m', '--propagation', 'private', 'sh', '-c', showParameterFile, 'sh']
  return runProgram('unshare', [...inNamespace, tool, ...programArguments], options)
}

/**
 * Its verdict on one image: `check -f` of a copy without holes, since on ext4 it refuses any image
 * file that has them, which its own kernel driver could not use and we make on purpose.
 */
export async function genuineCheck(imagePath: string): Promise<RunResult> {
  const copy = `${imagePath}.full`
  try {
    await runJudge('cp', ['--sparse=never', imagePath, copy])
    return await genuinePloop(['check', '-f', copy])
  } finally {
    rmSync(copy, { force: true })
  }
}

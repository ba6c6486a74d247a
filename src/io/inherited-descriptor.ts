// SPDX-License-Identifier: MIT
/**
 * Runs a program of util-linux on one of our open files, which it inherits as descriptor 3.
 *
 * Only for the time without the addon: flock(1) locks the open file itself, so the lock stays ours
 * when the program has ended.
 */
import { spawn } from 'node:child_process'
import { PloopError } from '../base/errors.js'

/** More than these programs ever say. */
const stderrLimitBytes = 4096

export function runOnDescriptor(
  fd: number,
  program: 'flock' | 'fallocate',
  argumentList: readonly string[],
): Promise<{ status: number; stderr: string }> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, LC_ALL: 'C' }
    const child = spawn(program, argumentList, { stdio: ['ignore', 'ignore', 'pipe', fd], env })
    let stderr = ''
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      if (stderr.length < stderrLimitBytes) stderr += text
    })
    child.on('error', cause => {
      reject(
        new PloopError('PROGRAM_MISSING', `cannot run ${program}: ${cause.message}`, {
          status: 'system',
          operation: program,
          hint: 'install util-linux, or a ploop-nbd with its native addon',
          cause,
        }),
      )
    })
    child.on('close', status => {
      resolve({ status: status ?? 1, stderr })
    })
  })
}

// SPDX-License-Identifier: MIT
/**
 * Lets one set-up run at a time in a checkout: a second one waits and then finds all done.
 *
 * Node has no flock(2). flock(1) locks the open file it inherits as descriptor 3; the lock belongs
 * to that open file, so it stays ours when flock(1) has ended and goes when we end, however we do.
 */
import { spawnSync } from 'node:child_process'
import { closeSync, mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { SetupError, findProgram, root, say } from './step.mjs'

const waitSeconds = 1800

export async function oneAtATime(work) {
  const flock = findProgram('flock')
  if (flock === undefined) return work()
  const folder = join(root, '.state')
  mkdirSync(folder, { recursive: true })
  const fd = openSync(join(folder, 'setup.lock'), 'a')
  try {
    const lock = (...options) =>
      spawnSync(flock, ['-x', ...options, '3'], { stdio: ['ignore', 'ignore', 'ignore', fd] })
        .status === 0
    if (!lock('-n')) {
      say('another set-up is at work here; waiting for it')
      if (!lock('-w', String(waitSeconds))) {
        throw new SetupError(`another set-up has been at work for ${waitSeconds} seconds; gave up`)
      }
    }
    return await work()
  } finally {
    closeSync(fd)
  }
}

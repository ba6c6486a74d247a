// SPDX-License-Identifier: MIT
/**
 * Whether what a test needs is on this machine: the answer is its `skip` option.
 *
 *   t.test('nbdcopy reads the whole disk', { skip: requires('nbdcopy') }, async t => { … })
 *
 * Set-up installs every judge, so continuous integration counts a skipped test as a failure.
 */
import { existsSync } from 'node:fs'
import { findProgram } from '../../src/host/run.js'

/**
 * @param needs program names, absolute paths that must exist, or 'root'
 * @returns false when all is there, else why the test is skipped
 */
export function requires(...needs: readonly string[]): false | string {
  const missing = needs.filter(need => !isThere(need))
  return missing.length === 0 ? false : `needs ${missing.join(', ')}`
}

function isThere(need: string): boolean {
  if (need === 'root') return process.getuid?.() === 0
  return need.startsWith('/') ? existsSync(need) : findProgram(need) !== undefined
}

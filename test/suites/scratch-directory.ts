// SPDX-License-Identifier: MIT
/** A directory with a short path, for sockets (their paths have 107 bytes); removed afterwards. */
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import type { Test } from 'tap'

export function scratchDirectory(t: Test): string {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pn-'))
  t.teardown(() => {
    fs.rmSync(directory, { recursive: true, force: true })
  })
  return directory
}

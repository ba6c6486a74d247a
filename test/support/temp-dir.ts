// SPDX-License-Identifier: MIT
/**
 * Folders that go when the test ends.
 *
 * Images belong into {@link imageFolder}: it is on the file system of the checkout, where direct
 * I/O works. Sockets belong into {@link socketFolder}: its path is short, and a unix socket takes
 * no more than 107 bytes.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** What of a tap test is used here. */
interface Teardown {
  teardown(work: () => void): void
}

const checkout = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

export function imageFolder(t: Teardown): string {
  const parent = join(checkout, '.state', 'tests')
  mkdirSync(parent, { recursive: true })
  return folderUntilTeardown(t, join(parent, 'disk-'))
}

export function socketFolder(t: Teardown): string {
  return folderUntilTeardown(t, join(tmpdir(), 'pn-'))
}

function folderUntilTeardown(t: Teardown, prefix: string): string {
  const folder = mkdtempSync(prefix)
  t.teardown(() => {
    rmSync(folder, { recursive: true, force: true })
  })
  return folder
}

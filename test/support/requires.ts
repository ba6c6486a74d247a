// SPDX-License-Identifier: MIT
/** Says whether the programs a test judges with are there; on a user's machine it skips without. */
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'

const extraFolders = ['/usr/sbin', '/sbin', '/usr/bin']

/** Full path of a program. */
export function findProgram(name: string): string | undefined {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), ...extraFolders]
  for (const folder of folders) {
    const file = join(folder, name)
    try {
      accessSync(file, constants.X_OK)
      return file
    } catch {
      // the next folder
    }
  }
  return undefined
}

/**
 * @returns the `skip` option of a test: false when all programs are there
 * @throws when one is missing and CI is set: there a skip would hide a failure
 */
export function requires(...programs: string[]): string | false {
  const missing = programs.filter(name => findProgram(name) === undefined)
  if (missing.length === 0) return false
  const reason = `needs ${missing.join(', ')}`
  if (process.env['CI']) throw new Error(reason)
  return reason
}

/**
 * Command line that runs genuine ploop (without its kernel module), undefined when it is not here:
 * the PLOOP_GENUINE variable, or ploop as root with a stand-in for the module's parameter.
 */
export function genuinePloop(): { program: string; words: string[] } | undefined {
  const wrapper = process.env['PLOOP_GENUINE']
  if (wrapper) return { program: wrapper, words: [] }
  const ploop = findProgram('ploop')
  if (ploop === undefined || process.getuid?.() !== 0) return undefined
  const script =
    'mkdir -p /var/lock/ploop && mount -t tmpfs -o size=64k none /sys/module && ' +
    'mkdir -p /sys/module/ploop/parameters && ' +
    ': > /sys/module/ploop/parameters/large_disk_support && exec "$@"'
  const words = ['-m', '--propagation', 'private', 'sh', '-c', script, 'sh', ploop]
  return { program: 'unshare', words }
}

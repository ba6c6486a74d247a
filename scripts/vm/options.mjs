// SPDX-License-Identifier: MIT
/** The command line of vm-run. */
import { realpathSync } from 'node:fs'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'

export const help = `usage: node scripts/vm-run.mjs [options] -- command [args...]
Runs the command as root in a small virtual machine whose kernel has /dev/nbd.

  --nbd             load the nbd module first: 16 devices, 8 partitions each
  --modprobe "M P"  load that module with these parameters first (repeatable)
  --rw DIR          what is written below DIR reaches this machine (repeatable);
                    everything else is thrown away
  --timeout SEC     wall clock, boot included (default 600); then exit status 124
  --cwd DIR         where to run (default: the current folder)
  --env K=V         one more variable (repeatable); the caller's are handed over
  --mem SIZE        memory (default 2G)
  --cpus N          processors (default 2)
  --scratch SIZE    sparse disk on /scratch, where TMPDIR points (default 8G)
  --prepare         only fetch the kernel into the cache
  --update          look for a newer kernel package first
  -v, --verbose     kernel messages and times on standard error

Exit status: the command's own; 124 timed out; 125 the machine itself failed.
Environment: VM_RUN_CACHE, where the kernel is kept (default ~/.cache/ploop-nbd/vm).
Inside, VM_RUN=1 is set. Needs root, qemu-system-x86, busybox-static, e2fsprogs.`

const text = { type: 'string' }
const texts = { type: 'string', multiple: true, default: [] }
const flag = { type: 'boolean', default: false }

/** What can be said about the command line in one sentence. */
export class UsageError extends Error {}

export function parseCommandLine(words) {
  const separator = words.indexOf('--')
  const own = separator < 0 ? words : words.slice(0, separator)
  const command = separator < 0 ? [] : words.slice(separator + 1)
  const { values } = parse(own)
  const options = {
    command,
    modules: [...(values.nbd ? ['nbd nbds_max=16 max_part=8'] : []), ...values.modprobe],
    writableFolders: values.rw.map(folder => realpathSync(folder)),
    timeoutSeconds: positive('--timeout', values.timeout ?? '600'),
    cwd: resolve(values.cwd ?? '.'),
    variables: values.env,
    memory: values.mem ?? '2G',
    cpuCount: positive('--cpus', values.cpus ?? '2'),
    scratchBytes: parseSize(values.scratch ?? '8G'),
    isPrepareOnly: values.prepare,
    isUpdate: values.update,
    isVerbose: values.verbose,
    isHelp: values.help,
  }
  if (command.length === 0 && !values.prepare && !values.help) {
    throw new UsageError('no command given: put it after "--"')
  }
  return options
}

function parse(words) {
  try {
    return parseArgs({
      args: words,
      options: {
        ...{ nbd: flag, modprobe: texts, rw: texts, timeout: text, cwd: text, env: texts },
        ...{ mem: text, cpus: text, scratch: text, prepare: flag, update: flag },
        ...{ verbose: { ...flag, short: 'v' }, help: { ...flag, short: 'h' } },
      },
    })
  } catch (error) {
    throw new UsageError(error.message)
  }
}

function positive(name, value) {
  const number = Number(value)
  if (!(number > 0)) throw new UsageError(`${name} takes a positive number, got "${value}"`)
  return number
}

function parseSize(value) {
  const match = /^(\d+)([KMGT]?)$/i.exec(value)
  if (match === null) throw new UsageError(`--scratch takes a size such as 8G, got "${value}"`)
  return Number(match[1]) * 1024 ** ' KMGT'.indexOf(match[2].toUpperCase() || ' ')
}

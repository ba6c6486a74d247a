// SPDX-License-Identifier: MIT
/** What the guest is to do: a small archive put behind the cached first file system. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileEntry, writeCpio } from './cpio.mjs'

export function jobArchive(options, kernel, endMark) {
  const script = name => readFileSync(join(import.meta.dirname, name))
  const settings = {
    KERNEL: kernel.version,
    MODULES: kernel.modules,
    LOAD_MODULES: options.modules.join('\n'),
    END_MARK: endMark,
  }
  const assignments = Object.entries(settings).map(([name, value]) => `${name}=${quote(value)}\n`)
  return writeCpio([
    fileEntry('init', script('guest-init.sh'), 0o755),
    fileEntry('job/run', script('guest-run.sh')),
    fileEntry('job/command', commandScript(options)),
    fileEntry('job/settings', assignments.join('')),
    fileEntry('job/writable', options.writableFolders.map(folder => `${folder}\n`).join('')),
  ])
}

function commandScript({ cwd, command, variables }) {
  const environment = Object.entries(guestEnvironment(cwd, variables))
  const words = environment.map(([name, value]) => quote(`${name}=${value}`)).join(' ')
  const enter = quote('cd -- "$1" || exit 127; shift; exec "$@"')
  const commandWords = [cwd, ...command].map(quote).join(' ')
  return `exec /run/vm-run/busybox env -i ${words} /bin/sh -c ${enter} vm-run ${commandWords}\n`
}

function guestEnvironment(cwd, variables) {
  const environment = { ...process.env, PWD: cwd, VM_RUN: '1', TMPDIR: '/scratch/tmp' }
  // no network in there, and reading it costs two seconds at each start of node
  delete environment.NODE_EXTRA_CA_CERTS
  environment.PATH = `${process.env.PATH ?? '/usr/bin:/bin'}:/usr/sbin:/sbin`
  for (const variable of variables) {
    const [, name, value] = /^([^=]+)=(.*)$/s.exec(variable) ?? [undefined, variable, '']
    environment[name] = value
  }
  return environment
}

/** For a shell. */
function quote(text) {
  return `'${String(text).replaceAll("'", `'\\''`)}'`
}

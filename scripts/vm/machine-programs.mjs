// SPDX-License-Identifier: MIT
/** The programs that the virtual machine is made of: where they are, what is missing. */
import { existsSync } from 'node:fs'
import { findProgram } from '../setup/step.mjs'

/** virtiofsd of Debian 12 (part of qemu), and of later releases (a package of its own) */
const virtiofsdPaths = ['/usr/lib/qemu/virtiofsd', '/usr/libexec/virtiofsd']

export function machinePrograms() {
  return {
    qemu: findProgram('qemu-system-x86_64'),
    virtiofsd: virtiofsdPaths.find(path => existsSync(path)),
    busybox: findProgram('busybox'),
    mke2fs: findProgram('mke2fs'),
    setpriv: findProgram('setpriv'),
  }
}

/** @returns undefined when a machine can be started, else why not */
export function whyNoMachine() {
  if (process.arch !== 'x64') return 'the virtual machine is for amd64 only'
  if (process.getuid?.() !== 0) return 'the virtual machine needs root'
  const missing = Object.entries(machinePrograms()).filter(([, path]) => path === undefined)
  if (missing.length === 0) return undefined
  return `the virtual machine needs ${missing.map(([name]) => name).join(', ')}`
}

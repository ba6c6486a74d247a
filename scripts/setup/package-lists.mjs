// SPDX-License-Identifier: MIT
/**
 * What must be on the machine, and which Debian package brings it.
 *
 * A package counts as present when everything in `has` is there: a name is a program, a path is a
 * file. So a tool installed in another way is accepted, and the test costs no package manager.
 */
import { existsSync } from 'node:fs'
import { findProgram } from './step.mjs'

const need = (packageName, ...has) => ({ packageName, has })

/** To build the addon, to make a disk, to serve it. */
const building = [
  need('g++', 'g++'),
  need('make', 'make'),
  need('python3', 'python3'),
  need('pkg-config', 'pkg-config'),
  need('liburing-dev', '/usr/include/liburing.h'),
  need('e2fsprogs', 'mkfs.ext4', 'tune2fs', 'resize2fs', 'dumpe2fs', 'debugfs', 'e2fsck'),
  need('util-linux', 'flock', 'fallocate', 'findmnt', 'unshare'),
  need('mount', 'mount', 'umount', 'losetup'),
]

/** What the commands printed by `npm start` use. */
const demonstrating = [
  need('libnbd-bin', 'nbdinfo', 'nbdcopy', 'nbdfuse'),
  need('file', 'file'), // nbdinfo asks it what is on the disk
  need('fuse3', 'fusermount3'),
  need('qemu-utils', 'qemu-img', 'qemu-io', 'qemu-nbd'),
  ...(existsSync('/dev/nbd0') ? [need('nbd-client', 'nbd-client')] : []),
]

/** Independent programs that judge our work in the tests. */
const judging = [
  need('python3-libnbd', '/usr/lib/python3/dist-packages/nbd.py'),
  need('fio', 'fio'),
  need('nbdkit', 'nbdkit'),
  need('ploop', '/usr/sbin/ploop'),
  need('gdisk', 'sgdisk'),
  need('fdisk', 'sfdisk'),
  need('parted', 'parted'),
  need('nbd-client', 'nbd-client'),
  need('xfsprogs', 'mkfs.xfs'),
  need('strace', 'strace'),
]

/** What the benchmark compares with, and measures with. */
const benchmarking = [
  need('qemu-utils', 'qemu-img', 'qemu-io', 'qemu-nbd'),
  need('nbdkit', 'nbdkit'),
  need('fio', 'fio'),
]

/** The virtual machine whose kernel has /dev/nbd: needless where the machine has one itself. */
const emulating = [
  need('qemu-system-x86', 'qemu-system-x86_64', '/usr/lib/qemu/virtiofsd'),
  need('busybox-static', 'busybox'),
]

/** @returns `needed`: nothing goes without; `wanted`: without it tests are skipped */
export function packageLists(purpose) {
  if (purpose === 'bench') {
    return { needed: [...building, ...benchmarking], wanted: [need('xfsprogs', 'mkfs.xfs')] }
  }
  if (purpose === 'start') return { needed: [...building, ...demonstrating], wanted: [] }
  const emulate = process.arch === 'x64' && !existsSync('/dev/nbd0') ? emulating : []
  return { needed: building, wanted: [...demonstrating, ...judging, ...emulate] }
}

export function missingPackages(list) {
  const isThere = what => (what.startsWith('/') ? existsSync(what) : findProgram(what))
  const missing = list.filter(({ has }) => !has.every(isThere))
  return [...new Set(missing.map(({ packageName }) => packageName))]
}

// SPDX-License-Identifier: MIT
/**
 * What `npm start` prints when the disk is served: commands that work when pasted into another
 * terminal, only those this machine can carry out.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'

/** where `init -t ext4` puts the partition: one cluster in */
const partitionOffsetBytes = 1_048_576

export function invitation({ uri, socketPath, exportName, demoFolder }) {
  const sections = [
    ['Look at it', [`nbdinfo ${quote(uri)}`, `qemu-img info ${quote(uri)}`]],
    ['Copy it to a raw file', [copyCommand(uri, demoFolder)]],
    ...mountSections({ uri, socketPath, exportName, demoFolder }),
  ]
  const text = sections.map(([title, lines]) => `  ${title}:\n${indent(lines)}\n`).join('\n')
  return [
    `\nServing ${join(demoFolder, 'DiskDescriptor.xml')} as\n\n  ${uri}\n`,
    `\nPaste into another terminal:\n\n${text}`,
    '\nCtrl-C ends the server; the disk stays. "npm start -- --fresh" makes a new one.\n',
  ].join('')
}

function copyCommand(uri, demoFolder) {
  return `nbdcopy --progress ${quote(uri)} ${quote(join(demoFolder, 'copy.raw'))}`
}

function mountSections({ uri, socketPath, exportName, demoFolder }) {
  const isRoot = process.getuid?.() === 0
  const isFuseThere = existsSync('/dev/fuse') && existsSync('/dev/loop-control')
  const sections = []
  if (isRoot && isFuseThere) sections.push(fuseSection(uri, demoFolder))
  if (isRoot && existsSync('/dev/nbd0')) sections.push(kernelSection(socketPath, exportName))
  return sections
}

function fuseSection(uri, demoFolder) {
  const file = quote(join(demoFolder, 'disk.raw'))
  const folder = quote(join(demoFolder, 'mnt'))
  return [
    'Mount its file system (nbdfuse and a loop device), write, unmount',
    [
      `mkdir -p ${folder}; : > ${file}; nbdfuse ${file} ${quote(uri)} &`,
      `until [ -s ${file} ]; do sleep 0.1; done; mount -o loop,offset=${partitionOffsetBytes} ${file} ${folder}`,
      `echo hello > ${folder}/hello; df -h ${folder}`,
      `umount ${folder}; fusermount3 -u ${file}`,
    ],
  ]
}

function kernelSection(socketPath, exportName) {
  return [
    'Mount its file system (kernel nbd device), unmount',
    [
      `nbd-client -u ${quote(socketPath)} -N ${exportName} -t 60 /dev/nbd0 && mount /dev/nbd0p1 /mnt`,
      'umount /mnt; nbd-client -d /dev/nbd0',
    ],
  ]
}

function indent(lines) {
  return lines.map(line => `    ${line}`).join('\n')
}

/** For a shell. */
function quote(text) {
  return /^[\w/.:@=+-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`
}

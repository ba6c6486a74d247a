// SPDX-License-Identifier: MIT
/** Kernel modules: which there are, which ones the boot needs, in the order of their dependencies. */
import { spawnSync } from 'node:child_process'
import { readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** Before the guest sees the files of this machine. */
const bootModules = [
  'virtio_pci',
  'virtio_blk',
  'virtio_console',
  'overlay',
  'ext4',
  'crc32c_generic',
  'virtiofs',
]

/** @returns path of each module below `folder` by name */
export function indexModules(folder) {
  const index = new Map()
  for (const entry of readdirSync(folder, { recursive: true })) {
    const name = /([^/]+)\.ko(\.xz)?$/.exec(entry)?.[1]
    if (name !== undefined) index.set(moduleName(name), unpackModule(join(folder, entry)))
  }
  return index
}

/** @returns `[name, content]` of the modules to load, dependencies first; what is built in is absent */
export function orderBootModules(index) {
  const ordered = new Map()
  const add = name => {
    const path = index.get(name)
    if (ordered.has(name) || path === undefined) return
    const content = readFileSync(path)
    for (const dependency of dependencies(content)) add(dependency)
    ordered.set(name, content)
  }
  bootModules.forEach(add)
  return [...ordered]
}

/** `depends=` of the section .modinfo */
function dependencies(content) {
  const fields = content.toString('latin1').matchAll(/\0depends=([^\0]*)\0/g)
  return [...fields].flatMap(([, names]) => names.split(',')).map(moduleName)
}

function moduleName(name) {
  return name.replaceAll('-', '_')
}

/** busybox loads plain modules only; Debian 13 packs them. */
function unpackModule(path) {
  if (!path.endsWith('.xz')) return path
  const plain = path.slice(0, -'.xz'.length)
  const result = spawnSync('xz', ['-dc', path], { maxBuffer: 1 << 28 })
  if (result.status !== 0) throw new Error(`cannot unpack ${path}: is the package xz-utils there?`)
  writeFileSync(plain, result.stdout)
  rmSync(path)
  return plain
}

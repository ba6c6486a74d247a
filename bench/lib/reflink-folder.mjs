// SPDX-License-Identifier: MIT
/** A small XFS in a file, mounted through a loop device: the place for rows about shared extents. */
import { closeSync, ftruncateSync, mkdirSync, openSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { findProgram, run } from '../../scripts/setup/step.mjs'

/** @returns why there can be none, or undefined */
export function whyNoReflink() {
  if (process.getuid?.() !== 0) return 'mounting needs root'
  const missing = ['mkfs.xfs', 'losetup', 'mount'].find(name => findProgram(name) === undefined)
  return missing === undefined ? undefined : `${missing} is not there`
}

/** @returns the mounted folder, and what takes it down again */
export async function mountReflinkFolder(parent, sizeMiB) {
  const file = join(parent, 'xfs.img')
  const folder = join(parent, 'xfs')
  const fd = openSync(file, 'w', 0o600)
  ftruncateSync(fd, sizeMiB * 2 ** 20)
  closeSync(fd)
  mkdirSync(folder, { recursive: true })
  await run(findProgram('mkfs.xfs'), ['-q', '-m', 'reflink=1', file])
  const losetup = findProgram('losetup')
  const device = (await run(losetup, ['--find', '--show', '--direct-io=on', file])).trim()
  try {
    await run(findProgram('mount'), [device, folder])
  } catch (error) {
    await run(losetup, ['-d', device])
    throw error
  }
  const unmount = async () => {
    await run(findProgram('umount'), [folder])
    await run(losetup, ['-d', device])
    rmSync(file, { force: true })
  }
  return { folder, unmount }
}

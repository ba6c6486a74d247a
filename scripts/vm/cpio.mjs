// SPDX-License-Identifier: MIT
/** Writes cpio archives of the kind ("newc") that a kernel unpacks as its first file system. */

const modes = { folder: 0o40755, file: 0o100000, device: 0o20600 }

export const folderEntry = name => ({ name, mode: modes.folder, data: '' })
export const fileEntry = (name, data, mode = 0o644) => ({ name, mode: modes.file | mode, data })
export const deviceEntry = (name, major, minor) => ({
  ...{ name, mode: modes.device, data: '' },
  device: [major, minor],
})

export function writeCpio(entries) {
  const end = { name: 'TRAILER!!!', mode: 0, data: '' }
  const parts = [...entries, end].flatMap((entry, index) => encodeEntry(entry, index + 1))
  const archive = Buffer.concat(parts)
  return Buffer.concat([archive, padding(archive.length, 512)])
}

function encodeEntry({ name, mode, data, device = [0, 0] }, inode) {
  const content = Buffer.isBuffer(data) ? data : Buffer.from(data)
  const path = Buffer.from(`${name}\0`)
  // inode, mode, uid, gid, links, time, size, device of the file system (2), own device (2), name, checksum
  const fields = [inode, mode, 0, 0, 1, 0, content.length, 0, 0, ...device, path.length, 0]
  const header = `070701${fields.map(field => field.toString(16).padStart(8, '0')).join('')}`
  const head = Buffer.concat([Buffer.from(header), path])
  return [head, padding(head.length, 4), content, padding(content.length, 4)]
}

function padding(length, unit) {
  return Buffer.alloc((unit - (length % unit)) % unit)
}

// SPDX-License-Identifier: MIT
/**
 * Puts the page cache into a known state before a row is measured.
 *
 * ext4 keeps what was read or written in large pieces in large folios, and a 4 KiB overwrite of a
 * 1 MiB folio walks all its buffer heads: five to fifteen times the CPU, for every server alike.
 * Rows of small buffered writes therefore begin with folios that small writes have made.
 */
import { spawnSync } from 'node:child_process'
import { closeSync, fdatasyncSync, openSync, readSync, writeSync } from 'node:fs'

const pieceBytes = 1 << 20

/** Forgets a file, after writing back what is dirty. */
export function dropCache(path) {
  sync(path)
  spawnSync('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none'])
}

/** Nothing of an earlier run is written back while the next one is measured. */
export function sync(path) {
  const fd = openSync(path, 'r')
  try {
    fdatasyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

/** Reads all of a file. */
export function warmCache(path) {
  const buffer = Buffer.alloc(pieceBytes)
  const fd = openSync(path, 'r')
  try {
    while (readSync(fd, buffer, 0, pieceBytes, null) > 0);
  } finally {
    closeSync(fd)
  }
}

/** Fills part of a file's cache by 4 KiB writes; its content changes. */
export function warmBySmallWrites(path, offsetBytes, lengthBytes) {
  dropCache(path)
  const block = Buffer.alloc(4096, 0x5a)
  const fd = openSync(path, 'r+')
  try {
    for (let at = 0; at < lengthBytes; at += 4096) writeSync(fd, block, 0, 4096, offsetBytes + at)
    fdatasyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

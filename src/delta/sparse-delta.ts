// SPDX-License-Identifier: MIT
/**
 * Holes of image files: finding the first one, and filling all of them with real zeros.
 *
 * Only for images that shall go back to kernels that read past the file system; serving needs none
 * of it.
 */
import type { FileHandle } from '../io/files.js'

const pieceBytes = 1024 * 1024

export interface FileRange {
  readonly startBytes: number
  readonly lengthBytes: number
}

export async function firstHole(
  handle: FileHandle,
  fileSizeBytes: number,
  fromBytes = 0,
): Promise<FileRange | undefined> {
  let offset = fromBytes
  while (offset < fileSizeBytes) {
    const data = await handle.nextData(offset)
    const startBytes = data?.startBytes ?? fileSizeBytes
    if (startBytes > offset) return { startBytes: offset, lengthBytes: startBytes - offset }
    offset = Math.max(data?.endBytes ?? fileSizeBytes, offset + 1)
  }
  return undefined
}

/** Writes zeros into every hole and syncs. The caller holds the lock. */
export async function fillHoles(
  handle: FileHandle,
  fileSizeBytes: number,
  onHole: (startBytes: number, lengthBytes: number) => void,
  signal?: AbortSignal,
): Promise<void> {
  const zeros = new Uint8Array(pieceBytes)
  let hole = await firstHole(handle, fileSizeBytes)
  while (hole !== undefined) {
    onHole(hole.startBytes, hole.lengthBytes)
    const endBytes = hole.startBytes + hole.lengthBytes
    for (let offset = hole.startBytes; offset < endBytes; offset += pieceBytes) {
      signal?.throwIfAborted()
      await handle.write(zeros.subarray(0, Math.min(pieceBytes, endBytes - offset)), offset)
    }
    hole = await firstHole(handle, fileSizeBytes, endBytes)
  }
  await handle.sync()
}

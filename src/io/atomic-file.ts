// SPDX-License-Identifier: MIT
/**
 * Replaces a file so that a reader, and a crash at any moment, sees the old or the new content.
 *
 * Order: write aside, flush the file, rename, flush the directory.
 */
import { dirname } from 'node:path'
import { errnoName } from '../base/errors.js'
import type { Files } from './files.js'

export interface ReplaceOptions {
  /** default 0644 (less the umask) */
  readonly permissions?: number
}

/** A name that is left over from a crash is never read: only overwritten. */
export async function removeStale(files: Files, path: string): Promise<void> {
  try {
    await files.unlink(path)
  } catch (cause) {
    if (errnoName(cause) !== 'ENOENT') throw cause
  }
}

/**
 * Puts `content` at `path`, through `path.tmp`.
 *
 * When it fails before the rename, `path.tmp` is removed and `path` is as it was. When flushing the
 * directory fails the new content is in place, though perhaps not durable.
 */
export async function replaceFile(
  files: Files,
  path: string,
  content: Uint8Array,
  options: ReplaceOptions = {},
): Promise<void> {
  const aside = `${path}.tmp`
  await removeStale(files, aside)
  const file = await files.open(aside, 'create', options.permissions ?? 0o644)
  try {
    try {
      await file.write(content, 0)
      await file.sync()
    } finally {
      await file.close()
    }
    await files.rename(aside, path)
  } catch (cause) {
    await removeStale(files, aside).catch(() => undefined)
    throw cause
  }
  await files.syncDirectory(dirname(path))
}

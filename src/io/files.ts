// SPDX-License-Identifier: MIT
/**
 * The file interface of everything that works on images at rest.
 *
 * Two implementations: node-files.ts on `node:fs`, and the simulated storage of the tests, which
 * loses what was not flushed: data of files and directory entries alike. So every caller orders
 * its writes by `sync` and `syncDirectory`, and that order is what the tests can break.
 *
 * Failures are PloopErrors with path, operation, errno and offset.
 * Buffers belong to the call until its promise settles.
 */

export interface FileStat {
  readonly sizeBytes: number
  /** file, directory, or anything else (socket, device) */
  readonly kind: 'file' | 'directory' | 'other'
  /** identity of the file: equal on both means the same file */
  readonly device: bigint
  readonly inode: bigint
  /** bytes that the file system has allocated for it */
  readonly allocatedBytes: number
  /** last change of the content, in milliseconds since 1970 */
  readonly modifiedMs: number
}

export type OpenMode =
  /** must exist, reading only */
  | 'read'
  /** must exist, reading and writing */
  | 'read-write'
  /** must not exist; created with mode 0600 (or `mode`) for reading and writing */
  | 'create'

export type LockKind = 'shared' | 'exclusive'

export interface FileHandle {
  readonly path: string
  /** of a real file: for the engine, which serves the very file that is locked here */
  readonly fd?: number
  /** Reads until `target` is full or the file ends. @returns bytes read */
  read(target: Uint8Array, offsetBytes: number): Promise<number>
  /** Writes all of `source`. */
  write(source: Uint8Array, offsetBytes: number): Promise<void>
  /** fdatasync: data and what is needed to find it. */
  sync(): Promise<void>
  truncate(sizeBytes: number): Promise<void>
  /** Reserves space that reads as zeros and extends the file if need be. Falls back to extending. */
  allocate(offsetBytes: number, lengthBytes: number): Promise<void>
  stat(): Promise<FileStat>
  /**
   * Next range of data at or after an offset (SEEK_DATA/SEEK_HOLE).
   * @returns undefined when only a hole follows; a file system that cannot tell answers "all data"
   */
  nextData(offsetBytes: number): Promise<{ startBytes: number; endBytes: number } | undefined>
  /** flock on this open file. @returns false when somebody else holds it (never waits) */
  tryLock(kind: LockKind): Promise<boolean>
  /** Gives the lock back and closes. Idempotent. */
  close(): Promise<void>
}

export interface Files {
  open(path: string, mode: OpenMode, permissions?: number): Promise<FileHandle>
  stat(path: string): Promise<FileStat | undefined>
  /** Absolute path without symbolic links; fails if it does not exist. */
  realPath(path: string): Promise<string>
  rename(from: string, to: string): Promise<void>
  unlink(path: string): Promise<void>
  /** Makes names created, renamed and removed in this directory durable. */
  syncDirectory(path: string): Promise<void>
  list(path: string): Promise<string[]>
}

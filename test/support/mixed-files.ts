// SPDX-License-Identifier: MIT
/** Images on simulated storage with their pending logs in a real folder, and a process that dies. */
import { chmodSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import type { FileHandle, Files } from '../../src/io/files.js'
import { nodeFiles } from '../../src/io/node-files.js'
import type { PendingPlace } from '../../src/io/pending-place.js'
import type { SimFiles } from '../simulation/sim-files.js'

export const bootId = Uint8Array.from({ length: 16 }, (_, index) => index)

/** The process died before this change. */
export class Killed extends Error {}

/** Images on the simulated storage, the log in a real folder; dies before its n-th change. */
export class MixedFiles implements Files {
  changesLeft = Infinity
  /** of images */
  modifiedMs = 0

  constructor(
    readonly sim: SimFiles,
    readonly folder: string,
  ) {}

  #of(path: string): Files {
    return path.startsWith(this.folder) ? nodeFiles : this.sim
  }

  #spend(): void {
    if (this.changesLeft-- <= 0) throw new Killed()
  }

  async open(path: string, mode: 'read' | 'read-write' | 'create'): Promise<FileHandle> {
    const handle = await this.#of(path).open(path, mode)
    const spending = (name: 'write' | 'sync' | 'truncate'): void => {
      const plain = handle[name].bind(handle) as (...values: unknown[]) => Promise<void>
      Object.assign(handle, {
        [name]: async (...values: unknown[]) => {
          this.#spend()
          await plain(...values)
        },
      })
    }
    for (const name of ['write', 'sync', 'truncate'] as const) spending(name)
    if (!path.startsWith(this.folder)) {
      const stat = handle.stat.bind(handle)
      handle.stat = async () => ({ ...(await stat()), modifiedMs: this.modifiedMs })
    }
    return handle
  }

  async unlink(path: string): Promise<void> {
    this.#spend()
    await this.#of(path).unlink(path)
  }

  stat = (path: string) => this.#of(path).stat(path)
  realPath = (path: string) => this.#of(path).realPath(path)
  rename = (from: string, to: string) => this.#of(from).rename(from, to)
  syncDirectory = (path: string) => this.#of(path).syncDirectory(path)
  list = (path: string) => this.#of(path).list(path)
}

export function newPlace(t: Test): PendingPlace {
  const directory = join(t.testdir({}), 'pending')
  mkdirSync(directory, { mode: 0o700 })
  chmodSync(directory, 0o700)
  return { directory, bootId }
}

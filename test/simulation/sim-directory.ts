// SPDX-License-Identifier: MIT
/**
 * Names of the simulated storage.
 *
 * A change of names is visible at once and durable when the directory was synced afterwards. After a
 * power cut any choice of the unsynced changes has happened; those of one name keep their order.
 * Directories themselves are made beforehand and are durable.
 */
import type { Random } from './random.js'
import type { SimFile } from './sim-file.js'

interface NameChange {
  /** a rename concerns two */
  readonly directories: readonly string[]
  readonly remove: string | undefined
  readonly add: { readonly path: string; readonly file: SimFile } | undefined
}

export function parentOf(path: string): string {
  const slash = path.lastIndexOf('/')
  return slash <= 0 ? '/' : path.slice(0, slash)
}

export class Directory {
  #present = new Map<string, SimFile>()
  #durable = new Map<string, SimFile>()
  #changes: NameChange[] = []
  #directories = new Set<string>(['/'])

  makeDirectory(path: string): void {
    this.#directories.add(path)
  }

  isDirectory(path: string): boolean {
    return this.#directories.has(path)
  }

  get(path: string): SimFile | undefined {
    return this.#present.get(path)
  }

  /** Names in a directory, without the path before them. */
  list(path: string): string[] {
    const prefix = path === '/' ? '/' : `${path}/`
    const names = new Set<string>()
    for (const known of [...this.#present.keys(), ...this.#directories]) {
      if (known.startsWith(prefix) && known.length > prefix.length) {
        names.add(known.slice(prefix.length).split('/')[0] as string)
      }
    }
    return [...names].sort()
  }

  /** Every file that a name leads to or may lead to again. */
  files(): Set<SimFile> {
    const files = new Set([...this.#present.values(), ...this.#durable.values()])
    for (const change of this.#changes) if (change.add !== undefined) files.add(change.add.file)
    return files
  }

  /** A file that has been there forever. */
  preset(path: string, file: SimFile): void {
    this.#present.set(path, file)
    this.#durable.set(path, file)
  }

  create(path: string, file: SimFile): void {
    this.#change({ directories: [parentOf(path)], remove: undefined, add: { path, file } })
  }

  rename(from: string, to: string): void {
    const file = this.#present.get(from)
    if (file === undefined) throw new RangeError(`${from}: no such name`)
    this.#change({
      directories: [parentOf(from), parentOf(to)],
      remove: from === to ? undefined : from,
      add: { path: to, file },
    })
  }

  unlink(path: string): void {
    this.#change({ directories: [parentOf(path)], remove: path, add: undefined })
  }

  sync(path: string): void {
    const left: NameChange[] = []
    for (const change of this.#changes) {
      if (change.directories.includes(path)) applyChange(this.#durable, change)
      else left.push(change)
    }
    this.#changes = left
  }

  cutPower(random: Random): void {
    for (const change of this.#changes) {
      if (random.chance(0.5)) applyChange(this.#durable, change)
    }
    this.#changes = []
    this.#present = new Map(this.#durable)
  }

  copyFrom(other: Directory, twin: (file: SimFile) => SimFile): void {
    for (const [path, file] of other.#present) this.#present.set(path, twin(file))
    for (const [path, file] of other.#durable) this.#durable.set(path, twin(file))
    this.#changes = other.#changes.map(change => ({
      ...change,
      add: change.add && { path: change.add.path, file: twin(change.add.file) },
    }))
    this.#directories = new Set(other.#directories)
  }

  #change(change: NameChange): void {
    applyChange(this.#present, change)
    this.#changes.push(change)
  }
}

function applyChange(names: Map<string, SimFile>, change: NameChange): void {
  if (change.remove !== undefined) names.delete(change.remove)
  if (change.add !== undefined) names.set(change.add.path, change.add.file)
}

// SPDX-License-Identifier: MIT
/**
 * What a command got on its command line, and the error of getting it wrong.
 *
 * A UsageError makes the program print the command's usage to standard error and end with the
 * status that the command table gives (38 nearly everywhere).
 */

export class UsageError extends Error {
  override name = 'UsageError'
  /** Overrides the status of the table. */
  readonly exitStatus: number | undefined

  /** @param message empty: the usage text alone says it */
  constructor(message = '', exitStatus?: number) {
    super(message)
    this.exitStatus = exitStatus
  }
}

export type OptionValue = string | boolean | readonly string[]

export class CommandInput {
  readonly positionals: readonly string[]
  readonly #options: ReadonlyMap<string, OptionValue>

  constructor(options: ReadonlyMap<string, OptionValue>, positionals: readonly string[]) {
    this.#options = options
    this.positionals = positionals
  }

  has(key: string): boolean {
    return this.#options.has(key)
  }

  /** The value of an option; of several the last. */
  text(key: string): string | undefined {
    const value = this.#options.get(key)
    if (typeof value === 'string') return value
    return Array.isArray(value) ? (value as readonly string[]).at(-1) : undefined
  }

  texts(key: string): readonly string[] {
    const value = this.#options.get(key)
    if (typeof value === 'string') return [value]
    return Array.isArray(value) ? (value as readonly string[]) : []
  }

  /** The only argument. @throws UsageError when there is none or more than one */
  single(): string {
    const [first, ...rest] = this.positionals
    if (first === undefined || rest.length > 0) throw new UsageError()
    return first
  }

  /** The only argument, a descriptor by its name. */
  descriptor(): string {
    const path = this.single()
    if (!isDescriptorName(path)) throw new UsageError()
    return path
  }
}

/** Commands know a descriptor by its name alone, as ploop(8) does. */
export function isDescriptorName(path: string): boolean {
  return path.endsWith('.xml')
}

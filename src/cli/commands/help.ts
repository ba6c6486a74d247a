// SPDX-License-Identifier: MIT
/** `ploop-nbd help [COMMAND]` */
import { UsageError, type CommandInput } from '../command-input.js'
import { findCommand } from '../command-table.js'
import type { CommandContext } from '../context.js'
import { formatCommandHelp, formatSummary } from '../help-text.js'

export function run(input: CommandInput, context: CommandContext): Promise<undefined> {
  const [name, ...rest] = input.positionals
  if (rest.length > 0) throw new UsageError()
  const row = name === undefined ? undefined : findCommand(name)
  if (name !== undefined && row === undefined) throw new UsageError(`unknown command '${name}'`)
  context.stdout.write(row === undefined ? formatSummary() : formatCommandHelp(row))
  return Promise.resolve(undefined)
}

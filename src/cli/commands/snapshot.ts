// SPDX-License-Identifier: MIT
/** `ploop-nbd snapshot` */
import { snapshot } from '../../ops/snapshot.js'
import type { CommandInput } from '../command-input.js'
import type { CommandContext } from '../context.js'
import { writeJson } from '../output.js'
import { parseUuid } from '../parse-values.js'

export async function run(input: CommandInput, context: CommandContext): Promise<undefined> {
  const uuidText = input.text('uuid')
  const uuid = uuidText === undefined ? undefined : parseUuid(uuidText)
  const made = await snapshot({ descriptorPath: input.descriptor(), uuid }, context)
  if (context.json) writeJson(context.stdout, { ...made })
  else context.stdout.write(`ploop snapshot ${made.uuid} has been successfully created\n`)
}

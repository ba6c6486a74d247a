// SPDX-License-Identifier: MIT
/** `ploop-nbd restore-descriptor`: silent when all went well. */
import { restoreDescriptor } from '../../ops/restore-descriptor.js'
import { UsageError, type CommandInput } from '../command-input.js'
import type { CommandContext } from '../context.js'
import { parseCount, parseFormat } from '../parse-values.js'

export async function run(input: CommandInput, context: CommandContext): Promise<undefined> {
  const format = parseFormat(input.text('format') ?? 'ploop1')
  const blocksize = parseCount('-b', input.text('blocksize') ?? '0')
  const [directory, imagePath, ...rest] = input.positionals
  if (directory === undefined || imagePath === undefined || rest.length > 0) throw new UsageError()
  const clusterSectors = blocksize === 0 ? undefined : blocksize
  const raw = format === 'raw'
  await restoreDescriptor({ directory, imagePath, raw, clusterSectors }, context)
}

// SPDX-License-Identifier: MIT
/** `ploop-nbd init`: silent when all went well, as ploop(8). */
import { PloopError } from '../../base/errors.js'
import { init, type InitFileSystem } from '../../ops/init.js'
import { UsageError, type CommandInput } from '../command-input.js'
import type { CommandContext } from '../context.js'
import { writeJson } from '../output.js'
import { parseCount, parseFormat, parseSizeSectors, parseVersion } from '../parse-values.js'

const defaultFileSystemBlockBytes = 4096

function parseFileSystem(text: string): InitFileSystem {
  if (text === 'none' || text === 'ext3' || text === 'ext4') return text
  throw new PloopError('FILE_SYSTEM_TYPE', `Incorrect file system type specified: ${text}`, {
    status: 'parameter',
    hint: 'possible are ext4, ext3 and none',
  })
}

export async function run(input: CommandInput, context: CommandContext): Promise<undefined> {
  const sizeText = input.text('size')
  const sizeSectors = sizeText === undefined ? 0 : parseSizeSectors('-s', sizeText)
  const mode = parseFormat(input.text('format') ?? 'expanded')
  const version = parseVersion(input.text('version') ?? '2')
  const fileSystem = parseFileSystem(input.text('type') ?? 'ext4')
  const blocksize = parseCount('-b', input.text('blocksize') ?? '0')
  const fsBlocksize = parseCount('-B', input.text('fsblocksize') ?? '0')
  const imagePath = input.single()
  if (sizeSectors === 0) throw new UsageError()
  const result = await init(
    {
      ...{ imagePath, sizeSectors, mode, version, fileSystem },
      clusterSectors: blocksize === 0 ? undefined : blocksize,
      fileSystemBlockBytes: fsBlocksize === 0 ? defaultFileSystemBlockBytes : fsBlocksize,
      lazy: !input.has('nolazy'),
    },
    context,
  )
  if (context.json) writeJson(context.stdout, { ...result })
}

// SPDX-License-Identifier: MIT
/** `ploop-nbd info`: the lines and columns of ploop(8). */
import { info, type InfoResult } from '../../ops/info.js'
import type { CommandInput } from '../command-input.js'
import type { CommandContext } from '../context.js'
import { writeJson } from '../output.js'

export async function run(input: CommandInput, context: CommandContext): Promise<undefined> {
  const descriptorPath = input.descriptor()
  const size = input.has('size')
  const device = input.has('device')
  const wanted = { size, device, fileSystem: !size && !device }
  const result = await info({ descriptorPath, ...wanted }, context)
  if (context.json) writeJson(context.stdout, { ...result })
  else context.stdout.write(formatInfo(result))
}

export function formatInfo(result: InfoResult): string {
  const lines: string[] = []
  if (result.size !== undefined) {
    const { sizeSectors, clusterSectors, version } = result.size
    lines.push(`size:\t\t${String(sizeSectors)}`, `blocksize:\t${String(clusterSectors)}`)
    lines.push(`fmt_version:\t${String(version)}`)
  }
  if (result.device !== undefined) lines.push(`device:\t\t${result.device}`)
  if (result.fileSystem !== undefined) {
    const counts = result.fileSystem
    const kilobytes = (blocks: number): number => Math.floor((blocks * counts.blockBytes) / 1024)
    lines.push(
      usageRow('resource', 'Size', 'Used'),
      usageRow(
        '1k-blocks',
        kilobytes(counts.blockCount),
        kilobytes(counts.blockCount - counts.freeBlockCount),
      ),
      usageRow('inodes', counts.inodeCount, counts.inodeCount - counts.freeInodeCount),
    )
  }
  return lines.map(line => `${line}\n`).join('')
}

function usageRow(name: string, size: string | number, used: string | number): string {
  return [name.padStart(11), String(size).padStart(14), String(used).padStart(14)].join(' ')
}

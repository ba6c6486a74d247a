// SPDX-License-Identifier: MIT
/** `ploop-nbd map`: a table, or JSON with one extent per line. Printed while it is found. */
import type { MapExtent } from '../../image/map.js'
import { map, type MapFacts } from '../../ops/map.js'
import { isDescriptorName, UsageError, type CommandInput } from '../command-input.js'
import type { CommandContext } from '../context.js'
import { jsonSchema } from '../output.js'
import { parseUuid } from '../parse-values.js'

const widths = { offset: 16, length: 16, kind: 4, level: 5, fileOffset: 16 }

function tableRow(
  offset: string | number,
  length: string | number,
  kind: string,
  level: string | number,
  fileOffset: string | number,
  file: string,
): string {
  const cells = [
    String(offset).padStart(widths.offset),
    String(length).padStart(widths.length),
    kind.padEnd(widths.kind),
    String(level).padStart(widths.level),
    String(fileOffset).padStart(widths.fileOffset),
    file,
  ]
  return `${cells.join(' ').trimEnd()}\n`
}

function extentRow(extent: MapExtent): string {
  const { offsetBytes, lengthBytes, kind, level, fileOffsetBytes, path } = extent
  return tableRow(offsetBytes, lengthBytes, kind, level ?? '-', fileOffsetBytes ?? '-', path ?? '')
}

export async function run(input: CommandInput, context: CommandContext): Promise<undefined> {
  const uuidText = input.text('uuid')
  const uuid = uuidText === undefined ? undefined : parseUuid(uuidText)
  const path = input.single()
  const isDescriptor = isDescriptorName(path)
  if (!isDescriptor && uuid !== undefined) throw new UsageError('-u needs a DiskDescriptor.xml')
  const printer = context.json ? jsonPrinter(context) : tablePrinter(context)
  await map({ path, isDescriptor, uuid }, context, printer.facts, printer.extent)
  printer.end()
}

interface Printer {
  readonly facts: (facts: MapFacts) => void
  readonly extent: (extent: MapExtent) => void
  readonly end: () => void
}

function tablePrinter(context: CommandContext): Printer {
  const { stdout } = context
  return {
    facts: () => {
      stdout.write(tableRow('OFFSET', 'LENGTH', 'KIND', 'LEVEL', 'FILE_OFFSET', 'FILE'))
    },
    extent: extent => {
      stdout.write(extentRow(extent))
    },
    end: () => undefined,
  }
}

function jsonPrinter(context: CommandContext): Printer {
  const { stdout } = context
  let separator = '\n'
  return {
    facts: facts => {
      const { sizeBytes, clusterBytes } = facts
      const levels = facts.paths.map((path, level) => ({ level, path }))
      const head = JSON.stringify({ schema: jsonSchema, sizeBytes, clusterBytes, levels })
      stdout.write(`${head.slice(0, -1)},"extents":[`)
    },
    extent: extent => {
      stdout.write(`${separator}${JSON.stringify({ ...extent, path: undefined })}`)
      separator = ',\n'
    },
    end: () => {
      stdout.write('\n]}\n')
    },
  }
}

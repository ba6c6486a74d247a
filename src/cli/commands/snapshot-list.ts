// SPDX-License-Identifier: MIT
/** `ploop-nbd snapshot-list`: fields and columns exactly as scripts written for ploop(8) cut them. */
import { PloopError } from '../../base/errors.js'
import type { ListedSnapshot } from '../../image/info.js'
import { snapshotList } from '../../ops/snapshot-list.js'
import { UsageError, type CommandInput } from '../command-input.js'
import type { CommandContext } from '../context.js'
import { writeJson } from '../output.js'
import { parseUuid } from '../parse-values.js'

interface Field {
  readonly title: string
  readonly width: number
  readonly text: (row: ListedSnapshot) => string
}

const fields: Readonly<Record<string, Field>> = {
  uuid: { title: 'UUID', width: 38, text: row => row.uuid },
  parent_uuid: { title: 'PARENT_UUID', width: 38, text: row => row.parentUuid },
  current: { title: 'C', width: 1, text: row => (row.current ? '*' : '') },
  fname: { title: 'FNAME', width: 32, text: row => row.path },
}
const defaultFields = 'parent_uuid,current,uuid,fname'

function parseFields(list: string): Field[] {
  // A comma at the end is none, as scripts that build lists are used to.
  return list
    .replace(/(?<=.),$/, '')
    .split(',')
    .map(name => {
      const field = Object.hasOwn(fields, name.toLowerCase())
        ? fields[name.toLowerCase()]
        : undefined
      if (field !== undefined) return field
      throw new PloopError('UNKNOWN_FIELD', `Unknown field: ${name}`, {
        status: 'create',
        hint: `fields are ${Object.keys(fields).join(', ')}`,
      })
    })
}

/** Every cell padded and followed by a blank; the last of a row is neither. */
export function formatSnapshotTable(
  rows: readonly ListedSnapshot[],
  list: string,
  header: boolean,
): string {
  const chosen = parseFields(list)
  const lines = rows.map(row =>
    chosen
      .map((field, index) =>
        index === chosen.length - 1 ? field.text(row) : `${field.text(row).padEnd(field.width)} `,
      )
      .join(''),
  )
  if (header) lines.unshift(chosen.map(field => `${field.title.padEnd(field.width)} `).join(''))
  return lines.map(line => `${line}\n`).join('')
}

export async function run(input: CommandInput, context: CommandContext): Promise<undefined> {
  const uuidText = input.text('uuid')
  const uuid = uuidText === undefined ? undefined : parseUuid(uuidText)
  const list = input.text('output') ?? defaultFields
  parseFields(list)
  // Surplus arguments are ignored, as scripts are used to.
  const [descriptorPath] = input.positionals
  if (descriptorPath === undefined) throw new UsageError()
  const options = { descriptorPath, uuid, snapshotsOnly: input.has('snapshot') }
  const rows = await snapshotList(options, context).catch((cause: unknown) => {
    throw listError(cause)
  })
  if (context.json) writeJson(context.stdout, { snapshots: rows })
  else context.stdout.write(formatSnapshotTable(rows, list, !input.has('noHeader')))
}

/** Whatever fails here is status 1. */
function listError(cause: unknown): unknown {
  if (!(cause instanceof PloopError)) return cause
  const { code, message, path, hint } = cause
  return new PloopError(code, message, { status: 'create', path, hint, cause })
}

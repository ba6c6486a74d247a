// SPDX-License-Identifier: MIT
/**
 * Text for people and JSON for programs.
 *
 * JSON documents carry `schema`; fields are only ever added.
 */
import { Buffer } from 'node:buffer'

/** A stream as far as commands need it. */
export interface Output {
  write(text: string): void
  /** columns of the terminal; undefined: no terminal */
  readonly columns: number | undefined
}

export const jsonSchema = 1

export function writeJson(output: Output, value: Readonly<Record<string, unknown>>): void {
  output.write(`${JSON.stringify({ schema: jsonSchema, ...value }, undefined, 2)}\n`)
}

/** Rows in columns; numbers to the right. */
export function formatColumns(
  titles: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): string {
  const cells = rows.map(row => row.map(String))
  const widths = titles.map((title, column) =>
    Math.max(title.length, ...cells.map(row => row[column]?.length ?? 0)),
  )
  const numeric = titles.map((_, column) => typeof rows[0]?.[column] === 'number')
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) => {
        const width = widths[column] ?? 0
        return numeric[column] === true ? cell.padStart(width) : cell.padEnd(width)
      })
      .join('  ')
      .trimEnd()
  return [titles, ...cells].map(row => `${line(row)}\n`).join('')
}

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']

/** 1536 → "1.5 KiB" */
export function humanBytes(bytes: number): string {
  let value = bytes
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit += 1
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1
  return `${value.toFixed(digits).replace(/\.0$/, '')} ${units[unit] ?? ''}`
}

/**
 * A process stream as Output.
 *
 * A reader that has gone (`| head`) is a normal end: what follows is dropped.
 */
export function streamOutput(stream: NodeJS.WriteStream): Output {
  let gone = false
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
    gone = true
  })
  return {
    write: text => {
      if (!gone) stream.write(Buffer.from(text))
    },
    get columns() {
      return stream.isTTY ? stream.columns : undefined
    },
  }
}

// SPDX-License-Identifier: MIT
/**
 * GUIDs in braces as ploop descriptors carry them: `{8-4-4-4-12}` hexadecimal, 38 characters.
 * Kept as typed, compared without regard to case, generated in lower case.
 */
import { randomUUID } from 'node:crypto'

/** 38 characters, braces included; case as the author typed it. */
export type Guid = string

/** The active, writable delta always has this GUID. */
export const topGuid: Guid = '{5fbaabe3-6958-40ff-92a7-860e329aab41}'
/** The parent of the base. */
export const noneGuid: Guid = '{00000000-0000-0000-0000-000000000000}'

const pattern = /^\{[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\}$/i

export function isGuid(text: string): boolean {
  return pattern.test(text)
}

/** Accepts the form without braces too; undefined when it is no GUID. */
export function parseGuid(text: string): Guid | undefined {
  const braced = text.startsWith('{') ? text : `{${text}}`
  return isGuid(braced) ? braced : undefined
}

export function sameGuid(left: Guid, right: Guid): boolean {
  return left.toLowerCase() === right.toLowerCase()
}

export function newGuid(): Guid {
  return `{${randomUUID()}}`
}

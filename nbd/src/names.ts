// SPDX-License-Identifier: MIT
/**
 * Number → name in the protocol document, for logs and error texts.
 */
import * as constants from './constants.js'

function namesOf(prefix: string, except = /^$/): ReadonlyMap<number, string> {
  const found: [number, string][] = []
  for (const [name, value] of Object.entries(constants)) {
    if (name.startsWith(prefix) && !except.test(name)) found.push([value, name])
  }
  return new Map(found.sort(([a], [b]) => a - b))
}

const options = namesOf('NBD_OPT_')
const optionReplies = namesOf('NBD_REP_', /_FLAG_/)
const infoTypes = namesOf('NBD_INFO_')
const commands = namesOf('NBD_CMD_', /_FLAG_/)
const chunkTypes = namesOf('NBD_REPLY_TYPE_', /_FLAG_/)
const wireErrors = new Map<number, string>([
  [constants.NBD_SUCCESS, 'success'],
  ...namesOf('NBD_E', /BYTES|MAGIC/),
])
const commandFlags = namesOf('NBD_CMD_FLAG_')
const transmissionFlags = namesOf('NBD_FLAG_', /_C_|NEWSTYLE|NO_ZEROES/)

function nameIn(names: ReadonlyMap<number, string>, value: number, what: string): string {
  return names.get(value) ?? `${what} ${value}`
}

function flagNames(names: ReadonlyMap<number, string>, flags: number, prefix: string): string {
  const found: string[] = []
  let rest = flags
  for (const [bit, name] of names) {
    if ((flags & bit) === 0) continue
    found.push(name.slice(prefix.length))
    rest &= ~bit
  }
  if (rest !== 0) found.push(`0x${rest.toString(16)}`)
  return found.join(' ') || 'none'
}

export const optionName = (value: number): string => nameIn(options, value, 'option')
export const optionReplyName = (value: number): string => nameIn(optionReplies, value, 'reply')
export const infoName = (value: number): string => nameIn(infoTypes, value, 'information')
export const commandName = (value: number): string => nameIn(commands, value, 'command')
export const chunkTypeName = (value: number): string => nameIn(chunkTypes, value, 'chunk type')
/** `NBD_EINVAL` */
export const wireErrorName = (value: number): string => nameIn(wireErrors, value, 'error')
/** `FUA NO_HOLE`, or `none` */
export const commandFlagNames = (flags: number): string =>
  flagNames(commandFlags, flags, 'NBD_CMD_FLAG_')
/** `HAS_FLAGS SEND_FLUSH` */
export const transmissionFlagNames = (flags: number): string =>
  flagNames(transmissionFlags, flags, 'NBD_FLAG_')

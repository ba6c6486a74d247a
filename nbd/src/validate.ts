// SPDX-License-Identifier: MIT
/**
 * Checks requests of the transmission phase; every refusal lives here.
 *
 * Owns:     how many payload bytes follow a header, whether a request is refused, with which error
 *           value and which words.
 * Leaves:   the magic, NBD_CMD_DISC and payloads above the hard limit (close) to the framing, which
 *           also consumes the payload of a refused request, so that the stream stays in step.
 * Promises: the checks come in one fixed order; offsets and lengths of 2^53 and more come in as
 *           `Infinity` (see `toNumber`) and are out of every range; no addition can wrap around;
 *           nothing is allocated except by `refusalText`.
 */
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_DISC,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_EINVAL,
  NBD_ENOSPC,
  NBD_EOVERFLOW,
  NBD_EPERM,
  NBD_ESHUTDOWN,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_DF,
  NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
} from './constants.js'
import { commandFlagNames, commandName } from './names.js'
import type { ReplyMode, RequestLimits } from './types.js'

/**
 * Payload bytes that follow a request's header, before anything else is checked.
 *
 * `length` is the length field of the header; a result above the hard limit (`Infinity` included)
 * means: close the connection. PAYLOAD_LEN in a compact header is an unknown flag and brings no
 * payload; an extended WRITE without it is taken to mean it (see {@link lacksPayloadFlag}).
 */
export function payloadLengthOf(
  mode: ReplyMode,
  flags: number,
  command: number,
  length: number,
): number {
  if (command === NBD_CMD_WRITE) return length
  if (mode !== 'extended' || (flags & NBD_CMD_FLAG_PAYLOAD_LEN) === 0) return 0
  return command === NBD_CMD_DISC ? 0 : length
}

/** An extended WRITE without PAYLOAD_LEN: served, but the client is at fault. */
export function lacksPayloadFlag(mode: ReplyMode, flags: number, command: number): boolean {
  return (
    mode === 'extended' && command === NBD_CMD_WRITE && (flags & NBD_CMD_FLAG_PAYLOAD_LEN) === 0
  )
}

/**
 * Whether the payload of a BLOCK_STATUS can be a choice of contexts: an effect length and 1 to
 * `contextCount` ids. Anything else is dropped as it arrives and refused.
 */
export function isStatusPayloadLength(payloadLength: number, contextCount: number): boolean {
  return (
    payloadLength >= 12 && payloadLength <= 8 + 4 * contextCount && (payloadLength - 8) % 4 === 0
  )
}

/**
 * Whether the request is refused.
 *
 * @param offset bytes, `Infinity` from 2^53 on
 * @param length bytes of effect: for a BLOCK_STATUS with payload the length inside it, or
 *        `Infinity` where that payload is malformed
 * @returns 0, or the error value to answer with
 */
export function validateRequest(
  limits: RequestLimits,
  mode: ReplyMode,
  flags: number,
  command: number,
  offset: number,
  length: number,
): number {
  return findRefusal(limits, mode, flags, command, offset, length) % RULE_UNIT
}

// A refusal is rule * RULE_UNIT + error value.
const RULE_UNIT = 1000
const RULE_SHUTDOWN = 1
const RULE_COMMAND = 2
const RULE_FLAGS = 3
const RULE_NOT_OFFERED = 4
const RULE_READ_ONLY = 5
const RULE_RANGE = 6
const RULE_TOO_LONG = 7
const RULE_ALIGNMENT = 8
const RULE_NO_CONTEXT = 9
const RULE_NO_LENGTH = 10

function findRefusal(
  limits: RequestLimits,
  mode: ReplyMode,
  flags: number,
  command: number,
  offset: number,
  length: number,
): number {
  if (command === NBD_CMD_DISC) return 0
  if (limits.shuttingDown) return RULE_SHUTDOWN * RULE_UNIT + NBD_ESHUTDOWN
  if (command > NBD_CMD_BLOCK_STATUS) return RULE_COMMAND * RULE_UNIT + NBD_EINVAL
  if ((flags & ~allowedFlags(limits.transmissionFlags, mode, command)) !== 0) {
    return RULE_FLAGS * RULE_UNIT + NBD_EINVAL
  }
  const writes =
    command === NBD_CMD_WRITE || command === NBD_CMD_TRIM || command === NBD_CMD_WRITE_ZEROES
  if (!(writes && limits.readOnly) && !isOffered(limits.transmissionFlags, command)) {
    return RULE_NOT_OFFERED * RULE_UNIT + NBD_EINVAL
  }
  if (writes && limits.readOnly) return RULE_READ_ONLY * RULE_UNIT + NBD_EPERM
  if (command === NBD_CMD_FLUSH) return 0
  if (offset > limits.sizeBytes || length > limits.sizeBytes - offset) {
    const full = command === NBD_CMD_WRITE || command === NBD_CMD_WRITE_ZEROES
    return RULE_RANGE * RULE_UNIT + (full ? NBD_ENOSPC : NBD_EINVAL)
  }
  if (command === NBD_CMD_READ && length > limits.hardPayloadLimit) {
    const overflow = mode === 'extended' || (flags & NBD_CMD_FLAG_DF) !== 0
    return RULE_TOO_LONG * RULE_UNIT + (overflow ? NBD_EOVERFLOW : NBD_EINVAL)
  }
  const unit = limits.minimumBlockBytes
  if (unit > 1 && (offset % unit !== 0 || length % unit !== 0)) {
    return RULE_ALIGNMENT * RULE_UNIT + NBD_EINVAL
  }
  if (command === NBD_CMD_BLOCK_STATUS) {
    if (limits.contextCount === 0) return RULE_NO_CONTEXT * RULE_UNIT + NBD_EINVAL
    if (length === 0) return RULE_NO_LENGTH * RULE_UNIT + NBD_EINVAL
  }
  return 0
}

/** FUA is taken on every command: clients do set it on reads. */
function allowedFlags(transmissionFlags: number, mode: ReplyMode, command: number): number {
  switch (command) {
    case NBD_CMD_READ:
      return (transmissionFlags & NBD_FLAG_SEND_DF) !== 0
        ? NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_DF
        : NBD_CMD_FLAG_FUA
    case NBD_CMD_WRITE:
      return mode === 'extended' ? NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_PAYLOAD_LEN : NBD_CMD_FLAG_FUA
    case NBD_CMD_WRITE_ZEROES:
      return (transmissionFlags & NBD_FLAG_SEND_FAST_ZERO) !== 0
        ? NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO
        : NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE
    case NBD_CMD_BLOCK_STATUS:
      return mode === 'extended'
        ? NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE | NBD_CMD_FLAG_PAYLOAD_LEN
        : NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE
    default:
      return NBD_CMD_FLAG_FUA
  }
}

function isOffered(transmissionFlags: number, command: number): boolean {
  switch (command) {
    case NBD_CMD_FLUSH:
      return (transmissionFlags & NBD_FLAG_SEND_FLUSH) !== 0
    case NBD_CMD_TRIM:
      return (transmissionFlags & NBD_FLAG_SEND_TRIM) !== 0
    case NBD_CMD_CACHE:
      return (transmissionFlags & NBD_FLAG_SEND_CACHE) !== 0
    case NBD_CMD_WRITE_ZEROES:
      return (transmissionFlags & NBD_FLAG_SEND_WRITE_ZEROES) !== 0
    default:
      return true
  }
}

/**
 * Says in words why {@link validateRequest} refused, at most some 150 bytes of ASCII; the empty
 * text when it did not.
 */
export function refusalText(
  limits: RequestLimits,
  mode: ReplyMode,
  flags: number,
  command: number,
  offset: number,
  length: number,
): string {
  const refusal = findRefusal(limits, mode, flags, command, offset, length)
  const name = commandName(command).replace('NBD_CMD_', '')
  switch (Math.floor(refusal / RULE_UNIT)) {
    case RULE_SHUTDOWN:
      return 'the server is shutting down'
    case RULE_COMMAND:
      return `unknown ${name}`
    case RULE_FLAGS: {
      const wrong = flags & ~allowedFlags(limits.transmissionFlags, mode, command)
      return `${name} does not take these flags here: ${commandFlagNames(wrong)}`
    }
    case RULE_NOT_OFFERED:
      return `this export does not offer ${name}`
    case RULE_READ_ONLY:
      return `${name} on a read-only export`
    case RULE_RANGE:
      return Number.isFinite(offset) && Number.isFinite(length)
        ? `${name} of ${length} bytes at ${offset}: the export has ${limits.sizeBytes}`
        : `${name}: malformed, or far past the export's ${limits.sizeBytes} bytes`
    case RULE_TOO_LONG:
      return `READ of ${length} bytes: at most ${limits.hardPayloadLimit} at a time`
    case RULE_ALIGNMENT:
      return `${name} of ${length} bytes at ${offset}: not aligned to ${limits.minimumBlockBytes}`
    case RULE_NO_CONTEXT:
      return 'BLOCK_STATUS, but no metadata context is selected'
    case RULE_NO_LENGTH:
      return 'BLOCK_STATUS of 0 bytes'
    default:
      return ''
  }
}

// SPDX-License-Identifier: MIT
/**
 * Values of options, as ploop(8) reads them: the border of the command line.
 *
 * Numbers are those of C: decimal, 0x hexadecimal, 0 octal. Sizes may end in one of K, M, G, T;
 * without it they count sectors. Negative numbers, which genuine tools let wrap, are refused.
 */
import { PloopError } from '../base/errors.js'
import { parseGuid, type Guid } from '../base/guid.js'
import { sectorBytes } from '../base/units.js'
import { readCNumber } from '../format/c-number.js'
import { UsageError } from './command-input.js'

const suffixBytes: Readonly<Record<string, number>> = {
  K: 1024,
  M: 1024 ** 2,
  G: 1024 ** 3,
  T: 1024 ** 4,
}
/** First size in sectors that is too large for genuine tools. */
const sizeSectorsLimit = 0xffff_ffff * 512

function invalid(option: string, text: string): UsageError {
  return new UsageError(`ERROR: Invalid argument for option ${option}: ${text}`)
}

function tooLarge(option: string, text: string): UsageError {
  return new UsageError(`ERROR: Too large value for option ${option}: ${text}`)
}

function readNumber(option: string, text: string): { value: number; rest: string } {
  const read = readCNumber(text)
  if (read !== undefined) return read
  throw /^\s*\+?\d{15,}|^\s*\+?0[xX][0-9a-fA-F]{13,}/.test(text)
    ? tooLarge(option, text)
    : invalid(option, text)
}

/** @returns sectors; K, M, G and T count bytes, K on odd values is exact */
export function parseSizeSectors(option: string, text: string): number {
  const { value, rest } = readNumber(option, text)
  // Divided first: the product with a letter's bytes may be beyond what a double counts exactly.
  const unit = rest === '' ? sectorBytes : suffixBytes[rest.toUpperCase()]
  if (unit === undefined) throw invalid(option, text)
  const sectors = value * (unit / sectorBytes)
  if (sectors >= sizeSectorsLimit) throw tooLarge(option, text)
  return sectors
}

/** A plain number without a letter behind it. */
export function parseCount(option: string, text: string): number {
  const { value, rest } = readNumber(option, text)
  if (rest !== '') throw invalid(option, text)
  return value
}

export type ImageFormatWord = 'raw' | 'expanded' | 'preallocated'

export function parseFormat(text: string): ImageFormatWord {
  if (text === 'ploop1') return 'expanded'
  if (text === 'raw' || text === 'expanded' || text === 'preallocated') return text
  throw new UsageError(`Bad -f argument: ${text}`)
}

export function parseVersion(text: string): 1 | 2 {
  if (text === '1') return 1
  if (text === '2') return 2
  throw new UsageError(`Invalid -v argument: ${text}`)
}

/** A malformed UUID is status 38 everywhere, also where usage errors have another. */
export function parseUuid(text: string): Guid {
  const guid = parseGuid(text)
  if (guid !== undefined) return guid
  throw new PloopError('GUID_INVALID', `Incorrect uuid specified: ${text}`, {
    status: 'parameter',
    hint: 'a uuid looks like {5fbaabe3-6958-40ff-92a7-860e329aab41}',
  })
}

// SPDX-License-Identifier: MIT
/**
 * Numbers as C's strtoul reads them with base 0: what ploop descriptors and options are made of.
 *
 * Leading blanks, an optional plus, then decimal, 0x hexadecimal or octal with a leading 0. A minus
 * sign, which C would wrap around, is no number here.
 */

const pattern = /^[ \t\n\v\f\r]*\+?(0[xX][0-9a-fA-F]+|[0-9]+)/

/**
 * @returns the value and what follows the digits, or undefined without digits or beyond 2^53
 */
export function readCNumber(text: string): { value: number; rest: string } | undefined {
  const match = pattern.exec(text)
  if (match === null) return undefined
  const [whole, digits] = match
  if (digits === undefined) return undefined
  if (/^0[xX]/.test(digits)) return result(digits, 16, digits.length)
  if (!digits.startsWith('0')) return result(digits, 10, digits.length)
  // octal ends at the first digit that is none
  const octal = /^[0-7]+/.exec(digits)?.[0] ?? '0'
  return result(octal, 8, octal.length)

  function result(number: string, base: number, usedLength: number) {
    const value = Number.parseInt(number, base)
    if (!Number.isSafeInteger(value)) return undefined
    const unused = (digits ?? '').length - usedLength
    return { value, rest: text.slice(whole.length - unused) }
  }
}

/** The whole text is one number. */
export function parseCNumber(text: string): number | undefined {
  const read = readCNumber(text)
  return read?.rest === '' ? read.value : undefined
}

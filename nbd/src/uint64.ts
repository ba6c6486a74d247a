// SPDX-License-Identifier: MIT
/**
 * 64-bit unsigned numbers of the wire as JavaScript numbers.
 *
 * Promises: no bit is lost silently. What does not fit (2^53 and above) becomes `Infinity`, which
 *           fails every range check `offset > size || length > size - offset` by itself.
 *           Only float arithmetic: bit operations would cut offsets to 32 bits.
 */

const TWO_32 = 4294967296
/** high halves above this make numbers of 2^53 and more */
const HIGH_MAX = 0x1fffff

/** @returns the number of the two halves, or `Infinity` from 2^53 on */
export function toNumber(high: number, low: number): number {
  return high > HIGH_MAX ? Infinity : high * TWO_32 + low
}

/** upper 32 bits of an integer `0 … 2^53 - 1` */
export function highOf(value: number): number {
  return Math.floor(value / TWO_32)
}

/** lower 32 bits of an integer `0 … 2^53 - 1` */
export function lowOf(value: number): number {
  return value % TWO_32
}

export function getUint64(view: DataView, at: number): number {
  return toNumber(view.getUint32(at), view.getUint32(at + 4))
}

/** @param value integer `0 … 2^53 - 1` */
export function putUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / TWO_32))
  view.setUint32(at + 4, value % TWO_32)
}

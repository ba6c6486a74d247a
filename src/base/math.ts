// SPDX-License-Identifier: MIT
/**
 * Arithmetic on byte and sector numbers up to 2^53.
 *
 * Only float arithmetic: bit operations of JavaScript cut numbers to 32 bits, so they are never
 * used on offsets. `unit` is a positive integer; it need not be a power of two.
 */

export function divCeil(value: number, unit: number): number {
  return Math.ceil(value / unit)
}

export function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit
}

export function roundDown(value: number, unit: number): number {
  return Math.floor(value / unit) * unit
}

export function isAligned(value: number, unit: number): boolean {
  return value % unit === 0
}

export function isPowerOfTwo(value: number): boolean {
  return value > 0 && Number.isSafeInteger(value) && Number.isInteger(Math.log2(value))
}

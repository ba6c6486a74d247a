// SPDX-License-Identifier: MIT
/**
 * Byte strings for the fuzz tests: mutations of valid sessions, ways to cut a stream, kept inputs.
 */
import { readFileSync, readdirSync } from 'node:fs'
import fc from 'fast-check'

/** Time for one property; more by `FUZZ_MS=60000`. */
export const fuzzTime = {
  interruptAfterTimeLimit: Number(process.env['FUZZ_MS'] ?? 2000),
  numRuns: 1_000_000,
  markInterruptAsFailure: false,
}

/** Numbers that lie on a border somewhere. */
const borders = [
  0, 1, 2, 0x7f, 0xff, 0x1000, 0xffff, 0x10000, 0x10001, 0x7fffffff, 0xfffffff0, 0xffffffff,
]

type Mutation = (bytes: Buffer) => Buffer

const position = fc.nat(100000)
const mutation: fc.Arbitrary<Mutation> = fc.oneof(
  fc.tuple(position, fc.integer({ min: 1, max: 255 })).map(([at, bits]): Mutation => bytes => {
    const index = at % (bytes.length || 1)
    if (bytes.length > 0) bytes[index] = (bytes[index] ?? 0) ^ bits
    return bytes
  }),
  fc.tuple(position, fc.constantFrom(...borders)).map(([at, value]): Mutation => bytes => {
    if (bytes.length >= 4) bytes.writeUInt32BE(value, at % (bytes.length - 3))
    return bytes
  }),
  fc.tuple(position, fc.uint8Array({ maxLength: 64 })).map(
    ([at, extra]): Mutation =>
      bytes =>
        Buffer.concat([
          bytes.subarray(0, at % (bytes.length + 1)),
          extra,
          bytes.subarray(at % (bytes.length + 1)),
        ]),
  ),
  fc.tuple(position, fc.nat(64)).map(
    ([at, count]): Mutation =>
      bytes =>
        Buffer.concat([
          bytes.subarray(0, at % (bytes.length + 1)),
          bytes.subarray((at % (bytes.length + 1)) + count),
        ]),
  ),
  fc.tuple(position, fc.nat(200)).map(([at, count]): Mutation => bytes => {
    const from = at % (bytes.length + 1)
    return Buffer.concat([bytes.subarray(0, from + count), bytes.subarray(from)])
  }),
)

/** One of `seeds` with a few mutations. */
export function mutated(seeds: readonly Uint8Array[]): fc.Arbitrary<Buffer> {
  return fc
    .tuple(fc.constantFrom(...seeds), fc.array(mutation, { maxLength: 4 }))
    .map(([seed, mutations]) => {
      let bytes: Buffer = Buffer.from(seed)
      for (const mutate of mutations) bytes = mutate(bytes)
      return bytes
    })
}

/** Sizes of the pieces a stream arrives in, used over and over. */
export const cuts = fc.array(
  fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 5000 })),
  {
    minLength: 1,
    maxLength: 8,
  },
)

export function cutUp(bytes: Uint8Array, sizes: readonly number[]): Uint8Array[] {
  const pieces: Uint8Array[] = []
  for (let at = 0, i = 0; at < bytes.length; i += 1) {
    const end = at + (sizes[i % sizes.length] ?? 1)
    pieces.push(bytes.slice(at, end))
    at = end
  }
  return pieces
}

/** Inputs that once failed, or stand for a known attack: NAME-*.hex in fixtures/corpus. */
export function corpus(name: string): { readonly file: string; readonly bytes: Buffer }[] {
  const folder = new URL('../fixtures/corpus/', import.meta.url)
  return readdirSync(folder)
    .filter(file => file.startsWith(`${name}-`))
    .sort()
    .map(file => {
      const text = readFileSync(new URL(file, folder), 'utf8').replace(/#.*/g, '')
      return { file, bytes: Buffer.from(text.replace(/\s/g, ''), 'hex') }
    })
}

// SPDX-License-Identifier: MIT
/**
 * Fuzzing within a time budget: kept inputs first, then random ones until the time is over.
 *
 * FUZZ_MS is the budget of one target, half a second by default. A failing input is printed by
 * fast-check with its seed; put its bytes into the corpus.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { checkout } from './programs.js'

const budgetMs = Number(process.env['FUZZ_MS'] ?? 500)

/** Files of test/fixtures/corpus/KIND. */
export function corpus(kind: string): { name: string; bytes: Uint8Array }[] {
  const folder = join(checkout, 'test', 'fixtures', 'corpus', kind)
  return readdirSync(folder).map(name => ({ name, bytes: readFileSync(join(folder, name)) }))
}

/** Runs `property` on the corpus and then on what `arbitrary` makes, mutants of the corpus included. */
export async function fuzz(
  kind: string,
  arbitrary: fc.Arbitrary<Uint8Array>,
  property: (bytes: Uint8Array) => Promise<void> | void,
): Promise<void> {
  const kept = corpus(kind)
  for (const { bytes } of kept) await property(new Uint8Array(bytes))
  const mutant = fc
    .tuple(fc.constantFrom(...kept), fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 8 }))
    .map(([{ bytes }, changes]) => {
      const copy = new Uint8Array(bytes)
      for (const [at, value] of changes) copy[at % Math.max(copy.length, 1)] = value
      return copy
    })
  await fc.assert(
    fc.asyncProperty(fc.oneof(mutant, arbitrary), async bytes => property(bytes)),
    {
      numRuns: Number.MAX_SAFE_INTEGER,
      interruptAfterTimeLimit: budgetMs,
    },
  )
}

// SPDX-License-Identifier: MIT
/**
 * Seeded random numbers for the simulation: the same seed gives the same run on every machine.
 *
 * sfc32, seeded by splitmix32. Not for anything but tests.
 */
export class Random {
  #a: number
  #b: number
  #c: number
  #counter = 1

  constructor(readonly seed: number) {
    let state = seed | 0
    const split = (): number => {
      state = (state + 0x9e3779b9) | 0
      let z = state ^ (state >>> 16)
      z = Math.imul(z, 0x21f0aaad)
      z = z ^ (z >>> 15)
      z = Math.imul(z, 0x735a2d97)
      return z ^ (z >>> 15)
    }
    this.#a = split()
    this.#b = split()
    this.#c = split()
    for (let i = 0; i < 12; i++) this.next()
  }

  /** 0 … 2^32 - 1 */
  next(): number {
    const result = (((this.#a + this.#b) | 0) + this.#counter) | 0
    this.#counter = (this.#counter + 1) | 0
    this.#a = this.#b ^ (this.#b >>> 9)
    this.#b = (this.#c + (this.#c << 3)) | 0
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + result
    return result >>> 0
  }

  /** 0 … limit - 1 */
  below(limit: number): number {
    return Math.floor((this.next() / 0x100000000) * limit)
  }

  /** from … to, both included */
  between(from: number, to: number): number {
    return from + this.below(to - from + 1)
  }

  chance(probability: number): boolean {
    return this.next() < probability * 0x100000000
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)]
    if (item === undefined) throw new RangeError('nothing to pick from')
    return item
  }

  shuffle<T>(items: T[]): T[] {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.below(i + 1)
      const held = items[i] as T
      items[i] = items[j] as T
      items[j] = held
    }
    return items
  }

  /** An independent stream, so that one part's appetite does not shift another's numbers. */
  fork(): Random {
    return new Random(this.next())
  }
}

// SPDX-License-Identifier: MIT
/**
 * What each sector may hold after a server was killed, by the stamps that were written.
 *
 * Owns:     per sector the contents that are still possible: from the last one that is known to be
 *           durable to the last one that was sent. Writers never overlap here.
 * Facts:    a FLUSH makes durable what was answered before it was sent; FUA its own write. A
 *           discarded sector may always be as before. See docs/integrity.md.
 */
import type { Random } from '../simulation/random.js'
import { describeSector, sectorBytes, stamp, stampOf } from '../simulation/stamp.js'
import { ConnectionLost, Refused, type NbdClient } from './nbd-client.js'

/** One possible content. Tag 0 is zeros. */
interface Version {
  readonly tag: number
  /** a discard, which may also do nothing */
  readonly optional: boolean
  answered: boolean
}

function lastOf(
  versions: readonly Version[],
  holds: (version: Version) => boolean,
): Version | undefined {
  for (let index = versions.length - 1; index >= 0; index--) {
    const version = versions[index]
    if (version !== undefined && holds(version)) return version
  }
  return undefined
}

const shutdownError = 108
const zeros = new Uint8Array(sectorBytes)

export class CrashModel {
  readonly #versions: Version[][]
  readonly #busy: Uint8Array
  /** sectors with more than one possible content */
  readonly #undecided = new Set<number>()
  #tag = 1000
  #answeredCount = 0
  #onAnswer: (() => void) | undefined

  /** @param content stamped sectors or zeros */
  constructor(content: Buffer) {
    const count = content.length / sectorBytes
    this.#busy = new Uint8Array(count)
    this.#versions = Array.from({ length: count }, (_, sector) => [
      { tag: content.readUInt32LE(sector * sectorBytes + 4), optional: false, answered: true },
    ])
  }

  get sectorCount(): number {
    return this.#versions.length
  }

  /** Resolves after that many more answers, or when `ended` does. */
  async answers(count: number, ended: Promise<unknown>): Promise<void> {
    const target = this.#answeredCount + count
    const enough = new Promise<void>(resolve => {
      this.#onAnswer = () => {
        if (this.#answeredCount >= target) resolve()
      }
    })
    await Promise.race([enough, ended])
  }

  #answered(): void {
    this.#answeredCount++
    this.#onAnswer?.()
  }

  /** Load on one connection until it is lost or the server shuts down; then it returns. */
  async load(client: NbdClient, random: Random, depth: number): Promise<void> {
    const workers = Array.from({ length: depth }, async () => {
      const own = random.fork()
      for (;;) await this.#operation(client, own)
    })
    for (const outcome of await Promise.allSettled(workers)) {
      const { reason } = outcome as PromiseRejectedResult
      const ended = reason instanceof ConnectionLost
      if (!ended && !(reason instanceof Refused && reason.error === shutdownError)) throw reason
    }
  }

  async #operation(client: NbdClient, random: Random): Promise<void> {
    const dice = random.below(100)
    if (dice < 6) {
      await this.#flush(client)
      this.#answered()
      return
    }
    const count = random.between(1, random.pick([2, 16, 64, 200]))
    const first = random.below(this.sectorCount - count)
    if (this.#busy.subarray(first, first + count).some(busy => busy === 1)) {
      // Somebody has to answer first; an empty read gives way.
      await client.read(first * sectorBytes, sectorBytes)
      return
    }
    this.#busy.fill(1, first, first + count)
    try {
      await this.#change(client, random, dice, first, count)
      this.#answered()
    } finally {
      this.#busy.fill(0, first, first + count)
    }
  }

  async #change(
    client: NbdClient,
    random: Random,
    dice: number,
    first: number,
    count: number,
  ): Promise<void> {
    const isTrim = dice < 15
    const tag = dice < 28 ? 0 : this.#tag++
    const fua = random.chance(0.1)
    const version: Version = { tag, optional: isTrim, answered: false }
    for (let sector = first; sector < first + count; sector++) {
      this.#of(sector).push(version)
      this.#undecided.add(sector)
    }
    const [offset, length] = [first * sectorBytes, count * sectorBytes]
    if (isTrim) await client.trim(offset, length, { fua })
    else if (tag === 0) await client.zero(offset, length, { fua, noHole: random.chance(0.3) })
    else {
      const payload = new Uint8Array(length)
      stamp(payload, offset, tag)
      await client.write(offset, payload, { fua })
    }
    version.answered = true
    if (fua)
      for (let sector = first; sector < first + count; sector++) this.#keepFrom(sector, version)
  }

  async #flush(client: NbdClient): Promise<void> {
    const answered = new Map<number, Version>()
    for (const sector of this.#undecided) {
      const version = lastOf(this.#of(sector), candidate => candidate.answered)
      if (version !== undefined) answered.set(sector, version)
    }
    await client.flush()
    for (const [sector, version] of answered) this.#keepFrom(sector, version)
  }

  /** After an orderly end everything answered is durable. */
  everythingAnsweredIsDurable(): void {
    for (const sector of [...this.#undecided]) {
      const version = lastOf(this.#of(sector), candidate => candidate.answered)
      if (version !== undefined) this.#keepFrom(sector, version)
    }
  }

  /** The version is durable: what was before it cannot come back. */
  #keepFrom(sector: number, version: Version): void {
    const versions = this.#of(sector)
    let index = versions.indexOf(version)
    while (index > 0 && versions[index]?.optional === true) index--
    if (index > 0) versions.splice(0, index)
    if (versions.length === 1) this.#undecided.delete(sector)
  }

  #of(sector: number): Version[] {
    const versions = this.#versions[sector]
    if (versions === undefined) throw new RangeError(`no sector ${sector}`)
    return versions
  }

  /**
   * Compares the whole disk; what is found is what the disk holds from now on.
   * @returns how many sectors went back to an older content
   * @throws Error that tells the first sector which holds what it may not hold
   */
  adopt(content: Uint8Array): number {
    let olderCount = 0
    for (let sector = 0; sector < this.sectorCount; sector++) {
      const bytes = content.subarray(sector * sectorBytes, (sector + 1) * sectorBytes)
      const versions = this.#of(sector)
      const found = lastOf(
        versions,
        ({ tag }) => Buffer.compare(tag === 0 ? zeros : stampOf(tag, sector), bytes) === 0,
      )
      if (found === undefined) {
        const tags = versions.map(({ tag, answered }) => `${tag}${answered ? '' : ' (unanswered)'}`)
        throw new Error(
          `sector ${sector}: ${describeSector(bytes)}, possible are ${tags.join(', ')}`,
        )
      }
      if (found !== versions.at(-1)) olderCount++
      this.#undecided.delete(sector)
      this.#versions[sector] = [{ tag: found.tag, optional: false, answered: true }]
    }
    return olderCount
  }
}

/** The whole disk as a client sees it. */
export async function readWhole(client: NbdClient): Promise<Uint8Array> {
  const { sizeBytes } = client.session
  const pieceBytes = 1024 * 1024
  const content = new Uint8Array(sizeBytes)
  for (let at = 0; at < sizeBytes; at += pieceBytes) {
    content.set(await client.read(at, Math.min(pieceBytes, sizeBytes - at)), at)
  }
  return content
}

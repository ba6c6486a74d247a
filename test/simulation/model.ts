// SPDX-License-Identifier: MIT
/**
 * The plain disk that the real one is compared with: what may each sector hold now, and what after
 * a power cut?
 *
 * Each sector has a baseline and the changes since, in the order in which they were submitted; that
 * is also their order of effect where they overlap. A change is certain for a reader when it was
 * acknowledged before the reader began, and certain after a power cut when it was acknowledged
 * before a successful flush was submitted (or carried FUA). Everything else may or may not have
 * happened, as a whole per sector. TRIM may always have done nothing; a change that failed, too.
 */
import type { SparseBytes } from './sparse-bytes.js'
import { describeSector, sectorBytes, stampOf } from './stamp.js'

/** The disk showed something that no order of the requests explains. */
export class Mismatch extends Error {
  override name = 'Mismatch'
}

export interface Change {
  /** identity; also the stamp of its data */
  readonly tag: number
  readonly isZero: boolean
  readonly fromBytes: number
  readonly toBytes: number
  readonly submittedAt: number
  /** Infinity while under way */
  endedAt: number
  /** it may have happened or not, and nobody will ever say */
  optional: boolean
  fua: boolean
  /** a long request that does not respect sectors: cut into pieces anywhere, even inside a sector */
  readonly isLoose: boolean
}

/** Up to that many changed sectors are tidied up at every flush. */
const foldEagerly = 2048

const scratch = new Uint8Array(sectorBytes)
const zeros = new Uint8Array(sectorBytes)

/** More undecided changes of parts of one sector than that are checked byte by byte. */
const subsetsMax = 10

export class Model {
  readonly #baseline: SparseBytes
  readonly #history = new Map<number, Change[]>()
  /** submission times of reads under way: what they may still see is kept */
  readonly #readers = new Map<object, number>()
  /** changes acknowledged before that time are durable */
  #flushedBefore = 0
  #clock = 1
  #flushCount = 0

  constructor(
    readonly sizeBytes: number,
    baseline: SparseBytes,
  ) {
    this.#baseline = baseline
  }

  now(): number {
    return ++this.#clock
  }

  /** Sectors that may differ from the baseline. */
  get changedSectors(): Iterable<number> {
    return this.#history.keys()
  }

  begin(
    tag: number,
    isZero: boolean,
    offsetBytes: number,
    lengthBytes: number,
    isLoose = false,
  ): Change {
    const change: Change = {
      tag,
      isZero,
      fromBytes: offsetBytes,
      toBytes: offsetBytes + lengthBytes,
      submittedAt: this.now(),
      endedAt: Infinity,
      optional: false,
      fua: false,
      isLoose,
    }
    for (const sector of sectorsOf(change)) {
      const changes = this.#history.get(sector)
      if (changes === undefined) this.#history.set(sector, [change])
      else changes.push(change)
    }
    return change
  }

  /**
   * @param outcome 'done'; 'maybe': it failed half-way or was advice; 'never': refused before any
   * change
   */
  end(change: Change, outcome: 'done' | 'maybe' | 'never', fua: boolean): void {
    change.endedAt = this.now()
    change.optional = outcome === 'maybe'
    change.fua = fua && outcome === 'done'
    if (outcome === 'never') {
      for (const sector of sectorsOf(change)) this.#remove(sector, change)
    }
  }

  /** A flush that was submitted at that time succeeded. */
  flushed(submittedAt: number): void {
    this.#flushedBefore = Math.max(this.#flushedBefore, submittedAt)
    // tidying up costs a look at every changed sector: seldom when there are many
    if (++this.#flushCount % (1 + Math.floor(this.#history.size / foldEagerly)) !== 0) return
    const oldestReader = Math.min(Infinity, ...this.#readers.values())
    for (const sector of [...this.#history.keys()]) this.#fold(sector, oldestReader)
  }

  /** @returns what {@link endRead} wants */
  beginRead(): object {
    const reader = {}
    this.#readers.set(reader, this.now())
    return reader
  }

  /** The read ended with an error: nothing to compare. */
  dropRead(reader: object): void {
    this.#readers.delete(reader)
  }

  endRead(reader: object, offsetBytes: number, bytes: Uint8Array, isLoose = false): void {
    const beganAt = this.#readers.get(reader) as number
    this.#readers.delete(reader)
    this.#check(offsetBytes, bytes, change => change.endedAt < beganAt, 'read', isLoose)
    if (!isLoose) this.#learn(offsetBytes, bytes, beganAt)
  }

  /** After a power cut: every durable change is there, others as a whole or not, nothing else. */
  checkSurvivors(offsetBytes: number, bytes: Uint8Array): void {
    this.#check(offsetBytes, bytes, change => this.#isDurable(change), 'found after the power cut')
  }

  /** What is on disk after a power cut is what everything starts from again. */
  restart(offsetBytes: number, bytes: Uint8Array): void {
    this.#baseline.write(offsetBytes, bytes)
    const last = Math.ceil((offsetBytes + bytes.length) / sectorBytes)
    for (let sector = offsetBytes / sectorBytes; sector < last; sector++) {
      this.#history.delete(sector)
    }
    this.#readers.clear()
  }

  #isDurable(change: Change): boolean {
    return change.endedAt < this.#flushedBefore || (change.fua && change.endedAt < Infinity)
  }

  #check(
    offsetBytes: number,
    bytes: Uint8Array,
    isCertain: (change: Change) => boolean,
    when: string,
    isLoose = false,
  ): void {
    const end = offsetBytes + bytes.length
    let at = offsetBytes
    while (at < end) {
      const sector = Math.floor(at / sectorBytes)
      const next = Math.min(end, (sector + 1) * sectorBytes)
      const found = bytes.subarray(at - offsetBytes, next - offsetBytes)
      const changes = this.#history.get(sector)
      const start = at - sector * sectorBytes
      if (changes === undefined) {
        // unchanged sectors in one go
        let run = next
        while (run < end && !this.#history.has(run / sectorBytes)) {
          run = Math.min(end, run + sectorBytes)
        }
        this.#checkBaseline(at, bytes.subarray(at - offsetBytes, run - offsetBytes), when)
        at = run
        continue
      }
      if (!this.#isLegal(sector, changes, start, found, isCertain, isLoose)) {
        throw new Mismatch(this.#explain(sector, changes, start, found, isCertain, when))
      }
      at = next
    }
  }

  #checkBaseline(offsetBytes: number, found: Uint8Array, when: string): void {
    const wanted = new Uint8Array(found.length)
    this.#baseline.read(offsetBytes, wanted)
    if (Buffer.compare(wanted, found) === 0) return
    const at = found.findIndex((byte, index) => byte !== wanted[index])
    const sector = Math.floor((offsetBytes + at) / sectorBytes)
    const from = Math.max(0, sector * sectorBytes - offsetBytes)
    throw new Mismatch(
      `sector ${sector} ${when}: ${describeSector(found.subarray(from, from + sectorBytes))}, ` +
        `must be ${describeSector(wanted.subarray(from, from + sectorBytes))}: nobody wrote there`,
    )
  }

  #isLegal(
    sector: number,
    changes: readonly Change[],
    start: number,
    found: Uint8Array,
    isCertain: (change: Change) => boolean,
    isLoose = false,
  ): boolean {
    const { first, rest } = cut(sector, changes, isCertain)
    const base = scratch
    if (first === undefined) this.#baseline.read(sector * sectorBytes, base)
    else apply(base, sector, first)
    if (isLoose || rest.some(change => change.isLoose)) {
      return isMixture(sector, base, rest, start, found)
    }
    if (rest.every(change => isWhole(sector, change))) {
      if (equal(base, start, found)) return true
      return rest.some(change => equal(valueOf(sector, change), start, found))
    }
    const optional = rest.filter(change => change.optional || !isCertain(change))
    if (optional.length > subsetsMax) return isMixture(sector, base, rest, start, found)
    for (let subset = 0; subset < 2 ** optional.length; subset++) {
      const value = base.slice()
      let ordinal = 0
      for (const change of rest) {
        const chosen = optional[ordinal] === change
        if (chosen && Math.floor(subset / 2 ** ordinal++) % 2 === 0) continue
        apply(value, sector, change)
      }
      if (equal(value, start, found)) return true
    }
    return false
  }

  /** A quiet sector that was read leaves no doubt whether an optional change has happened. */
  #learn(offsetBytes: number, bytes: Uint8Array, beganAt: number): void {
    const last = Math.floor((offsetBytes + bytes.length) / sectorBytes)
    for (let sector = Math.ceil(offsetBytes / sectorBytes); sector < last; sector++) {
      const changes = this.#history.get(sector)
      const doubtful = changes?.at(-1)
      if (changes === undefined || doubtful?.optional !== true) continue
      if (changes.some(change => change.endedAt >= beganAt)) continue
      if (!isWhole(sector, doubtful)) continue
      const from = sector * sectorBytes - offsetBytes
      const found = bytes.subarray(from, from + sectorBytes)
      const value = new Uint8Array(sectorBytes)
      apply(value, sector, doubtful)
      if (!equal(value, 0, found)) this.#remove(sector, doubtful)
      else if (!this.#isLegal(sector, changes.slice(0, -1), 0, found, () => true)) {
        changes[changes.length - 1] = { ...doubtful, optional: false }
      }
    }
  }

  #remove(sector: number, change: Change): void {
    const left = (this.#history.get(sector) ?? []).filter(other => other !== change)
    if (left.length === 0) this.#history.delete(sector)
    else this.#history.set(sector, left)
  }

  /** Moves what is beyond doubt into the baseline. */
  #fold(sector: number, oldestReader: number): void {
    const changes = this.#history.get(sector) as Change[]
    const isSettled = (change: Change): boolean =>
      !change.optional && change.endedAt < oldestReader && this.#isDurable(change)
    let count = 0
    for (let index = 0; index < changes.length; index++) {
      const change = changes[index] as Change
      if (isSettled(change) && isWhole(sector, change)) count = index + 1
    }
    while (count < changes.length && isSettled(changes[count] as Change)) count++
    if (count === 0) return
    const value = new Uint8Array(sectorBytes)
    this.#baseline.read(sector * sectorBytes, value)
    for (const change of changes.slice(0, count)) apply(value, sector, change)
    this.#baseline.write(sector * sectorBytes, value)
    if (count === changes.length) this.#history.delete(sector)
    else this.#history.set(sector, changes.slice(count))
  }

  #explain(
    sector: number,
    changes: readonly Change[],
    start: number,
    found: Uint8Array,
    isCertain: (change: Change) => boolean,
    when: string,
  ): string {
    const base = new Uint8Array(sectorBytes)
    this.#baseline.read(sector * sectorBytes, base)
    const list = changes.map(change => {
      const kind = change.isZero ? 'zeros' : 'data'
      const from = Math.max(0, change.fromBytes - sector * sectorBytes)
      const to = Math.min(sectorBytes, change.toBytes - sector * sectorBytes)
      const state = change.optional ? 'optional' : isCertain(change) ? 'certain' : 'possible'
      return `#${change.tag} ${kind} ${from}-${to} ${state}`
    })
    return (
      `sector ${sector} (from byte ${start}) ${when}: ${describeSector(found)}; ` +
      `before: ${describeSector(base)}, then ${list.join(', ')}`
    )
  }
}

function sectorsOf(change: Change): number[] {
  const first = Math.floor(change.fromBytes / sectorBytes)
  const end = Math.ceil(change.toBytes / sectorBytes)
  return Array.from({ length: Math.max(0, end - first) }, (_, index) => first + index)
}

function isWhole(sector: number, change: Change): boolean {
  const from = sector * sectorBytes
  return change.fromBytes <= from && change.toBytes >= from + sectorBytes
}

/** The last change that certainly covers the sector, and what came after it. */
function cut(
  sector: number,
  changes: readonly Change[],
  isCertain: (change: Change) => boolean,
): { first: Change | undefined; rest: readonly Change[] } {
  for (let index = changes.length - 1; index >= 0; index--) {
    const change = changes[index] as Change
    if (!change.optional && isWhole(sector, change) && isCertain(change)) {
      return { first: change, rest: changes.slice(index + 1) }
    }
  }
  return { first: undefined, rest: changes }
}

/** Of a change that covers the whole sector; valid until the next call. */
function valueOf(sector: number, change: Change): Uint8Array {
  return change.isZero ? zeros : stampOf(change.tag, sector)
}

function apply(value: Uint8Array, sector: number, change: Change): void {
  const start = sector * sectorBytes
  const from = Math.max(0, change.fromBytes - start)
  const to = Math.min(sectorBytes, change.toBytes - start)
  if (change.isZero) value.fill(0, from, to)
  else value.set(stampOf(change.tag, sector).subarray(from, to), from)
}

function equal(value: Uint8Array, start: number, found: Uint8Array): boolean {
  return Buffer.compare(value.subarray(start, start + found.length), found) === 0
}

/** Weaker: each byte comes from the base or from one of the changes. */
function isMixture(
  sector: number,
  base: Uint8Array,
  rest: readonly Change[],
  start: number,
  found: Uint8Array,
): boolean {
  const values = rest.map(change => {
    const value = base.slice()
    apply(value, sector, change)
    return value
  })
  return found.every(
    (byte, index) =>
      base[start + index] === byte || values.some(value => value[start + index] === byte),
  )
}

// SPDX-License-Identifier: MIT
/**
 * One file of the simulated storage: what readers see now, and what a power cut leaves.
 *
 * The durable state plus a log of effects (bytes, zeros, sizes) in the order in which they landed
 * make the present state. An fdatasync makes effects durable; a power cut keeps, loses or tears each
 * of the others, at 512 bytes. A file's size and reserved space are metadata and may be lost alike.
 */
import type { Random } from './random.js'
import { SparseBytes } from './sparse-bytes.js'

export const sectorBytes = 512
/** unit in which space is counted */
const spaceUnitBytes = 4096

/** When the caller was told that the operation behind an effect ended; Infinity: not yet. */
export interface EffectOrigin {
  reportedAt: number
}

interface Effect {
  readonly kind: 'bytes' | 'zeros' | 'size'
  readonly offsetBytes: number
  /** of bytes and zeros */
  readonly lengthBytes: number
  readonly bytes: Uint8Array | undefined
  readonly origin: EffectOrigin
  readonly landedAt: number
  durable: boolean
  /** a failed fdatasync forgot it: no later one brings it back */
  dropped: boolean
}

/** How a power cut treats what was not flushed. */
export interface CutPolicy {
  readonly keep: (kind: Effect['kind'], lengthBytes: number) => 'keep' | 'lose' | 'tear'
}

export function randomCutPolicy(random: Random): CutPolicy {
  const tearProbability = random.pick([0, 0.2, 0.5])
  const keepProbability = random.pick([0, 0.05, 0.5, 0.5, 0.95, 1])
  const draw = (keepChance: number): 'keep' | 'lose' | 'tear' =>
    random.chance(tearProbability) ? 'tear' : random.chance(keepChance) ? 'keep' : 'lose'
  switch (random.below(4)) {
    case 0:
      // the nastiest for a format with tables: small writes survive, the data they name do not
      return { keep: (_, length) => draw(length <= 4096 ? 1 : 0) }
    case 1:
      return { keep: kind => draw(kind === 'size' ? 0 : keepProbability) }
    default:
      return { keep: () => draw(keepProbability) }
  }
}

export class SimFile {
  present = new SparseBytes()
  sizeBytes = 0
  #durable = new SparseBytes()
  #durableSize = 0
  #log: Effect[] = []
  /** one byte per space unit: 1 = allocated */
  #space = new Uint8Array(0)
  allocatedBytes = 0
  exclusiveLock: object | undefined
  readonly sharedLocks = new Set<object>()

  constructor(readonly inode: number) {}

  /** @returns bytes read; fewer only at the end of the file */
  read(offsetBytes: number, target: Uint8Array): number {
    const count = Math.max(0, Math.min(target.length, this.sizeBytes - offsetBytes))
    this.present.read(offsetBytes, target.subarray(0, count))
    return count
  }

  write(offsetBytes: number, bytes: Uint8Array, origin: EffectOrigin, now: number): void {
    this.#extend(offsetBytes + bytes.length, origin, now)
    this.present.write(offsetBytes, bytes)
    this.reserve(offsetBytes, bytes.length)
    this.#push('bytes', offsetBytes, bytes.length, bytes, origin, now)
  }

  zero(offsetBytes: number, lengthBytes: number, origin: EffectOrigin, now: number): void {
    const length = Math.min(lengthBytes, this.sizeBytes - offsetBytes)
    if (length <= 0) return
    this.present.zero(offsetBytes, length)
    this.#push('zeros', offsetBytes, length, undefined, origin, now)
  }

  truncate(sizeBytes: number, origin: EffectOrigin, now: number): void {
    if (sizeBytes < this.sizeBytes) {
      this.present.cut(sizeBytes)
      this.release(sizeBytes, this.sizeBytes - sizeBytes)
    }
    this.sizeBytes = sizeBytes
    this.#push('size', sizeBytes, 0, undefined, origin, now)
  }

  allocate(offsetBytes: number, lengthBytes: number, origin: EffectOrigin, now: number): void {
    this.#extend(offsetBytes + lengthBytes, origin, now)
    this.reserve(offsetBytes, lengthBytes)
  }

  /** Bytes of space that a write or reservation would newly take. */
  spaceNeeded(offsetBytes: number, lengthBytes: number): number {
    let needed = 0
    const last = Math.ceil((offsetBytes + lengthBytes) / spaceUnitBytes)
    for (let unit = Math.floor(offsetBytes / spaceUnitBytes); unit < last; unit++) {
      if (this.#space[unit] !== 1) needed += spaceUnitBytes
    }
    return needed
  }

  reserve(offsetBytes: number, lengthBytes: number): void {
    const last = Math.ceil((offsetBytes + lengthBytes) / spaceUnitBytes)
    if (last > this.#space.length) {
      const grown = new Uint8Array(Math.max(last, this.#space.length * 2))
      grown.set(this.#space)
      this.#space = grown
    }
    for (let unit = Math.floor(offsetBytes / spaceUnitBytes); unit < last; unit++) {
      if (this.#space[unit] === 1) continue
      this.#space[unit] = 1
      this.allocatedBytes += spaceUnitBytes
    }
  }

  release(offsetBytes: number, lengthBytes: number): void {
    const last = Math.min(
      this.#space.length,
      Math.floor((offsetBytes + lengthBytes) / spaceUnitBytes),
    )
    for (let unit = Math.ceil(offsetBytes / spaceUnitBytes); unit < last; unit++) {
      if (this.#space[unit] !== 1) continue
      this.#space[unit] = 0
      this.allocatedBytes -= spaceUnitBytes
    }
  }

  /** An fdatasync put at `putAt` did its work: what was reported by then is durable. */
  makeDurable(putAt: number): void {
    for (const effect of this.#log) {
      if (effect.dropped) continue
      // sizes are of the inode, of which fdatasync writes the state it finds
      const at = effect.kind === 'size' ? effect.landedAt : effect.origin.reportedAt
      if (at <= putAt) effect.durable = true
    }
    let done = 0
    for (const effect of this.#log) {
      if (!effect.durable && !effect.dropped) break
      if (effect.durable) this.#applyDurable(effect)
      done++
    }
    if (done > 0) this.#log = this.#log.slice(done)
  }

  /** A failed fdatasync: what it should have written may be forgotten though readers still see it. */
  dropUnflushed(random: Random): void {
    const all = random.chance(0.5)
    for (const effect of this.#log) {
      if (!effect.durable && effect.kind !== 'size' && (all || random.chance(0.5))) {
        effect.dropped = true
      }
    }
  }

  /** The state after a power cut becomes the present, durable one. */
  cutPower(policy: CutPolicy, random: Random): void {
    for (const effect of this.#log) {
      if (effect.durable) this.#applyDurable(effect)
      else if (!effect.dropped) this.#applyMaybe(effect, policy, random)
    }
    this.#log = []
    this.#settle()
  }

  /** Builds the state of a file that has been on the disk forever. */
  preset(build: (bytes: SparseBytes) => void, sizeBytes: number): void {
    this.sizeBytes = sizeBytes
    this.#durableSize = sizeBytes
    build(this.#durable)
    this.#log = []
    this.#settle()
  }

  get unflushedCount(): number {
    return this.#log.filter(effect => !effect.durable).length
  }

  clone(): SimFile {
    const copy = new SimFile(this.inode)
    copy.present = this.present.clone()
    copy.sizeBytes = this.sizeBytes
    copy.#durable = this.#durable.clone()
    copy.#durableSize = this.#durableSize
    copy.#log = this.#log.map(effect => ({ ...effect }))
    copy.#space = this.#space.slice()
    copy.allocatedBytes = this.allocatedBytes
    return copy
  }

  #extend(endBytes: number, origin: EffectOrigin, now: number): void {
    if (endBytes <= this.sizeBytes) return
    this.sizeBytes = endBytes
    this.#push('size', endBytes, 0, undefined, origin, now)
  }

  #push(
    kind: Effect['kind'],
    offsetBytes: number,
    lengthBytes: number,
    bytes: Uint8Array | undefined,
    origin: EffectOrigin,
    landedAt: number,
  ): void {
    this.#log.push({
      kind,
      offsetBytes,
      lengthBytes,
      bytes,
      origin,
      landedAt,
      durable: false,
      dropped: false,
    })
  }

  #applyDurable(effect: Effect): void {
    if (effect.kind === 'size') this.#setDurableSize(effect.offsetBytes)
    else this.#applyRange(effect, 0, effect.lengthBytes)
  }

  #applyMaybe(effect: Effect, policy: CutPolicy, random: Random): void {
    const fate = policy.keep(effect.kind, effect.lengthBytes)
    if (fate === 'lose') return
    if (fate === 'keep') this.#applyDurable(effect)
    else if (effect.kind === 'size') {
      // a growth in steps may have come part of the way
      const grown = effect.offsetBytes - this.#durableSize
      if (grown > 0) {
        const units = Math.floor(grown / sectorBytes)
        this.#setDurableSize(this.#durableSize + random.below(units + 1) * sectorBytes)
      }
    } else this.#tear(effect, random)
  }

  /** Keeps a random choice of the sectors, in a few runs. */
  #tear(effect: Effect, random: Random): void {
    const end = effect.offsetBytes + effect.lengthBytes
    let at = effect.offsetBytes
    let kept = random.chance(0.5)
    while (at < end) {
      const remaining = Math.ceil((end - at) / sectorBytes)
      const sectors = random.chance(0.3) ? 1 : 1 + random.below(remaining)
      const next = Math.min(end, (Math.floor(at / sectorBytes) + sectors) * sectorBytes)
      if (kept) this.#applyRange(effect, at - effect.offsetBytes, next - effect.offsetBytes)
      kept = !kept
      at = next
    }
  }

  /** Clipped to the size that is durable by then: bytes past the end of a file do not exist. */
  #applyRange(effect: Effect, from: number, to: number): void {
    const end = Math.min(effect.offsetBytes + to, this.#durableSize)
    const start = effect.offsetBytes + from
    if (end <= start) return
    if (effect.bytes === undefined) this.#durable.zero(start, end - start)
    else this.#durable.write(start, effect.bytes.subarray(from, end - effect.offsetBytes))
  }

  #setDurableSize(sizeBytes: number): void {
    if (sizeBytes < this.#durableSize) this.#durable.cut(sizeBytes)
    this.#durableSize = sizeBytes
  }

  #settle(): void {
    this.present = this.#durable.clone()
    this.sizeBytes = this.#durableSize
    this.#space = new Uint8Array(0)
    this.allocatedBytes = 0
    for (let at = 0; ;) {
      const run = this.present.nextWritten(at)
      if (run === undefined) break
      this.reserve(run.startBytes, Math.min(run.endBytes, this.sizeBytes) - run.startBytes)
      at = run.endBytes
    }
    this.exclusiveLock = undefined
    this.sharedLocks.clear()
  }
}

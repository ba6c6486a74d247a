// SPDX-License-Identifier: MIT
/**
 * Recognisable content: every 512-byte sector says who wrote it and where it belongs.
 *
 * A sector of zeros is never a stamp, and no two (tag, sector) pairs share one. So a wrong byte can
 * be traced to the write it came from.
 */
export const sectorBytes = 512
const words = sectorBytes / 4
const mark = 0x504d5453

const scratchWords = new Uint32Array(words)
const scratch = new Uint8Array(scratchWords.buffer)

/** The sector's bytes; valid until the next call. */
export function stampOf(tag: number, sector: number): Uint8Array {
  let mixed = Math.imul(tag ^ Math.imul(sector, 0x9e3779b1), 0x85ebca6b)
  scratchWords[0] = mark
  scratchWords[1] = tag
  scratchWords[2] = sector
  for (let word = 3; word < words; word++) {
    mixed = (Math.imul(mixed, 0x19660d) + 0x3c6ef35f) | 0
    scratchWords[word] = mixed | 1
  }
  return scratch
}

/** Fills memory as if it were the bytes of a disk from `offsetBytes` on, all written by `tag`. */
export function stamp(target: Uint8Array, offsetBytes: number, tag: number): void {
  let done = 0
  while (done < target.length) {
    const at = offsetBytes + done
    const sector = Math.floor(at / sectorBytes)
    const start = at - sector * sectorBytes
    const count = Math.min(sectorBytes - start, target.length - done)
    const bytes = stampOf(tag, sector)
    target.set(count === sectorBytes ? bytes : bytes.subarray(start, start + count), done)
    done += count
  }
}

/** What a sector seems to hold, in words. */
export function describeSector(bytes: Uint8Array): string {
  if (bytes.every(byte => byte === 0)) return 'zeros'
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (bytes.length === sectorBytes && view.getUint32(0, true) === mark) {
    const tag = view.getUint32(4, true)
    const sector = view.getUint32(8, true)
    const whole = Buffer.compare(stampOf(tag, sector), bytes) === 0
    return `${whole ? '' : 'parts of '}stamp ${tag} of sector ${sector}`
  }
  return `other bytes (${Buffer.from(bytes.subarray(0, 16)).toString('hex')}…)`
}

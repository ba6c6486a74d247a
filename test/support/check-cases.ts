// SPDX-License-Identifier: MIT
/**
 * Small images with one fault each, for every check of a delta: ours and the genuine tool's.
 *
 * 10 clusters of 32 KiB; the table takes file cluster 0, data lies in 1, 2, 3, …
 */
export const caseClusterBytes = 32_768

export interface CheckCase {
  readonly version?: 1 | 2
  /** cluster index → raw entry */
  readonly slots: Readonly<Record<number, number>>
  /** whole data clusters in the file; default 4 */
  readonly dataClusters?: number
  readonly extraBytes?: number
  readonly inUse?: boolean
  readonly flags?: number
}

const full = { 0: 1, 1: 2, 2: 3, 3: 4 }

export const checkCases: Readonly<Record<string, CheckCase>> = {
  sound: { slots: full },
  'not closed': { slots: full, inUse: true },
  'version 1': { version: 1, slots: { 0: 64, 1: 128, 2: 192, 3: 256 } },
  leak: { slots: { 0: 1, 1: 2, 3: 4 } },
  tail: { slots: { 0: 1, 1: 2 } },
  'partial tail': { slots: full, extraBytes: 100 },
  'slot beyond the disk': { slots: { ...full, 12: 3 } },
  'crooked slot': { version: 1, slots: { 0: 64, 1: 129, 2: 192, 3: 256 } },
  'beyond the file': { slots: { 0: 1, 1: 2, 2: 3, 3: 9 } },
  'used twice': { slots: { 0: 1, 1: 2, 2: 3, 3: 3 } },
  'wrong flag': { slots: full, flags: 1 },
  'version conversion': { slots: full, flags: 2, inUse: true },
  'cut short': { slots: { ...full, 4: 5 }, extraBytes: 100 },
}

export function caseBytes(which: CheckCase): Uint8Array {
  const { version = 2, dataClusters = 4, extraBytes = 0 } = which
  const bytes = new Uint8Array(caseClusterBytes * (1 + dataClusters) + extraBytes).fill(1)
  bytes.fill(0, 0, caseClusterBytes)
  const view = new DataView(bytes.buffer)
  const signature = version === 1 ? 'WithoutFreeSpace' : 'WithouFreSpacExt'
  for (let i = 0; i < 16; i++) view.setUint8(i, signature.charCodeAt(i))
  const words = [2, 16, 0, 64, 10, 640, 0, which.inUse === true ? 0x746f6e59 : 0, 64]
  words.forEach((word, index) => view.setUint32(16 + 4 * index, word, true))
  view.setUint32(52, which.flags ?? 0, true)
  for (const [index, entry] of Object.entries(which.slots)) {
    view.setUint32(64 + 4 * Number(index), entry, true)
  }
  return bytes
}

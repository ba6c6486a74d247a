// SPDX-License-Identifier: MIT
/**
 * Numbers of the ploop image format: the header, its field offsets, marks, flags and limits.
 *
 * All integers on disk are little-endian, a sector is 512 bytes always. See docs/format.md.
 */
import { assert } from '../base/assert.js'

/** The two signatures: 16 ASCII bytes each, no terminator. */
export const signatureV1 = 'WithoutFreeSpace'
export const signatureV2 = 'WithouFreSpacExt'
export const signatureBytes = 16

/** The header is followed by the BAT at once; both share the first cluster. */
export const headerBytes = 64

/** Byte offsets of the header's fields. */
export const headerField = {
  signature: 0,
  type: 16,
  heads: 20,
  cylinders: 24,
  /** cluster size in sectors, whatever its historical name says */
  clusterSectors: 28,
  clusterCount: 32,
  /** version 1: 32 bits, version 2: 64 bits (aligned to 4 bytes only) */
  sizeSectors: 36,
  inUse: 44,
  firstBlockSectors: 48,
  flags: 52,
  /** in sectors */
  extensionOffsetSectors: 56,
} as const

/** The only value of the type field. */
export const headerType = 2

/** In-use word of an image that is open for writing, or was when its host died ("Ynot"). */
export const inUseMark = 0x746f6e59
/** Closed; the extension offset is valid ("v2.1"). */
export const closedWithExtensionMark = 0x312e3276
export const closedMark = 0

/** "No data clusters yet". Informational: never trust it. */
export const flagEmpty = 0x1
/** A conversion between versions has been interrupted. */
export const flagVersionConversion = 0x2

export const clusterSectorsMin = 64
export const clusterSectorsMax = 131_072
export const clusterSectorsDefault = 2048

/** One BAT entry. */
export const entryBytes = 4
/** The header takes the place of that many entries. */
export const headerSlots = headerBytes / entryBytes
/** In-memory marker of some drivers. Never legal on disk. */
export const forbiddenEntry = 0xffff_ffff

/** BAT areas from here on cannot be counted in 32 bits: refused. */
export const batBytesLimit = 2 ** 32

/** A chain opened for reading has at most that many deltas; one less when writable. */
export const levelCountMaxReadOnly = 128
export const levelCountMaxWritable = 127

/** Unit in which BATs are read, cached and written. */
export const batPageBytes = 4096

assert(headerSlots === 16, 'the header is 16 entries long')
assert(signatureV1.length === signatureBytes, 'signature of version 1')
assert(signatureV2.length === signatureBytes, 'signature of version 2')

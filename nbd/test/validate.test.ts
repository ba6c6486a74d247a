// SPDX-License-Identifier: MIT
/**
 * Every refusal of the transmission phase, at its boundary, with error value and words.
 */
import t, { type Test } from 'tap'
import * as nbd from '../src/index.js'
import type { ReplyMode, RequestLimits } from '../src/index.js'

const SIZE = 67108864
const WRITABLE = 0x0d6d
const READ_ONLY = 0x050f

function limits(changes: Partial<RequestLimits> = {}): RequestLimits {
  return {
    sizeBytes: SIZE,
    readOnly: false,
    transmissionFlags: WRITABLE | nbd.NBD_FLAG_SEND_DF,
    contextCount: 1,
    shuttingDown: false,
    hardPayloadLimit: nbd.NBD_HARD_PAYLOAD_BYTES,
    minimumBlockBytes: 1,
    ...changes,
  }
}

type Case = [
  name: string,
  changes: Partial<RequestLimits>,
  mode: ReplyMode,
  flags: number,
  command: number,
  offset: number,
  length: number,
  error: number,
  text: RegExp | '',
]

const READ = nbd.NBD_CMD_READ
const WRITE = nbd.NBD_CMD_WRITE
const TRIM = nbd.NBD_CMD_TRIM
const CACHE = nbd.NBD_CMD_CACHE
const ZEROES = nbd.NBD_CMD_WRITE_ZEROES
const STATUS = nbd.NBD_CMD_BLOCK_STATUS
const FLUSH = nbd.NBD_CMD_FLUSH
const { NBD_EINVAL: EINVAL, NBD_ENOSPC: ENOSPC, NBD_EPERM: EPERM } = nbd
const { NBD_EOVERFLOW: EOVERFLOW, NBD_ESHUTDOWN: ESHUTDOWN } = nbd
const ro = { readOnly: true, transmissionFlags: READ_ONLY }
const big = { sizeBytes: 2 ** 53 - 512 }
const stop = { shuttingDown: true }

function check(t: Test, cases: readonly Case[]): void {
  for (const [name, changes, mode, flags, command, offset, length, error, text] of cases) {
    const judged = limits(changes)
    t.equal(nbd.validateRequest(judged, mode, flags, command, offset, length), error, name)
    const words = nbd.refusalText(judged, mode, flags, command, offset, length)
    if (text === '') t.equal(words, '', `${name}: no words`)
    else t.match(words, text, `${name}: words`)
    t.ok(nbd.encodeText(words).length <= nbd.NBD_MAX_ERROR_TEXT_BYTES, `${name}: short`)
  }
}

t.test('the range is checked at its last byte, without wrapping around', async t => {
  const past = /export has/
  check(t, [
    ['the last byte', {}, 'simple', 0, READ, SIZE - 1, 1, 0, ''],
    ['one byte more', {}, 'simple', 0, READ, SIZE - 1, 2, EINVAL, past],
    ['nothing at the end', {}, 'simple', 0, READ, SIZE, 0, 0, ''],
    ['nothing beyond the end', {}, 'simple', 0, READ, SIZE + 1, 0, EINVAL, past],
    ['the whole export', {}, 'simple', 0, TRIM, 0, SIZE, 0, ''],
    ['a write past the end', {}, 'simple', 0, WRITE, SIZE, 1, ENOSPC, past],
    ['zeroes past the end', {}, 'simple', 0, ZEROES, SIZE - 1, 2, ENOSPC, past],
    ['a trim past the end', {}, 'simple', 0, TRIM, 0xfffffe00, 0xfffffe00, EINVAL, past],
    ['a cache past the end', {}, 'simple', 0, CACHE, SIZE, 1, EINVAL, past],
    ['a status past the end', {}, 'structured', 0, STATUS, SIZE - 512, 513, EINVAL, past],
    ['an offset of 2^53', big, 'simple', 0, WRITE, Infinity, 0, ENOSPC, /far past/],
    ['a length of 2^53', big, 'extended', 0, TRIM, 0, Infinity, EINVAL, /far past/],
    ['the largest offset', big, 'extended', 0, READ, 2 ** 53 - 1, 1, EINVAL, past],
    ['the last sector below 2^53', big, 'extended', 0, READ, 2 ** 53 - 1024, 512, 0, ''],
  ])
})

t.test('a TRIM and a WRITE_ZEROES have no limit but the export', async t => {
  const size = { sizeBytes: 2 ** 44 }
  check(t, [
    ['a kernel discard', size, 'simple', 0, TRIM, 512, 0xfffffe00, 0, ''],
    ['a kernel BLKZEROOUT', size, 'simple', nbd.NBD_CMD_FLAG_NO_HOLE, ZEROES, 0, 0xfffffe00, 0, ''],
    ['6 GiB of zeroes', size, 'extended', 0, ZEROES, 0, 6442450944, 0, ''],
    ['16 TiB of status', size, 'extended', 0, STATUS, 0, 2 ** 44, 0, ''],
    [
      'a CACHE of 1 GiB is a hint that the server may clamp',
      size,
      'simple',
      0,
      CACHE,
      0,
      2 ** 30,
      0,
      '',
    ],
  ])
})

t.test('a READ above the hard limit gets the error its client understands', async t => {
  const size = { sizeBytes: 2 ** 40 }
  const DF = nbd.NBD_CMD_FLAG_DF
  const max = nbd.NBD_HARD_PAYLOAD_BYTES
  check(t, [
    ['the limit itself', size, 'simple', 0, READ, 0, max, 0, ''],
    ['one more, simple', size, 'simple', 0, READ, 0, max + 1, EINVAL, /at most 67108864/],
    ['one more, structured', size, 'structured', 0, READ, 0, max + 1, EINVAL, /at most/],
    ['one more with DF', size, 'structured', DF, READ, 0, max + 1, EOVERFLOW, /at most/],
    ['one more, extended', size, 'extended', 0, READ, 0, max + 1, EOVERFLOW, /at most/],
    ['the limit with DF', size, 'structured', DF, READ, 0, max, 0, ''],
  ])
})

t.test('flags are those of the command and of what was offered', async t => {
  const noDf = { transmissionFlags: WRITABLE }
  const noFast = { transmissionFlags: WRITABLE & ~nbd.NBD_FLAG_SEND_FAST_ZERO }
  const fua = [READ, WRITE, FLUSH, TRIM, CACHE, ZEROES, STATUS]
  check(
    t,
    fua.map(c => [`FUA on command ${c}`, {}, 'structured', 1, c, 0, 512, 0, '']),
  )
  check(t, [
    ['DF', {}, 'structured', 4, READ, 0, 1, 0, ''],
    ['DF not offered', noDf, 'simple', 4, READ, 0, 1, EINVAL, /READ does not take .*: DF/],
    ['DF on a write', {}, 'structured', 4, WRITE, 0, 1, EINVAL, /WRITE does not take .*: DF/],
    ['FAST_ZERO', {}, 'simple', 0x10, ZEROES, 0, 1, 0, ''],
    ['FAST_ZERO and NO_HOLE', {}, 'simple', 0x12, ZEROES, 0, 1, 0, ''],
    ['FAST_ZERO not offered', noFast, 'simple', 0x10, ZEROES, 0, 1, EINVAL, /FAST_ZERO/],
    ['FAST_ZERO on a trim', {}, 'simple', 0x10, TRIM, 0, 1, EINVAL, /FAST_ZERO/],
    ['NO_HOLE on a write', {}, 'simple', 2, WRITE, 0, 1, EINVAL, /NO_HOLE/],
    ['REQ_ONE', {}, 'structured', 8, STATUS, 0, 1, 0, ''],
    ['REQ_ONE on a read', {}, 'structured', 8, READ, 0, 1, EINVAL, /REQ_ONE/],
    ['PAYLOAD_LEN on a write', {}, 'extended', 0x20, WRITE, 0, 1, 0, ''],
    ['PAYLOAD_LEN in compact mode', {}, 'structured', 0x20, WRITE, 0, 1, EINVAL, /PAYLOAD_LEN/],
    ['PAYLOAD_LEN on a read', {}, 'extended', 0x20, READ, 0, 1, EINVAL, /PAYLOAD_LEN/],
    ['PAYLOAD_LEN on a status', {}, 'extended', 0x20, STATUS, 0, 1, 0, ''],
    ['an unknown bit', {}, 'extended', 0x8001, FLUSH, 0, 0, EINVAL, /: 0x8000/],
  ])
})

t.test('the checks come in their fixed order', async t => {
  check(t, [
    [
      'shutting down before everything',
      { ...stop, ...ro },
      'simple',
      0xffff,
      99,
      Infinity,
      9,
      ESHUTDOWN,
      /shutting/,
    ],
    ['unknown command before flags', {}, 'simple', 0xffff, 9, 0, 0, EINVAL, /unknown command 9/],
    ['RESIZE is unknown', {}, 'simple', 0, nbd.NBD_CMD_RESIZE, 0, 0, EINVAL, /unknown RESIZE/],
    ['flags before read-only', ro, 'simple', 0x10, ZEROES, 0, 1, EINVAL, /FAST_ZERO/],
    ['read-only before range', ro, 'simple', 0, WRITE, SIZE, 1, EPERM, /WRITE on a read-only/],
    ['read-only trim', ro, 'simple', 0, TRIM, 0, 1, EPERM, /read-only/],
    ['read-only zeroes', ro, 'simple', 0, ZEROES, 0, 1, EPERM, /read-only/],
    ['read-only flush', ro, 'simple', 0, FLUSH, 0, 0, 0, ''],
    ['flush ignores its range', {}, 'simple', 0, FLUSH, Infinity, 4096, 0, ''],
    ['range before size', {}, 'simple', 0, READ, 0, 2 ** 31, EINVAL, /export has/],
    ['DISC is never refused', stop, 'simple', 0xffff, nbd.NBD_CMD_DISC, Infinity, Infinity, 0, ''],
    [
      'trim not offered',
      { transmissionFlags: 1 },
      'simple',
      0,
      TRIM,
      0,
      1,
      EINVAL,
      /not offer TRIM/,
    ],
    [
      'zeroes not offered',
      { transmissionFlags: 1 },
      'simple',
      0,
      ZEROES,
      0,
      1,
      EINVAL,
      /not offer/,
    ],
    ['cache not offered', { transmissionFlags: 1 }, 'simple', 0, CACHE, 0, 1, EINVAL, /not offer/],
    ['flush not offered', { transmissionFlags: 1 }, 'simple', 0, FLUSH, 0, 0, EINVAL, /not offer/],
    [
      'status without context',
      { contextCount: 0 },
      'structured',
      0,
      STATUS,
      0,
      1,
      EINVAL,
      /no metadata/,
    ],
    ['status of nothing', {}, 'structured', 0, STATUS, 0, 0, EINVAL, /of 0 bytes/],
    ...[READ, WRITE, TRIM, ZEROES, CACHE].map((c): Case => [
      `command ${c} of nothing`,
      {},
      'simple',
      0,
      c,
      512,
      0,
      0,
      '',
    ]),
  ])
})

t.test('an enforced block size refuses what is not aligned to it', async t => {
  const blocks = { minimumBlockBytes: 512 }
  check(t, [
    ['aligned', blocks, 'simple', 0, READ, 512, 1024, 0, ''],
    ['offset', blocks, 'simple', 0, READ, 511, 512, EINVAL, /not aligned to 512/],
    ['length', blocks, 'simple', 0, WRITE, 512, 511, EINVAL, /not aligned to 512/],
    ['beyond 2^32', { ...blocks, ...big }, 'simple', 0, TRIM, 2 ** 40 + 1, 512, EINVAL, /aligned/],
    ['flush', blocks, 'simple', 0, FLUSH, 1, 1, 0, ''],
  ])
})

t.test('the payload that follows a header depends on command, mode and flag alone', async t => {
  const P = nbd.NBD_CMD_FLAG_PAYLOAD_LEN
  const cases: readonly [string, ReplyMode, number, number, number, number][] = [
    ['a write', 'simple', 0, WRITE, 4096, 4096],
    ['a compact write with an unknown flag', 'simple', P, WRITE, 4096, 4096],
    ['a compact read with an unknown flag', 'structured', P, READ, 4096, 0],
    ['an extended write', 'extended', P, WRITE, 4096, 4096],
    ['an extended write that forgets the flag', 'extended', 0, WRITE, 4096, 4096],
    ['an extended read', 'extended', 0, READ, 4096, 0],
    ['an extended read with payload', 'extended', P, READ, 4096, 4096],
    ['an extended status with payload', 'extended', P, STATUS, 12, 12],
    ['an unknown extended command with payload', 'extended', P, 77, 5, 5],
    ['a payload of 2^53', 'extended', P, WRITE, Infinity, Infinity],
    ['DISC', 'extended', P, nbd.NBD_CMD_DISC, 4096, 0],
  ]
  for (const [name, mode, flags, command, length, expected] of cases) {
    t.equal(nbd.payloadLengthOf(mode, flags, command, length), expected, name)
  }
  t.equal(nbd.lacksPayloadFlag('extended', 0, WRITE), true)
  t.equal(nbd.lacksPayloadFlag('extended', P, WRITE), false)
  t.equal(nbd.lacksPayloadFlag('structured', 0, WRITE), false)
})

t.test('a choice of contexts has 8 + 4k bytes, k from 1 to the number selected', async t => {
  for (const [length, contexts, possible] of [
    [8, 3, false],
    [11, 3, false],
    [12, 3, true],
    [14, 3, false],
    [20, 3, true],
    [24, 3, false],
    [12, 0, false],
    [Infinity, 64, false],
  ] as const) {
    t.equal(nbd.isStatusPayloadLength(length, contexts), possible, `${length} of ${contexts}`)
  }
})

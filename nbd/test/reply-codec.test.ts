// SPDX-License-Identifier: MIT
/**
 * Reply headers and chunks: what stands on the wire, byte for byte.
 */
import t, { type Test } from 'tap'
import * as nbd from '../src/index.js'

const HIGH = 0x11223344
const LOW = 0xf5667788
const scratch = new Uint8Array(4096)
const view = new DataView(scratch.buffer)

function composed(t: Test, put: (at: number) => number): string {
  scratch.fill(0xee)
  const written = put(3)
  t.equal(scratch[2], 0xee, 'nothing is written in front')
  t.equal(scratch[3 + written], 0xee, 'nothing is written behind')
  return Buffer.from(scratch.subarray(3, 3 + written)).toString('hex')
}
const hex = (text: string): string => text.replace(/\s/g, '')
const text = nbd.encodeText

t.test('every form of reply has the bytes of the protocol document', async t => {
  const cases: readonly [string, (at: number) => number, string][] = [
    [
      'simple success',
      at => nbd.putSimpleReply(view, at, 0, HIGH, LOW),
      '67446698 00000000 11223344f5667788',
    ],
    [
      'simple error',
      at => nbd.putSimpleReply(view, at, nbd.NBD_EINVAL, HIGH, LOW),
      '67446698 00000016 11223344f5667788',
    ],
    [
      'structured data header of 4096 bytes at 0',
      at => nbd.putOffsetDataHeader(view, at, 'structured', 1, HIGH, LOW, 0, 0, 4096),
      '668e33ef 0001 0001 11223344f5667788 00001008 0000000000000000',
    ],
    [
      'extended data header keeps the offset of the request beside that of the chunk',
      at =>
        nbd.putOffsetDataHeader(view, at, 'extended', 0, HIGH, LOW, 0x100000000, 0x100001000, 512),
      '6e8a278c 0000 0001 11223344f5667788 0000000100000000 0000000000000208 0000000100001000',
    ],
    [
      'structured hole chunk',
      at => nbd.putHoleChunk(view, at, 'structured', 1, HIGH, LOW, 0, 0x1fffffffffff00, 0xfffffe00),
      '668e33ef 0001 0002 11223344f5667788 0000000c 001fffffffffff00 fffffe00',
    ],
    [
      'extended hole chunk',
      at => nbd.putHoleChunk(view, at, 'extended', 0, HIGH, LOW, 16, 32, 64),
      '6e8a278c 0000 0002 11223344f5667788 0000000000000010 000000000000000c 0000000000000020 00000040',
    ],
    [
      'extended success',
      at => nbd.putSuccess(view, at, 'extended', HIGH, LOW, 7),
      '6e8a278c 0001 0000 11223344f5667788 0000000000000007 0000000000000000',
    ],
    [
      'structured success of a write is a simple reply',
      at => nbd.putSuccess(view, at, 'structured', HIGH, LOW, 7),
      '67446698 00000000 11223344f5667788',
    ],
    [
      'structured NONE',
      at => nbd.putNoneChunk(view, at, 'structured', HIGH, LOW, 7),
      '668e33ef 0001 0000 11223344f5667788 00000000',
    ],
    [
      'structured error with text',
      at =>
        nbd.putErrorChunk(view, at, 'structured', HIGH, LOW, 0, nbd.NBD_EINVAL, text('range'), -1),
      '668e33ef 0001 8001 11223344f5667788 0000000b 00000016 0005 72616e6765',
    ],
    [
      'structured error with text and offset',
      at => nbd.putErrorChunk(view, at, 'structured', HIGH, LOW, 0, nbd.NBD_EIO, text('io'), 4096),
      '668e33ef 0001 8002 11223344f5667788 00000010 00000005 0002 696f 0000000000001000',
    ],
    [
      'simple failure carries no text',
      at => nbd.putFailure(view, at, 'simple', HIGH, LOW, 0, nbd.NBD_EIO, text('io'), 4096),
      '67446698 00000005 11223344f5667788',
    ],
    [
      'extended failure at offset 0 of the export says so',
      at => nbd.putFailure(view, at, 'extended', HIGH, LOW, 512, nbd.NBD_EIO, text(''), 0),
      '6e8a278c 0001 8002 11223344f5667788 0000000000000200 000000000000000e 00000005 0000 0000000000000000',
    ],
  ]
  for (const [name, put, expected] of cases) t.equal(composed(t, put), hex(expected), name)
})

t.test('an error chunk carries at most 255 bytes of text and stays far below 1000', async t => {
  const bytes = composed(t, at =>
    nbd.putErrorChunk(view, at, 'extended', 0, 0, 0, nbd.NBD_EIO, new Uint8Array(5000), 1),
  )
  t.equal(bytes.length / 2, nbd.LONGEST_ERROR_CHUNK_BYTES)
  t.equal(bytes.slice(48, 64), '000000000000010d', 'payload of 4 + 2 + 255 + 8 bytes')
})

t.test('sizes told beforehand are the sizes written', async t => {
  for (const mode of ['simple', 'structured', 'extended'] as const) {
    if (mode !== 'simple') {
      const written = nbd.putOffsetDataHeader(view, 0, mode, 0, 0, 0, 0, 0, 1)
      t.equal(written, nbd.readHeaderBytesOf(mode), mode)
    }
  }
  t.equal(nbd.readHeaderBytesOf('simple'), nbd.SIMPLE_REPLY_BYTES)
  t.equal(nbd.readHeaderBytesOf('extended'), nbd.LONGEST_READ_HEADER_BYTES)
})

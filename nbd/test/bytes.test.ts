// SPDX-License-Identifier: MIT
/**
 * The small things below the codecs: 64-bit numbers, texts, names, the queue and the writer.
 */
import fc from 'fast-check'
import t from 'tap'
import * as nbd from '../src/index.js'

t.test('64-bit numbers keep every bit below 2^53 and become Infinity from there on', async t => {
  const view = new DataView(new ArrayBuffer(10))
  for (const [value, high, low] of [
    [0, 0, 0],
    [1, 0, 1],
    [0xffffffff, 0, 0xffffffff],
    [0x100000000, 1, 0],
    [2 ** 52 + 512, 0x100000, 512],
    [2 ** 53 - 1, 0x1fffff, 0xffffffff],
  ] as const) {
    t.equal(nbd.toNumber(high, low), value)
    t.equal(nbd.highOf(value), high)
    t.equal(nbd.lowOf(value), low)
    nbd.putUint64(view, 1, value)
    t.equal(nbd.getUint64(view, 1), value)
    t.equal(view.getUint32(1), high)
  }
  t.equal(nbd.toNumber(0x200000, 0), Infinity)
  t.equal(nbd.toNumber(0xffffffff, 0xffffffff), Infinity)
})

t.test('names decode exactly or not at all', async t => {
  t.equal(nbd.decodeText(Buffer.from('disk')), 'disk')
  t.equal(nbd.decodeText(Buffer.from('\ufeffdisk')), '\ufeffdisk', 'a byte order mark stays')
  t.equal(nbd.decodeText(Buffer.from([0x64, 0xff])), undefined)
  t.equal(nbd.decodeText(Buffer.from([0xc0, 0x80])), undefined, 'an overlong NUL')
})

t.test('texts are cut after a whole character', async t => {
  const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString()
  t.equal(text(nbd.clipText('abc', 3)), 'abc')
  t.equal(text(nbd.clipText('abcd', 3)), 'abc')
  t.equal(text(nbd.clipText('aéé', 4)), 'aé')
  t.equal(text(nbd.clipText('a😀', 4)), 'a')
  t.equal(text(nbd.clipText('abc😀', 4)), 'abc', 'not half of a surrogate pair')
  t.equal(nbd.clipText('x'.repeat(9000), 255).length, 255)
})

t.test("a peer's bytes are quoted, escaped and cut at 80", async t => {
  t.equal(nbd.quoteText('disk 1'), '"disk 1"')
  t.equal(nbd.quoteText('a"\\\n\u001b[2J'), '"a\\x22\\x5c\\x0a\\x1b[2J"')
  t.equal(nbd.quoteText(Uint8Array.of(0xff, 0x41)), '"\\xffA"')
  t.equal(nbd.quoteText('x'.repeat(5000)), `"${'x'.repeat(80)}"…`)
  t.equal(nbd.quoteText('x'.repeat(80)), `"${'x'.repeat(80)}"`)
})

t.test('numbers have the names of the protocol document', async t => {
  t.equal(nbd.optionName(7), 'NBD_OPT_GO')
  t.equal(nbd.optionName(99), 'option 99')
  t.equal(nbd.optionReplyName(0x80000006), 'NBD_REP_ERR_UNKNOWN')
  t.equal(nbd.infoName(3), 'NBD_INFO_BLOCK_SIZE')
  t.equal(nbd.commandName(6), 'NBD_CMD_WRITE_ZEROES')
  t.equal(nbd.chunkTypeName(6), 'NBD_REPLY_TYPE_BLOCK_STATUS_EXT')
  t.equal(nbd.wireErrorName(0), 'success')
  t.equal(nbd.wireErrorName(108), 'NBD_ESHUTDOWN')
  t.equal(nbd.wireErrorName(2), 'error 2')
  t.equal(nbd.commandFlagNames(0x8003), 'FUA NO_HOLE 0x8000')
  t.equal(nbd.commandFlagNames(0), 'none')
  t.equal(
    nbd.transmissionFlagNames(0x0d6d),
    'HAS_FLAGS SEND_FLUSH SEND_FUA SEND_TRIM SEND_WRITE_ZEROES CAN_MULTI_CONN SEND_CACHE SEND_FAST_ZERO',
  )
})

t.test('the queue gives back what was pushed, however it is cut', async t => {
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.uint8Array({ maxLength: 9000 }), fc.nat(9000), fc.boolean())),
        steps => {
          const queue = new nbd.ByteQueue()
          let model = Buffer.alloc(0)
          const taken: [Uint8Array, Buffer][] = []
          for (const [chunk, count, take] of steps) {
            queue.push(chunk.slice())
            model = Buffer.concat([model, chunk])
            const removed = Math.min(count, model.length)
            if (take) taken.push([queue.take(removed), model.subarray(0, removed)])
            else queue.drop(removed)
            model = model.subarray(removed)
            if (queue.length !== model.length || !model.equals(queue.peek())) return false
          }
          return taken.every(([got, expected]) => expected.equals(got))
        },
      ),
      { numRuns: 200 },
    ),
  )
})

t.test('an empty queue keeps no large buffer', async t => {
  const queue = new nbd.ByteQueue()
  for (let i = 0; i < 40; i += 1) queue.push(new Uint8Array(65536))
  queue.drop(queue.length)
  t.equal(queue.peek().buffer.byteLength, 0)
})

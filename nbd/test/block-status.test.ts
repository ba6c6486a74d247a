// SPDX-License-Identifier: MIT
/**
 * Extents to chunks: joining, limits, REQ_ONE, the client's choice of contexts; names of contexts.
 */
import fc from 'fast-check'
import t from 'tap'
import * as nbd from '../src/index.js'

type Pair = readonly [lengthBytes: number, status: number]

function listOf(
  pairs: readonly Pair[],
  mode: nbd.ReplyMode,
  length: number,
  one = false,
  maxCount?: number,
): { list: nbd.ExtentList; pairs: Pair[] } {
  const list = new nbd.ExtentList()
  list.start(mode, length, one, maxCount)
  for (const [lengthBytes, status] of pairs) if (!list.add(lengthBytes, status)) break
  return { list, pairs: list.toExtents().map(e => [e.lengthBytes, e.status]) }
}

t.test('neighbours of equal status are one extent, and the list ends with the request', async t => {
  const { pairs, list } = listOf([[10, 3], [20, 3], [5, 0], [100, 1]], 'structured', 40) // prettier-ignore
  t.same(pairs, [[30, 3], [5, 0], [5, 1]]) // prettier-ignore
  t.equal(list.done, true)
})

t.test('REQ_ONE gives exactly one extent, joined as far as it goes', async t => {
  t.same(listOf([[10, 3], [20, 3], [5, 0]], 'structured', 40, true).pairs, [[30, 3]]) // prettier-ignore
  t.same(listOf([[10, 3], [20, 3], [50, 3]], 'structured', 40, true).pairs, [[40, 3]]) // prettier-ignore
})

t.test('a compact extent stays below 2^32, a longer run goes on in the next', async t => {
  const cap = nbd.NBD_MAX_COMPACT_EXTENT_BYTES
  t.equal(cap, 2 ** 32 - 4096)
  t.same(listOf([[2 ** 32 - 1, 0]], 'structured', 2 ** 32 - 1).pairs, [[cap, 0], [4095, 0]]) // prettier-ignore
  t.same(listOf([[2 ** 32 - 1, 0]], 'structured', 2 ** 32 - 1, true).pairs, [[cap, 0]])
  t.same(listOf([[2 ** 43, 0]], 'extended', 2 ** 43).pairs, [[2 ** 43, 0]])
})

t.test('a full list stops early, but an equal neighbour still joins', async t => {
  const { pairs, list } = listOf([[1, 0], [1, 1], [1, 1], [1, 0]], 'extended', 99, false, 2) // prettier-ignore
  t.same(pairs, [[1, 0], [2, 1]]) // prettier-ignore
  t.equal(list.add(1, 1), false)
  t.equal(list.count, 2)
  const many = new nbd.ExtentList()
  many.start('extended', 2 ** 40, false)
  let status = 0
  while (many.add(4096, status)) status = 1 - status
  t.equal(many.count, nbd.NBD_MAX_EXTENT_COUNT)
})

t.test('a list is reused without traces of the request before', async t => {
  const list = new nbd.ExtentList()
  list.start('structured', 100, false)
  list.add(50, 1)
  list.add(50, 2)
  list.start('structured', 10, true)
  t.equal(list.count, 0)
  list.add(20, 7)
  t.same(list.toExtents(), [{ lengthBytes: 10, status: 7 }])
})

t.test('whatever is added, the rules of the protocol hold', async t => {
  const pair = fc.tuple(fc.integer({ min: 1, max: 2 ** 33 }), fc.integer({ min: 0, max: 2 }))
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(
        fc.array(pair, { minLength: 1 }),
        fc.integer({ min: 1, max: 2 ** 32 - 1 }),
        fc.boolean(),
        fc.constantFrom('structured', 'extended'),
        (added, length, one, mode) => {
          const { pairs } = listOf(added, mode, length, one)
          const sum = pairs.reduce((total, [size]) => total + size, 0)
          const expected = Math.min(
            length,
            added.reduce((total, [size]) => total + size, 0),
          )
          return (
            pairs.length >= 1 &&
            (one ? pairs.length === 1 && sum <= length : sum === expected) &&
            pairs.every(([size]) => size > 0 && (mode === 'extended' || size < 2 ** 32))
          )
        },
      ),
    ),
  )
})

t.test('chunks have the bytes of the protocol document in both forms', async t => {
  const scratch = Buffer.alloc(200)
  const view = nbd.viewOf(scratch)
  const { list } = listOf([[0x100000, 0], [0x1f00000, 3]], 'structured', 0x2000000) // prettier-ignore
  const put = (mode: nbd.ReplyMode): string => {
    const bytes = nbd.putBlockStatusChunk(view, 4, mode, 1, 0x11, 0xf0000022, 2 ** 32, 1, list)
    t.equal(bytes, nbd.blockStatusChunkBytes(mode, 2))
    return scratch.subarray(4, 4 + bytes).toString('hex')
  }
  const hex = (text: string): string => text.replace(/ /g, '')
  t.equal(
    put('structured'),
    hex(
      '668e33ef 0001 0005 00000011f0000022 00000014 00000001 00100000 00000000 01f00000 00000003',
    ),
  )
  t.equal(
    put('extended'),
    hex('6e8a278c 0001 0006 00000011f0000022 0000000100000000 0000000000000028 00000001 00000002') +
      hex('0000000000100000 0000000000000000 0000000001f00000 0000000000000003'),
  )
  list.start('structured', 1, false)
  t.throws(() => nbd.putBlockStatusChunk(view, 0, 'structured', 1, 0, 0, 0, 1, list), RangeError)
})

t.test('a choice of contexts names selected ones, each once', async t => {
  const selected = [
    { id: 1, name: 'base:allocation' },
    { id: 2, name: 'x-ploop:layer' },
  ]
  const decode = (hex: string): nbd.StatusChoice | undefined => {
    const bytes = Buffer.from(hex.replace(/ /g, ''), 'hex')
    return nbd.decodeStatusPayload(nbd.viewOf(bytes), 0, bytes.length, selected)
  }
  t.same(decode('0000000004000000 00000002 00000001'), {
    lengthBytes: 67108864,
    contexts: [selected[1], selected[0]],
  })
  t.equal(decode('ffffffffffffffff 00000001')?.lengthBytes, Infinity)
  t.equal(decode('0000000004000000 00000003'), undefined, 'unknown id')
  t.equal(decode('0000000004000000 00000001 00000001'), undefined, 'repeated id')
  t.equal(decode('0000000004000000'), undefined, 'no id')
  t.equal(decode('0000000004000000 00000001 00'), undefined, 'odd length')
})

t.test('queries match full names; in LIST, a trailing colon means all below it', async t => {
  const offered = [
    'base:allocation',
    'qemu:allocation-depth',
    'qemu:dirty-bitmap:b0',
    'qemu:dirty-bitmap:b1',
    'x-ploop:dirty:b0',
  ]
  const match = (option: number, ...queries: string[]): string[] => {
    const data = nbd.encodeMetaContextRequest('ploop0', queries)
    const request = nbd.parseMetaContextRequest(data)
    return request === undefined ? ['malformed'] : nbd.matchContexts(option, data, request, offered)
  }
  const list = (...queries: string[]): string[] => match(nbd.NBD_OPT_LIST_META_CONTEXT, ...queries)
  const set = (...queries: string[]): string[] => match(nbd.NBD_OPT_SET_META_CONTEXT, ...queries)
  t.same(list(), offered)
  t.same(set(), [])
  t.same(list('base:'), ['base:allocation'])
  t.same(set('base:'), [])
  t.same(list('qemu:'), offered.slice(1, 4))
  t.same(list('qemu:dirty-bitmap:'), offered.slice(2, 4))
  t.same(set('qemu:dirty-bitmap:', 'x-ploop:dirty:'), [])
  t.same(list('x-ploop:dirty:', 'x-ploop:dirty:b0', 'x-ploop:dirty:'), ['x-ploop:dirty:b0'])
  t.same(set('qemu:dirty-bitmap:b1', 'base:allocation', 'base:allocation'), [
    'base:allocation',
    'qemu:dirty-bitmap:b1',
  ])
  t.same(list('', 'nocolon', 'qemu', 'other:', 'base:Allocation', 'base:allocation2'), [])
  t.same(set('x'.repeat(5000), 'base:allocation'), ['base:allocation'], 'too long is skipped')
})

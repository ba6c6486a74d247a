// SPDX-License-Identifier: MIT
/** The pending log: what was recorded is read, whenever the writer died and whatever the bytes are. */
import fc from 'fast-check'
import t from 'tap'
import { PloopError } from '../../src/base/errors.js'
import {
  decodePendingLog,
  encodePendingHeader,
  pendingField,
  pendingHeaderBytes,
  pendingLogBytes,
  type PendingIdentity,
} from '../../src/format/pending-log.js'
import { PendingLogWriter } from '../../src/format/pending-log-writer.js'
import { fuzz } from '../support/fuzz.js'

const identity: PendingIdentity = {
  bootId: Uint8Array.from({ length: 16 }, (_, index) => 17 * index),
  device: 0xfedc_ba98_7654_3210n,
  inode: 2n ** 40n + 7n,
  version: 2,
  clusterSectors: 2048,
  clusterCount: 100,
  batClusterCount: 1,
  sizeSectors: 204_800n,
}

function newLog(capacity: number): { memory: ArrayBuffer; writer: PendingLogWriter } {
  const memory = new ArrayBuffer(pendingLogBytes(capacity))
  new Uint8Array(memory).set(encodePendingHeader(identity, capacity, 0xabcdef01_23456789n, 1234.5))
  return { memory, writer: new PendingLogWriter(memory) }
}

const decode = (memory: ArrayBuffer) => decodePendingLog(new Uint8Array(memory))
const change = (clusterIndex: number, fileCluster: number, formerFileCluster: number) => ({
  clusterIndex,
  fileCluster,
  formerFileCluster,
})

t.test('a new log is empty and knows whose it is', async t => {
  const log = decode(newLog(8).memory)
  t.same(log.identity, identity)
  t.equal(log.session, 0xabcdef01_23456789n)
  t.equal(log.aliveMs, 1234.5)
  t.same([log.publishing, log.collecting, log.isVoid, log.isCutShort], [[], [], false, false])
})

t.test('changes belong to the round in which they were recorded', async t => {
  const { memory, writer } = newLog(8)
  t.equal(writer.record(3, 10, 0), true)
  t.equal(writer.record(99, 0, 11), true)
  t.same(decode(memory).collecting, [change(3, 10, 0), change(99, 0, 11)])
  writer.roundStarted()
  writer.record(4, 12, 0)
  t.same(decode(memory).publishing, [change(3, 10, 0), change(99, 0, 11)])
  t.same(decode(memory).collecting, [change(4, 12, 0)])
  writer.roundEnded()
  t.same(decode(memory).publishing, [])
  t.same(decode(memory).collecting, [change(4, 12, 0)])
  for (let round = 0; round < 5; round++) {
    writer.roundStarted()
    t.same(decode(memory).publishing.length, 1)
    writer.record(round, 20 + round, 0)
    writer.roundEnded()
    t.same(decode(memory).collecting, [change(round, 20 + round, 0)], 'nothing of an earlier round')
  }
  writer.stillAlive()
  t.ok(Math.abs(decode(memory).aliveMs - Date.now()) < 60_000)
  writer.roundFailed()
  t.equal(decode(memory).isVoid, true)
})

t.test('what finds no room is refused, and the log says so while its round runs', async t => {
  const { memory, writer } = newLog(3)
  t.equal(writer.isFilling, false)
  for (let at = 0; at < 3; at++) t.equal(writer.record(at, 10 + at, 0), true)
  t.equal(writer.isFilling, true)
  t.equal(writer.record(3, 13, 0), false)
  t.equal(decode(memory).isCutShort, false, 'no entry on disk has changed yet')
  writer.roundStarted()
  t.equal(decode(memory).isCutShort, true)
  t.equal(writer.record(4, 14, 0), true)
  writer.roundEnded()
  t.equal(decode(memory).isCutShort, false)
  t.same(decode(memory).collecting, [change(4, 14, 0)])
})

t.test('serial numbers start over', async t => {
  const { memory } = newLog(2)
  const words = new Uint32Array(memory)
  words[pendingField.serial] = 0xffffffff
  words[pendingField.serial + 1] = 1
  t.doesNotThrow(() => decode(memory))
  words[pendingField.serial] = 0xfffffffe
  t.throws(() => decode(memory), { code: 'PENDING_INVALID' })
  words[pendingField.serial] = words[pendingField.serial + 1] = 0
  t.throws(() => decode(memory), { code: 'PENDING_INVALID' })
})

t.test('a record that death cut short is none, and nothing is read behind it', async t => {
  const words = (memory: ArrayBuffer) => new Uint32Array(memory)
  for (let stored = 0; stored < 4; stored++) {
    const { memory, writer } = newLog(4)
    writer.record(1, 10, 0)
    writer.record(2, 11, 0)
    const at = pendingHeaderBytes / 4 + 4
    words(memory).fill(0, at + stored, at + 4)
    t.same(decode(memory).collecting, [change(1, 10, 0)])
    writer.record(3, 12, 0)
    t.throws(() => decode(memory), /record 2 follows a damaged one/, 'which is not death')
  }
})

t.test('a log with impossible content is refused', async t => {
  for (const [clusterIndex, fileCluster, former] of [
    [100, 10, 0],
    [0xffffffff, 0, 10],
  ] as const) {
    const { memory, writer } = newLog(4)
    writer.record(clusterIndex, fileCluster, former)
    t.throws(() => decode(memory), /names no cluster/)
  }
  for (const word of [0, 2, 3, 5, 9, 12, 19, 20]) {
    const { memory } = newLog(4)
    const words = new Uint32Array(memory)
    words[word] = (words[word] ?? 0) + 1
    t.throws(() => decode(memory), { code: 'PENDING_INVALID', exitStatus: 11 }, `word ${word}`)
  }
  const { memory } = newLog(4)
  new Float64Array(memory)[pendingField.alive / 2] = NaN
  t.throws(() => decode(memory), /its time is no time/)
  for (const length of [0, 100, 4096, pendingLogBytes(4) - 1]) {
    t.throws(() => decodePendingLog(new Uint8Array(newLog(4).memory, 0, length)), PloopError)
  }
})

t.test('any bytes give a sound log or a PloopError', async t => {
  await fuzz('pending-log', fc.uint8Array({ maxLength: 5000 }), bytes => {
    try {
      const { collecting, publishing, identity: found } = decodePendingLog(bytes)
      for (const { clusterIndex } of [...collecting, ...publishing]) {
        if (clusterIndex >= found.clusterCount) throw new Error('beyond the disk')
      }
    } catch (error) {
      if (!(error instanceof PloopError)) throw error
    }
  })
  t.pass()
})

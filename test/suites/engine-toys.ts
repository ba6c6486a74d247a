// SPDX-License-Identifier: MIT
/** Toy traffic of the engine tests: frames that are echoed, and more bytes than a socket takes. */
import { STALL, control, op, type EngineFixture } from './engine-fixture.js'

/** Answers each frame (u32 length, that many bytes) with itself; stalls without a slot. */
export function echo(f: EngineFixture): void {
  f.onReceive = row => {
    while (row.bytes.length - row.consumed >= 4) {
      const start = row.consumed + 4
      const end =
        start + new DataView(row.bytes.buffer, row.bytes.byteOffset).getUint32(row.consumed, true)
      if (end > row.bytes.length) return
      if (f.control(control.free4k) === 0 || f.control(control.freeHeaders) === 0) {
        row.limit = STALL
        return
      }
      f.put({
        op: op.send,
        connection: row.connection,
        ...f.header(row.bytes.subarray(row.consumed, start)),
        ...f.payload(row.bytes.subarray(start, end)),
      })
      row.consumed = end
    }
  }
}

export function frame(id: number, length: number): Buffer {
  const bytes = Buffer.alloc(4 + length, id & 0xff)
  bytes.writeUInt32LE(length)
  return bytes
}

export function frames(count: number): Buffer {
  return Buffer.concat(Array.from({ length: count }, (_, i) => frame(i, (i * 37) % 4000)))
}

/** Queues `count` pieces of a job buffer: nothing that a slot could run out of. */
export function sendJob(f: EngineFixture, connection: number, count: number): void {
  for (let i = 0; i < count; i++)
    f.put({ op: op.send, connection, memory: f.job(0), length: 1048576 })
}

// SPDX-License-Identifier: MIT
/** Partition tables: layout, resizing, refusals; sgdisk and parted are the judges. */
import { execFileSync } from 'node:child_process'
import { closeSync, ftruncateSync, openSync, readFileSync, truncateSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import {
  createGpt,
  decodeGpt,
  type DiskPiece,
  gptReadBytes,
  newPartition,
  resizedLastLba,
  resizeGpt,
} from '../../src/format/gpt.js'
import { findProgram } from '../../src/host/run.js'
import { requires } from '../support/requires.js'

const diskGuid = '01020304-0506-0708-090a-0b0c0d0e0f10'
const partitionGuid = '11121314-1516-1718-191a-1b1c1d1e1f20'

function newDisk(sizeSectors: number, clusterSectors = 2048): Uint8Array {
  const disk = new Uint8Array(gptReadBytes())
  const pieces = createGpt({ sizeSectors, clusterSectors, diskGuid, partitionGuid })
  const primary = pieces.find(piece => piece.offsetBytes === 0)
  disk.set(primary?.bytes ?? [])
  return disk
}

function writePieces(path: string, pieces: readonly DiskPiece[]): void {
  const file = openSync(path, 'r+')
  for (const { offsetBytes, bytes } of pieces) writeSync(file, bytes, 0, bytes.length, offsetBytes)
  closeSync(file)
}

t.test('the partition of a new disk spans all clusters but the first and the last', async t => {
  t.same(newPartition(20_971_520, 2048), { firstLba: 2048, lastLba: 20_969_471 })
  t.same(newPartition(193, 64), { firstLba: 64, lastLba: 127 })
  t.throws(() => newPartition(4096, 2048), {
    message: 'Image size should be greater than 2048',
    exitStatus: 38,
  })
  t.match(decodeGpt(newDisk(20_971_520)), {
    diskGuid,
    firstUsableLba: 34,
    lastUsableLba: 20_971_520 - 34,
    alternateLba: 20_971_519,
    partitions: [
      {
        number: 1,
        typeGuid: '0fc63daf-8483-4772-8e79-3d69d8477de4',
        uniqueGuid: partitionGuid,
        firstLba: 2048,
        lastLba: 20_969_471,
        name: 'primary',
      },
    ],
  })
  t.equal(decodeGpt(new Uint8Array(gptReadBytes())), undefined, 'no table')
  t.same(
    resizeGpt(new Uint8Array(gptReadBytes()), { targetSectors: 4096, clusterSectors: 64 }),
    [],
    'nothing to do without a table',
  )
})

t.test('GUIDs are stored with three little-endian groups', async t => {
  const hex = Buffer.from(newDisk(20_480).subarray(512 + 56, 512 + 72)).toString('hex')
  t.equal(hex, '0403020106050807090a0b0c0d0e0f10')
})

t.test('resizing moves the end of partition 1', async t => {
  t.equal(resizedLastLba(41_943_040, 2048), 41_940_991)
  const disk = newDisk(20_971_520)
  const [backup, primary] = resizeGpt(disk, { targetSectors: 41_943_040, clusterSectors: 2048 })
  t.equal(backup?.offsetBytes, (41_943_040 - 33) * 512, 'the backup is written first')
  const grown = decodeGpt(primary?.bytes ?? new Uint8Array())
  t.equal(grown?.partitions[0]?.lastLba, 41_940_991)
  t.equal(grown?.alternateLba, 41_943_039)
})

t.test('image contains a damaged table: refused with status 38', async t => {
  const options = { targetSectors: 40_960, clusterSectors: 2048 }
  const broken = (change: (disk: Uint8Array) => void) => {
    const disk = newDisk(20_480)
    change(disk)
    return disk
  }
  const cases: [string, Uint8Array, RegExp][] = [
    ['header', broken(disk => void (disk[512 + 40] = 1)), /checksum of its header/],
    ['entries', broken(disk => void (disk[1024 + 200] = 1)), /checksum of its entries/],
    ['header size', broken(disk => void (disk[512 + 13] = 0xff)), /header claims/],
    ['short', newDisk(20_480).subarray(0, 2000), /ends within it/],
  ]
  for (const [name, disk, message] of cases) {
    t.throws(() => resizeGpt(disk, options), { message, exitStatus: 38 }, name)
  }
  t.throws(() => resizeGpt(newDisk(20_480), { ...options, targetSectors: 4100 }), {
    message: /too small/,
  })
})

t.test(
  'sgdisk and parted accept new, grown and shrunk tables',
  { skip: requires('sgdisk', 'parted') },
  async t => {
    const path = join(t.testdir({ disk: '' }), 'disk')
    const sgdisk = findProgram('sgdisk') ?? ''
    const judge = (size: number, lastLba: number) => {
      t.match(execFileSync(sgdisk, ['-v', path]).toString(), /No problems found/, `${size}`)
      const parted = findProgram('parted') ?? ''
      const printed = execFileSync(parted, ['-sm', path, 'unit', 's', 'print']).toString()
      t.match(printed, new RegExp(`^1:\\d+s:${lastLba}s:`, 'm'), `parted sees ${lastLba}`)
      t.match(printed, ':primary:')
    }
    for (const [size, clusterSectors] of [
      [20_480, 2048],
      [204_800, 64],
      [1_001_472, 2048],
    ] as const) {
      truncateSync(path, 0)
      truncateSync(path, size * 512)
      writePieces(path, createGpt({ sizeSectors: size, clusterSectors, diskGuid, partitionGuid }))
      judge(size, newPartition(size, clusterSectors).lastLba)
      for (const targetSectors of [2 * size, size / 2]) {
        truncateSync(path, targetSectors * 512)
        const disk = readFileSync(path).subarray(0, gptReadBytes())
        writePieces(path, resizeGpt(disk, { targetSectors, clusterSectors }))
        judge(targetSectors, resizedLastLba(targetSectors, clusterSectors))
      }
    }
  },
)

t.test(
  'a table in the way of a partition that sgdisk made is left alone',
  { skip: requires('sgdisk') },
  async t => {
    const path = join(t.testdir({ disk: '' }), 'disk')
    const file = openSync(path, 'r+')
    ftruncateSync(file, 40_960 * 512)
    closeSync(file)
    execFileSync(findProgram('sgdisk') ?? '', ['-n1:2048:4095', '-n2:8192:12287', path])
    const disk = readFileSync(path).subarray(0, gptReadBytes())
    t.equal(decodeGpt(disk)?.partitions.length, 2)
    t.throws(() => resizeGpt(disk, { targetSectors: 81_920, clusterSectors: 2048 }), {
      message: /partition 2 is in the way \(8192 … 12287\)/,
      exitStatus: 38,
    })
  },
)

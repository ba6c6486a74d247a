// SPDX-License-Identifier: MIT
/**
 * What is measured, against whom, and how far we mean to be.
 *
 * A competitor is the name of a server (servers.mjs) or `raw`, the bare file through io_uring; with
 * `@KIND` it serves that image instead of the row's own. `ploop` is our ring engine, `threads` our
 * other one. Goals: at least so much of the peer's throughput, at most so much of its CPU per
 * operation. A comparison without goals is for information.
 */
const kib = 1024
const mib = 1024 * kib

/** Rows of small buffered writes stay inside a region that is quick to bring into a known state. */
const smallRegion = { regionBytes: 128 * mib }

const vs = (peer, throughput, cpu) => ({ subject: 'ploop', peer, goals: { throughput, cpu } })
const fully = comparison => ({ ...comparison, inShort: false })
const enginesFrom32 = fully({ subject: 'threads', peer: 'ploop', goals: { throughput: 0.9 } })
const engines = fully({ subject: 'threads', peer: 'ploop', goals: {} })

/**
 * `serves`: 'reading' one server for all turns; 'writing' one for each turn, since two cannot have
 * one image open for writing; 'fresh' also a new image for each turn, of which `preloadShare` is
 * used up before counting begins.
 */
export const scenarios = [
  {
    name: 'randread-4k-qd1',
    title: '4 KiB random read QD1',
    inShort: true,
    serves: 'reading',
    image: 'full',
    load: { rw: 'randread', qd: 1 },
    page: [vs('qemu', 1.2, 0.65), engines],
    direct: [vs('qemu', 1.0, 0.6), vs('raw', 0.68), engines],
  },
  {
    name: 'randread-4k-qd32',
    title: '4 KiB random read QD32',
    inShort: true,
    serves: 'reading',
    image: 'full',
    load: { rw: 'randread', qd: 32 },
    page: [vs('qemu', 5, 0.2), enginesFrom32],
    direct: [vs('qemu', 1.5, 0.35), vs('raw', 0.75), enginesFrom32],
  },
  {
    name: 'randread-4k-qd128',
    title: '4 KiB random read QD128',
    inShort: false,
    serves: 'reading',
    image: 'full',
    load: { rw: 'randread', qd: 128 },
    page: [vs('qemu', 5, 0.25), enginesFrom32],
    direct: [vs('qemu', 2, 0.25), vs('raw', 0.9), enginesFrom32],
  },
  {
    name: 'randread-4k-4xqd32',
    title: '4 KiB random read 4 × QD32',
    inShort: false,
    serves: 'reading',
    image: 'full',
    load: { rw: 'randread', qd: 32, connections: 4 },
    page: [vs('qemu', 4), enginesFrom32],
    direct: [vs('qemu', 1.8), enginesFrom32],
  },
  {
    name: 'randwrite-4k-qd32',
    title: '4 KiB random write QD32',
    inShort: true,
    serves: 'writing',
    image: 'full',
    warm: 'small writes',
    load: { rw: 'randwrite', qd: 32, ...smallRegion },
    page: [vs('qemu', 4, 0.3), enginesFrom32],
    direct: [vs('qemu', 1.1, 0.35), enginesFrom32],
  },
  {
    name: 'randwrite-4k-qd1',
    title: '4 KiB random write QD1',
    inShort: false,
    serves: 'writing',
    image: 'full',
    warm: 'small writes',
    load: { rw: 'randwrite', qd: 1, ...smallRegion },
    page: [vs('qemu')],
    direct: [vs('qemu')],
  },
  {
    name: 'randwrite-4k-qd32-large-folios',
    title: '4 KiB random write QD32, large folios',
    inShort: false,
    serves: 'writing',
    image: 'full',
    warm: 'large reads',
    load: { rw: 'randwrite', qd: 32 },
    page: [vs('qemu')],
    direct: [],
  },
  {
    name: 'mixed-4k-qd32',
    title: '4 KiB random 70/30 QD32',
    inShort: false,
    serves: 'writing',
    image: 'full',
    warm: 'small writes',
    load: { rw: 'mixed', qd: 32, ...smallRegion },
    page: [vs('qemu'), enginesFrom32],
    direct: [vs('qemu'), enginesFrom32],
  },
  {
    name: 'randread-64k-qd16',
    title: '64 KiB random read QD16',
    inShort: false,
    serves: 'reading',
    image: 'full',
    load: { rw: 'randread', bs: 64 * kib, qd: 16 },
    page: [vs('qemu', 1.4), engines],
    direct: [vs('qemu', 1.5), vs('raw'), engines],
  },
  {
    name: 'read-1m-qd8',
    title: '1 MiB sequential read QD8',
    inShort: true,
    serves: 'reading',
    image: 'full',
    load: { rw: 'read', bs: mib, qd: 8 },
    page: [vs('qemu', 2), vs('nbdkit', 1), engines],
    direct: [vs('qemu', 1.4), vs('raw', 1), engines],
  },
  {
    name: 'write-1m-qd8',
    title: '1 MiB sequential write QD8',
    inShort: false,
    serves: 'writing',
    image: 'full',
    warm: 'large reads',
    load: { rw: 'write', bs: mib, qd: 8 },
    page: [vs('qemu', 2)],
    direct: [vs('qemu', 1.3), vs('raw', 1)],
  },
  {
    name: 'write-flush-qd1',
    title: '4 KiB write + flush QD1',
    inShort: true,
    serves: 'writing',
    image: 'full',
    warm: 'small writes',
    load: { rw: 'randwrite', qd: 1, flushEvery: 1, ...smallRegion },
    page: [vs('qemu', 1)],
    direct: [vs('qemu', 1)],
  },
  {
    name: 'write-flush-16',
    title: '4 KiB write + flush, 16 clients',
    inShort: false,
    serves: 'writing',
    image: 'full',
    warm: 'small writes',
    load: { rw: 'randwrite', qd: 1, flushEvery: 1, connections: 16, ...smallRegion },
    page: [vs('qemu')],
    direct: [vs('qemu')],
  },
  {
    name: 'allocate-4k-qd32',
    title: 'allocating 4 KiB writes QD32',
    inShort: true,
    serves: 'fresh',
    image: 'empty:8192',
    preloadShare: 0.5,
    load: { rw: 'allocwrite', qd: 32, countsAll: true },
    page: [vs('qemu', 3)],
    direct: [vs('qemu', 1.2)],
  },
  {
    name: 'allocate-flush-qd1',
    title: 'allocate 4 KiB + flush QD1',
    inShort: false,
    serves: 'fresh',
    image: 'empty:8192',
    preloadShare: 0.5,
    load: { rw: 'allocwrite', qd: 1, flushEvery: 1, countsAll: true },
    page: [vs('qemu', 1)],
    direct: [vs('qemu', 0.9)],
  },
  {
    name: 'copy-on-write-4k-qd16',
    title: '4 KiB copy-on-write QD16',
    inShort: true,
    serves: 'fresh',
    image: 'overlay',
    preloadShare: 0.25,
    load: { rw: 'allocwrite', qd: 16, countsAll: true },
    page: [vs('qemu', 1.5)],
    direct: [vs('qemu', 1.5)],
  },
  {
    name: 'copy-on-write-4k-reflink',
    title: '4 KiB copy-on-write QD16, XFS reflink',
    inShort: false,
    serves: 'fresh',
    needsReflink: true,
    image: 'overlay',
    preloadShare: 0.25,
    load: { rw: 'allocwrite', qd: 16, countsAll: true },
    page: [vs('qemu', 5)],
    direct: [vs('qemu', 5)],
  },
  {
    name: 'chain-4-randread-qd32',
    title: 'chain of 4, 4 KiB random read QD32',
    inShort: true,
    serves: 'reading',
    image: 'chain:4',
    load: { rw: 'randread', qd: 32 },
    page: [vs('qemu', 6), enginesFrom32],
    direct: [vs('qemu', 1.5), enginesFrom32],
  },
  ...[8, 64, 126].map(depth => ({
    name: `chain-${depth}-randread-qd32`,
    title: `chain of ${depth}, 4 KiB random read QD32`,
    inShort: false,
    serves: 'reading',
    image: `chain:${depth}`,
    load: { rw: 'randread', qd: 32 },
    page: [vs('ploop@full', depth === 126 ? 0.95 : undefined)],
    direct: [vs('ploop@full', depth === 126 ? 0.95 : undefined)],
  })),
  {
    name: 'write-zeroes',
    title: 'WRITE_ZEROES of a whole disk',
    inShort: false,
    serves: 'fresh',
    image: 'wipe',
    load: { rw: 'zeroes', bs: 16 * mib, qd: 4, once: true, countsAll: true },
    page: [vs('qemu')],
    direct: [vs('qemu')],
  },
  {
    name: 'trim',
    title: 'TRIM of a whole disk',
    inShort: false,
    serves: 'fresh',
    image: 'wipe',
    load: { rw: 'trim', bs: 16 * mib, qd: 4, once: true, countsAll: true },
    page: [vs('qemu')],
    direct: [vs('qemu')],
  },
  ...[
    ['10 GiB', 10 * 1024],
    ['1 TiB', 1024 * 1024],
    ['16 TiB', 16 * 1024 * 1024],
  ].map(([size, sizeMiB]) => ({
    name: `open-${size.replace(' ', '-').toLowerCase()}`,
    title: `start to first read, ${size}`,
    inShort: false,
    serves: 'opening',
    image: `empty:${sizeMiB}`,
    load: { rw: 'randread', qd: 1, count: 1, countsAll: true },
    page: [vs('qemu')],
    direct: [vs('qemu')],
  })),
]

/** @returns the rows to measure: one for each scenario and cache mode that has comparisons */
export function chooseCells({ mode, only, cache }) {
  const isChosen = ({ name, inShort }) =>
    only.length > 0 ? only.some(word => name.includes(word)) : mode === 'full' || inShort
  return scenarios.filter(isChosen).flatMap(scenario =>
    ['page', 'direct']
      .filter(each => cache === undefined || each === cache)
      .map(each => ({
        scenario,
        cache: each,
        comparisons: scenario[each].filter(({ inShort }) => mode === 'full' || inShort !== false),
      }))
      .filter(({ comparisons }) => comparisons.length > 0),
  )
}

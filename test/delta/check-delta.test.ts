// SPDX-License-Identifier: MIT
/** Verdicts and repairs of the check, fault by fault. */
import t from 'tap'
import { checkDelta, type CheckOptions, type CheckResult } from '../../src/delta/check-delta.js'
import { ClusterSet } from '../../src/delta/cluster-set.js'
import { DeltaFile } from '../../src/delta/delta-file.js'
import { dirtyBitmapMagic, encodeDirtyBitmap, encodeExtension } from '../../src/format/extension.js'
import { caseBytes, caseClusterBytes, checkCases } from '../support/check-cases.js'
import { SimFiles } from '../simulation/sim-files.js'
import { Storage } from '../simulation/storage.js'

const path = '/disk.hds'

async function filesWith(bytes: Uint8Array): Promise<SimFiles> {
  const files = new SimFiles(new Storage(1))
  const handle = await files.open(path, 'create')
  await handle.write(bytes, 0)
  await handle.close()
  return files
}

async function contentOf(files: SimFiles): Promise<Uint8Array> {
  const handle = await files.open(path, 'read')
  const bytes = new Uint8Array((await handle.stat()).sizeBytes)
  await handle.read(bytes, 0)
  await handle.close()
  return bytes
}

async function checked(
  name: string,
  options: CheckOptions,
): Promise<{ result: CheckResult; texts: string[]; before: Uint8Array; after: Uint8Array }> {
  const which = checkCases[name]
  if (which === undefined) throw new Error(`no case ${name}`)
  const before = caseBytes(which)
  const files = await filesWith(before)
  const result = await checkDelta(files, path, options)
  files.restart()
  const texts = result.messages.map(message => message.text)
  return { result, texts, before, after: await contentOf(files) }
}

const detailed = { force: true, detailed: true }
const hard = { hardForce: true, detailed: true }
const beyond = 'Data cluster (12) beyond block device size...'
const fatal = `Fatal errors were found, image ${path} is not repaired`

// case, options, exit status, messages
const verdicts: [string, CheckOptions, number, string[]][] = [
  ['sound', {}, 0, ['Image is clean, check is skipped']],
  ['sound', { silent: true }, 0, []],
  ['sound', detailed, 0, []],
  ['version 1', detailed, 0, []],
  ['not closed', {}, 37, ['Dirty flag is set']],
  ['not closed', { dropInUse: true }, 0, ['Dirty flag is set']],
  ['not closed', { keepInUse: true }, 0, []],
  [
    'not closed',
    { dropInUse: true, readOnly: true },
    7,
    ['Dirty flag is set', 'Image is clean but unable to fix the header on ro image'],
  ],
  ['leak', detailed, 0, ['Hole at block 3']],
  ['leak', { force: true }, 0, []],
  ['tail', { force: true }, 0, ['Trimming tail']],
  ['tail', { force: true, readOnly: true }, 0, ['Want to trim tail']],
  ['tail', { force: true, keepTail: true }, 0, []],
  ['partial tail', detailed, 0, ['Trimming tail']],
  ['slot beyond the disk', detailed, 0, [`${beyond} Fixed`]],
  ['slot beyond the disk', { force: true, readOnly: true }, 11, [`${beyond} Skipped`]],
  ['crooked slot', { force: true }, 11, ['L2 slot (1) corrupted... FATAL', fatal]],
  ['crooked slot', { hardForce: true }, 0, ['L2 slot (1) corrupted... Fixed']],
  ['beyond the file', { force: true }, 11, ['Data cluster 9 beyond EOF, vsec=3... FATAL', fatal]],
  [
    'beyond the file',
    { hardForce: true },
    0,
    ['Data cluster 9 beyond EOF, vsec=3... Fixed', 'Trimming tail'],
  ],
  ['used twice', detailed, 11, ['Block 3 is used more than once, vsec=3... FATAL', fatal]],
  ['used twice', hard, 0, ['Block 3 is used more than once, vsec=3... Ignored', 'Trimming tail']],
  [
    'used twice',
    { ...hard, readOnly: true },
    11,
    ['Block 3 is used more than once, vsec=3... FATAL', fatal],
  ],
  ['used twice', { force: true }, 0, ['Trimming tail']],
  ['wrong flag', { force: true }, 0, ['CIF_Empty flag is incorrect']],
  [
    'wrong flag',
    { force: true, readOnly: true },
    7,
    ['CIF_Empty flag is incorrect', 'Image is clean but unable to fix the header on ro image'],
  ],
  ['version conversion', {}, 17, [`Image ${path} is in the changing version state`]],
  ['cut short', { force: true }, 11, ['Data cluster 5 beyond EOF, vsec=4... FATAL', fatal]],
  ['cut short', hard, 0, ['Data cluster 5 is cut short... Filled with 32668 zero bytes']],
]

t.test('verdicts', async t => {
  for (const [name, options, exitStatus, texts] of verdicts) {
    const found = await checked(name, options)
    const title = `${name} with ${JSON.stringify(options)}`
    t.equal(found.result.exitStatus, exitStatus, title)
    t.same(found.texts, texts, title)
    if (options.readOnly === true) t.same(found.after, found.before, `${title} writes nothing`)
  }
})

t.test('repairs are durable and change no more than they say', async t => {
  const slot = async (name: string, index: number) => {
    const { before, after } = await checked(name, hard)
    t.same([...after.subarray(64 + 4 * index, 68 + 4 * index)], [0, 0, 0, 0], `${name}: slot is 0`)
    after.set(before.subarray(64 + 4 * index, 68 + 4 * index), 64 + 4 * index)
    t.same(after, before.subarray(0, after.length), `${name}: all else stays`)
  }
  await slot('slot beyond the disk', 12)
  await slot('crooked slot', 1)
  const dropped = await checked('not closed', { dropInUse: true })
  t.same([...dropped.after.subarray(44, 48)], [0, 0, 0, 0], 'the mark is gone')
  const kept = await checked('not closed', { keepInUse: true })
  t.same(kept.after, kept.before, 'the mark is kept')
  const filled = await checked('cut short', hard)
  t.equal(filled.after.length, 6 * caseClusterBytes)
  t.ok(filled.after.subarray(5 * caseClusterBytes).every((byte, at) => byte === (at < 100 ? 1 : 0)))
  const trimmed = await checked('tail', { force: true })
  t.equal(trimmed.after.length, 3 * caseClusterBytes)
})

t.test('what cannot be opened is a finding too', async t => {
  const cases: [string, Uint8Array, number, RegExp][] = [
    ['short', new Uint8Array(10), 6, /Short read PVD header/],
    ['signature', new Uint8Array(4096), 11, /Wrong signature/],
    ['table cut off', caseBytes({ slots: {} }).subarray(0, 4096), 6, /Short read index table/],
  ]
  for (const [name, bytes, exitStatus, message] of cases) {
    const result = await checkDelta(await filesWith(bytes), path, { force: true })
    t.equal(result.exitStatus, exitStatus, name)
    t.match(result.messages.at(-1)?.text, message, name)
  }
  const none = await checkDelta(new SimFiles(new Storage(1)), path)
  t.equal(none.exitStatus, 4, 'no such file')
})

t.test('an image that somebody else has open for writing is refused with 37', async t => {
  const files = await filesWith(caseBytes({ slots: {} }))
  const server = await DeltaFile.open(files, path, { writable: true })
  for (const readOnly of [false, true]) {
    const result = await checkDelta(files, path, { readOnly, force: true })
    t.equal(result.exitStatus, 37)
  }
  await server.close()
})

t.test('clusters of a format extension count as used', async t => {
  const bitmap = {
    sizeSectors: 640,
    id: '01234567-89ab-cdef-0123-456789abcdef',
    granularitySectors: 128,
    tableSectors: [64 * 3],
  }
  const data = encodeDirtyBitmap(bitmap)
  const bytes = caseBytes({ slots: { 0: 1, 1: 2 } })
  const view = new DataView(bytes.buffer)
  view.setUint32(44, 0x312e3276, true)
  view.setUint32(56, 64 * 4, true)
  const extension = encodeExtension(
    [{ magic: dirtyBitmapMagic, flags: 0n, data }],
    caseClusterBytes,
  )
  bytes.set(extension, 4 * caseClusterBytes)
  const files = await filesWith(bytes)
  const result = await checkDelta(files, path, detailed)
  t.same(result.messages, [])
  t.same(await contentOf(files), bytes, 'nothing is cut off')

  bytes[4 * caseClusterBytes + 9] = 0xff
  const broken = await filesWith(bytes)
  const second = await checkDelta(broken, path, detailed)
  t.match(second.messages[0]?.text, /invalid format extension: wrong checksum/)
  t.equal(second.messages[1]?.text, 'Trimming tail')
  t.same([...(await contentOf(broken)).subarray(44, 48)], [0, 0, 0, 0], 'the extension is dropped')
})

t.test('holes of the file', async t => {
  const bytes = caseBytes({ slots: { 0: 1 }, dataClusters: 1 })
  const holed = async () => {
    const files = await filesWith(bytes)
    const handle = await files.open(path, 'read-write')
    await handle.truncate(2 * caseClusterBytes - 100)
    await handle.truncate(caseClusterBytes)
    await handle.truncate(2 * caseClusterBytes)
    await handle.close()
    return files
  }
  t.equal((await checkDelta(await holed(), path)).exitStatus, 0, 'are fine')
  const refused = await checkDelta(await holed(), path, { sparse: 'refuse' })
  t.equal(refused.exitStatus, 11)
  t.equal(refused.messages.at(-1)?.text, `Error: ploop image '${path}' is sparse`)
  const readOnly = await checkDelta(await holed(), path, { sparse: 'fill', readOnly: true })
  t.equal(readOnly.exitStatus, 11, 'nothing is written read-only')
  const files = await holed()
  const filled = await checkDelta(files, path, { sparse: 'fill' })
  t.equal(filled.exitStatus, 0)
  t.equal(filled.messages.at(-1)?.text, 'Filling hole at start=32768 len=32768')
  t.equal((await checkDelta(files, path, { sparse: 'refuse' })).exitStatus, 0, 'none is left')
  const raw = await checkDelta(files, path, { rawClusterSectors: 64, sparse: 'refuse' })
  t.equal(raw.exitStatus, 0, 'a raw image gets this test only')
})

t.test('messages are bounded', async t => {
  const slots = Object.fromEntries(Array.from({ length: 5000 }, (_, at) => [at + 10, 1]))
  let heard = 0
  const result = await checkDelta(await filesWith(caseBytes({ slots })), path, {
    force: true,
    readOnly: true,
    onMessage: () => heard++,
  })
  t.equal(result.messages.length, 1000)
  t.equal(heard, result.messages.length + result.omittedCount)
})

t.test('a set of clusters', async t => {
  const set = new ClusterSet()
  t.same([...set.missing(1)], [])
  t.equal(set.highest, -1)
  for (const cluster of [1, 2, 5, 40, 100_000, 4_294_967_294]) {
    t.ok(set.add(cluster), `${cluster} is new`)
    t.notOk(set.add(cluster), `${cluster} is known`)
    t.ok(set.has(cluster))
  }
  t.notOk(set.has(3))
  t.equal(set.count, 6)
  t.same(
    [...set.missing(1)],
    [
      { start: 3, end: 4 },
      { start: 6, end: 39 },
      { start: 41, end: 99_999 },
      { start: 100_001, end: 4_294_967_293 },
    ],
  )
})

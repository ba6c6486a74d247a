// SPDX-License-Identifier: MIT
/**
 * Headers, tables, descriptors and verdicts against other programs that know the format.
 *
 * What they write must be equal to the byte where it is determined (GUIDs are not); what we write
 * they must accept; of the same damaged image they and we must say the same.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import t from 'tap'
import { topGuid } from '../../src/base/guid.js'
import { checkDelta, type CheckOptions } from '../../src/delta/check-delta.js'
import { createDelta } from '../../src/delta/create-delta.js'
import { Descriptor } from '../../src/format/descriptor.js'
import { decodeHeader, encodeHeader, newHeader } from '../../src/format/header.js'
import { nodeFiles } from '../../src/io/node-files.js'
import { caseBytes, checkCases } from '../support/check-cases.js'
import { genuineCheck, genuinePloop, requiresGenuinePloop } from '../support/genuine-ploop.js'
import { runJudge, runProgram } from '../support/programs.js'
import { requires } from '../support/requires.js'
import { imageFolder } from '../support/temp-dir.js'

const sizes: [sectors: number, cluster: number][] = [
  [20_480, 2048],
  [204_800, 64],
  [524_288, 64],
  [1_001_472, 2048],
  [2_147_483_648, 2048],
  [131_072 * 3, 131_072],
]

t.test('new images are those of qemu-img', { skip: requires('qemu-img') }, async t => {
  const folder = imageFolder(t)
  for (const [sizeSectors, clusterSectors] of sizes) {
    const theirs = join(folder, `qemu-${sizeSectors}`)
    const ours = join(folder, `ours-${sizeSectors}`)
    const clusterOption = `cluster_size=${clusterSectors * 512}`
    const size = String(sizeSectors * 512)
    await runJudge('qemu-img', ['create', '-qfparallels', '-o', clusterOption, theirs, size])
    await createDelta(nodeFiles, ours, {
      version: 2,
      clusterSectors,
      sizeSectors,
      mode: 'expanded',
    })
    const [left, right] = [readFileSync(ours), readFileSync(theirs)]
    t.equal(left[52], 1, 'ours says that it is empty')
    // theirs leaves the flag 0, and counts heads and cylinders in its own way
    for (const image of [left, right]) image.fill(0, 52, 56)
    for (const image of [left, right]) image.fill(0, 20, 28)
    t.ok(left.equals(right), `${sizeSectors} sectors at ${clusterSectors}`)
    // of an empty image with a long table it finds fault with its own work too
    const verdict = (image: string) => runProgram('qemu-img', ['check', '-fparallels', image])
    t.equal((await verdict(ours)).status, (await verdict(theirs)).status)
    const info: unknown = JSON.parse(
      await runJudge('qemu-img', ['info', '--output=json', '-f', 'parallels', ours]),
    )
    t.match(info, { 'virtual-size': sizeSectors * 512 })
  }
})

t.test('preallocated images map cluster after cluster', { skip: requires('qemu-img') }, async t => {
  for (const version of [1, 2] as const) {
    const image = join(imageFolder(t), 'image')
    const options = { version, clusterSectors: 64, sizeSectors: 64 * 9000 } as const
    await createDelta(nodeFiles, image, { ...options, mode: 'preallocated' })
    const map: unknown = JSON.parse(
      await runJudge('qemu-img', ['map', '--output=json', '-f', 'parallels', image]),
    )
    t.match(map, [{ start: 0, length: 9000 * 32_768, offset: 65_536 }])
  }
})

t.test(
  'genuine ploop writes the headers and descriptors that we compute',
  { skip: requiresGenuinePloop() },
  async t => {
    for (const [sizeSectors, clusterSectors] of sizes) {
      const folder = join(imageFolder(t), 'disk')
      const name = 'a & "b" <c>;\'.hds'
      mkdirSync(folder)
      const base = join(folder, name)
      const xml = join(folder, 'DiskDescriptor.xml')
      await createDelta(nodeFiles, base, {
        version: 2,
        clusterSectors,
        sizeSectors,
        mode: 'expanded',
      })
      t.equal((await genuineCheck(base)).status, 0, 'genuine check accepts our image')
      const restored = await genuinePloop(['restore-descriptor', '-f', 'ploop1', folder, base])
      t.equal(restored.status, 0)
      const theirs = readFileSync(xml, 'utf8')
      const { cylinders, heads } = decodeHeader(readFileSync(base))
      const ours = Descriptor.create({
        sizeSectors,
        clusterSectors,
        mode: 'expanded',
        file: name,
        cylinders,
        heads,
      })
      t.equal(theirs, ours.toString(), `descriptor of ${sizeSectors} sectors`)
      t.equal(Descriptor.parse(theirs).toString(), theirs, 'and back')

      const snapshot = '{aaaaaaaa-0000-4000-8000-000000000001}'
      t.equal((await genuinePloop(['snapshot', '-u', snapshot, xml])).status, 0)
      const overlay = readdirSync(folder).find(entry => entry.startsWith(`${name}.`)) ?? ''
      const made = readFileSync(join(folder, overlay))
      const header = newHeader({ version: 2, clusterSectors, sizeSectors })
      t.ok(Buffer.from(encodeHeader(header)).equals(made.subarray(0, 64)), 'header of an overlay')
      t.ok(made.subarray(64).every(byte => byte === 0))
      const mine = join(folder, 'mine')
      await createDelta(nodeFiles, mine, {
        version: 2,
        clusterSectors,
        sizeSectors,
        mode: 'expanded',
      })
      t.ok(readFileSync(mine).equals(made), 'the whole file')

      ours.renameGuid(topGuid, snapshot)
      ours.addImage({ guid: topGuid, file: basename(overlay) })
      ours.addShot({ guid: topGuid, parentGuid: snapshot })
      ours.setTopGuid(topGuid)
      t.equal(readFileSync(xml, 'utf8'), ours.toString(), 'descriptor with a snapshot')
    }
  },
)

// genuine words for what our options say
const asked: [string[], CheckOptions][] = [
  [[], {}],
  [['-f'], { force: true }],
  [['-f', '-c'], { force: true, detailed: true }],
  [['-f', '-c', '-r'], { force: true, detailed: true, readOnly: true }],
  [['-F', '-c'], { hardForce: true, detailed: true }],
  [['-d'], { dropInUse: true }],
]

t.test(
  'of the same damaged image genuine check and ours say the same',
  { skip: requiresGenuinePloop() },
  async t => {
    const folder = imageFolder(t)
    for (const [name, which] of Object.entries(checkCases)) {
      for (const [words, options] of asked) {
        // we fill up what genuine check gives up
        if (name === 'cut short' && options.hardForce === true) continue
        const title = `${name} ${words.join(' ')}`
        const theirs = join(folder, 'theirs')
        const ours = join(folder, 'ours')
        writeFileSync(theirs, caseBytes(which))
        writeFileSync(ours, caseBytes(which))
        const genuine = await genuinePloop(['check', ...words, theirs])
        const result = await checkDelta(nodeFiles, ours, options)
        t.equal(result.exitStatus, genuine.status, `${title}: status`)
        const said = (genuine.stdout + genuine.stderr).replaceAll(/\.\.\. \n/g, '... ')
        const lines = said
          .split('\n')
          .map(line => line.replace(/^Error in \w+ \(.*?\): /, '').replaceAll(theirs, ours))
          .filter(line => line !== '' && !line.startsWith('Reopen rw'))
        const texts = result.messages.map(message => message.text)
        t.same(texts.sort(), lines.sort(), `${title}: messages`)
        t.ok(readFileSync(ours).equals(readFileSync(theirs)), `${title}: file afterwards`)
      }
    }
  },
)

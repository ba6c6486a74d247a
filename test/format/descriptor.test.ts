// SPDX-License-Identifier: MIT
/** Descriptors: what is read, what is refused, and that edits keep everything else. */
import t from 'tap'
import { noneGuid, topGuid } from '../../src/base/guid.js'
import { parseCNumber, readCNumber } from '../../src/format/c-number.js'
import { Descriptor, descriptorFileOf, imagePath } from '../../src/format/descriptor.js'
import { SnapshotTree } from '../../src/format/snapshot-tree.js'

const guidA = '{aaaaaaaa-0000-4000-8000-000000000001}'
const guidB = '{bbbbbbbb-0000-4000-8000-000000000002}'
const guidC = '{cccccccc-0000-4000-8000-000000000003}'

const fresh = `<?xml version="1.0"?>
<Parallels_disk_image>
  <Disk_Parameters>
    <Disk_size>131072</Disk_size>
    <Cylinders>256</Cylinders>
    <Heads>16</Heads>
    <Sectors>32</Sectors>
    <Padding>0</Padding>
  </Disk_Parameters>
  <StorageData>
    <Storage>
      <Start>0</Start>
      <End>131072</End>
      <Blocksize>2048</Blocksize>
      <Image>
        <GUID>{5fbaabe3-6958-40ff-92a7-860e329aab41}</GUID>
        <Type>Compressed</Type>
        <File>disk.hds</File>
      </Image>
    </Storage>
  </StorageData>
  <Snapshots>
    <TopGUID>{5fbaabe3-6958-40ff-92a7-860e329aab41}</TopGUID>
    <Shot>
      <GUID>{5fbaabe3-6958-40ff-92a7-860e329aab41}</GUID>
      <ParentGUID>{00000000-0000-0000-0000-000000000000}</ParentGUID>
    </Shot>
  </Snapshots>
</Parallels_disk_image>
`

/** Snapshot A, snapshot C, switch to A, snapshot B: A has two branches. */
function branched(): Descriptor {
  const descriptor = Descriptor.parse(fresh)
  descriptor.renameGuid(topGuid, guidA)
  descriptor.addImage({ guid: guidC, file: 'disk.hds.c' })
  descriptor.addShot({ guid: guidC, parentGuid: guidA })
  descriptor.addImage({ guid: guidB, file: 'disk.hds.b' })
  descriptor.addShot({ guid: guidB, parentGuid: guidA })
  descriptor.addImage({ guid: topGuid, file: 'disk.hds.top' })
  descriptor.addShot({ guid: topGuid, parentGuid: guidB })
  descriptor.setTopGuid(topGuid)
  return descriptor
}

t.test('a new descriptor has the layout of genuine ploop, byte for byte', async t => {
  const made = Descriptor.create({
    sizeSectors: 131_072,
    clusterSectors: 2048,
    mode: 'expanded',
    file: 'disk.hds',
  })
  t.equal(made.toString(), fresh)
  const raw = Descriptor.create({ sizeSectors: 64, clusterSectors: 64, mode: 'raw', file: 'r' })
  t.equal(raw.mode, 'raw')
  t.match(raw.toString(), '<Type>Plain</Type>')
  const full = Descriptor.create({
    sizeSectors: 64,
    clusterSectors: 64,
    mode: 'preallocated',
    file: 'a & b "c" <d>',
  })
  t.equal(full.mode, 'preallocated')
  t.match(full.toString(), '<Blocksize>64</Blocksize>\n      <Preallocated>1</Preallocated>\n')
  t.equal(Descriptor.parse(full.toString()).images[0]?.file, 'a & b "c" <d>', 'escaped')
})

t.test('the view tells images, shots and sizes', async t => {
  const descriptor = Descriptor.parse(Buffer.from(fresh))
  t.same(descriptor.images, [{ guid: topGuid, type: 'Compressed', file: 'disk.hds' }])
  t.same(descriptor.shots, [
    { guid: topGuid, parentGuid: noneGuid, temporary: false, foreignMerge: undefined },
  ])
  t.match(descriptor, {
    topGuid,
    isOldFormat: false,
    clusterSectors: 2048,
    sizeSectors: 131_072,
    mode: 'expanded',
    maxDeltaSectors: undefined,
    encryptionKey: undefined,
  })
})

t.test('unknown elements, comments, other roots and formatting survive an edit', async t => {
  const foreign = fresh
    .replaceAll('Parallels_disk_image', 'Virtuozzo_disk_image')
    .replace('<Virtuozzo_disk_image>', '<Virtuozzo_disk_image Version="1.0"> <!-- mine -->')
    .replace('<Storage>', '<Storage>\n\t<Vendor x="1"/>')
    .replace('<Padding>', '<Unknown>keep</Unknown><Padding>')
  t.equal(Descriptor.parse(foreign).toString(), foreign, 'nothing changes without an edit')
  const descriptor = Descriptor.parse(foreign)
  descriptor.setFile(topGuid, 'other.hds')
  t.equal(descriptor.toString(), foreign.replace('disk.hds', 'other.hds'), 'one word changes')
})

t.test('adding and removing a snapshot gives back the same bytes', async t => {
  const descriptor = branched()
  const text = descriptor.toString()
  t.match(text, `      <Image>\n        <GUID>${guidC}</GUID>\n        <Type>Compressed</Type>\n`)
  t.match(
    text,
    `    <Shot>\n      <GUID>${guidB}</GUID>\n      <ParentGUID>${guidA}</ParentGUID>\n`,
  )
  for (const guid of [topGuid, guidB, guidC]) {
    descriptor.removeImage(guid)
    descriptor.removeShot(guid)
  }
  descriptor.renameGuid(guidA, topGuid)
  descriptor.setTopGuid(topGuid)
  t.equal(descriptor.toString(), fresh)
})

t.test('edits', async t => {
  const descriptor = branched()
  t.equal(descriptor.clone().toString(), descriptor.toString(), 'a clone is equal')
  descriptor.setTemporary(guidC, true)
  t.equal(descriptor.shot(guidC)?.temporary, true)
  t.match(descriptor.toString(), '</ParentGUID>\n      <Temporary/>\n    </Shot>')
  descriptor.setTemporary(guidC, false)
  t.notMatch(descriptor.toString(), 'Temporary')
  descriptor.setSize(40_960)
  t.match(descriptor.toString(), /<Disk_size>40960<.*<End>40960</s)
  t.match(descriptor.toString(), '<Sectors>10</Sectors>', 'heads and cylinders stay stale')
  descriptor.renameGuid(guidA.toUpperCase(), '{dddddddd-0000-4000-8000-000000000004}')
  t.equal(descriptor.shot(guidB)?.parentGuid, '{dddddddd-0000-4000-8000-000000000004}')
  descriptor.setMode('raw')
  t.ok(
    descriptor.images.every(image => image.type === 'Plain'),
    'all images turn Plain',
  )
  descriptor.addImage({ guid: guidA, file: 'x' })
  t.equal(descriptor.image(guidA)?.type, 'Plain')
  t.throws(() => descriptor.toString(), { message: /5 images but 4 shots/, exitStatus: 23 })
  t.throws(() => descriptor.addShot({ guid: guidB, parentGuid: guidA }), {
    message: `The snapshot ${guidB} already exist`,
    exitStatus: 38,
  })
  t.throws(() => descriptor.addShot({ guid: noneGuid, parentGuid: guidA }), {
    code: 'GUID_INVALID',
    exitStatus: 38,
  })
  t.throws(() => descriptor.setFile(guidB, 'a\nb'), { code: 'FILE_NAME', exitStatus: 38 })
})

const top = `<GUID>${topGuid}</GUID>`

t.test('reading is as tolerant as genuine tools are', async t => {
  const cases: [string, string, (descriptor: Descriptor) => unknown, unknown][] = [
    ['hexadecimal cluster', fresh.replace('>2048<', '> 0x800<'), d => d.clusterSectors, 2048],
    ['octal cluster', fresh.replace('>2048<', '>04000<'), d => d.clusterSectors, 2048],
    ['odd numbers', fresh.replace('>131072<', '>lots<'), d => d.sizeSectors, undefined],
    ['no type', fresh.replace('<Type>Compressed</Type>', ''), d => d.mode, 'expanded'],
    ['other type', fresh.replace('Compressed', 'plain'), d => d.mode, 'expanded'],
    ['plain', fresh.replace('Compressed', 'Plain'), d => d.mode, 'raw'],
    ['no top', fresh.replace(/<TopGUID>.*/, ''), d => d.topGuid, topGuid],
    ['no shots', fresh.replace(/<TopGUID>[^]*<\/Shot>/, ''), d => d.shots.length, 1],
    ['entity', fresh.replace('disk.hds', 'a&amp;b&#x21;'), d => d.images[0]?.file, 'a&b!'],
    ['comment', fresh.replace('disk.hds', '<!-- x -->disk'), d => d.images[0]?.file, 'disk'],
    ['CR LF', fresh.replaceAll('\n', '\r\n'), d => d.images.length, 1],
    ['byte order mark', `\uFEFF${fresh}`, d => d.images.length, 1],
    [
      'limit',
      fresh.replace('<Cyl', '<Max_delta_size>5</Max_delta_size><Cyl'),
      d => d.maxDeltaSectors,
      5,
    ],
    [
      'key',
      fresh.replace('<Cyl', '<Encryption><KeyId>k</KeyId></Encryption><Cyl'),
      d => d.encryptionKey,
      'k',
    ],
    [
      'v9 merge',
      fresh.replace('</Shot>', '<TemporaryZero/></Shot>'),
      d => d.shots[0]?.foreignMerge,
      'TemporaryZero',
    ],
  ]
  for (const [name, text, view, expected] of cases) {
    const descriptor = Descriptor.parse(Buffer.from(text))
    t.equal(view(descriptor), expected, name)
    t.equal(view(Descriptor.parse(descriptor.toString())), expected, `${name}, stored`)
  }
})

t.test('descriptor contains what no tool should act on: refused with status 23', async t => {
  const image = (guid: string) => `<Image><GUID>${guid}</GUID><File>f</File></Image>`
  const shot = (guid: string, parent: string) =>
    `<Shot><GUID>${guid}</GUID><ParentGUID>${parent}</ParentGUID></Shot>`
  const grown = (images: string, shots: string) =>
    fresh
      .replace('</Storage>', `${images}</Storage>`)
      .replace('</Snapshots>', `${shots}</Snapshots>`)
  const cases: [string, string, RegExp][] = [
    ['empty', '', /the file is empty/],
    ['not XML', 'hello', /not well-formed XML/],
    ['cut off', fresh.slice(0, 500), /not well-formed XML|ends within a tag/],
    ['doctype', `<!DOCTYPE a [<!ENTITY b "c">]>${fresh}`, /document type declaration/],
    ['unknown entity', fresh.replace('disk.hds', '&lol;'), /not well-formed XML/],
    ['no storage', fresh.replaceAll('Storage>', 'Stor>'), /no Storage element/],
    ['two storages', fresh.replace('</Storage>', '</Storage><Storage/>'), /splitted disk/],
    ['no parameters', fresh.replaceAll('Disk_Parameters', 'P'), /no Disk_Parameters/],
    ['cluster size', fresh.replace('>2048<', '>2049<'), /Blocksize 2049/],
    ['blank after a number', fresh.replace('>2048<', '>2048 <'), /Blocksize 2048 /],
    [
      'preallocated',
      fresh.replace('<Image>', '<Preallocated>2</Preallocated><Image>'),
      /not 0 or 1/,
    ],
    [
      'preallocated and plain',
      fresh
        .replace('Compressed', 'Plain')
        .replace('<Image>', '<Preallocated>1</Preallocated><Image>'),
      /preallocated disk with a Plain/,
    ],
    ['no image', fresh.replace(/<Image>[^]*<\/Image>/, ''), /no Image/],
    ['alien after image', fresh.replace('</Image>', '</Image><Alien/>'), /Alien among the images/],
    ['no file', fresh.replace('<File>disk.hds</File>', ''), /an Image without File/],
    ['CDATA', fresh.replace('disk.hds', '<![CDATA[disk]]>'), /an Image without File/],
    ['blank in GUID', fresh.replace(top, `<GUID> ${topGuid}</GUID>`), /malformed GUID/],
    ['two bases', grown(image(guidA), shot(guidA, noneGuid)), /two shots are the base/],
    [
      'unknown parent',
      grown(image(guidA), shot(guidA, guidB)),
      /parent .*02} of shot .* does not exist/,
    ],
    ['own parent', grown(image(guidA), shot(guidA, guidA)), /among its own ancestors/],
    [
      'cycle',
      grown(image(guidA) + image(guidB), shot(guidA, guidB) + shot(guidB, guidA)),
      /own ancestors/,
    ],
    ['no base', fresh.replace(noneGuid, topGuid), /no shot is the base/],
    [
      'twice',
      grown(image(guidA) + image(guidA), shot(guidA, topGuid) + shot(guidA, topGuid)),
      /two shots have/,
    ],
    ['image of nobody', grown(image(guidA), shot(guidB, topGuid)), /image .* has no shot/],
    ['missing shot', grown(image(guidA), ''), /2 images but 1 shots/],
    ['unknown top', fresh.replace(/(<TopGUID>).*(<)/, `$1${guidA}$2`), /the top .* is no shot/],
    ['temporary top', fresh.replace('</Shot>', '<Temporary/></Shot>'), /marked Temporary/],
    ['the none GUID', grown(image(noneGuid), shot(noneGuid, topGuid)), /reserved GUID/],
    ['deep', '<a>'.repeat(40) + '</a>'.repeat(40), /nested deeper/],
    ['long tag', `<a ${'b="" '.repeat(2000)}/>`, /a tag longer than/],
    ['many tags', `<a>${'<b/>'.repeat(70_000)}</a>`, /more than 65536 tags/],
    ['large', `<a>${' '.repeat(2 ** 20)}</a>`, /more than the 1048576/],
  ]
  for (const [name, text, message] of cases) {
    t.throws(
      () => Descriptor.parse(Buffer.from(text), '/d/DiskDescriptor.xml'),
      { message, exitStatus: 23, path: '/d/DiskDescriptor.xml' },
      name,
    )
  }
  t.throws(() => Descriptor.parse(Uint8Array.of(0x3c, 0xff)), { message: /not UTF-8/ })
})

t.test('the snapshot tree answers about chains', async t => {
  const tree = branched().tree()
  t.equal(tree.base.guid, guidA)
  t.equal(tree.size, 4)
  t.same(
    tree.chainOf(topGuid.toUpperCase()).map(shot => shot.guid),
    [guidA, guidB, topGuid],
  )
  t.same(
    tree.childrenOf(guidA).map(shot => shot.guid),
    [guidC, guidB],
  )
  t.same(tree.childrenOf(guidC), [])
  t.equal(tree.parentOf(guidA), undefined)
  t.equal(tree.parentOf(topGuid)?.guid, guidB)
  t.ok(tree.isAncestor(guidA, topGuid))
  t.notOk(tree.isAncestor(guidC, topGuid), 'another branch')
  t.notOk(tree.isAncestor(guidA, guidA), 'not of itself')
  t.equal(tree.lookup('{0}'), undefined)
  const long = Array.from({ length: 5000 }, (_, index) => ({
    guid: `g${index}`,
    parentGuid: index === 0 ? noneGuid : `g${index - 1}`,
  }))
  t.equal(new SnapshotTree(long).chainOf('g4999').length, 5000, 'no recursion')
})

t.test('image paths', async t => {
  t.equal(imagePath('/d/e', 'disk.hds'), '/d/e/disk.hds')
  t.equal(imagePath('/d/e', '/f/disk.hds'), '/f/disk.hds')
  t.equal(imagePath('/d/e', '../f/disk.hds'), '/d/f/disk.hds')
  t.equal(descriptorFileOf('/d/e', '/d/e/disk.hds'), 'disk.hds')
  t.equal(descriptorFileOf('/d/e', '/d/ef/disk.hds'), '/d/ef/disk.hds')
  t.equal(descriptorFileOf('/', '/disk.hds'), 'disk.hds')
})

t.test('numbers of C', async t => {
  const cases: [string, number | undefined][] = [
    ['0', 0],
    ['2048', 2048],
    ['0x800', 2048],
    ['04000', 2048],
    [' \t7', 7],
    ['+7', 7],
    ['-7', undefined],
    ['', undefined],
    ['7 ', undefined],
    ['08', undefined],
    ['0x', undefined],
    ['99999999999999999999', undefined],
  ]
  for (const [text, value] of cases) t.equal(parseCNumber(text), value, JSON.stringify(text))
  t.same(readCNumber('0128G'), { value: 10, rest: '8G' }, 'octal ends at an 8')
  t.same(readCNumber('10G'), { value: 10, rest: 'G' })
})

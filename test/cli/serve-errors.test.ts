// SPDX-License-Identifier: MIT
/**
 * `serve` that cannot: one sentence with file and fact, the right status, and nothing touched.
 */
import * as fs from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { writeBuilt } from '../support/chain-files.js'
import { buildDelta, inUseMark } from '../support/image-builder.js'
import { ploopNbd, runJudge } from '../support/programs.js'
import {
  clusterBytes,
  edited,
  guids,
  judgeRefusal,
  makeDisk,
  patch,
  patched,
  snapshotOf,
  type Refusal,
} from '../support/small-disk.js'
import { imageFolder, socketFolder } from '../support/temp-dir.js'

t.setTimeout(300_000)

interface BadCase extends Refusal {
  readonly prepare?: (folder: string) => unknown
  /** default: the descriptor; $ stands for the folder */
  readonly serve?: readonly string[]
}

const entry = (index: number): number => 64 + 4 * index
const deltas = ['$/base.hds', '$/top.hds']

const badImages: Readonly<Record<string, BadCase>> = {
  'a foreign signature': {
    prepare: patched('base.hds', 0, 1, 2),
    status: 11,
    says: /signature/i,
    names: 'base.hds',
  },
  'a wrong type': { prepare: patched('top.hds', 16, 9), status: 11, says: /9/, names: 'top.hds' },
  'a cluster of 65 sectors': {
    prepare: patched('base.hds', 28, 65),
    status: 11,
    says: /65/,
    names: 'base.hds',
  },
  'a data area inside a cluster': {
    prepare: patched('base.hds', 48, 100),
    status: 11,
    says: /100/,
    names: 'base.hds',
  },
  'a size that contradicts the table': {
    prepare: patched('base.hds', 36, 4096),
    status: 11,
    says: /4096/,
    names: 'base.hds',
  },
  'a size beyond all bounds': {
    prepare: patched('base.hds', 36, 0, 0xffffffff),
    status: 11,
    says: /\d{6}/,
    names: 'base.hds',
  },
  'more clusters than its table holds': {
    prepare: patched('top.hds', 32, 0x7fffffff),
    status: 11,
    says: /\d{6}/,
    names: 'top.hds',
  },
  'an entry beyond the end of the file': {
    prepare: patched('base.hds', entry(5), 100),
    status: 11,
    says: /5.*100|100.*5/,
    names: 'base.hds',
  },
  'an entry into the table': {
    prepare: patched('top.hds', entry(5), 0xffffffff),
    status: 11,
    says: /4294967295/,
    names: 'top.hds',
  },
  'two entries for one cluster': {
    prepare: patched('top.hds', entry(5), 1),
    status: 11,
    says: /5|1/,
    names: 'top.hds',
  },
  'an unaligned entry of version 1': {
    prepare: folder => {
      fs.rmSync(join(folder, 'base.hds'))
      const clusters = new Map([[0, new Uint8Array(clusterBytes)]])
      const sizeBytes = 16 * clusterBytes
      const path = join(folder, 'base.hds')
      writeBuilt(path, buildDelta({ version: 1, clusterBytes, sizeBytes, clusters }))
      patch(path, entry(0), 129)
    },
    serve: ['$/base.hds'],
    status: 11,
    says: /129/,
    names: 'base.hds',
  },
  'versions mixed in one chain': {
    prepare: folder => {
      fs.rmSync(join(folder, 'base.hds'))
      const sizeBytes = 16 * clusterBytes
      const clusters = new Map<number, Uint8Array>()
      writeBuilt(
        join(folder, 'base.hds'),
        buildDelta({ version: 1, clusterBytes, sizeBytes, clusters }),
      )
    },
    status: 11,
    says: /version 2 .*version 1/,
    names: 'top.hds',
  },
  'a table cut off': {
    prepare: folder => fs.truncateSync(join(folder, 'base.hds'), 5000),
    status: 11,
    says: /5000|BAT|table/,
    names: 'base.hds',
  },
  'a header cut off': {
    prepare: folder => fs.truncateSync(join(folder, 'top.hds'), 30),
    status: 6,
    says: /30/,
    names: 'top.hds',
  },
  'an empty file': {
    prepare: folder => fs.truncateSync(join(folder, 'top.hds'), 0),
    status: 6,
    says: /0|empty/,
    names: 'top.hds',
  },
  'a damaged image that was not closed': {
    prepare: folder => {
      patch(join(folder, 'top.hds'), 44, inUseMark)
      patch(join(folder, 'top.hds'), entry(5), 100)
    },
    chatty: true,
    status: 11,
    says: /irrecoverable|100/,
    names: 'top.hds',
  },
  'a base larger than its top': {
    prepare: folder => {
      fs.rmSync(join(folder, 'base.hds'))
      const sizeBytes = 32 * clusterBytes
      const clusters = new Map<number, Uint8Array>()
      writeBuilt(
        join(folder, 'base.hds'),
        buildDelta({ version: 2, clusterBytes, sizeBytes, clusters }),
      )
    },
    status: 11,
    says: /2048 .*4096/,
    names: 'top.hds',
  },
  'one file twice': {
    serve: ['$/top.hds', '$/top.hds'],
    status: 38,
    says: /same file/,
    names: 'top.hds',
  },
  'a directory': { serve: ['$'], status: 4, says: /directory/ },
  'a FIFO': {
    prepare: folder => {
      fs.rmSync(join(folder, 'top.hds'))
      return runJudge('mkfifo', [join(folder, 'top.hds')])
    },
    serve: ['$/top.hds'],
    status: 4,
    says: /regular|FIFO|pipe/i,
    names: 'top.hds',
  },
  'a file that is not there': {
    serve: ['$/nothing.hds'],
    status: 4,
    says: /not exist|no such/i,
    names: 'nothing.hds',
  },
  'an image that is not there': {
    prepare: folder => {
      fs.rmSync(join(folder, 'base.hds'))
    },
    status: 4,
    says: /does not exist.*DiskDescriptor/,
    names: 'base.hds',
  },
  'a raw base of a crooked cluster size': {
    serve: ['-f', 'raw', '-b', '65', '$/base.hds'],
    status: 38,
    says: /65/,
  },
  'a chain of one raw file without a cluster size': {
    serve: ['-f', 'raw', ...deltas],
    status: 38,
    says: /Blocksize/,
  },
}

const badDescriptors: Readonly<Record<string, BadCase>> = {
  'no descriptor': {
    serve: ['$/Other.xml'],
    status: 39,
    says: /not exist|no such|cannot/i,
    names: 'Other.xml',
  },
  'an empty descriptor': {
    prepare: folder => {
      fs.writeFileSync(join(folder, 'DiskDescriptor.xml'), '')
    },
    status: 23,
    says: /\w/,
    names: 'DiskDescriptor.xml',
  },
  'a descriptor cut off': {
    prepare: edited(/<\/StorageData>[^]*/, ''),
    status: 23,
    says: /\w/,
    names: 'DiskDescriptor.xml',
  },
  'an unknown top': {
    prepare: edited(`<TopGUID>${guids.top}`, `<TopGUID>${guids.unknown}`),
    status: 23,
    says: /33333333/,
    names: 'DiskDescriptor.xml',
  },
  'an unknown parent': {
    prepare: edited(`<ParentGUID>${guids.base}`, `<ParentGUID>${guids.unknown}`),
    status: 23,
    says: /33333333|parent/i,
    names: 'DiskDescriptor.xml',
  },
  'a cycle': {
    prepare: edited(`<ParentGUID>${guids.none}`, `<ParentGUID>${guids.top}`),
    status: 23,
    says: /\w/,
    names: 'DiskDescriptor.xml',
  },
  'a GUID that is none': {
    prepare: edited(new RegExp(guids.top, 'g'), '{2222}'),
    status: 23,
    says: /2222/,
    names: 'DiskDescriptor.xml',
  },
  'a wrong cluster size': {
    prepare: edited('<Blocksize>128<', '<Blocksize>256<'),
    status: 38,
    says: /128.*256|256.*128/,
    names: 'base.hds',
  },
  'a cluster size of zero': {
    prepare: edited('<Blocksize>128<', '<Blocksize>0<'),
    status: 23,
    says: /\w/,
    names: 'DiskDescriptor.xml',
  },
  'an entity bomb': {
    prepare: folder => {
      const bomb =
        '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
      edited('<?xml version="1.0"?>', bomb)(folder)
      edited('base.hds', '&b;')(folder)
    },
    status: 23,
    says: /document type/i,
    names: 'DiskDescriptor.xml',
  },
  'an external entity': {
    prepare: edited(
      '<?xml version="1.0"?>',
      '<?xml version="1.0"?><!DOCTYPE x SYSTEM "file:///etc/passwd">',
    ),
    status: 23,
    says: /document type/i,
    names: 'DiskDescriptor.xml',
  },
  'thousands of levels of elements': {
    prepare: edited('<Snapshots>', `${'<a>'.repeat(50_000)}${'</a>'.repeat(50_000)}<Snapshots>`),
    status: 23,
    says: /\w/,
    names: 'DiskDescriptor.xml',
  },
  'a descriptor of two MiB': {
    prepare: edited('</Parallels', `<!--${'x'.repeat(2 ** 21)}--></Parallels`),
    status: 23,
    says: /\d/,
    names: 'DiskDescriptor.xml',
  },
  'an unknown uuid': {
    serve: ['-u', guids.unknown, '$/DiskDescriptor.xml'],
    status: 43,
    says: /33333333/,
    names: 'DiskDescriptor.xml',
  },
  'a snapshot with a child, writable': {
    serve: ['-u', guids.base, '$/DiskDescriptor.xml'],
    status: 38,
    says: /1 child/,
    names: 'DiskDescriptor.xml',
  },
  'the base of a chain, writable': {
    serve: ['-u', 'base', '$/DiskDescriptor.xml'],
    status: 38,
    says: /1 child/,
    names: 'DiskDescriptor.xml',
  },
}

const badOptions: Readonly<Record<string, BadCase>> = {
  'a malformed uuid': { serve: ['-u', 'xyz', '$/DiskDescriptor.xml'], status: 38, says: /xyz/ },
  'a uuid with a list of files': { serve: ['-u', guids.top, ...deltas], status: 38, says: /-u/ },
  'an unknown cache mode': {
    serve: ['--cache', 'fast', '$/DiskDescriptor.xml'],
    status: 38,
    says: /fast.*direct/,
  },
  'an unknown engine': {
    serve: ['--engine', 'steam', '$/DiskDescriptor.xml'],
    status: 38,
    says: /steam.*uring/,
  },
  'an unknown format': { serve: ['-f', 'qcow2', '$/base.hds'], status: 38, says: /qcow2/ },
  'a socket and a port': {
    serve: ['--port', '1', '$/DiskDescriptor.xml'],
    status: 38,
    says: /--socket.*--port/,
  },
  'no clients': {
    serve: ['--max-connections', '0', '$/DiskDescriptor.xml'],
    status: 38,
    says: /0/,
  },
  'an unknown option': {
    serve: ['--nonsense', '$/DiskDescriptor.xml'],
    status: 38,
    says: /nonsense/,
  },
  'two disks of one name': {
    serve: ['a=$/DiskDescriptor.xml', 'a=$/base.hds'],
    status: 38,
    says: /"a"/,
  },
  'two descriptors without names': {
    serve: ['$/DiskDescriptor.xml', '$/DiskDescriptor.xml'],
    status: 38,
    says: /NAME=/,
  },
  'a name of 256 bytes': {
    serve: ['--export', 'n'.repeat(256), '$/DiskDescriptor.xml'],
    status: 38,
    says: /255.*256/,
  },
  'no disk': { serve: [], status: 38, says: /^Usage/ },
}

for (const [group, cases] of Object.entries({ badImages, badDescriptors, badOptions })) {
  t.test(`${group}: serve refuses with one sentence and touches nothing`, async t => {
    for (const [name, wanted] of Object.entries(cases)) {
      await t.test(name, async t => {
        const folder = imageFolder(t)
        const socket = join(socketFolder(t), 's')
        makeDisk(folder)
        await Promise.resolve(wanted.prepare?.(folder))
        const before = snapshotOf(folder)
        const own = (wanted.serve ?? ['$/DiskDescriptor.xml']).map(text =>
          text.replace('$', () => folder),
        )
        const result = await ploopNbd(['serve', '--socket', socket, ...own], { timeoutMs: 30_000 })
        judgeRefusal(t, result, wanted, folder)
        t.strictSame(snapshotOf(folder), before, 'files as before')
        t.notOk(fs.existsSync(socket), 'no socket is left')
      })
    }
  })
}

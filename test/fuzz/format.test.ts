// SPDX-License-Identifier: MIT
/**
 * Hostile bytes at every parser of files: whatever they are, the answer is a value or a PloopError.
 *
 * Beyond that: what decodes encodes to the same, a descriptor that is accepted is accepted again
 * after storing, a check never writes read-only, and an image that opens has a map inside its files.
 */
import fc from 'fast-check'
import t from 'tap'
import { PloopError } from '../../src/base/errors.js'
import { checkDelta } from '../../src/delta/check-delta.js'
import { parseCNumber } from '../../src/format/c-number.js'
import { Descriptor } from '../../src/format/descriptor.js'
import { decodeExtension } from '../../src/format/extension.js'
import { decodeGpt, gptReadBytes, resizeGpt } from '../../src/format/gpt.js'
import { decodeHeader, encodeHeader, newHeader, validateHeader } from '../../src/format/header.js'
import { type MapTarget, openChain } from '../../src/image/open.js'
import { fuzz } from '../support/fuzz.js'
import { SimFiles } from '../simulation/sim-files.js'
import { Storage } from '../simulation/storage.js'

/** Lets refusals pass; anything else thrown is a bug. */
async function refusable(action: () => unknown): Promise<void> {
  try {
    await action()
  } catch (error) {
    if (!(error instanceof PloopError)) throw error
  }
}

function assert(condition: boolean, message: string): void {
  if (!condition) throw new Error(message)
}

const anyBytes = (maxLength: number) => fc.uint8Array({ maxLength })

t.test('headers', async () => {
  await fuzz('header', anyBytes(80), bytes =>
    refusable(() => {
      const header = decodeHeader(bytes)
      validateHeader(header, 2 ** 40)
      const again = encodeHeader(header)
      assert(Buffer.from(again.subarray(0, 36)).equals(bytes.subarray(0, 36)), 'encodes back')
      assert(decodeHeader(again).sizeSectors === header.sizeSectors, 'the same size')
    }),
  )
})

t.test('descriptors', async () => {
  const words = fc.constantFrom(
    ...['<', '>', '</', '/>', '<!--', '-->', '<![CDATA[', ']]>', '<?', '?>', '&', '&amp;', '&#0;'],
    ...['Parallels_disk_image', 'Storage', 'Image', 'GUID', 'Shot', 'TopGUID', 'xmlns:a="b"', '"'],
    ...['{5fbaabe3-6958-40ff-92a7-860e329aab41}', '2048', ' ', '\n', '\r', '\u0085', '\uFFFE'],
  )
  const soup = fc.array(words, { maxLength: 60 }).map(parts => Buffer.from(parts.join('')))
  await fuzz('descriptor', fc.oneof(soup, anyBytes(200)), bytes =>
    refusable(() => {
      const descriptor = Descriptor.parse(bytes)
      const stored = descriptor.toString()
      const again = Descriptor.parse(stored)
      assert(again.toString() === stored, 'stable')
      assert(JSON.stringify(again.images) === JSON.stringify(descriptor.images), 'same images')
      assert(JSON.stringify(again.shots) === JSON.stringify(descriptor.shots), 'same shots')
    }),
  )
})

t.test('partition tables', async () => {
  await fuzz('gpt', anyBytes(gptReadBytes()), bytes =>
    refusable(() => {
      decodeGpt(bytes)
      for (const { offsetBytes } of resizeGpt(bytes, {
        targetSectors: 40_960,
        clusterSectors: 64,
      })) {
        assert(offsetBytes >= 0 && offsetBytes < 40_960 * 512, 'inside of the disk')
      }
    }),
  )
})

t.test('format extensions', async () => {
  const header = newHeader({ version: 2, clusterSectors: 64, sizeSectors: 640 })
  await fuzz('extension', fc.uint8Array({ minLength: 32_768, maxLength: 32_768 }), bytes =>
    refusable(() => decodeExtension(bytes, header)),
  )
})

t.test('numbers', () => {
  fc.assert(
    fc.property(fc.string(), text => {
      const value = parseCNumber(text)
      assert(value === undefined || (Number.isSafeInteger(value) && value >= 0), 'a number')
    }),
  )
  return Promise.resolve()
})

const path = '/image'

async function filesWith(bytes: Uint8Array): Promise<SimFiles> {
  const files = new SimFiles(new Storage(1))
  const handle = await files.open(path, 'create')
  await handle.write(bytes, 0)
  await handle.sync()
  await handle.close()
  return files
}

async function contentOf(files: SimFiles): Promise<Buffer> {
  const handle = await files.open(path, 'read')
  const bytes = Buffer.alloc((await handle.stat()).sizeBytes)
  await handle.read(bytes, 0)
  await handle.close()
  return bytes
}

t.test('images', async () => {
  const newMap = (clusterCount: number): MapTarget => ({
    levels: new Uint8Array(clusterCount),
    clusters: new Uint32Array(clusterCount),
    shadowed: new Uint8Array(Math.ceil(clusterCount / 8)),
  })
  // most of an image is table and data: let the changes hit what is read
  const changes = fc.array(fc.tuple(fc.nat(160), fc.nat(255)), { maxLength: 6 })
  const images = fc.tuple(changes, fc.nat(5 * 32_768)).map(([patch, length]) => {
    const bytes = new Uint8Array(5 * 32_768 + 100)
    bytes.set(encodeHeader(newHeader({ version: 2, clusterSectors: 64, sizeSectors: 640 })))
    for (let index = 0; index < 4; index++) bytes[64 + 4 * index] = index + 1
    for (const [at, value] of patch) bytes[at] = value
    return bytes.subarray(0, length < 2000 ? length : bytes.length)
  })
  await fuzz('image', images, async bytes => {
    const input = { kind: 'deltas', paths: [path] } as const
    for (const readOnly of [true, false]) {
      const files = await filesWith(bytes)
      await refusable(async () => {
        const options = { readOnly, newMap, maxMapBytes: 2 ** 20 }
        const chain = await openChain(files, input, options)
        for (let index = 0; index < chain.clusterCount; index++) {
          if (chain.map?.levels[index] === 0) continue
          const fileCluster = chain.map?.clusters[index] ?? 0
          assert(fileCluster > 0 && fileCluster < chain.allocHead, 'inside of the file')
        }
        await chain.close()
      })
      if (readOnly) assert((await contentOf(files)).equals(bytes), 'read-only open wrote')
    }
    for (const hardForce of [true, false]) {
      const files = await filesWith(bytes)
      const options = { force: true, detailed: true, hardForce }
      await checkDelta(files, path, { ...options, readOnly: true })
      assert((await contentOf(files)).equals(bytes), 'read-only check wrote')
      const first = await checkDelta(files, path, { ...options, dropInUse: true })
      const second = await checkDelta(files, path, { ...options, dropInUse: true })
      assert(first.exitStatus !== 0 || second.exitStatus === 0, 'sound stays sound')
    }
  })
})

// SPDX-License-Identifier: MIT
/**
 * A served chain under a random workload equals a plain array of bytes, while it is served and when
 * it is at rest. TEST_SEED=N repeats a run.
 */
import t from 'tap'
import { Random } from '../simulation/random.js'
import { readChainContent, writeChain } from '../support/chain-files.js'
import { DiskModel, firstDifference } from '../support/disk-model.js'
import { NbdClient } from '../support/nbd-client.js'
import { Served } from '../support/served.js'
import { imageFolder } from '../support/temp-dir.js'

t.setTimeout(300_000)

const clusterBytes = 32_768
const seed = Number(process.env['TEST_SEED'] ?? Date.now() % 1_000_000)
const operationFactor = Number(process.env['TEST_FACTOR'] ?? 1)
t.comment(`TEST_SEED=${seed}`)

for (const levelCount of [1, 2, 5, 127]) {
  for (const engine of ['uring', 'threads']) {
    for (const cache of ['direct', 'buffered']) {
      const name = `${levelCount} level(s), ${engine}, ${cache}`
      t.test(`${name}: every byte is as a plain model says`, async t => {
        const random = new Random(seed * 31 + levelCount)
        const version = random.pick([1, 2] as const)
        const rawBase = version === 2 && levelCount === 2
        const density = levelCount === 127 ? 0.08 : 0.4
        const shape = { levelCount, clusterBytes, clusterCount: 90, version, density, rawBase }
        const { paths, content } = writeChain(imageFolder(t), shape, random)
        const raw = rawBase ? ['-f', 'raw', '-b', String(clusterBytes / 512)] : []
        const served = await Served.start(t, [
          '--engine',
          engine,
          '--cache',
          cache,
          ...raw,
          ...paths,
        ])
        const model = new DiskModel(content)
        const writer = await NbdClient.connect(served.socket)
        const reader = await NbdClient.connect(served.socket, '', { extended: false })
        try {
          await model.verify(reader)
          for (const [depth, count] of [
            [1, 150],
            [64, 1000],
          ] as const) {
            const operationCount = count * operationFactor
            await model.run(writer, reader, random, { operationCount, depth, clusterBytes })
            await model.verify(reader)
          }
          await writer.disconnect()
          await reader.disconnect()
          await served.stop()
          const atRest = readChainContent(paths, rawBase ? clusterBytes : undefined)
          t.equal(firstDifference(atRest, content), undefined, 'at rest')
        } catch (error) {
          const words = error instanceof Error ? error.message : String(error)
          t.fail(`TEST_SEED=${seed}: ${words}\n${served.stderr}`)
        }
      })
    }
  }
}

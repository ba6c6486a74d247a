// SPDX-License-Identifier: MIT
/** The halves of the addon without Node-API, under the address and undefined behaviour sanitizers. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import t from 'tap'

t.setTimeout(600_000)

t.test('both engines, the arena and the file calls run clean under sanitizers', async t => {
  const script = fileURLToPath(new URL('../../native/test/run.sh', import.meta.url))
  const child = spawn('sh', [script], { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()))
  const [status] = (await once(child, 'close')) as [number | null]
  t.equal(status, 0, output)
  t.match(output, /^ok$/m)
})

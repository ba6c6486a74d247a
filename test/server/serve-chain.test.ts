// SPDX-License-Identifier: MIT
/** Opening a chain for serving while somebody else is at it. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { silentLogger as log } from '../../src/base/log.js'
import { lockDescriptor } from '../../src/io/locks.js'
import { loadAddon } from '../../src/io/native.js'
import { nodeFiles as files } from '../../src/io/node-files.js'
import { ServedChain } from '../../src/server/serve-chain.js'
import { imageFolder } from '../support/temp-dir.js'

t.test('waiting for the lock of a descriptor ends when the server is told to stop', async t => {
  const path = join(imageFolder(t), 'DiskDescriptor.xml')
  writeFileSync(path, '')
  const lock = await lockDescriptor(files, path)
  const stop = new AbortController()
  const opening = ServedChain.open(
    {
      name: 'disk',
      input: { kind: 'descriptor', path, guid: undefined },
      readOnly: false,
      cache: 'auto',
    },
    { files, addon: loadAddon(), log, signal: stop.signal },
  )
  stop.abort()
  await t.rejects(opening, { name: 'AbortError' })
  await lock.release()
})

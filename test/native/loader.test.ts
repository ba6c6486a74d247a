// SPDX-License-Identifier: MIT
/** How the addon is found, and what it says of this machine. */
import t from 'tap'
import { addonMissingReason, loadAddon } from '../../src/io/native.js'

t.test('the addon loads from the sources and says what the ring can do', async t => {
  t.equal(addonMissingReason(), undefined)
  const probe = loadAddon().probeUring()
  t.type(probe.available, 'boolean')
  t.match(probe.reason, /\S/)
  t.equal(loadAddon(), loadAddon(), 'one instance per thread')
})

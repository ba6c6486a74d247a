// SPDX-License-Identifier: MIT
/** The uring engine keeps the promises of every engine, where the kernel lets it. */
import t from 'tap'
import { loadAddon } from '../../src/io/native.js'
import { engineSuite } from '../suites/engine-suite.js'

const { available, reason } = loadAddon().probeUring()
if (available) engineSuite(t, 'uring')
else t.plan(0, `no io_uring here: ${reason}`)

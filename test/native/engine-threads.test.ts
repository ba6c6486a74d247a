// SPDX-License-Identifier: MIT
/** The threads engine keeps the promises of every engine. */
import t from 'tap'
import { engineSuite } from '../suites/engine-suite.js'

engineSuite(t, 'threads')

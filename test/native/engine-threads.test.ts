// SPDX-License-Identifier: MIT
import t from 'tap'
import { engineSuite } from '../suites/engine-suite.js'

engineSuite(t, 'threads')

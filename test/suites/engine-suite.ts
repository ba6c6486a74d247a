// SPDX-License-Identifier: MIT
/**
 * What both engines promise (native/README.md), without any protocol. Run by
 * test/native/engine-uring.test.ts and engine-threads.test.ts.
 */
import type { Test } from 'tap'
import type { EngineKind } from '../../src/io/native.js'
import { connectionCases } from './engine-connections.js'
import { endingCases } from './engine-endings.js'
import { fileCases } from './engine-files.js'
import { lifeCases } from './engine-life.js'

export function engineSuite(t: Test, kind: EngineKind): void {
  void t.test('connections', t => {
    connectionCases(t, kind)
    t.end()
  })
  void t.test('ends of connections, listeners', t => {
    endingCases(t, kind)
    t.end()
  })
  void t.test('files', t => {
    fileCases(t, kind)
    t.end()
  })
  void t.test('run, wake, teardown', t => {
    lifeCases(t, kind)
    t.end()
  })
}

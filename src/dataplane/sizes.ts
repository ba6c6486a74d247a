// SPDX-License-Identifier: MIT
/** How much memory the data plane has: every queue and buffer of the hot path is in the arena. */
import type { EngineOptions } from '../io/native.js'
import type { WorkerOptions } from './messages.js'

/** Clients that still negotiate, or whose end is being waited for, on top of those served. */
const spareConnections = 96

/**
 * 8 MiB of 4 KiB slots, 16 MiB of 64 KiB slots, 64 MiB of pieces (one request of the longest kind
 * needs them all), 16 MiB of job buffers, 128 KiB per connection. Pages cost nothing until used.
 */
export function engineSizes(options: WorkerOptions): EngineOptions {
  return {
    kind: options.engine,
    count4k: 2048,
    count64k: 256,
    count1m: 64,
    jobCount: 16,
    headerCount: 4096,
    connectionCount: options.connectionsMax + spareConnections,
    receiveBytes: 128 * 1024,
    threadCount: options.threadCount,
    busyPollMicroseconds: options.busyPollMicroseconds,
  }
}

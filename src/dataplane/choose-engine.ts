// SPDX-License-Identifier: MIT
/** Which engine serves, and why: io_uring where the kernel lets us, threads everywhere else. */
import { PloopError } from '../base/errors.js'
import type { EngineKind, NativeAddon } from '../io/native.js'

export type EngineChoice = 'auto' | EngineKind

export interface ChosenEngine {
  readonly kind: EngineKind
  /** in words; on a fallback the cause and what could be done */
  readonly reason: string
  readonly isFallback: boolean
}

/** @throws PloopError when io_uring was asked for by name and cannot be had */
export function chooseEngine(addon: NativeAddon, choice: EngineChoice): ChosenEngine {
  if (choice === 'threads') {
    return { kind: 'threads', reason: 'asked for by --engine threads', isFallback: false }
  }
  const probe = addon.probeUring()
  if (probe.available) return { kind: 'uring', reason: probe.reason, isFallback: false }
  if (choice === 'uring') {
    throw new PloopError('ENGINE_UNAVAILABLE', `io_uring cannot be used: ${probe.reason}`, {
      status: 'system',
      operation: 'serve',
      hint: 'use --engine auto, or allow io_uring (sysctl kernel.io_uring_disabled, seccomp)',
    })
  }
  return { kind: 'threads', reason: `io_uring cannot be used: ${probe.reason}`, isFallback: true }
}

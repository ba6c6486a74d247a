// SPDX-License-Identifier: MIT
/**
 * serve: one or more disks over NBD, until told to stop.
 *
 * Owns:     what is started in which order, readiness, the program given by --run, and the way the
 *           process ends.
 * Leaves:   images and connections to the server layer.
 */
import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { basename, dirname, resolve } from 'node:path'
import { errnoName, PloopError } from '../base/errors.js'
import type { EngineChoice } from '../dataplane/choose-engine.js'
import type { Guid } from '../base/guid.js'
import type { ChainInput } from '../image/open.js'
import { loadAddon, type NativeAddon } from '../io/native.js'
import type { ListenChoice } from '../server/listen.js'
import type { PendingMode } from '../server/pending-file.js'
import type { CacheMode } from '../server/serve-chain.js'
import { Server } from '../server/server.js'
import type { OperationContext } from './context.js'

/** A descriptor (one path ending in .xml) or delta files, base first. */
export interface DiskSource {
  /** undefined: made from the paths */
  readonly name: string | undefined
  readonly paths: readonly string[]
}

export interface ServeInput {
  readonly disks: readonly DiskSource[]
  readonly readOnly: boolean
  /** which node of the tree; the word `base` means the one without parent */
  readonly node: Guid | undefined
  /** the first delta file of a list is headerless */
  readonly rawBase: boolean
  readonly clusterSectors: number | undefined
  readonly listen: ListenChoice
  readonly cache: CacheMode
  readonly pending: PendingMode
  readonly engine: EngineChoice
  readonly connectionsMax: number | undefined
  readonly maxMapBytes: number | undefined
  readonly exitWithParent: boolean
  /** a shell command; the server lives as long as it does */
  readonly run: string | undefined
  /** of the service manager */
  readonly notifySocket: string | undefined
}

export interface ServeContext extends OperationContext {
  /** the second request to stop: do not wait for requests in flight */
  readonly hurry: AbortSignal
  /** Clients can connect. `uri` is undefined for inherited sockets. */
  onReady(uri: string | undefined): void
}

/** @returns the exit status: that of the program given by `run`, else 0 */
export async function serve(input: ServeInput, context: ServeContext): Promise<number> {
  const { files, log, signal, hurry } = context
  const addon = loadAddon()
  if (input.exitWithParent && !addon.dieWithParent()) return 0
  const disks = input.disks.map(source => ({
    name: source.name ?? defaultName(source.paths),
    input: chainInput(source, input),
    rawClusterSectors: input.clusterSectors,
    readOnly: input.readOnly,
    cache: input.cache,
    pending: input.pending,
    maxMapBytes: input.maxMapBytes,
  }))
  checkNames(disks.map(disk => disk.name))
  const { connectionsMax } = input
  const server = await Server.start(
    { disks, listen: input.listen, engine: input.engine, connectionsMax },
    { files, addon, log, signal },
  )
  const stopRequested = aborted(signal)
  notify(addon, input.notifySocket, `READY=1\nSTATUS=serving ${disks.length} disk(s)`)
  if (!signal.aborted) context.onReady(server.uri)
  const ended = input.run === undefined ? stopRequested : runProgram(input.run, server, signal)
  const outcome = await Promise.race([ended, server.failed])
  if (outcome instanceof Error) {
    await server.abandon()
    throw new PloopError('DATA_PLANE_DIED', `serving ended: ${outcome.message}`, {
      status: 'abort',
      cause: outcome,
      hint: 'the images stay marked in use and are checked when they are opened next',
    })
  }
  notify(addon, input.notifySocket, 'STOPPING=1')
  await server.stop(hurry)
  return outcome
}

function chainInput({ paths }: DiskSource, input: ServeInput): ChainInput {
  const [first = ''] = paths
  if (first.endsWith('.xml')) return { kind: 'descriptor', path: first, guid: input.node }
  const rawClusterSectors = input.rawBase ? input.clusterSectors : undefined
  return { kind: 'deltas', paths, rawClusterSectors }
}

/** A descriptor is named after its directory, as in /vz/root.hdd/DiskDescriptor.xml. */
function defaultName(paths: readonly string[]): string {
  const last = resolve(paths.at(-1) ?? '')
  const isDescriptor = last.endsWith('.xml')
  return basename(isDescriptor ? dirname(last) : last) || 'disk'
}

function checkNames(names: readonly string[]): void {
  const seen = new Set<string>()
  for (const name of names) {
    const bytes = Buffer.byteLength(name)
    if (bytes === 0 || bytes > 255) {
      throw new PloopError('EXPORT_NAME', `an export name has 1 to 255 bytes, not ${bytes}`, {
        status: 'parameter',
      })
    }
    if (seen.has(name)) {
      throw new PloopError('EXPORT_NAME', `two disks have the export name "${name}"`, {
        status: 'parameter',
        hint: 'name them: NAME=DiskDescriptor.xml',
      })
    }
    seen.add(name)
  }
}

function aborted(signal: AbortSignal): Promise<number> {
  return new Promise(done => {
    if (signal.aborted) done(0)
    signal.addEventListener('abort', () => {
      done(0)
    })
  })
}

/** Runs a shell command with $uri and $unixsocket; passes a request to stop on to it. */
function runProgram(command: string, server: Server, signal: AbortSignal): Promise<number> {
  return new Promise((done, fail) => {
    const env = { ...process.env, uri: server.uri ?? '', unixsocket: server.socketPath ?? '' }
    const child = spawn('/bin/sh', ['-c', command], { stdio: 'inherit', env })
    const stop = (): void => {
      child.kill('SIGTERM')
    }
    signal.addEventListener('abort', stop)
    if (signal.aborted) stop()
    child.on('error', fail)
    child.on('exit', (code, killedBy) => {
      signal.removeEventListener('abort', stop)
      done(code ?? 128 + (killedBy === null ? 0 : constants.signals[killedBy]))
    })
  })
}

function notify(addon: NativeAddon, socketPath: string | undefined, text: string): void {
  if (socketPath === undefined) return
  try {
    addon.notify(socketPath, text)
  } catch (error) {
    // A service manager that does not listen must not stop the service.
    if (errnoName(error) === undefined) throw error
  }
}

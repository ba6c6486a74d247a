// SPDX-License-Identifier: MIT
/**
 * Listening sockets: made with the right mode from the first instant, or inherited.
 *
 * Owns:     socket paths (length, stale files), addresses, the variables of socket activation.
 * Leaves:   accepting to the data plane, which duplicates the descriptors.
 * Facts:    a unix socket path has at most 107 bytes; Node cuts longer ones silently. Socket
 *           activation: sd_listen_fds(3); libnbd starts servers that way.
 */
import { randomUUID } from 'node:crypto'
import * as fs from 'node:fs'
import * as net from 'node:net'
import { dirname, join } from 'node:path'
import { formatNbdUri } from 'nbd-server-protocol'
import { errnoName, PloopError } from '../base/errors.js'
import type { NativeAddon } from '../io/native.js'

export const socketPathBytesMax = 107
const backlog = 128

export type ListenChoice =
  | { readonly kind: 'unix'; readonly path: string }
  /** a socket of our own making in a directory, which is made if need be */
  | { readonly kind: 'runtime'; readonly directory: string }
  | { readonly kind: 'tcp'; readonly addresses: readonly string[]; readonly port: number }
  /** descriptors 3 … 3 + count - 1, from the service manager or libnbd */
  | { readonly kind: 'inherited'; readonly count: number }

export interface Listening {
  readonly fds: readonly number[]
  /** absent when the sockets are inherited: whoever made them knows where they are */
  readonly socketPath?: string
  uri(exportName: string): string | undefined
  /** Closes our descriptors and removes the socket file, unless it is somebody else's. */
  close(): void
}

/** @param env is searched for LISTEN_FDS, which must be meant for us; the variables are removed */
export function inheritedCount(env: NodeJS.ProcessEnv, pid: number): number {
  const { LISTEN_PID: forPid, LISTEN_FDS: count } = env
  delete env['LISTEN_PID']
  delete env['LISTEN_FDS']
  delete env['LISTEN_FDNAMES']
  if (forPid !== String(pid) || count === undefined || !/^[1-9]\d{0,3}$/.test(count)) return 0
  return Number(count)
}

/** $XDG_RUNTIME_DIR/ploop-nbd, /run/ploop-nbd for root, else a folder of the user's in /tmp. */
export function runtimeDirectory(env: NodeJS.ProcessEnv, uid: number): string {
  const { XDG_RUNTIME_DIR: own } = env
  if (own !== undefined && own !== '') return join(own, 'ploop-nbd')
  return uid === 0 ? '/run/ploop-nbd' : `/tmp/ploop-nbd-${uid}`
}

export async function listen(addon: NativeAddon, choice: ListenChoice): Promise<Listening> {
  switch (choice.kind) {
    case 'inherited':
      return inherited(choice.count)
    case 'tcp':
      return listenTcp(addon, choice.addresses, choice.port)
    case 'unix':
      return listenUnix(addon, choice.path)
    case 'runtime':
      return listenUnix(addon, runtimePath(choice.directory))
  }
}

function inherited(count: number): Listening {
  const fds = Array.from({ length: count }, (_, index) => 3 + index)
  return {
    fds,
    uri: () => undefined,
    close: () => {
      for (const fd of fds) closeQuietly(fd)
    },
  }
}

function runtimePath(directory: string): string {
  try {
    fs.mkdirSync(directory, { recursive: true, mode: 0o700 })
  } catch (cause) {
    throw new PloopError('RUNTIME_DIRECTORY', 'cannot make the directory for the socket', {
      status: 'create',
      path: directory,
      errno: errnoName(cause),
      hint: 'name a socket with --socket PATH',
      cause,
    })
  }
  return join(directory, `${randomUUID().slice(0, 13)}.sock`)
}

async function listenUnix(addon: NativeAddon, path: string): Promise<Listening> {
  const bytes = Buffer.byteLength(path)
  if (bytes > socketPathBytesMax) {
    throw new PloopError(
      'SOCKET_PATH',
      `a socket path has at most ${socketPathBytesMax} bytes, this one has ${bytes}`,
      { status: 'parameter', path, hint: 'choose a shorter path, e.g. below /run' },
    )
  }
  await removeStale(path)
  const fd = guarded('listen on', path, () => addon.listenUnix(path, 0o600, backlog))
  const identity = fs.statSync(path)
  return {
    fds: [fd],
    socketPath: path,
    uri: exportName =>
      formatNbdUri({ transport: 'unix', tls: false, socketPath: path, exportName }),
    close: () => {
      closeQuietly(fd)
      // The name may lead to somebody else's socket by now.
      const found = fs.statSync(path, { throwIfNoEntry: false })
      if (found?.ino === identity.ino && found.dev === identity.dev)
        fs.rmSync(path, { force: true })
    },
  }
}

/** Removes the socket of a server that is gone; anything else in the way is refused. */
async function removeStale(path: string): Promise<void> {
  const found = fs.lstatSync(path, { throwIfNoEntry: false })
  if (found === undefined) {
    if (fs.existsSync(dirname(path))) return
    throw new PloopError('SOCKET_DIRECTORY', 'the directory of the socket does not exist', {
      status: 'create',
      path,
    })
  }
  if (!found.isSocket()) {
    throw new PloopError('SOCKET_EXISTS', 'this is not a socket, and it is in the way', {
      status: 'create',
      path,
    })
  }
  if (await isAnswered(path)) {
    throw new PloopError('SOCKET_IN_USE', 'another server listens on this socket', {
      status: 'create',
      path,
      hint: 'stop it, or choose another path with --socket',
    })
  }
  fs.rmSync(path, { force: true })
}

function isAnswered(path: string): Promise<boolean> {
  return new Promise(resolve => {
    const socket = net.connect(path)
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', error => {
      resolve(errnoName(error) !== 'ECONNREFUSED')
    })
  })
}

function listenTcp(addon: NativeAddon, addresses: readonly string[], port: number): Listening {
  const fds: number[] = []
  let bound = port
  const close = (): void => {
    for (const fd of fds) closeQuietly(fd)
  }
  const isDefault = addresses.length === 0
  for (const address of isDefault ? ['127.0.0.1', '::1'] : addresses) {
    try {
      const made = guarded(`listen on port ${bound} of`, address, () =>
        addon.listenTcp(address, bound, backlog),
      )
      fds.push(made.fd)
      bound = made.port
    } catch (error) {
      // A machine without IPv6 has no ::1; asked for by name it is an error.
      if (isDefault && address === '::1') continue
      close()
      throw error
    }
  }
  const host = addresses[0] ?? '127.0.0.1'
  return {
    fds,
    uri: exportName =>
      formatNbdUri({ transport: 'tcp', tls: false, host, port: bound, exportName }),
    close,
  }
}

function guarded<Value>(words: string, path: string, action: () => Value): Value {
  try {
    return action()
  } catch (cause) {
    const errno = errnoName(cause)
    if (errno === undefined) throw cause
    throw new PloopError(`LISTEN_${errno}`, `cannot ${words} it: ${errno}`, {
      status: 'create',
      path,
      errno,
      operation: 'listen',
      cause,
    })
  }
}

function closeQuietly(fd: number): void {
  try {
    fs.closeSync(fd)
  } catch {
    // It was closed before, which is what was wanted.
  }
}

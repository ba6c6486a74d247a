// SPDX-License-Identifier: MIT
/** `ploop-nbd serve`: options checked, the URI printed, everything else left to the operation. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import type { EngineChoice } from '../../dataplane/choose-engine.js'
import { serve, type DiskSource } from '../../ops/serve.js'
import { inheritedCount, runtimeDirectory, type ListenChoice } from '../../server/listen.js'
import type { PendingMode } from '../../server/pending-file.js'
import type { CacheMode } from '../../server/serve-chain.js'
import { isDescriptorName, UsageError, type CommandInput } from '../command-input.js'
import type { CommandContext } from '../context.js'
import { parseCount, parseFormat, parseSizeSectors, parseUuid } from '../parse-values.js'

const cacheModes: readonly string[] = ['auto', 'direct', 'buffered']
const pendingModes: readonly string[] = ['auto', 'publish', 'none']
const engines: readonly string[] = ['auto', 'uring', 'threads']

export async function run(input: CommandInput, context: CommandContext): Promise<number> {
  const disks = parseDisks(input)
  const node = input.text('uuid')
  const isRaw = parseFormat(input.text('format') ?? 'ploop1') === 'raw'
  const isList = disks.some(disk => !isDescriptorName(disk.paths[0] ?? ''))
  if (node !== undefined && isList) throw new UsageError('-u goes with a DiskDescriptor.xml')
  const blocksize = input.text('blocksize')
  const clusterSectors = blocksize === undefined ? 0 : parseCount('-b', blocksize)
  if (isRaw && isList && clusterSectors === 0) throw new UsageError('Blocksize is not specified')
  const mapSize = input.text('maxMapSize')
  const choice = parseListen(input)
  context.holdOn()
  return serve(
    {
      disks,
      node: node === undefined || node === 'base' ? node : parseUuid(node),
      readOnly: input.has('readOnly'),
      rawBase: isRaw && isList,
      clusterSectors: clusterSectors === 0 ? undefined : clusterSectors,
      listen: choice,
      cache: oneOf(input, 'cache', cacheModes) as CacheMode,
      pending: oneOf(input, 'pending', pendingModes) as PendingMode,
      engine: oneOf(input, 'engine', engines) as EngineChoice,
      connectionsMax: parseLimited(input, 'maxConnections', '--max-connections', 4000),
      maxMapBytes:
        mapSize === undefined ? undefined : parseSizeSectors('--max-map-size', mapSize) * 512,
      exitWithParent: input.has('exitWithParent'),
      run: input.text('run'),
      notifySocket: process.env['NOTIFY_SOCKET'],
    },
    {
      ...context,
      onReady: uri => {
        if (uri !== undefined && input.text('run') === undefined) context.stdout.write(`${uri}\n`)
      },
    },
  )
}

function oneOf(input: CommandInput, key: string, allowed: readonly string[]): string {
  const text = input.text(key) ?? 'auto'
  if (!allowed.includes(text)) {
    throw new UsageError(`Bad --${key} argument: ${text} (one of ${allowed.join(', ')})`)
  }
  return text
}

function parseLimited(
  input: CommandInput,
  key: string,
  option: string,
  max: number,
): number | undefined {
  const text = input.text(key)
  if (text === undefined) return undefined
  const count = parseCount(option, text)
  if (count < 1 || count > max) {
    throw new UsageError(`Invalid argument for option ${option}: ${text} (1 to ${max})`)
  }
  return count
}

/** One disk (a descriptor, or delta files from base to top), or several as NAME=PATH. */
function parseDisks(input: CommandInput): DiskSource[] {
  const { positionals } = input
  const exportName = input.text('export')
  const named = positionals.map(splitName)
  if (named.length > 0 && named.every(pair => pair !== undefined)) {
    if (exportName !== undefined) throw new UsageError('--export does not go with NAME=PATH')
    return named.map(([name, path]) => ({ name, paths: [path] }))
  }
  const [first] = positionals
  if (first === undefined) throw new UsageError()
  if (positionals.length > 1 && positionals.some(isDescriptorName)) {
    throw new UsageError('several descriptors are given as NAME=PATH each')
  }
  return [{ name: exportName, paths: positionals }]
}

function splitName(text: string): [name: string, path: string] | undefined {
  const at = text.indexOf('=')
  if (at <= 0 || text.slice(0, at).includes('/') || existsSync(text)) return undefined
  return [text.slice(0, at), text.slice(at + 1)]
}

function parseListen(input: CommandInput): ListenChoice {
  const path = input.text('socket')
  const addresses = input.texts('bind')
  const port = input.text('port')
  const isTcp = addresses.length > 0 || port !== undefined
  if (path !== undefined && isTcp) {
    throw new UsageError('--socket does not go with --bind and --port')
  }
  const inherited = inheritedCount(process.env, process.pid)
  if (inherited > 0) {
    if (path === undefined && !isTcp) return { kind: 'inherited', count: inherited }
    throw new UsageError('sockets were passed to this process: it cannot make others')
  }
  if (isTcp) {
    // Port 0 lets the kernel choose; the URI tells which.
    const number = port === '0' ? 0 : (parseLimited(input, 'port', '--port', 65535) ?? 10809)
    return { kind: 'tcp', addresses, port: number }
  }
  if (path !== undefined) return { kind: 'unix', path: resolve(path) }
  const directory = runtimeDirectory(process.env, process.getuid?.() ?? 0)
  return { kind: 'runtime', directory }
}

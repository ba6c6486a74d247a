// SPDX-License-Identifier: MIT
/** `ploop-nbd version`: what runs here, what this machine allows, and why something is missing. */
import { readFileSync } from 'node:fs'
import { findProgram } from '../../host/run.js'
import { addonMissingReason, loadAddon } from '../../io/native.js'
import { UsageError, type CommandInput } from '../command-input.js'
import type { CommandContext } from '../context.js'
import { writeJson } from '../output.js'

/** Programs that some command starts, and their Debian packages. */
const programs: readonly (readonly [program: string, package_: string])[] = [
  ['mkfs.ext4', 'e2fsprogs'],
  ['e2fsck', 'e2fsprogs'],
  ['resize2fs', 'e2fsprogs'],
  ['nbd-client', 'nbd-client'],
  ['nbdfuse', 'libnbd-bin'],
  ['fstrim', 'util-linux'],
]

export function programVersion(): string {
  const text = readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')
  const document: unknown = JSON.parse(text)
  if (typeof document === 'object' && document !== null && 'version' in document) {
    return String(document.version)
  }
  return 'unknown'
}

interface Engines {
  /** why there is no native addon; undefined: there is one */
  readonly addonMissing: string | undefined
  readonly engine: 'uring' | 'threads' | undefined
  readonly reason: string | undefined
}

/** Which engine `serve` would choose, and why not the faster one. */
function probeEngines(): Engines {
  const addonMissing = addonMissingReason()
  if (addonMissing !== undefined) return { addonMissing, engine: undefined, reason: undefined }
  const { available, reason } = loadAddon().probeUring()
  return { addonMissing, engine: available ? 'uring' : 'threads', reason }
}

export function run(input: CommandInput, context: CommandContext): Promise<undefined> {
  if (input.positionals.length > 0) throw new UsageError()
  const missing = programs.filter(([program]) => findProgram(program) === undefined)
  const version = programVersion()
  const engines = probeEngines()
  if (context.json) {
    writeJson(context.stdout, {
      ...{ version, node: process.versions.node, ...engines },
      missingPrograms: missing.map(([program]) => program),
    })
    return Promise.resolve(undefined)
  }
  const lines = [`ploop-nbd ${version} (node ${process.versions.node})`]
  if (engines.engine === undefined) lines.push(`missing: ${engines.addonMissing ?? ''}`)
  else lines.push(`engine: ${engines.engine} (${engines.reason ?? ''})`)
  for (const [program, package_] of missing) {
    lines.push(`missing: ${program} (install ${package_})`)
  }
  context.stdout.write(`${lines.join('\n')}\n`)
  return Promise.resolve(undefined)
}

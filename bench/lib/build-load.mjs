// SPDX-License-Identifier: MIT
/** Compiles the load generator (bench/load) when one of its files is newer than the program. */
import { existsSync, mkdirSync, readdirSync, renameSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { root, run, say } from '../../scripts/setup/step.mjs'

const folder = join(root, 'bench', 'load')
const program = join(root, '.state', 'bench', 'nbd-load')

/** @returns path of the program */
export async function buildLoad() {
  const names = readdirSync(folder)
  const newest = Math.max(...names.map(name => statSync(join(folder, name)).mtimeMs))
  if (existsSync(program) && statSync(program).mtimeMs > newest) return program
  say('compiling the load generator', 'bench')
  mkdirSync(dirname(program), { recursive: true })
  const sources = names.filter(name => name.endsWith('.c')).map(name => join(folder, name))
  const flags = ['-std=gnu17', '-O2', '-Wall', '-Wextra', '-Werror', '-pthread']
  await run('gcc', [...flags, '-o', `${program}.new`, ...sources])
  renameSync(`${program}.new`, program)
  return program
}

#!/usr/bin/env node
// SPDX-License-Identifier: MIT
/**
 * `npm run check`: everything a change must pass, the quick gates first, all of them reported:
 * format, lint, types; then set-up, build and tests. `--no-tests` leaves the last out.
 */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { runScript, setUp } from './setup.mjs'
import { root, say } from './setup/step.mjs'

const gates = [
  ['format', 'prettier', 'bin', 'prettier.cjs', '--check', '--log-level', 'warn', '.'],
  ['lint', 'eslint', 'bin', 'eslint.js', '--max-warnings', '0', '.'],
  ['types', 'typescript', 'bin', 'tsc', '-p', 'tsconfig.check.json'],
]

await runScript(async () => {
  await setUp('test')
  const failed = gates.filter(gate => !passes(gate)).map(([name]) => name)
  if (!process.argv.includes('--no-tests') && node('scripts/test.mjs') !== 0) failed.push('tests')
  say(failed.length === 0 ? 'all gates passed' : `failed: ${failed.join(', ')}`)
  return failed.length === 0 ? 0 : 1
})

function passes([name, packageName, folder, file, ...gateArguments]) {
  say(`checking ${name}`)
  return node(join('node_modules', packageName, folder, file), ...gateArguments) === 0
}

function node(...nodeArguments) {
  const result = spawnSync(process.execPath, nodeArguments, {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  return result.status ?? 1
}

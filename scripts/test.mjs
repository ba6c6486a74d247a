#!/usr/bin/env node
// SPDX-License-Identifier: MIT
/**
 * `npm test`: set-up, build, then every test; the last line is "N passed, N failed[, N skipped]",
 * counting assertions. Arguments go to tap: `npm test -- test/base/math.test.ts`.
 *
 * With CI=true a skipped test is a failure, since set-up has installed every judge; only where no
 * kernel with /dev/nbd can be had may the tests of the kernel client be skipped.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { runScript, setUp } from './setup.mjs'
import { root, say } from './setup/step.mjs'
import { TapReader } from './test/tap-reader.mjs'
import { whyNoMachine } from './vm/machine-programs.mjs'

await runScript(async () => {
  keepSummary('0 passed, 1 failed')
  await setUp('test')
  const reader = new TapReader(line => process.stdout.write(`${line}\n`))
  const status = await runTap([...skipPolicy(), ...process.argv.slice(2)], reader)
  const summary = reader.summary(status)
  keepSummary(summary)
  process.stdout.write(`${summary}\n`)
  return status
})

/** For .ci/run, which prints it as the very last line. */
function keepSummary(line) {
  mkdirSync(join(root, '.state'), { recursive: true })
  writeFileSync(join(root, '.state', 'test-summary'), `${line}\n`)
}

function skipPolicy() {
  if (process.env.CI !== 'true') return []
  if (canHaveKernelDevice()) return ['--fail-skip']
  say('no /dev/nbd and no virtual machine: tests of the kernel client may be skipped')
  return []
}

function canHaveKernelDevice() {
  return existsSync('/dev/nbd0') || whyNoMachine() === undefined
}

function runTap(tapArguments, reader) {
  return new Promise((resolve, reject) => {
    const tap = join('node_modules', '.bin', 'tap')
    const child = spawn(process.execPath, [tap, 'run', '--reporter=tap', ...tapArguments], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal))
    child.stdout.setEncoding('utf8').on('data', chunk => reader.push(chunk))
    child.on('error', reject)
    child.on('close', (status, signal) => {
      if (signal !== null) say(`tap was ended by ${signal}`)
      resolve(status ?? 1)
    })
  })
}

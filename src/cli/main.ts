#!/usr/bin/env node
// SPDX-License-Identifier: MIT
/**
 * The program: the only file that touches `process`.
 *
 * Sets the exit status and lets the event loop drain, so that output is complete. The first
 * signal asks the command to undo or finish what it is doing; the second ends it at once.
 */
import { exitStatus } from '../base/exit-status.js'
import { nodeFiles } from '../io/node-files.js'
import { underServiceManager } from './logger.js'
import { streamOutput } from './output.js'
import type { ProgressDisplay } from './progress-bar.js'
import { reportError } from './report-error.js'
import { runCommandLine } from './run-command.js'

async function main(): Promise<void> {
  const stdout = streamOutput(process.stdout)
  const stderr = streamOutput(process.stderr)
  const stop = new AbortController()
  const hurry = new AbortController()
  let holdsOn = false
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(name, () => {
      if (!stop.signal.aborted) stop.abort()
      else if (holdsOn) hurry.abort()
      else process.exit(exitStatus.system)
    })
  }
  let display: ProgressDisplay | undefined
  process.on('SIGUSR2', () => {
    stderr.write(`ploop-nbd: ${display?.describe() ?? 'no progress to report'}\n`)
  })
  process.on('uncaughtException', error => {
    const report = { stderr, json: false, verbosity: 4, row: undefined }
    process.exitCode = reportError(error, report)
    process.exit()
  })
  process.exitCode = await runCommandLine(process.argv.slice(2), {
    ...{ stdout, stderr, files: nodeFiles, signal: stop.signal, hurry: hurry.signal },
    holdOn: () => {
      holdsOn = true
    },
    jsonLog: underServiceManager(process.env),
    onProgress: shown => {
      display = shown
    },
  })
}

main().catch((error: unknown) => {
  process.stderr.write(`ploop-nbd: ${String(error)}\n`)
  process.exitCode = exitStatus.system
})

// SPDX-License-Identifier: MIT
/** The command line of the benchmark. */
import { parseArgs } from 'node:util'
import { SetupError } from '../../scripts/setup/step.mjs'

export const usage = `usage: npm run bench -- [--mode short|full] [--only NAME]... [--pairs N] [--json FILE] [--list]

  --mode short|full  short: the main workloads, 3 minutes; full: all of them, 25 minutes (short)
  --only NAME        only workloads whose name contains this; several times: any of them
  --cache page|direct  only this cache mode
  --pairs N          how often each competitor has its turn (5)
  --json FILE        write every run and every ratio there
  --folder DIR       where the images go (.state/bench/images); its file system is measured too
  --list             name the workloads and end
`

/** What a mode means: seconds of each run, size of the images, when to stop beginning new rows. */
const modes = {
  short: { warmupSeconds: 0.15, runSeconds: 0.4, imageMiB: 512, budgetSeconds: 150 },
  full: { warmupSeconds: 0.25, runSeconds: 1, imageMiB: 1024, budgetSeconds: 1420 },
}

/** @throws {SetupError} with the usage */
export function parseArguments(words) {
  const { values } = readWords(words)
  const mode = values.mode ?? 'short'
  if (!(mode in modes)) refuse(`--mode is short or full, not ${mode}`)
  if (values.cache !== undefined && !['page', 'direct'].includes(values.cache)) {
    refuse(`--cache is page or direct, not ${values.cache}`)
  }
  const pairs = Number(values.pairs ?? 5)
  if (!Number.isInteger(pairs) || pairs < 1 || pairs > 99) refuse('--pairs is 1 to 99')
  const { only = [], cache, json, folder, list = false, help = false } = values
  return { mode, ...modes[mode], only, cache, pairs, json, folder, list, help }
}

function readWords(words) {
  try {
    return parseArgs({
      args: words,
      options: {
        mode: { type: 'string' },
        only: { type: 'string', multiple: true },
        cache: { type: 'string' },
        pairs: { type: 'string' },
        json: { type: 'string' },
        folder: { type: 'string' },
        list: { type: 'boolean' },
        help: { type: 'boolean' },
      },
    })
  } catch (error) {
    return refuse(error.message)
  }
}

function refuse(message) {
  throw new SetupError(`${message}\n${usage}`)
}

// SPDX-License-Identifier: MIT
/**
 * How set-up speaks and starts programs: one line per step, quiet when it goes well, the program's
 * own words when it does not.
 *
 * Promises: a failure a person can act on is a SetupError; its message is all they see.
 */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The checkout. */
export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

/** What a person can do something about; printed without a stack. */
export class SetupError extends Error {
  name = 'SetupError'
}

/** One line on standard error, so that standard output stays with the program that is started. */
export function say(line, speaker = 'setup') {
  process.stderr.write(`${speaker}: ${line}\n`)
}

const searchPath = [
  ...(process.env.PATH ?? '').split(delimiter),
  ...['/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/local/bin', '/usr/bin', '/bin'],
].filter(folder => folder !== '')

/** Where a program is, the folders of the administrator included; undefined when it is nowhere. */
export function findProgram(name) {
  return searchPath.map(folder => join(folder, name)).find(path => existsSync(path))
}

/**
 * Starts a program and waits for it.
 *
 * @param options.live show its output as it comes (for work of minutes); else only when it fails
 * @throws {SetupError} with its last lines when it does not end with status 0
 */
export function run(program, programArguments, { live = false, env = {}, cwd = root } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, programArguments, {
      cwd,
      env: { ...process.env, ...env },
      stdio: ['ignore', live ? process.stderr : 'pipe', live ? process.stderr : 'pipe'],
    })
    let output = ''
    const collect = chunk => (output = (output + chunk).slice(-20_000))
    child.stdout?.setEncoding('utf8').on('data', collect)
    child.stderr?.setEncoding('utf8').on('data', collect)
    const commandLine = [program, ...programArguments].join(' ')
    child.on('error', error => {
      reject(new SetupError(`cannot start "${commandLine}": ${error.message}`))
    })
    child.on('close', (status, signal) => {
      if (status === 0) return resolve(output)
      const lines = output.trimEnd().split('\n').slice(-40).join('\n')
      reject(new SetupError(`"${commandLine}" ended with ${status ?? signal}\n${lines}`.trimEnd()))
    })
  })
}

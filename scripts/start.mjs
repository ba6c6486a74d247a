#!/usr/bin/env node
// SPDX-License-Identifier: MIT
/**
 * `npm start`: set-up, then a disk of 1 GiB with an ext4 file system, served in the foreground on
 * a unix socket, and the commands to try on it. The disk stays in .state/demo between runs;
 * `npm start -- --fresh` makes a new one. Ctrl-C ends the server cleanly.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { runScript, setUp } from './setup.mjs'
import { SetupError, root, run, say } from './setup/step.mjs'
import { invitation } from './start/invitation.mjs'

const program = join(root, 'dist', 'cli', 'main.js')
const demoFolder = join(root, '.state', 'demo')
const descriptor = join(demoFolder, 'DiskDescriptor.xml')
/** longest path of a unix socket the kernel takes */
const socketPathLimitBytes = 107

await runScript(async () => {
  const { isFresh } = parseArguments(process.argv.slice(2))
  await setUp('start')
  if (isFresh) rmSync(demoFolder, { recursive: true, force: true })
  if (!existsSync(descriptor)) await makeDisk()
  return serve()
})

function parseArguments(words) {
  const unknown = words.filter(word => word !== '--fresh')
  if (unknown.length > 0) {
    throw new SetupError(`usage: npm start [-- --fresh]; got "${unknown.join(' ')}"`)
  }
  return { isFresh: words.includes('--fresh') }
}

/** Made aside and renamed when complete, so that an interrupted start leaves no half disk. */
async function makeDisk() {
  say(`making a disk of 1 GiB with ext4: ${descriptor}`)
  const folder = `${demoFolder}.new`
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  await run(program, ['init', '-s', '1G', '-t', 'ext4', join(folder, 'root.hds')])
  rmSync(demoFolder, { recursive: true, force: true })
  renameSync(folder, demoFolder)
}

/** @returns the status of the server, when it has ended */
function serve() {
  const { socketPath, removeSocketFolder } = chooseSocketPath()
  const child = spawn(program, ['serve', '--socket', socketPath, '--export', 'demo', descriptor], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  })
  passSignalsTo(child)
  createInterface({ input: child.stdout }).once('line', uri => {
    process.stdout.write(invitation({ uri, socketPath, exportName: 'demo', demoFolder }))
  })
  return new Promise((resolve, reject) => {
    child.on('error', error => {
      reject(new SetupError(`cannot start ${program}: ${error.message}`))
    })
    child.on('close', status => {
      removeSocketFolder()
      resolve(status ?? 1)
    })
  })
}

function chooseSocketPath() {
  const socketPath = join(demoFolder, 'nbd.sock')
  if (Buffer.byteLength(socketPath) <= socketPathLimitBytes) {
    return { socketPath, removeSocketFolder: () => undefined }
  }
  const folder = mkdtempSync(join(tmpdir(), 'ploop-nbd-'))
  return {
    socketPath: join(folder, 'nbd.sock'),
    removeSocketFolder: () => rmSync(folder, { recursive: true, force: true }),
  }
}

/** The server has a process group of its own, so that a Ctrl-C reaches it once, from here. */
function passSignalsTo(child) {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(signal, () => child.kill(signal === 'SIGINT' ? 'SIGINT' : 'SIGTERM'))
  }
}

// SPDX-License-Identifier: MIT
/**
 * The servers under test, each started the way that serves it best in a given cache mode.
 *
 * Promises: a server that is returned accepts connections. Whatever happens to the benchmark, none
 *           of them outlives it.
 */
import { spawn } from 'node:child_process'
import { closeSync, openSync, readFileSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { findProgram, root } from '../../scripts/setup/step.mjs'

const startMs = 20_000
const stopMs = 30_000
const running = new Set()

process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

/** @returns the command line of a competitor that serves `image` on a unix socket */
function commandOf(competitor, { image, cache, writable, socket }) {
  const readOnly = writable ? [] : ['-r']
  switch (competitor) {
    case 'ploop':
    case 'threads': {
      const engine = competitor === 'ploop' ? 'uring' : 'threads'
      const mode = cache === 'direct' ? 'direct' : 'buffered'
      const options = ['--engine', engine, '--cache', mode, '--socket', socket, ...readOnly]
      const main = join(root, 'dist', 'cli', 'main.js')
      // one file by its path, so that no name has to be agreed on: the only export is the default
      return [process.execPath, main, 'serve', ...options, '--export', 'disk', ...image.deltas]
    }
    case 'qemu': {
      const modes = {
        page: ['--cache=writeback', '--aio=threads'],
        direct: ['--cache=none', '--aio=native'],
      }
      const common = ['-t', '-e', '64', '-x', 'disk', '--discard=unmap', '-k', socket]
      const { format, path } = image.qemu
      return ['qemu-nbd', ...common, ...modes[cache], ...readOnly, '-f', format, path]
    }
    case 'nbdkit': {
      const [path] = image.deltas
      return ['nbdkit', '-f', ...readOnly, '-e', 'disk', '-U', socket, 'file', path]
    }
    default:
      throw new Error(`no server is called ${competitor}`)
  }
}

/** Starts a competitor and waits until it accepts connections. */
export async function startServer(competitor, options) {
  const { folder } = options
  const socket = join(folder, `${competitor}-${options.tag}.sock`)
  const logPath = join(folder, `${competitor}-${options.tag}.log`)
  rmSync(socket, { force: true })
  const [name, ...words] = commandOf(competitor, { ...options, socket })
  const log = openSync(logPath, 'w', 0o600)
  const child = spawn(name.startsWith('/') ? name : findProgram(name), words, {
    stdio: ['ignore', log, log],
  })
  closeSync(log)
  running.add(child)
  const ended = new Promise(resolve => {
    child.on('error', resolve)
    child.on('exit', (status, signal) => {
      running.delete(child)
      resolve(status ?? signal)
    })
  })
  const server = { competitor, socket, pid: child.pid, child, ended, logPath }
  await untilListening(server, [name, ...words].join(' '))
  return server
}

async function untilListening(server, commandLine) {
  const deadline = performance.now() + startMs
  let hasEnded = false
  void server.ended.then(() => (hasEnded = true))
  while (!(await canConnect(server.socket))) {
    if (!hasEnded && performance.now() < deadline) {
      await new Promise(resolve => setTimeout(resolve, 2))
      continue
    }
    server.child.kill('SIGKILL')
    const said = readFileSync(server.logPath, 'utf8').trim()
    throw new Error(`"${commandLine}" does not serve\n${said}`)
  }
}

function canConnect(path) {
  return new Promise(resolve => {
    const socket = connect(path)
    socket.on('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', () => resolve(false))
  })
}

/** Asks it to end, and waits until it has. */
export async function stopServer(server) {
  server.child.kill('SIGTERM')
  const timer = setTimeout(() => server.child.kill('SIGKILL'), stopMs)
  const outcome = await server.ended
  clearTimeout(timer)
  if (server.competitor === 'ploop' && outcome !== 0) {
    const said = readFileSync(server.logPath, 'utf8').trim()
    throw new Error(`the server ended with ${outcome}\n${said}`)
  }
}

/** The most memory the process ever had resident, shared pages included. */
export function peakMemoryMiB(pid) {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  return Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1]) / 1024
}

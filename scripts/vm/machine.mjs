// SPDX-License-Identifier: MIT
/**
 * Starts the virtual machine, brings out what the command says, and returns how it ended.
 *
 * Owns:     the run folder with its sockets and scratch disk, the processes of qemu and virtiofsd.
 * Promises: when `runInMachine` settles, or this process ends, they are gone.
 */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import * as fs from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run, say } from '../setup/step.mjs'
import { jobArchive } from './job.mjs'
import { machinePrograms } from './machine-programs.mjs'
import { qemuArguments, virtiofsdArguments } from './machine-arguments.mjs'
import { Relay } from './relay.mjs'

export const exitStatus = { timedOut: 124, machineFailed: 125 }
const consoleLimitBytes = 256 << 10

export async function runInMachine(options, kernel) {
  const machine = new Machine(options, kernel)
  process.on('exit', () => machine.cleanUp())
  try {
    await machine.start()
    return await machine.finish()
  } finally {
    machine.cleanUp()
  }
}

class Machine {
  #options
  #kernel
  #programs = machinePrograms()
  #folder
  #children = new Set()
  #isOver = false
  #endMark = `\x01<<vm-run end ${randomBytes(12).toString('hex')}>>`
  #relays
  #control
  #console = Buffer.alloc(0)
  #errors = ''
  #settle
  #verdict = new Promise(resolve => (this.#settle = resolve))
  #dumped

  constructor(options, kernel) {
    this.#options = options
    this.#kernel = kernel
    removeLeftovers()
    this.#folder = fs.mkdtempSync(join(tmpdir(), `vm-run-${process.pid}-`))
    this.#relays = {
      out: new Relay(process.stdout, this.#endMark),
      err: new Relay(process.stderr, this.#endMark),
    }
  }

  cleanUp() {
    this.#isOver = true
    for (const child of this.#children) child.kill('SIGKILL')
    fs.rmSync(this.#folder, { recursive: true, force: true })
  }

  async start() {
    const { initrd } = this.#kernel
    const job = jobArchive(this.#options, this.#kernel, this.#endMark)
    fs.writeFileSync(this.#path('initrd'), Buffer.concat([fs.readFileSync(initrd), job]))
    await this.#makeScratchDisk()
    await this.#listen('out', socket => this.#relays.out.connect(socket))
    await this.#listen('err', socket => this.#relays.err.connect(socket))
    await this.#listen('console', socket => this.#readConsole(socket))
    await this.#listen('control', socket => this.#readControl(socket))
    await this.#startVirtiofsd()
    this.#startQemu()
  }

  /** @returns the exit status for the caller */
  async finish() {
    const seconds = this.#options.timeoutSeconds
    const timer = setTimeout(() => this.#settle({ isLate: true }), seconds * 1000)
    const verdict = await this.#verdict
    clearTimeout(timer)
    if (verdict.isLate) {
      await this.#askForDump()
      say(`timed out after ${seconds} s; kernel log, blocked tasks, processes:`, 'vm-run')
      process.stderr.write(`${this.#consoleLines(200)}\n`)
      return exitStatus.timedOut
    }
    if (verdict.failure !== undefined) {
      say(verdict.failure, 'vm-run')
      process.stderr.write(`${this.#errors}${this.#consoleLines(60)}\n`)
      return exitStatus.machineFailed
    }
    await withinSeconds(10, [this.#relays.out.ended, this.#relays.err.ended])
    return verdict.status
  }

  #path(name) {
    return join(this.#folder, name)
  }

  async #makeScratchDisk() {
    const disk = this.#path('scratch')
    fs.writeFileSync(disk, '')
    fs.truncateSync(disk, this.#options.scratchBytes)
    const features = ['-O', '^has_journal', '-m', '0', '-E', 'lazy_itable_init=1,nodiscard']
    await run(this.#programs.mke2fs, ['-q', '-t', 'ext4', '-F', ...features, disk])
  }

  #listen(name, onConnection) {
    return new Promise(resolve => {
      const server = createServer(socket => {
        server.close()
        socket.on('error', () => undefined)
        onConnection(socket)
      })
      server.listen(this.#path(name), resolve)
      server.unref()
    })
  }

  #readConsole(socket) {
    socket.on('data', chunk => {
      if (this.#options.isVerbose) process.stderr.write(chunk)
      this.#console = Buffer.concat([this.#console, chunk]).subarray(-consoleLimitBytes)
    })
  }

  #readControl(socket) {
    this.#control = socket
    let rest = ''
    socket.setEncoding('utf8').on('data', chunk => {
      const lines = (rest + chunk).split('\n')
      rest = lines.pop()
      for (const [word, value] of lines.map(line => line.split(' '))) {
        if (this.#options.isVerbose) say(`guest says ${word}`, 'vm-run')
        if (word === 'DUMPED') this.#dumped?.()
        if (word === 'EXIT') this.#settle({ status: Number(value) })
      }
    })
  }

  async #startVirtiofsd() {
    const socketPath = this.#path('files')
    const { virtiofsd } = this.#programs
    const child = this.#spawn(virtiofsd, virtiofsdArguments(virtiofsd, socketPath))
    child.on('exit', status => this.#fail(`virtiofsd ended (${status})`))
    for (let tries = 0; !fs.existsSync(socketPath); tries++) {
      if (tries > 500 || child.exitCode !== null) {
        throw new Error(`virtiofsd did not start: ${this.#errors}`)
      }
      await new Promise(resolve => setTimeout(resolve, 10))
    }
  }

  #startQemu() {
    const qemuWords = qemuArguments(this.#options, this.#kernel.kernel, this.#folder)
    const child = this.#spawn(this.#programs.qemu, qemuWords)
    child.on('exit', status => {
      // its last words on the control port may still be under way
      setTimeout(() => this.#fail(`the guest went down (qemu ${status})`), 100)
    })
  }

  /** The child dies with us even when we are killed outright. */
  #spawn(program, programArguments) {
    const words = ['--pdeathsig', 'KILL', '--', program, ...programArguments]
    const child = spawn(this.#programs.setpriv, words, { stdio: ['ignore', 'ignore', 'pipe'] })
    this.#children.add(child)
    child.stderr.on('data', chunk => (this.#errors = `${this.#errors}${chunk}`.slice(-20_000)))
    child.on('error', error => this.#fail(error.message))
    child.on('exit', () => this.#children.delete(child))
    return child
  }

  #fail(failure) {
    if (!this.#isOver) this.#settle({ failure })
  }

  /** Blocked tasks and the process list, as long as the guest can. */
  async #askForDump() {
    if (this.#control === undefined) return
    const dumped = new Promise(resolve => (this.#dumped = resolve))
    this.#control.write('DUMP\n')
    await withinSeconds(5, [dumped])
  }

  #consoleLines(count) {
    const text = this.#console.toString('latin1').replaceAll(/[^\n\t -~]/g, '')
    return text.split('\n').slice(-count).join('\n')
  }
}

function withinSeconds(seconds, promises) {
  let timer
  const late = new Promise(resolve => (timer = setTimeout(resolve, seconds * 1000)))
  return Promise.race([Promise.all(promises), late]).finally(() => clearTimeout(timer))
}

/** Of runs that were killed outright. */
function removeLeftovers() {
  for (const name of fs.readdirSync(tmpdir())) {
    const pid = /^vm-run-(\d+)-/.exec(name)?.[1]
    if (pid === undefined || fs.existsSync(`/proc/${pid}`)) continue
    fs.rmSync(join(tmpdir(), name), { recursive: true, force: true })
  }
}

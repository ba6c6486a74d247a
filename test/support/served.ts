// SPDX-License-Identifier: MIT
/**
 * The built server as a test's child: started on a short socket path, ready when it says so.
 *
 * Owns:     the process, its socket folder, its whole standard error. At the end of the test it is
 *           stopped, and must have ended with the status the test expected.
 */
import { spawn, type ChildProcessByStdio } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import type { Test } from 'tap'
import { checkout, ploopNbdPath } from './programs.js'
import { socketFolder } from './temp-dir.js'

export interface ServeTestOptions {
  /** of the server; default the checkout */
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string>>
  /** use this socket; default: one in a folder of its own */
  readonly socket?: string
  /** listen on a TCP port of the kernel's choice instead */
  readonly tcp?: boolean
  /** default one minute */
  readonly readyMs?: number
}

export interface Ended {
  readonly status: number | null
  readonly signal: NodeJS.Signals | null
}

export class Served {
  readonly socket: string
  readonly ended: Promise<Ended>
  /** Everything the server said to people. */
  stderr = ''
  stdout = ''
  readonly #child: ChildProcessByStdio<null, Readable, Readable>
  #end: Ended | undefined

  private constructor(
    child: ChildProcessByStdio<null, Readable, Readable>,
    socket: string,
    onText: () => void,
  ) {
    this.#child = child
    this.socket = socket
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text
      onText()
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text
    })
    this.ended = new Promise(resolve => {
      child.on('close', (status, signal) => {
        this.#end = { status, signal }
        resolve(this.#end)
        onText()
      })
    })
  }

  /** Resolves when clients can connect; fails with the server's own words when it ends instead. */
  static async start(
    t: Test,
    serveArguments: readonly string[],
    options: ServeTestOptions = {},
  ): Promise<Served> {
    const socket = options.socket ?? join(socketFolder(t), 's')
    const listen = options.tcp === true ? ['--port', '0'] : ['--socket', socket]
    const child = spawn(process.execPath, [ploopNbdPath, 'serve', ...listen, ...serveArguments], {
      cwd: options.cwd ?? checkout,
      env: { ...process.env, ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let heard = (): void => undefined
    const served = new Served(child, socket, () => {
      heard()
    })
    t.teardown(() => served.kill())
    await new Promise<void>((resolve, reject) => {
      const deadline = setTimeout(() => {
        reject(new Error(`the server is not ready in time: ${served.stderr}`))
      }, options.readyMs ?? 60_000)
      heard = () => {
        if (!served.stdout.includes('\n') && served.#end === undefined) return
        clearTimeout(deadline)
        if (served.stdout.includes('\n')) resolve()
        else reject(new Error(`serve ended with ${JSON.stringify(served.#end)}: ${served.stderr}`))
      }
    })
    return served
  }

  get pid(): number {
    const { pid } = this.#child
    if (pid === undefined) throw new Error('the server was not started')
    return pid
  }

  get uri(): string {
    return this.stdout.split('\n')[0] ?? ''
  }

  /** of a server that listens on TCP */
  get tcpAddress(): { readonly host: string; readonly port: number } {
    const { hostname: host, port } = new URL(this.uri.replace(/^nbd:/, 'http:'))
    return { host, port: Number(port) }
  }

  /** The URI of one of several exports. */
  uriOf(name: string): string {
    return `nbd+unix:///${encodeURIComponent(name)}?socket=${this.socket}`
  }

  get isRunning(): boolean {
    return this.#end === undefined
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  /** Asks it to end and waits. @throws when it ends with another status than 0 */
  async stop(): Promise<void> {
    this.#child.kill('SIGTERM')
    const { status, signal } = await this.ended
    if (status === 0) return
    throw new Error(`serve ended with status ${status} (signal ${signal}): ${this.stderr}`)
  }

  /** As a crash would end it. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.ended
  }

  /** The most memory that was ever resident, in bytes. */
  peakMemoryBytes(): number {
    const status = readFileSync(`/proc/${this.pid}/status`, 'latin1')
    return Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1] ?? NaN) * 1024
  }
}

// SPDX-License-Identifier: MIT
/**
 * The worker thread of the data plane: its event loop is the engine.
 *
 * `engine.run` blocks in native code and calls the data plane once per batch. Between slices the
 * worker looks at the clock and at messages, which it fetches itself: it never returns to Node's
 * event loop while it serves. Whoever sends a message wakes the engine as well.
 */
import { receiveMessageOnPort, workerData, type MessagePort } from 'node:worker_threads'
import type { Logger } from '../base/log.js'
import { publishAlways, type PendingMirror } from '../disk/pending-mirror.js'
import { PendingLogWriter } from '../format/pending-log-writer.js'
import { loadAddon, type NativeEngine } from '../io/native.js'
import { DataPlane } from './data-plane.js'
import type {
  CallMessage,
  ClosedExport,
  ExportSpec,
  PendingSpec,
  PlaneCalls,
  PlaneCallName,
  PlaneStats,
  WorkerMessage,
  WorkerOptions,
} from './messages.js'
import { engineSizes } from './sizes.js'

const sliceMs = 100

const { port, options } = workerData as { port: MessagePort; options: WorkerOptions }

function say(message: WorkerMessage): void {
  port.postMessage(message)
}

const log: Logger = {
  error: (message, fields) => {
    say({ kind: 'log', level: 'error', message, fields })
  },
  warn: (message, fields) => {
    say({ kind: 'log', level: 'warn', message, fields })
  },
  info: (message, fields) => {
    say({ kind: 'log', level: 'info', message, fields })
  },
  debug: (message, fields) => {
    if (options.logsDebug) say({ kind: 'log', level: 'debug', message, fields })
  },
}

class PlaneWorker {
  readonly #engine: NativeEngine
  readonly #plane: DataPlane
  #isStopped = false
  #graceEndsMs = Infinity
  #lastCount = 0

  constructor() {
    const engineOptions = engineSizes(options)
    this.#engine = loadAddon().createEngine(engineOptions)
    this.#plane = new DataPlane(this.#engine, { ...options, log })
    say({ kind: 'ready', wakeHandle: this.#engine.wakeHandle })
  }

  run(): void {
    while (!this.#isStopped) {
      this.#engine.run(this.#plane.hasWork ? 0 : sliceMs)
      const now = performance.now()
      if (now >= this.#graceEndsMs) {
        this.#graceEndsMs = Infinity
        this.#plane.clients.hangUpAll()
      }
      this.#plane.tick(now)
      this.#reportConnections()
      this.#takeMessages()
    }
    this.#engine.close()
    port.close()
  }

  #reportConnections(): void {
    const count = this.#plane.clients.count
    if (count === this.#lastCount) return
    this.#lastCount = count
    say({ kind: 'connections', count, total: this.#plane.stats.connections })
  }

  #takeMessages(): void {
    for (;;) {
      const received = receiveMessageOnPort(port)
      if (received === undefined) return
      const { id, name, argument } = received.message as CallMessage
      const answer = (result: unknown): void => {
        say({ kind: 'result', id, result })
      }
      try {
        const call = this.#calls[name] as (argument: unknown, answer: unknown) => void
        call(argument, answer)
      } catch (error) {
        say({ kind: 'error', id, message: error instanceof Error ? error.message : String(error) })
      }
    }
  }

  readonly #calls: {
    [Name in PlaneCallName]: (
      argument: PlaneCalls[Name]['argument'],
      answer: (result: PlaneCalls[Name]['result']) => void,
    ) => void
  } = {
    addExport: (spec, answer) => {
      this.#addExport(spec)
      answer(undefined)
    },
    closeExport: (name, answer) => {
      this.#closeExport(name, answer)
    },
    addListener: (fd, answer) => {
      answer(this.#engine.addListener(fd))
    },
    removeListener: (listener, answer) => {
      this.#engine.removeListener(listener)
      answer(undefined)
    },
    shutDown: ({ graceMs }, answer) => {
      this.#graceEndsMs = performance.now() + graceMs
      this.#plane.clients.shutDown(() => {
        this.#graceEndsMs = Infinity
        answer(undefined)
      })
    },
    hangUpAll: (_none, answer) => {
      this.#plane.clients.hangUpAll()
      answer(undefined)
    },
    stats: (_none, answer) => {
      answer(this.#stats())
    },
    stop: (_none, answer) => {
      this.#isStopped = true
      answer(undefined)
    },
  }

  #addExport(spec: ExportSpec): void {
    const levels = spec.levels.map(({ fd, ...level }) => ({
      ...level,
      file: this.#engine.addFile(fd),
    }))
    const pending = pendingMirror(spec.pending)
    this.#plane.addExport(spec.name, spec.description, { ...spec, levels, pending })
  }

  #closeExport(name: string, answer: (result: ClosedExport) => void): void {
    const served = this.#plane.exports.get(name)
    if (served === undefined) throw new RangeError(`there is no export ${name}`)
    this.#plane.closeExport(served, errno => {
      answer({ errno, failed: served.disk.failed })
    })
  }

  #stats(): PlaneStats {
    const { stats } = this.#plane
    const { kind, waits, sends, batches, operations } = this.#engine.stats()
    return {
      engine: kind,
      waits,
      sends,
      batches,
      operations,
      requests: [...stats.requests],
      readBytes: stats.readBytes,
      writtenBytes: stats.writtenBytes,
      refusals: stats.refusals,
      failures: stats.failures,
      connections: this.#plane.clients.count,
      exports: this.#plane.exports.all.map(served => ({
        name: served.name,
        connections: served.connections.size,
        pending: served.disk.pendingCount,
        ...served.disk.counters,
      })),
    }
  }
}

function pendingMirror(spec: PendingSpec | undefined): PendingMirror | undefined {
  if (spec === undefined) return undefined
  if (spec === 'publish') return publishAlways
  return new PendingLogWriter(loadAddon().mapShared(spec.fd, spec.sizeBytes))
}

new PlaneWorker().run()

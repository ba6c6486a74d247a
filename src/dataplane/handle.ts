// SPDX-License-Identifier: MIT
/**
 * The control plane's side of the data plane: starts the worker and calls it.
 *
 * A call resolves with the worker's answer. When the worker dies every open call fails, and
 * `failed` says why: images stay marked in use, the process must end.
 */
import { MessageChannel, Worker, type MessagePort } from 'node:worker_threads'
import { PloopError } from '../base/errors.js'
import type { Logger } from '../base/log.js'
import type { NativeAddon } from '../io/native.js'
import type { PlaneCallName, PlaneCalls, WorkerMessage, WorkerOptions } from './messages.js'

interface OpenCall {
  resolve(result: unknown): void
  reject(error: Error): void
}

export class DataPlaneHandle {
  /** the number of open connections changed */
  onConnections: (count: number, total: number) => void = () => undefined
  /** resolves only with the error that ended the worker before {@link stop} */
  readonly failed: Promise<Error>

  readonly #addon: NativeAddon
  readonly #worker: Worker
  readonly #port: MessagePort
  readonly #log: Logger
  readonly #calls = new Map<number, OpenCall>()
  #nextId = 1
  #wakeHandle = 0
  #isStopping = false
  #fail: (error: Error) => void = () => undefined

  private constructor(addon: NativeAddon, options: WorkerOptions, log: Logger) {
    const { port1, port2 } = new MessageChannel()
    this.#addon = addon
    this.#log = log
    this.#port = port1
    this.failed = new Promise(resolve => {
      this.#fail = resolve
    })
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), {
      workerData: { port: port2, options },
      transferList: [port2],
      name: 'data-plane',
    })
    this.#worker.on('error', error => {
      this.#ended(error instanceof Error ? error : new Error(String(error)))
    })
    this.#worker.on('exit', () => {
      this.#ended(new Error('the data plane ended'))
    })
  }

  static async start(
    addon: NativeAddon,
    options: WorkerOptions,
    log: Logger,
  ): Promise<DataPlaneHandle> {
    const handle = new DataPlaneHandle(addon, options, log)
    const ready = new Promise<void>(resolve => {
      handle.#port.on('message', (message: WorkerMessage) => {
        if (message.kind === 'ready') {
          handle.#wakeHandle = message.wakeHandle
          resolve()
        } else handle.#received(message)
      })
    })
    const failure = await Promise.race([ready, handle.failed])
    if (failure instanceof Error) {
      throw new PloopError('DATA_PLANE_START', `the data plane did not start: ${failure.message}`, {
        status: 'system',
        cause: failure,
      })
    }
    return handle
  }

  call<Name extends PlaneCallName>(
    name: Name,
    argument: PlaneCalls[Name]['argument'],
  ): Promise<PlaneCalls[Name]['result']> {
    const id = this.#nextId
    this.#nextId += 1
    const answer = new Promise<unknown>((resolve, reject) => {
      this.#calls.set(id, { resolve, reject })
    })
    this.#port.postMessage({ id, name, argument })
    this.#addon.wake(this.#wakeHandle)
    return answer as Promise<PlaneCalls[Name]['result']>
  }

  /** Ends the worker; operations in flight end first. */
  async stop(): Promise<void> {
    this.#isStopping = true
    const gone = new Promise<void>(resolve => {
      this.#worker.once('exit', () => {
        resolve()
      })
    })
    await this.call('stop', undefined).catch(() => undefined)
    await gone
    this.#port.close()
  }

  #received(message: WorkerMessage): void {
    switch (message.kind) {
      case 'result':
        this.#calls.get(message.id)?.resolve(message.result)
        this.#calls.delete(message.id)
        break
      case 'error':
        this.#calls.get(message.id)?.reject(new Error(message.message))
        this.#calls.delete(message.id)
        break
      case 'log':
        this.#log[message.level](message.message, message.fields)
        break
      case 'connections':
        this.onConnections(message.count, message.total)
        break
      case 'ready':
        break
    }
  }

  #ended(error: Error): void {
    for (const call of this.#calls.values()) call.reject(error)
    this.#calls.clear()
    if (!this.#isStopping) this.#fail(error)
  }
}

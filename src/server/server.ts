// SPDX-License-Identifier: MIT
/**
 * A server: chains opened, listeners made, one data plane; and the way down again.
 *
 * Owns:     the order of starting and stopping. On the way down: take nothing new, finish what is
 *           under way, publish, clear the marks, give the locks back.
 * Promises: whatever fails while starting, everything opened before is closed properly.
 */
import type { Logger } from '../base/log.js'
import { chooseEngine, type ChosenEngine, type EngineChoice } from '../dataplane/choose-engine.js'
import { DataPlaneHandle } from '../dataplane/handle.js'
import type { PlaneStats } from '../dataplane/messages.js'
import type { Files } from '../io/files.js'
import type { NativeAddon } from '../io/native.js'
import { listen, type ListenChoice, type Listening } from './listen.js'
import { ServedChain, type ServeChainOptions } from './serve-chain.js'

export interface ServerOptions {
  readonly disks: readonly ServeChainOptions[]
  readonly listen: ListenChoice
  readonly engine: EngineChoice
  /** default 128 */
  readonly connectionsMax?: number | undefined
}

export interface ServerContext {
  readonly files: Files
  readonly addon: NativeAddon
  readonly log: Logger
  /** ends starting */
  readonly signal?: AbortSignal | undefined
}

/** In-flight requests get that long to end after the first request to stop. */
const graceMs = 10_000
const handshakeMs = 10_000
const connectionsDefault = 128

export class Server {
  readonly engine: ChosenEngine
  readonly #chains: readonly ServedChain[]
  readonly #plane: DataPlaneHandle
  readonly #listening: Listening
  readonly #log: Logger
  readonly #listeners: number[] = []
  #stopping: Promise<void> | undefined

  private constructor(
    engine: ChosenEngine,
    chains: readonly ServedChain[],
    plane: DataPlaneHandle,
    listening: Listening,
    log: Logger,
  ) {
    this.engine = engine
    this.#chains = chains
    this.#plane = plane
    this.#listening = listening
    this.#log = log
  }

  /** Resolves when clients can connect. */
  static async start(options: ServerOptions, context: ServerContext): Promise<Server> {
    const { addon, log } = context
    const engine = chooseEngine(addon, options.engine)
    if (engine.isFallback) log.warn(`${engine.reason}; serving with threads instead`)
    else log.debug('engine chosen', { engine: engine.kind, reason: engine.reason })
    const undo: (() => Promise<void> | void)[] = []
    try {
      // Before any image is touched: a socket that cannot be had must leave them as they are.
      const listening = await listen(addon, options.listen)
      undo.push(() => {
        listening.close()
      })
      const chains: ServedChain[] = []
      for (const disk of options.disks) {
        const chain = await ServedChain.open(disk, context)
        chains.push(chain)
        undo.push(() => chain.close({ errno: 0, failed: false }))
      }
      const connectionsMax = options.connectionsMax ?? connectionsDefault
      const plane = await DataPlaneHandle.start(
        addon,
        {
          engine: engine.kind,
          connectionsMax,
          connectionsPerExportMax: connectionsMax,
          handshakeMs,
          threadCount: 8,
          busyPollMicroseconds: 0,
          logsDebug: true,
        },
        log,
      )
      undo.push(() => plane.stop())
      const server = new Server(engine, chains, plane, listening, log)
      await server.#begin()
      return server
    } catch (error) {
      for (const step of undo.reverse()) await Promise.resolve(step()).catch(() => undefined)
      throw error
    }
  }

  async #begin(): Promise<void> {
    for (const chain of this.#chains) await this.#plane.call('addExport', chain.spec)
    for (const fd of this.#listening.fds) {
      this.#listeners.push(await this.#plane.call('addListener', fd))
    }
  }

  /** undefined for inherited sockets */
  get uri(): string | undefined {
    return this.#listening.uri(this.#chains.length === 1 ? (this.#chains[0]?.name ?? '') : '')
  }

  get socketPath(): string | undefined {
    return this.#listening.socketPath
  }

  /** Resolves only when the data plane has died. */
  get failed(): Promise<Error> {
    return this.#plane.failed
  }

  set onConnections(hear: (count: number, total: number) => void) {
    this.#plane.onConnections = hear
  }

  stats(): Promise<PlaneStats> {
    return this.#plane.call('stats', undefined)
  }

  /**
   * Stops cleanly; several calls are one.
   * @param hurry when aborted, the grace for requests in flight is over at once
   * @throws the first error of closing an image, after all of them were closed
   */
  stop(hurry?: AbortSignal): Promise<void> {
    this.#stopping ??= this.#stop(hurry)
    return this.#stopping
  }

  async #stop(hurry: AbortSignal | undefined): Promise<void> {
    const plane = this.#plane
    const hangUp = (): void => {
      plane.call('hangUpAll', undefined).catch(() => undefined)
    }
    for (const listener of this.#listeners) await plane.call('removeListener', listener)
    this.#listening.close()
    hurry?.addEventListener('abort', hangUp)
    if (hurry?.aborted === true) hangUp()
    await plane.call('shutDown', { graceMs })
    const errors: unknown[] = []
    for (const chain of this.#chains) {
      try {
        await chain.close(await plane.call('closeExport', chain.name))
      } catch (error) {
        this.#log.debug('closing failed', { disk: chain.name })
        errors.push(error)
      }
    }
    await plane.stop()
    if (errors.length > 0) throw errors[0]
  }

  /** The data plane is dead: gives up the sockets and locks, leaves the images as they are. */
  async abandon(): Promise<void> {
    this.#listening.close()
    for (const chain of this.#chains) await chain.abandon().catch(() => undefined)
  }
}

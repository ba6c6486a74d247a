// SPDX-License-Identifier: MIT
/** What the control plane and the worker of the data plane say to each other. */
import type { DiskMap } from '../disk/map.js'
import type { EngineKind } from '../io/native.js'

/** A level of a chain; `fd` is duplicated by the engine and stays the control plane's to close. */
export interface LevelSpec {
  readonly fd: number
  readonly clusterCount: number
  readonly sizeBytes: number
  readonly raw: boolean
  readonly direct: boolean
  readonly alignmentBytes: number
}

/** The file of a pending log, to be mapped; or: publish every mapping before its write is answered. */
export type PendingSpec = { readonly fd: number; readonly sizeBytes: number } | 'publish'

/** A checked and locked chain, to be served under a name. */
export interface ExportSpec {
  readonly name: string
  readonly description: string | undefined
  readonly clusterBytes: number
  readonly sizeBytes: number
  readonly version: 1 | 2
  readonly headerBytes: Uint8Array
  readonly firstDataCluster: number
  /** base first */
  readonly levels: readonly LevelSpec[]
  readonly map: DiskMap
  readonly readOnly: boolean
  readonly allocHead: number
  readonly maxFileClusters: number
  readonly copyRange: boolean
  /** undefined: what is not published dies with the process */
  readonly pending: PendingSpec | undefined
}

/** How a disk was left when its export was closed. */
export interface ClosedExport {
  /** 0, or the errno of what failed: the image must stay marked in use */
  readonly errno: number
  readonly failed: boolean
}

export interface ExportStats {
  readonly name: string
  readonly connections: number
  readonly pending: number
  readonly allocatedClusters: number
  readonly releasedClusters: number
  readonly copiedClusters: number
  readonly batPagesWritten: number
  readonly barriers: number
  readonly flushRounds: number
}

export interface PlaneStats {
  readonly engine: EngineKind
  readonly waits: number
  readonly sends: number
  readonly batches: number
  readonly operations: number
  readonly requests: readonly number[]
  readonly readBytes: number
  readonly writtenBytes: number
  readonly refusals: number
  readonly failures: number
  readonly connections: number
  readonly exports: readonly ExportStats[]
}

/** Calls of the control plane: arguments and results. */
export interface PlaneCalls {
  addExport: { argument: ExportSpec; result: undefined }
  /** The export must have no connections (after shutDown). */
  closeExport: { argument: string; result: ClosedExport }
  addListener: { argument: number; result: number }
  removeListener: { argument: number; result: undefined }
  /** Resolves when all connections are closed; after `graceMs` they are hung up on. */
  shutDown: { argument: { graceMs: number }; result: undefined }
  /** The grace is over now. */
  hangUpAll: { argument: undefined; result: undefined }
  stats: { argument: undefined; result: PlaneStats }
  /** Ends the worker's loop. */
  stop: { argument: undefined; result: undefined }
}

export type PlaneCallName = keyof PlaneCalls

export interface CallMessage {
  readonly id: number
  readonly name: PlaneCallName
  readonly argument: unknown
}

export interface WorkerOptions {
  readonly engine: EngineKind
  readonly connectionsMax: number
  readonly connectionsPerExportMax: number
  readonly handshakeMs: number
  readonly threadCount: number
  readonly busyPollMicroseconds: number
  readonly logsDebug: boolean
}

export type WorkerMessage =
  | { readonly kind: 'ready'; readonly wakeHandle: number }
  | { readonly kind: 'result'; readonly id: number; readonly result: unknown }
  | { readonly kind: 'error'; readonly id: number; readonly message: string }
  | {
      readonly kind: 'log'
      readonly level: 'error' | 'warn' | 'info' | 'debug'
      readonly message: string
      readonly fields: Readonly<Record<string, string | number | boolean | undefined>> | undefined
    }
  /** the number of connections changed */
  | { readonly kind: 'connections'; readonly count: number; readonly total: number }

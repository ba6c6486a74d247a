// SPDX-License-Identifier: MIT
/**
 * For programs that embed ploop-nbd: serve disks, or open chains and read where their data lies.
 *
 * Everything throws {@link PloopError} for what is wrong outside; its `code` and `exitStatus` are
 * stable. Serving needs the native addon, and the process to stay alive until `Server.stop`.
 */
export { PloopError } from './base/errors.js'
export { exitStatus } from './base/exit-status.js'
export { silentLogger, type Logger, type LogFields } from './base/log.js'
export { loadAddon } from './io/native.js'
export { nodeFiles } from './io/node-files.js'
export type { FileHandle, Files, FileStat } from './io/files.js'
export {
  buildMap,
  openChain,
  type ChainInput,
  type ChainLevel,
  type OpenChainOptions,
  type OpenedChain,
} from './image/open.js'
export { Server, type ServerContext, type ServerOptions } from './server/server.js'
export type { ListenChoice } from './server/listen.js'
export type { CacheMode, ServeChainOptions } from './server/serve-chain.js'
export type { EngineChoice } from './dataplane/choose-engine.js'
export type { PlaneStats } from './dataplane/messages.js'

// SPDX-License-Identifier: MIT
/**
 * The NBD protocol over byte views: no I/O, no timers, no dependency.
 */
export * from './constants.js'
export * from './names.js'
export * from './types.js'
export * from './errors.js'
export * from './uint64.js'
export { decodeText, encodeText, clipText, quoteText } from './text.js'
export * from './request-codec.js'
export * from './reply-codec.js'
export * from './validate.js'
export * from './meta-context.js'
export * from './block-status.js'
export * from './option-codec.js'
export * from './handshake-policy.js'
export * from './handshake.js'

// SPDX-License-Identifier: MIT
/**
 * Plain data that several files of the package exchange.
 */

/**
 * Form of the transmission phase: `simple` replies, `structured` replies (28-byte requests,
 * chunked replies), or `extended` headers (32-byte requests and chunk headers with 64-bit lengths).
 */
export type ReplyMode = 'simple' | 'structured' | 'extended'

/** Block sizes in bytes as told to clients in NBD_INFO_BLOCK_SIZE. */
export interface BlockSizes {
  /** 1 unless requests below it are refused; power of two */
  readonly minimum: number
  /** power of two, at least 512 and `minimum` */
  readonly preferred: number
  /** largest payload a client should send or ask for */
  readonly maximum: number
}

/** Minimum 1, preferred 4096, maximum payload 32 MiB. */
export const DEFAULT_BLOCK_SIZES: BlockSizes = { minimum: 1, preferred: 4096, maximum: 33554432 }

/** What a client is told about an export. */
export interface ExportInfo {
  /** below 2^53 */
  readonly sizeBytes: number
  readonly readOnly: boolean
  readonly rotational?: boolean
  /** writes and flushes on one connection are seen by all others */
  readonly multiConn: boolean
  readonly blockSizes: BlockSizes
  /** shown on request; at most 1023 bytes of it are sent */
  readonly description?: string | undefined
  /** the name under which the export is listed, whatever name the client used */
  readonly canonicalName: string
}

/** A metadata context the client selected; `id` is what block status chunks carry. */
export interface SelectedContext {
  readonly id: number
  readonly name: string
}

/** Consecutive bytes of one status in one metadata context. */
export interface Extent {
  readonly lengthBytes: number
  readonly status: number
}

/** What requests are checked against; the fields may change between requests. */
export interface RequestLimits {
  sizeBytes: number
  readOnly: boolean
  /** as told to this client */
  transmissionFlags: number
  /** metadata contexts the client has selected */
  contextCount: number
  shuttingDown: boolean
  /** largest payload and largest READ; 64 MiB */
  hardPayloadLimit: number
  /** requests not aligned to it are refused; 1 refuses none */
  minimumBlockBytes: number
}

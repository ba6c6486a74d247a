// SPDX-License-Identifier: MIT
/**
 * A server without sockets for the tests: a sparse disk in memory behind NbdServerConnection.
 *
 * It answers at once and sends at once, so that what it sends is a function of what it received.
 */
import {
  CONTEXT_ALLOCATION_DEPTH,
  CONTEXT_BASE_ALLOCATION,
  type ConnectionEvent,
  DEFAULT_BLOCK_SIZES,
  type ExportInfo,
  type Extent,
  type HandshakePolicy,
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NbdServerConnection,
  type ServerRequest,
} from '../src/index.js'

const CLUSTER_BYTES = 1048576

export class MemoryDisk {
  readonly clusters = new Map<number, Uint8Array>()

  constructor(readonly sizeBytes: number) {}

  #pieces(offset: number, length: number): { index: number; from: number; to: number }[] {
    const pieces = []
    for (let at = offset; at < offset + length;) {
      const index = Math.floor(at / CLUSTER_BYTES)
      const from = at - index * CLUSTER_BYTES
      const to = Math.min(CLUSTER_BYTES, from + offset + length - at)
      pieces.push({ index, from, to })
      at += to - from
    }
    return pieces
  }

  read(offset: number, length: number): Uint8Array {
    const data = new Uint8Array(length)
    let at = 0
    for (const { index, from, to } of this.#pieces(offset, length)) {
      const cluster = this.clusters.get(index)
      if (cluster !== undefined) data.set(cluster.subarray(from, to), at)
      at += to - from
    }
    return data
  }

  write(offset: number, data: Uint8Array): void {
    let at = 0
    for (const { index, from, to } of this.#pieces(offset, data.length)) {
      const cluster = this.clusters.get(index) ?? new Uint8Array(CLUSTER_BYTES)
      cluster.set(data.subarray(at, at + to - from), from)
      this.clusters.set(index, cluster)
      at += to - from
    }
  }

  zero(offset: number, length: number): void {
    for (const [index, cluster] of this.clusters) {
      const from = Math.max(0, offset - index * CLUSTER_BYTES)
      const to = Math.min(CLUSTER_BYTES, offset + length - index * CLUSTER_BYTES)
      if (from < to) cluster.fill(0, from, to)
      if (from === 0 && to === CLUSTER_BYTES) this.clusters.delete(index)
    }
  }

  *extents(offset: number, length: number, used: number, unused: number): Iterable<Extent> {
    for (let at = offset; at < offset + length;) {
      const index = Math.floor(at / CLUSTER_BYTES)
      const end = Math.min((index + 1) * CLUSTER_BYTES, this.sizeBytes)
      yield { lengthBytes: end - at, status: this.clusters.has(index) ? used : unused }
      at = end
    }
  }
}

export interface MemoryServerOptions extends Partial<HandshakePolicy<MemoryDisk>> {
  readonly sizeBytes?: number
  readonly info?: Partial<ExportInfo>
}

/** One export "ploop0", which is also the default; 64 MiB and writable unless told otherwise. */
export function memoryPolicy(options: MemoryServerOptions = {}): HandshakePolicy<MemoryDisk> {
  const { sizeBytes = 67108864, info: told, ...policy } = options
  const disk = new MemoryDisk(sizeBytes)
  const info: ExportInfo = {
    sizeBytes,
    readOnly: false,
    multiConn: true,
    blockSizes: DEFAULT_BLOCK_SIZES,
    canonicalName: 'ploop0',
    ...told,
  }
  return {
    tls: 'off',
    listExports: () => [{ name: info.canonicalName, description: info.description }],
    findExport: name =>
      name === 'ploop0' || name === ''
        ? { export: disk, info }
        : { kind: 'unknown' as const, text: '' },
    contextsOf: () => [CONTEXT_BASE_ALLOCATION, CONTEXT_ALLOCATION_DEPTH],
    enter: () => 'enter',
    ...policy,
  }
}

export class MemoryServer {
  readonly connection: NbdServerConnection<MemoryDisk>
  /** every request that was let through */
  readonly requests: ServerRequest[] = []
  readonly events: string[] = []
  closed: { readonly graceful: boolean; readonly reason: string } | undefined
  #output: Uint8Array[] = []

  constructor(policy: HandshakePolicy<MemoryDisk>) {
    this.connection = new NbdServerConnection(policy)
    this.#output.push(this.connection.open())
  }

  /** What was sent since the last call. */
  output(): Buffer {
    const all = Buffer.concat(this.#output)
    this.#output = []
    return all
  }

  receive(bytes: Uint8Array): Buffer {
    this.#act(this.connection.receive(bytes))
    return this.output()
  }

  end(): Buffer {
    this.#act(this.connection.end())
    return this.output()
  }

  #act(events: ConnectionEvent<MemoryDisk>[]): void {
    for (const event of events) {
      this.events.push(event.kind)
      if (event.kind === 'send') this.#send([event.bytes], event.request)
      if (event.kind === 'request') this.#send(this.#execute(event.request), event.request)
      if (event.kind === 'starttls') this.connection.secured()
      if (event.kind === 'close') this.closed = event
    }
  }

  #send(buffers: Uint8Array[], request: ServerRequest | undefined): void {
    this.#output.push(...buffers.map(buffer => buffer.slice()))
    if (request !== undefined) this.#act(this.connection.sent(request))
  }

  #execute(request: ServerRequest): Uint8Array[] {
    this.requests.push(request)
    const { command, offsetBytes, lengthBytes, payload } = request
    const disk = this.connection.session?.export
    if (disk === undefined) throw new Error('a request before the session')
    switch (command) {
      case NBD_CMD_READ:
        return this.connection.data(request, disk.read(offsetBytes, lengthBytes))
      case NBD_CMD_BLOCK_STATUS:
        return this.connection.status(request, name =>
          name === CONTEXT_BASE_ALLOCATION
            ? disk.extents(offsetBytes, lengthBytes, 0, 3)
            : disk.extents(offsetBytes, lengthBytes, 1, 0),
        )
      case NBD_CMD_WRITE:
        disk.write(offsetBytes, payload)
        break
      case NBD_CMD_TRIM:
      case NBD_CMD_WRITE_ZEROES:
        disk.zero(offsetBytes, lengthBytes)
        break
    }
    return this.connection.succeed(request)
  }
}

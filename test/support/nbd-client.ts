// SPDX-License-Identifier: MIT
/**
 * An NBD client for tests, on a unix socket: any number of requests in flight.
 *
 * Owns:     the socket, and which caller waits for which reply. The protocol is the client half of
 *           nbd-server-protocol, which also checks that the server keeps to it.
 */
import * as net from 'node:net'
import {
  ClientHandshake,
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NbdClientConnection,
  type ClientGoal,
  type ClientReply,
  type ClientRequest,
  type ClientSession,
} from 'nbd-server-protocol'

/** The server refused a request, with a value of the protocol. */
export class Refused extends Error {
  override name = 'Refused'
  constructor(
    readonly error: number,
    text: string,
  ) {
    super(`error ${error}: ${text}`)
  }
}

/** The connection ended before the answer. */
export class ConnectionLost extends Error {
  override name = 'ConnectionLost'
}

export interface WriteOptions {
  readonly fua?: boolean
  readonly noHole?: boolean
  readonly fastZero?: boolean
}

interface Waiting {
  resolve(reply: ClientReply): void
  reject(error: Error): void
}

export class NbdClient {
  readonly session: ClientSession
  readonly socket: net.Socket
  /** Resolves when the server has closed the connection or it broke. */
  readonly closed: Promise<void>
  readonly #connection: NbdClientConnection
  readonly #waiting = new Map<number, Waiting>()
  #lost: Error | undefined

  private constructor(socket: net.Socket, session: ClientSession, rest: Uint8Array) {
    this.socket = socket
    this.session = session
    this.#connection = new NbdClientConnection(session)
    this.closed = new Promise(resolve => {
      socket.once('close', () => {
        this.#lose(new ConnectionLost('the server closed the connection'))
        resolve()
      })
    })
    socket.on('end', () => {
      this.#lose(new ConnectionLost('the server closed the connection'))
      socket.end()
    })
    socket.on('error', error => {
      this.#lose(new ConnectionLost(error.message))
    })
    socket.on('data', bytes => {
      this.#received(bytes)
    })
    if (rest.length > 0) this.#received(rest)
  }

  /** @param address a socket path, or a TCP address */
  static async connect(
    address: string | net.TcpNetConnectOpts,
    exportName = '',
    goal: Partial<ClientGoal> = {},
  ): Promise<NbdClient> {
    const socket = net.connect({
      ...(typeof address === 'string' ? { path: address } : address),
      allowHalfOpen: true,
    })
    const handshake = new ClientHandshake({ exportName, use: 'go', ...goal })
    let bytes: Uint8Array = new Uint8Array(0)
    return await new Promise<NbdClient>((resolve, reject) => {
      const onEnd = (): void => {
        reject(new ConnectionLost('the server closed the connection during negotiation'))
      }
      const onData = (more: Buffer): void => {
        bytes = Buffer.concat([bytes, more])
        for (;;) {
          const step = handshake.receive(bytes)
          bytes = bytes.subarray(step.consumed)
          if (step.output.length > 0) socket.write(step.output)
          if (step.done === undefined && step.consumed > 0) continue
          if (step.done === undefined) return
          socket.off('data', onData).off('end', onEnd).off('close', onEnd).off('error', reject)
          if (step.done.kind === 'ready') resolve(new NbdClient(socket, step.done.session, bytes))
          else {
            socket.destroy()
            reject(new Error(`negotiation: ${JSON.stringify(step.done)}`))
          }
          return
        }
      }
      socket.on('data', onData).on('end', onEnd).on('close', onEnd).on('error', reject)
    })
  }

  get inFlightCount(): number {
    return this.#waiting.size
  }

  /** @throws Refused, ConnectionLost */
  request(request: ClientRequest): Promise<ClientReply> {
    if (this.#lost !== undefined) return Promise.reject(this.#lost)
    const { cookie, bytes } = this.#connection.request(request)
    const [header, payload] = bytes
    this.socket.cork()
    if (header !== undefined) this.socket.write(header)
    if (payload !== undefined) this.socket.write(payload)
    this.socket.uncork()
    return new Promise((resolve, reject) => {
      this.#waiting.set(cookie, { resolve, reject })
    })
  }

  async read(offsetBytes: number, lengthBytes: number): Promise<Uint8Array> {
    return (await this.request({ command: NBD_CMD_READ, offsetBytes, lengthBytes })).data
  }

  async write(offsetBytes: number, payload: Uint8Array, options?: WriteOptions): Promise<void> {
    await this.request({ command: NBD_CMD_WRITE, offsetBytes, payload, flags: flagsOf(options) })
  }

  async zero(offsetBytes: number, lengthBytes: number, options?: WriteOptions): Promise<void> {
    const flags = flagsOf(options)
    await this.request({ command: NBD_CMD_WRITE_ZEROES, offsetBytes, lengthBytes, flags })
  }

  async trim(offsetBytes: number, lengthBytes: number, options?: WriteOptions): Promise<void> {
    const flags = flagsOf(options)
    await this.request({ command: NBD_CMD_TRIM, offsetBytes, lengthBytes, flags })
  }

  async flush(): Promise<void> {
    await this.request({ command: NBD_CMD_FLUSH })
  }

  async blockStatus(offsetBytes: number, lengthBytes: number): Promise<ClientReply['extents']> {
    const command = NBD_CMD_BLOCK_STATUS
    return (await this.request({ command, offsetBytes, lengthBytes })).extents
  }

  /** Says good-bye and waits until the server has closed. */
  async disconnect(): Promise<void> {
    if (this.#lost === undefined) {
      for (const bytes of this.#connection.disconnect()) this.socket.write(bytes)
    }
    await this.closed
  }

  /** Ends without a word. */
  async drop(): Promise<void> {
    this.socket.destroy()
    await this.closed
  }

  #received(bytes: Uint8Array): void {
    try {
      for (const reply of this.#connection.receive(bytes)) this.#settle(reply)
    } catch (error) {
      this.#lose(error instanceof Error ? error : new Error(String(error)))
      this.socket.destroy()
    }
  }

  #settle(reply: ClientReply): void {
    const waiting = this.#waiting.get(reply.cookie)
    this.#waiting.delete(reply.cookie)
    if (reply.error === 0) waiting?.resolve(reply)
    else waiting?.reject(new Refused(reply.error, reply.errorText))
  }

  #lose(error: Error): void {
    this.#lost ??= error
    for (const { reject } of this.#waiting.values()) reject(this.#lost)
    this.#waiting.clear()
  }
}

function flagsOf(options: WriteOptions | undefined): number {
  return (
    (options?.fua === true ? NBD_CMD_FLAG_FUA : 0) +
    (options?.noHole === true ? NBD_CMD_FLAG_NO_HOLE : 0) +
    (options?.fastZero === true ? NBD_CMD_FLAG_FAST_ZERO : 0)
  )
}

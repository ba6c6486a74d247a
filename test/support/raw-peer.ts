// SPDX-License-Identifier: MIT
/** A client's socket without a client: tests put on it what no decent client would. */
import { createConnection, type Socket, type TcpNetConnectOpts } from 'node:net'
import { ClientHandshake, type ClientGoal, type ClientSession } from 'nbd-server-protocol'

/** A socket on which the server's bytes are kept until somebody asks. */
export class RawPeer {
  readonly socket: Socket
  readonly closed: Promise<void>
  #bytes: Buffer = Buffer.alloc(0)
  #heard: (() => void) | undefined
  #isGone = false

  constructor(address: string | TcpNetConnectOpts) {
    const where = typeof address === 'string' ? { path: address } : address
    this.socket = createConnection({ ...where, allowHalfOpen: true })
    this.socket.on('error', () => undefined)
    this.socket.on('data', more => {
      this.#bytes = Buffer.concat([this.#bytes, more])
      this.#heard?.()
    })
    this.closed = new Promise(resolve => {
      const gone = (): void => {
        this.#isGone = true
        resolve()
        this.#heard?.()
      }
      this.socket.once('end', gone).once('close', gone)
    })
  }

  /** Everything that has come and was not taken. @param count wait for that many */
  async take(count = 1): Promise<Buffer> {
    while (this.#bytes.length < count && !this.#isGone) {
      await new Promise<void>(resolve => {
        this.#heard = resolve
      })
    }
    const bytes = this.#bytes
    this.#bytes = Buffer.alloc(0)
    return bytes
  }

  send(bytes: Uint8Array): Promise<void> {
    return new Promise(resolve => {
      this.socket.write(bytes, () => {
        resolve()
      })
    })
  }

  /** Negotiates; then the socket is in transmission. */
  async enter(goal: Partial<ClientGoal> = {}): Promise<ClientSession> {
    const handshake = new ClientHandshake({ exportName: '', use: 'go', ...goal })
    let bytes = Buffer.alloc(0)
    for (;;) {
      const step = handshake.receive(bytes)
      bytes = Buffer.from(bytes.subarray(step.consumed))
      if (step.output.length > 0) void this.send(step.output)
      if (step.done?.kind === 'ready') return step.done.session
      if (step.done !== undefined) throw new Error(`negotiation: ${JSON.stringify(step.done)}`)
      if (step.consumed === 0) bytes = Buffer.concat([bytes, await this.take()])
    }
  }

  destroy(): void {
    this.socket.destroy()
  }
}

interface RequestWords {
  readonly isExtended?: boolean
  readonly flags?: number
  readonly cookie?: number
  readonly offsetBytes?: number
  readonly lengthBytes?: number
}

/** One header, whatever it says. */
export function request(command: number, words: RequestWords): Buffer {
  const { isExtended = false, flags = 0, cookie = 0, offsetBytes = 0, lengthBytes = 0 } = words
  const head = Buffer.alloc(isExtended ? 32 : 28)
  head.writeUInt32BE(isExtended ? 0x21e41c71 : 0x25609513)
  head.writeUInt16BE(flags, 4)
  head.writeUInt16BE(command, 6)
  head.writeUInt32BE(cookie, 12)
  head.writeUInt32BE(offsetBytes, 20)
  head.writeUInt32BE(lengthBytes, isExtended ? 28 : 24)
  return head
}

// SPDX-License-Identifier: MIT
/**
 * Passes a stream of the guest on until the end mark, which may arrive in pieces. So no byte is
 * lost, and a process that the command left behind does not hold up the end.
 */
export class Relay {
  #target
  #mark
  #kept = Buffer.alloc(0)
  #isTargetGone = false
  #end
  /** settles when the mark has come */
  ended = new Promise(resolve => (this.#end = resolve))

  constructor(target, mark) {
    this.#target = target
    this.#mark = Buffer.from(mark)
    // a reader that went away (`| head`) must not stop the command
    target.on('error', () => (this.#isTargetGone = true))
  }

  connect(socket) {
    socket.on('data', chunk => {
      const isFull = !this.#pass(Buffer.concat([this.#kept, chunk]))
      if (!isFull) return
      socket.pause()
      this.#target.once('drain', () => socket.resume())
    })
  }

  /** @returns false when the target wants a rest */
  #pass(bytes) {
    const at = bytes.indexOf(this.#mark)
    const length = at >= 0 ? at : bytes.length - this.#beginningOfMarkBytes(bytes)
    this.#kept = at >= 0 ? Buffer.alloc(0) : bytes.subarray(length)
    const hasRoom =
      length === 0 || this.#isTargetGone || this.#target.write(bytes.subarray(0, length))
    if (at >= 0) this.#end()
    return hasRoom || this.#isTargetGone
  }

  /** How many bytes at the end may be the beginning of the mark. */
  #beginningOfMarkBytes(bytes) {
    const start = bytes.lastIndexOf(this.#mark[0])
    const rest = start < 0 ? Buffer.alloc(0) : bytes.subarray(start)
    const isBeginning = rest.length < this.#mark.length && this.#mark.indexOf(rest) === 0
    return isBeginning ? rest.length : 0
  }
}

// SPDX-License-Identifier: MIT
/** Where the bytes of a request lie in the arena: in one run, or in pieces. */
import { pieceBytes } from './host.js'
import type { DiskRequest } from './request.js'

/** Arena offset of a position in the request's memory. */
export function memoryAt(request: DiskRequest, position: number): number {
  const { pieces } = request
  if (pieces === undefined) return request.buffer + position
  return (pieces[Math.floor(position / pieceBytes)] ?? 0) + (position % pieceBytes)
}

/** Bytes of memory that follow a position without a gap. */
export function memoryRest(request: DiskRequest, position: number): number {
  return request.pieces === undefined ? Infinity : pieceBytes - (position % pieceBytes)
}

/** Copies bytes of the request to another place in the arena. */
export function gather(
  memory: Uint8Array,
  request: DiskRequest,
  position: number,
  lengthBytes: number,
  target: number,
): void {
  for (let done = 0; done < lengthBytes;) {
    const source = memoryAt(request, position + done)
    const count = Math.min(lengthBytes - done, memoryRest(request, position + done))
    memory.copyWithin(target + done, source, source + count)
    done += count
  }
}

// SPDX-License-Identifier: MIT
/**
 * The errors this package throws or takes.
 *
 * ProtocolError: the peer broke the protocol; hang up. RequestError: one request fails; answer it
 * and go on. UriError: a URI a person wrote is wrong.
 */

export class ProtocolError extends Error {
  override readonly name = 'ProtocolError'

  /** @param code stable, for programs; the message is for people */
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message)
  }
}

export class RequestError extends Error {
  override readonly name = 'RequestError'

  /**
   * @param wireError one of the error values of the protocol, not 0
   * @param message sent to clients that understand texts, cut at 255 bytes
   * @param offsetBytes first bad byte of the export, where it is known
   */
  constructor(
    readonly wireError: number,
    message: string,
    readonly offsetBytes?: number,
  ) {
    super(message)
  }
}

export class UriError extends Error {
  override readonly name = 'UriError'
}

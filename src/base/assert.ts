// SPDX-License-Identifier: MIT
/**
 * Assertions for what only a bug of ours can break.
 *
 * Input from outside (options, images, peers) is refused at the border with an error for people;
 * below the border code asserts. An InternalError prints its stack and asks for a report.
 */

/** The impossible happened: a bug of ours, never the user's fault. */
export class InternalError extends Error {
  override name = 'InternalError'
}

export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new InternalError(message)
}

export function unreachable(message: string): never {
  throw new InternalError(message)
}

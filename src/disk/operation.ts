// SPDX-License-Identifier: MIT
/**
 * File operations under way: a token for each, and who wants to hear of its end.
 *
 * Operations are pooled and reused, so the steady state allocates nothing.
 */
import { assert } from '../base/assert.js'
import { NONE } from './host.js'
import type { DiskRequest } from './request.js'

export interface OperationOwner {
  /** @param result bytes, 0, or a negative errno, as {@link DiskHost} answers */
  completed(operation: Operation, result: number): void
}

export class Operation {
  owner: OperationOwner | undefined = undefined
  request: DiskRequest | undefined = undefined
  /** whatever the owner needs to go on: a job, a bounce */
  context: unknown = undefined
  /** bytes that must come or go, less is an error */
  expectedBytes = 0
  buffer = NONE
  lengthBytes = 0
  /** first and last file cluster touched, for the write tracker */
  fileCluster = 0

  constructor(readonly token: number) {}
}

export class OperationTable {
  readonly #all: Operation[] = []
  readonly #free: Operation[] = []

  get activeCount(): number {
    return this.#all.length - this.#free.length
  }

  take(owner: OperationOwner): Operation {
    let operation = this.#free.pop()
    if (operation === undefined) {
      operation = new Operation(this.#all.length)
      this.#all.push(operation)
    }
    operation.owner = owner
    return operation
  }

  complete(token: number, result: number): void {
    const operation = this.#all[token]
    const owner = operation?.owner
    assert(operation !== undefined && owner !== undefined, `no operation has token ${token}`)
    operation.owner = undefined
    owner.completed(operation, result)
    operation.request = undefined
    operation.context = undefined
    this.#free.push(operation)
  }
}

// SPDX-License-Identifier: MIT
/** Plain counters of the data plane; whoever shows them copies them. */

export class DataPlaneStats {
  /** by command of the protocol */
  readonly requests: number[] = [0, 0, 0, 0, 0, 0, 0, 0]
  readBytes = 0
  writtenBytes = 0
  /** requests answered with an error before they reached a disk */
  refusals = 0
  /** requests that failed on a disk */
  failures = 0
  connections = 0
}

// SPDX-License-Identifier: MIT
/** What a disk tells whoever keeps its pending mappings where they outlive the process. */

export interface PendingMirror {
  /**
   * An entry of the map has changed; its data, if any, was written. Called before the reply, very
   * often: it must be quick and allocate nothing.
   * @param fileCluster 0 = released
   * @param formerFileCluster 0 = none
   * @returns false when it cannot be kept: the disk then answers only after publishing it
   */
  record(clusterIndex: number, fileCluster: number, formerFileCluster: number): boolean
  /** Room is running out: publish soon. */
  readonly isFilling: boolean
  /** What was recorded so far is being published; what comes belongs to the next round. */
  roundStarted(): void
  /** That round is durable. */
  roundEnded(): void
  /** That round failed: what is on disk can no longer be trusted to follow. */
  roundFailed(): void
  /** Some times a second. */
  stillAlive(): void
}

/** Keeps nothing, so that every change is published before it is answered. */
export const publishAlways: PendingMirror = {
  record: () => false,
  isFilling: false,
  roundStarted: () => undefined,
  roundEnded: () => undefined,
  roundFailed: () => undefined,
  stillAlive: () => undefined,
}

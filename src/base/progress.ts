// SPDX-License-Identifier: MIT
/** How long work reports where it is. The program draws a bar from it; libraries stay silent. */

export interface Progress {
  /** @param doneCount out of `totalCount`, any unit, never falling */
  update(doneCount: number, totalCount: number, note?: string): void
}

export const silentProgress: Progress = { update: () => undefined }

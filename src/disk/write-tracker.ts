// SPDX-License-Identifier: MIT
/**
 * Which clusters of the top delta's file were written since somebody last asked.
 *
 * A cluster is marked before its write is issued and again when it has completed: whoever reads
 * the file in between sees either the old mark or the new one, never a change without a mark.
 * Header and BAT count as clusters too.
 */

export class WriteTracker {
  #marks = new Uint8Array(1024)
  #count = 0

  get markedCount(): number {
    return this.#count
  }

  mark(fileCluster: number): void {
    if (fileCluster >= this.#marks.length) this.#grow(fileCluster)
    if (this.#marks[fileCluster] === 0) {
      this.#marks[fileCluster] = 1
      this.#count += 1
    }
  }

  /** The lowest marked cluster at or after `from`, unmarked by this call; -1 if there is none. */
  take(from: number): number {
    if (this.#count === 0) return -1
    const found = this.#marks.indexOf(1, from)
    if (found < 0) return -1
    this.#marks[found] = 0
    this.#count -= 1
    return found
  }

  #grow(fileCluster: number): void {
    const marks = new Uint8Array(Math.max(this.#marks.length * 2, fileCluster + 1))
    marks.set(this.#marks)
    this.#marks = marks
  }
}

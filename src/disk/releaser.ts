// SPDX-License-Identifier: MIT
/**
 * From "no longer named by the BAT on disk" to "may be used again".
 *
 * Owns:     released file clusters on that way: they wait until every operation that was in flight
 *           when they were let go has ended (a reader may still be on them), then their space is
 *           punched out, then the allocator gets them.
 * Promises: a cluster comes back only when it reads as zeros. Where the file system cannot punch,
 *           clusters are not reused; the image's check finds them as holes.
 *
 * Readers of the hot path tell nobody when they are done. So the host counts operations in two
 * epochs: new ones go to the current epoch; when the old one is idle, epochs change. What was
 * released before a change is free of readers when the epoch that ended then is idle.
 */
import type { Allocator } from './allocator.js'
import type { DiskCore } from './core.js'

export class Releaser {
  readonly #core: DiskCore
  readonly #allocator: Allocator
  /** released; the current epoch may have readers on them */
  #fresh: number[] = []
  /** released before the last change of epochs */
  #old: number[] = []
  #punchingCount = 0
  #canPunch = true

  constructor(core: DiskCore, allocator: Allocator) {
    this.#core = core
    this.#allocator = allocator
  }

  get isIdle(): boolean {
    return this.#fresh.length === 0 && this.#old.length === 0 && this.#punchingCount === 0
  }

  /** Nothing on disk names these clusters any more. */
  add(fileClusters: number[]): void {
    this.#core.counters.releasedClusters += fileClusters.length
    for (const fileCluster of fileClusters) this.#fresh.push(fileCluster)
    this.pump()
  }

  /** Called often: moves on as far as readers allow. */
  pump(): void {
    if (this.#fresh.length === 0 && this.#old.length === 0) return
    if (!this.#core.host.oldEpochIdle()) return
    const free = this.#old
    this.#old = this.#fresh
    this.#fresh = []
    if (this.#old.length > 0) this.#core.host.advanceEpoch()
    if (this.#canPunch) this.#punch(free)
  }

  #punch(fileClusters: number[]): void {
    fileClusters.sort((left, right) => left - right)
    for (let at = 0; at < fileClusters.length;) {
      let end = at + 1
      while (end < fileClusters.length && fileClusters[end] === (fileClusters[end - 1] ?? 0) + 1) {
        end += 1
      }
      this.#punchRun(fileClusters.slice(at, end))
      at = end
    }
  }

  #punchRun(run: number[]): void {
    const { host, top, clusterBytes, tracker } = this.#core
    this.#punchingCount += 1
    for (const fileCluster of run) tracker?.mark(fileCluster)
    this.#core.perform(
      token => {
        const offsetBytes = (run[0] ?? 0) * clusterBytes
        host.punch(top.file, offsetBytes, run.length * clusterBytes, token)
      },
      result => {
        this.#punchingCount -= 1
        for (const fileCluster of run) tracker?.mark(fileCluster)
        if (result < 0) this.#canPunch = false
        else for (const fileCluster of run) this.#allocator.putReusable(fileCluster)
      },
    )
  }
}

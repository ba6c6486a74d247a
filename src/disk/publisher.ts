// SPDX-License-Identifier: MIT
/**
 * The order of durability: data, barrier, BAT, barrier, answers.
 *
 * Owns:     which changes of the map are not yet in the BAT on disk, and who waits for them.
 * Promises: a BAT entry is written only after the data it points to passed a barrier; a flush is
 *           answered only after everything acknowledged before it is durable, entries included.
 *           A failed barrier stays failed: the kernel may have dropped the pages.
 *
 * Work goes in rounds. A round takes all changes noted so far, puts a barrier, writes the BAT pages
 * concerned, puts a second barrier, and answers. Flushes that arrive meanwhile wait for the next
 * round (they must not join the running one: writes may have been acknowledged after its barrier
 * was put). A round with no changes needs one barrier, or none when nothing was written since.
 *
 * Until a round has ended, its changes are kept by the mirror too (pending-mirror.ts), where they
 * outlive the process. While one of them found no room there, everything is answered like FUA.
 *
 * A page is composed from the map as it is now. Changes noted after the round began must not leak
 * into it, so `#collecting` remembers what the disk holds for each of them.
 */
import type { DiskCore } from './core.js'
import { errno } from './errno.js'
import { BatPages } from './bat-pages.js'
import type { PendingMirror } from './pending-mirror.js'
import type { DiskRequest } from './request.js'

/**
 * A change waits at most that long for its place on disk (each barrier takes the disk away from the
 * clients for a while), …
 */
const patienceMs = 5000
/** … and this many of them do not wait at all. */
const pendingMax = 65536

export class Publisher {
  readonly #core: DiskCore
  readonly #pages: BatPages
  readonly #mirror: PendingMirror | undefined
  readonly #reply: (request: DiskRequest) => void
  readonly #released: (fileClusters: number[]) => void

  /** cluster index → file cluster that the BAT on disk holds for it (0 = none) */
  #collecting = new Map<number, number>()
  /** cluster index → file cluster that the running round writes */
  #publishing = new Map<number, number>()
  /** file clusters that entries noted so far have let go */
  #releasing: number[] = []
  #waiting: DiskRequest[] = []
  #isRunning = false
  /** something was written since the last barrier was put */
  #isDirty = true
  #collectingSinceMs = -1
  /** a change that is collected, or published by the running round, is not in the mirror */
  #isCollectingUnmirrored = false
  #isPublishingUnmirrored = false

  /**
   * @param reply answers a flush or FUA request; `errno` is set
   * @param released these file clusters are no longer named by the BAT on disk
   */
  constructor(
    core: DiskCore,
    reply: (request: DiskRequest) => void,
    released: (fileClusters: number[]) => void,
  ) {
    this.#core = core
    this.#pages = new BatPages(core)
    this.#mirror = core.options.pending
    this.#reply = reply
    this.#released = released
  }

  get pendingCount(): number {
    return this.#collecting.size + this.#publishing.size
  }

  get isIdle(): boolean {
    return !this.#isRunning && this.#waiting.length === 0
  }

  /** What is answered now would not outlive the process: answer it after {@link flush}. */
  get mustPublish(): boolean {
    return this.#isCollectingUnmirrored || this.#isPublishingUnmirrored
  }

  /** A write to the top has completed. */
  noteWritten(): void {
    this.#isDirty = true
  }

  /**
   * The map's entry of a cluster has changed; its data, if any, was written.
   * @param formerFileCluster what the entry was before, 0 = none
   */
  noteMapped(clusterIndex: number, formerFileCluster: number): void {
    this.#isDirty = true
    if (!this.#collecting.has(clusterIndex)) {
      const onDisk = this.#publishing.get(clusterIndex) ?? formerFileCluster
      this.#collecting.set(clusterIndex, onDisk)
    }
    if (formerFileCluster !== 0) this.#releasing.push(formerFileCluster)
    this.#mirrorChange(clusterIndex, formerFileCluster)
    if (this.#collecting.size >= pendingMax) this.#startRound()
  }

  #mirrorChange(clusterIndex: number, formerFileCluster: number): void {
    const mirror = this.#mirror
    if (mirror === undefined) return
    const { map, topMark } = this.#core
    const isMapped = map.levels[clusterIndex] === topMark
    const fileCluster = isMapped ? (map.clusters[clusterIndex] ?? 0) : 0
    const isKept = mirror.record(clusterIndex, fileCluster, formerFileCluster)
    if (!isKept) this.#isCollectingUnmirrored = true
    if (mirror.isFilling) this.#startRound()
  }

  /** Answers the request when all that was acknowledged before this call is durable. */
  flush(request: DiskRequest): void {
    this.#waiting.push(request)
    this.#startRound()
  }

  /** Publishes changes that nobody flushed for a while. */
  tick(nowMs: number): void {
    this.#mirror?.stillAlive()
    if (this.#collecting.size === 0) this.#collectingSinceMs = -1
    else if (this.#collectingSinceMs < 0) this.#collectingSinceMs = nowMs
    else if (nowMs - this.#collectingSinceMs >= patienceMs) this.#startRound()
  }

  /** Does nothing while a round is running: that one starts the next when it ends. */
  #startRound(): void {
    if (this.#isRunning) return
    const waiters = this.#waiting
    this.#waiting = []
    if (this.#core.failedErrno !== 0) {
      this.#answer(waiters)
      return
    }
    if (this.#collecting.size === 0 && !this.#isDirty) {
      this.#answer(waiters)
      return
    }
    this.#isRunning = true
    this.#core.counters.flushRounds += 1
    const releasing = this.#releasing
    this.#releasing = []
    this.#takeChanges()
    this.#isDirty = false
    this.#barrier(() => {
      if (this.#publishing.size === 0) {
        this.#endRound(waiters, releasing)
        return
      }
      this.#pages.write(this.#publishing, this.#collecting, code => {
        if (code !== 0) this.#fail(waiters)
        else {
          this.#barrier(() => {
            this.#endRound(waiters, releasing)
          }, waiters)
        }
      })
    }, waiters)
  }

  #takeChanges(): void {
    if (this.#collecting.size === 0) return
    this.#mirror?.roundStarted()
    this.#isPublishingUnmirrored = this.#isCollectingUnmirrored
    this.#isCollectingUnmirrored = false
    const { map, topMark } = this.#core
    for (const clusterIndex of this.#collecting.keys()) {
      const isMapped = map.levels[clusterIndex] === topMark
      this.#publishing.set(clusterIndex, isMapped ? (map.clusters[clusterIndex] ?? 0) : 0)
    }
    this.#collecting.clear()
    this.#collectingSinceMs = -1
  }

  #barrier(passed: () => void, waiters: DiskRequest[]): void {
    const core = this.#core
    core.counters.barriers += 1
    core.perform(
      token => {
        core.host.sync(core.top.file, token)
      },
      result => {
        if (result < 0) this.#fail(waiters)
        else passed()
      },
    )
  }

  #endRound(waiters: DiskRequest[], released: number[]): void {
    // before anything that was released may be used again
    if (this.#publishing.size > 0) this.#mirror?.roundEnded()
    this.#isPublishingUnmirrored = false
    this.#publishing.clear()
    this.#isRunning = false
    if (released.length > 0) this.#released(released)
    this.#answer(waiters)
    if (this.#waiting.length > 0) this.#startRound()
  }

  /** From here on every flush fails, and the image is not marked clean at the end. */
  #fail(waiters: DiskRequest[]): void {
    this.#core.failedErrno = errno.EIO
    this.#mirror?.roundFailed()
    this.#publishing.clear()
    this.#isRunning = false
    this.#answer(waiters)
    if (this.#waiting.length > 0) this.#startRound()
  }

  #answer(waiters: DiskRequest[]): void {
    for (const request of waiters) {
      if (request.errno === 0) request.errno = this.#core.failedErrno
      this.#reply(request)
    }
  }
}

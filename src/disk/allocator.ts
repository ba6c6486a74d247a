// SPDX-License-Identifier: MIT
/**
 * Hands out clusters of the top delta's file.
 *
 * Owns:     where the file's next cluster goes, the area prepared ahead of need, and clusters that
 *           were released and may be used again.
 * Leaves:   the map, and when an entry may be published.
 * Promises: a cluster is never handed out twice; every cluster handed out reads as zeros, so a
 *           partial write into it never shows somebody else's old bytes.
 * Facts:    a file whose size is not a whole number of clusters is the trace of an interrupted
 *           growth; the opener cuts the tail off. See docs/format.md, "End of file".
 */
import type { DiskCore } from './core.js'
import { clientErrno, errno } from './errno.js'

/** The area ahead of need grows with use, from this … */
const firstStepBytes = 16 * 1024 * 1024
/** … to this. */
const lastStepBytes = 128 * 1024 * 1024

/** Called with a file cluster, or with a negative errno. */
export type Taker = (fileCluster: number) => void

export class Allocator {
  readonly #core: DiskCore
  #head: number
  #preparedEnd: number
  #stepClusters: number
  #isPreparing = false
  readonly #reusable: number[] = []
  readonly #waiting: Taker[] = []

  constructor(core: DiskCore) {
    this.#core = core
    this.#head = core.options.allocHead
    this.#preparedEnd = core.options.allocHead
    this.#stepClusters = Math.max(1, Math.floor(firstStepBytes / core.clusterBytes))
  }

  /** Clusters of the file up to the last one handed out; what follows is only prepared. */
  get head(): number {
    return this.#head
  }

  get reusableCount(): number {
    return this.#reusable.length
  }

  /** @param fresh never reuse: the cluster must have its space on the file system already */
  take(fresh: boolean, taker: Taker): void {
    if (!fresh) {
      const again = this.#reusable.pop()
      if (again !== undefined) {
        taker(again)
        return
      }
    }
    if (this.#waiting.length === 0 && this.#head < this.#preparedEnd) {
      this.#prepareAhead()
      taker(this.#head++)
      return
    }
    if (this.#head >= this.#core.options.maxFileClusters) {
      taker(-errno.ENOSPC)
      return
    }
    this.#waiting.push(taker)
    this.#prepare()
  }

  /** A cluster that reads as zeros and that nothing on disk or in flight refers to. */
  putReusable(fileCluster: number): void {
    this.#reusable.push(fileCluster)
  }

  /**
   * A cluster that was taken and not used: a job on it failed, its content is unknown. Nothing
   * refers to it, so once its space is punched out it is as good as new.
   */
  putUnclean(fileCluster: number): void {
    const { host, top, clusterBytes } = this.#core
    this.#core.perform(
      token => {
        host.punch(top.file, fileCluster * clusterBytes, clusterBytes, token)
      },
      result => {
        if (result >= 0) this.putReusable(fileCluster)
      },
    )
  }

  /** Drops reusable clusters off the end, before a clean close cuts the file at {@link head}. */
  trimHead(): void {
    const free = new Set(this.#reusable)
    while (free.delete(this.#head - 1)) this.#head -= 1
  }

  #prepareAhead(): void {
    if (this.#preparedEnd - this.#head <= this.#stepClusters / 2) this.#prepare()
  }

  #prepare(): void {
    if (this.#isPreparing) return
    const core = this.#core
    const room = core.options.maxFileClusters - this.#preparedEnd
    const count = Math.min(this.#stepClusters, room)
    if (count <= 0) return
    this.#isPreparing = true
    const { clusterBytes } = core
    core.perform(
      token => {
        core.host.allocate(
          core.top.file,
          this.#preparedEnd * clusterBytes,
          count * clusterBytes,
          token,
        )
      },
      result => {
        this.#isPreparing = false
        if (result < 0) this.#prepareFailed(clientErrno(result), count)
        else this.#prepared(count)
      },
    )
  }

  #prepared(count: number): void {
    this.#preparedEnd += count
    const most = Math.max(1, Math.floor(lastStepBytes / this.#core.clusterBytes))
    this.#stepClusters = Math.min(most, this.#stepClusters * 2)
    while (this.#waiting.length > 0 && this.#head < this.#preparedEnd) {
      this.#waiting.shift()?.(this.#head++)
    }
    if (this.#waiting.length > 0) this.#prepareForWaiting()
  }

  #prepareForWaiting(): void {
    if (this.#preparedEnd >= this.#core.options.maxFileClusters) this.#refuseAll(errno.ENOSPC)
    else this.#prepare()
  }

  /** A nearly full file system may still have room for a smaller step. */
  #prepareFailed(code: number, count: number): void {
    if (code === errno.ENOSPC && count > 1) {
      this.#stepClusters = Math.max(1, Math.floor(count / 4))
      if (this.#waiting.length > 0) this.#prepare()
      return
    }
    this.#stepClusters = 1
    this.#refuseAll(code)
  }

  #refuseAll(code: number): void {
    for (const taker of this.#waiting.splice(0)) taker(-code)
  }
}

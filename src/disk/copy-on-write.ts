// SPDX-License-Identifier: MIT
/**
 * Jobs on clusters that the top does not own yet: allocate, fill, write, and only then map.
 *
 * Owns:     which clusters have a job, and the parts of requests parked on each.
 * Promises: while a job runs the map still names the lower owner, so readers see old data, never
 *           zeros in its place; the map changes when the new cluster is complete. Parts parked on
 *           one cluster all end up in the same new cluster. A failed job leaves the cluster as it
 *           was and fails only the parts it carried.
 *
 * How a cluster is filled:
 *   - one part covers it all: that part alone is written;
 *   - nobody owns it: the parked parts are written, the rest of a fresh cluster reads as zeros;
 *   - a lower level owns it: one cluster of at most a job buffer is read, overlaid with all parts
 *     parked by then, and written whole. Longer ones, and copies made by the kernel, are copied
 *     first and the parts are written on top.
 */
import { assert } from '../base/assert.js'
import { writeErrno, type FileAccess, type Party } from './access.js'
import type { Allocator } from './allocator.js'
import type { DiskCore } from './core.js'
import { clientErrno, errno, isUnsupported } from './errno.js'
import { pieceBytes } from './host.js'
import type { DiskLevel } from './options.js'
import type { Publisher } from './publisher.js'
import { gather } from './request-memory.js'
import type { DiskRequest } from './request.js'

/** A part of a request that lies in one cluster. */
export interface Part {
  readonly request: DiskRequest
  /** where in the request's memory; meaningless for zeros */
  readonly position: number
  readonly lengthBytes: number
  /** where in the cluster */
  readonly insideBytes: number
  readonly isZero: boolean
}

class Job {
  /** parts that came since the running batch was taken */
  parked: Part[] = []
  batch: Part[] = []
  pendingCount = 0
  errno = 0
  fileCluster = 0

  constructor(
    readonly clusterIndex: number,
    /** mark of the level that owns the cluster now, 0 = nobody */
    readonly lowerMark: number,
  ) {}
}

export class CopyOnWrite {
  readonly #core: DiskCore
  readonly #access: FileAccess
  readonly #allocator: Allocator
  readonly #publisher: Publisher
  readonly #party: Party
  readonly #again: (part: Part, clusterIndex: number) => void
  readonly #jobs = new Map<number, Job>()

  /**
   * @param party counts the parts of each request
   * @param again takes a part whose cluster is mapped by now
   */
  constructor(
    core: DiskCore,
    access: FileAccess,
    allocator: Allocator,
    publisher: Publisher,
    party: Party,
    again: (part: Part, clusterIndex: number) => void,
  ) {
    this.#core = core
    this.#access = access
    this.#allocator = allocator
    this.#publisher = publisher
    this.#party = party
    this.#again = again
  }

  get jobCount(): number {
    return this.#jobs.size
  }

  has(clusterIndex: number): boolean {
    return this.#jobs.has(clusterIndex)
  }

  /** The part ends when its cluster is mapped and holds its bytes. */
  park(part: Part, clusterIndex: number): void {
    this.#party.partStarted(part.request)
    this.#parkStarted(part, clusterIndex)
  }

  #parkStarted(part: Part, clusterIndex: number): void {
    const running = this.#jobs.get(clusterIndex)
    if (running !== undefined) {
      running.parked.push(part)
      return
    }
    const job = new Job(clusterIndex, this.#core.map.levels[clusterIndex] ?? 0)
    job.parked.push(part)
    this.#jobs.set(clusterIndex, job)
    this.#allocator.take(part.request.noHole, fileCluster => {
      if (fileCluster < 0) {
        job.batch = job.parked
        job.parked = []
        this.#end(job, clientErrno(fileCluster))
        return
      }
      job.fileCluster = fileCluster
      this.#fill(job)
    })
  }

  #fill(job: Job): void {
    const [first] = job.parked
    const isWhole = first !== undefined && first.lengthBytes === this.#core.clusterBytes
    if (isWhole || job.lowerMark === 0) {
      this.#writeParts(job)
      return
    }
    this.#core.counters.copiedClusters += 1
    if (this.#core.copyRange) this.#copyInKernel(job)
    else this.#copyThroughMemory(job)
  }

  #targetBytes(job: Job): number {
    return job.fileCluster * this.#core.clusterBytes
  }

  #lower(job: Job): { level: DiskLevel; offsetBytes: number; presentBytes: number } {
    const level = this.#core.level(job.lowerMark)
    const offsetBytes = this.#core.clusterOffsetBytes(job.clusterIndex)
    const { clusterBytes } = this.#core
    const rest = level.raw ? level.sizeBytes - offsetBytes : clusterBytes
    return { level, offsetBytes, presentBytes: Math.min(clusterBytes, Math.max(0, rest)) }
  }

  #copyInKernel(job: Job): void {
    const { host, top } = this.#core
    const lower = this.#lower(job)
    this.#access.mark(this.#targetBytes(job), 1)
    this.#core.perform(
      token => {
        host.copy(
          lower.level.file,
          lower.offsetBytes,
          top.file,
          this.#targetBytes(job),
          lower.presentBytes,
          token,
        )
      },
      result => {
        if (result === lower.presentBytes) this.#writeParts(job)
        else if (result >= 0 || isUnsupported(result)) {
          this.#core.copyRange = false
          this.#copyThroughMemory(job)
        } else this.#fail(job, clientErrno(result))
      },
    )
  }

  #copyThroughMemory(job: Job): void {
    this.#core.withBuffer(buffer => {
      const finish = (code: number): void => {
        this.#core.giveBuffer(buffer)
        if (code !== 0) this.#fail(job, code)
        else if (job.batch.length > 0) this.#end(job, 0)
        else this.#writeParts(job)
      }
      this.#copyPiece(job, 0, buffer, finish)
    })
  }

  /** Copies one buffer full; overlays the parked parts when that is the whole cluster. */
  #copyPiece(job: Job, done: number, buffer: number, ended: (code: number) => void): void {
    const { host, memory, clusterBytes, top } = this.#core
    if (done === clusterBytes) {
      ended(0)
      return
    }
    const lower = this.#lower(job)
    const count = Math.min(pieceBytes, clusterBytes)
    const present = Math.max(0, Math.min(count, lower.presentBytes - done))
    const store = (): void => {
      memory.fill(0, buffer + present, buffer + count)
      if (count === clusterBytes) this.#overlay(job, buffer)
      const target = this.#targetBytes(job) + done
      this.#access.mark(target, count)
      this.#core.perform(
        token => {
          host.write(top.file, target, count, buffer, token)
        },
        result => {
          this.#access.mark(target, count)
          const code = writeErrno(result, count)
          if (code !== 0) ended(code)
          else this.#copyPiece(job, done + count, buffer, ended)
        },
      )
    }
    if (present === 0) {
      store()
      return
    }
    this.#core.perform(
      token => {
        const wanted = lower.level.direct ? count : present
        host.read(lower.level.file, lower.offsetBytes + done, wanted, buffer, token)
      },
      result => {
        if (result >= present) store()
        else ended(result < 0 ? clientErrno(result) : errno.EIO)
      },
    )
  }

  #overlay(job: Job, buffer: number): void {
    const { memory } = this.#core
    job.batch = job.parked
    job.parked = []
    for (const part of job.batch) {
      const target = buffer + part.insideBytes
      if (part.isZero) memory.fill(0, target, target + part.lengthBytes)
      else gather(memory, part.request, part.position, part.lengthBytes, target)
    }
  }

  /** Writes the parked parts into the new cluster, then maps it. */
  #writeParts(job: Job): void {
    const isZeroBelow = job.lowerMark === 0
    job.batch = job.parked
    job.parked = []
    job.pendingCount = 1
    const party: Party = {
      partStarted: () => {
        job.pendingCount += 1
      },
      partEnded: (_request, code) => {
        if (code !== 0) job.errno = code
        job.pendingCount -= 1
        if (job.pendingCount === 0) this.#end(job, job.errno)
      },
    }
    for (const part of job.batch) {
      const target = this.#targetBytes(job) + part.insideBytes
      const isWhole = part.lengthBytes === this.#core.clusterBytes
      if (!part.isZero) {
        this.#access.write(party, part.request, target, part.position, part.lengthBytes)
      } else if (!isZeroBelow && !isWhole) {
        this.#access.writeZeros(party, part.request, target, part.lengthBytes)
      }
    }
    const { request } = job.batch[0] ?? {}
    assert(request !== undefined, 'a job has at least one part')
    party.partEnded(request, 0)
  }

  #fail(job: Job, code: number): void {
    job.batch.push(...job.parked)
    job.parked = []
    this.#end(job, code)
  }

  /** Maps the cluster (or forgets it), answers the batch, and sends late parts on their way. */
  #end(job: Job, code: number): void {
    const { clusterIndex } = job
    this.#jobs.delete(clusterIndex)
    if (code === 0) this.#publish(job)
    else if (job.fileCluster !== 0) this.#allocator.putUnclean(job.fileCluster)
    const { batch, parked } = job
    for (const part of batch) this.#party.partEnded(part.request, code)
    for (const part of parked) {
      const isMapped = this.#core.map.levels[clusterIndex] === this.#core.topMark
      if (!isMapped || this.#jobs.has(clusterIndex)) this.#parkStarted(part, clusterIndex)
      else {
        this.#again(part, clusterIndex)
        this.#party.partEnded(part.request, 0)
      }
    }
  }

  #publish(job: Job): void {
    const { map, topMark, counters } = this.#core
    map.clusters[job.clusterIndex] = job.fileCluster
    map.levels[job.clusterIndex] = topMark
    if (job.lowerMark !== 0) this.#core.setShadowed(job.clusterIndex)
    counters.allocatedClusters += 1
    this.#publisher.noteMapped(job.clusterIndex, 0)
  }
}

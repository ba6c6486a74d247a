// SPDX-License-Identifier: MIT
/**
 * Verdicts on the slots of one BAT: beyond the disk, crooked, beyond the file, used twice.
 *
 * Pure but for the report: it sees pages and says whether it has changed one.
 */
import { entryToFileCluster, unalignedEntry } from '../format/bat.js'
import { forbiddenEntry } from '../format/constants.js'
import type { CheckReport } from './check-delta.js'
import { ClusterSet } from './cluster-set.js'
import type { DeltaFile } from './delta-file.js'

export interface SlotOptions {
  readonly detailed: boolean
  /** sets fatal slots to 0, as far as `writable` */
  readonly hardForce: boolean
  readonly writable: boolean
}

export interface SlotFindings {
  readonly onPage: (firstClusterIndex: number, entries: Uint32Array) => boolean
  /** file clusters that some slot names */
  readonly used: ClusterSet
  readonly fatalCount: number
  /** repairable ones that were left because nothing may be written */
  readonly unrepairedCount: number
  readonly fixedCount: number
  /** length the file must be given, so that its last cluster is whole; 0: none */
  readonly wantedBytes: number
}

export function checkSlots(
  delta: DeltaFile,
  report: CheckReport,
  options: SlotOptions,
): SlotFindings {
  return new SlotCheck(delta, report, options)
}

class SlotCheck implements SlotFindings {
  readonly used = new ClusterSet()
  fatalCount = 0
  unrepairedCount = 0
  fixedCount = 0
  wantedBytes = 0
  readonly #report: CheckReport
  readonly #options: SlotOptions
  readonly #version: 1 | 2
  readonly #clusterSectors: number
  readonly #clusterBytes: number
  readonly #clusterCount: number
  readonly #firstDataCluster: number
  readonly #wholeClusters: number
  readonly #fileSizeBytes: number

  constructor(delta: DeltaFile, report: CheckReport, options: SlotOptions) {
    this.#report = report
    this.#options = options
    this.#version = delta.version ?? 2
    this.#clusterSectors = delta.clusterSectors
    this.#clusterBytes = delta.clusterBytes
    this.#clusterCount = delta.clusterCount
    this.#firstDataCluster = delta.batClusterCount
    this.#wholeClusters = delta.allocHead
    this.#fileSizeBytes = delta.fileSizeBytes
  }

  readonly onPage = (firstClusterIndex: number, entries: Uint32Array): boolean => {
    let changed = false
    for (let at = 0; at < entries.length; at++) {
      const entry = entries[at] ?? 0
      if (entry === 0 || this.#accept(firstClusterIndex + at, entry)) continue
      entries[at] = 0
      this.fixedCount++
      changed = true
    }
    return changed
  }

  /** @returns false when the slot shall become 0 */
  #accept(clusterIndex: number, entry: number): boolean {
    if (clusterIndex >= this.#clusterCount) {
      const text = `Data cluster (${clusterIndex}) beyond block device size...`
      if (this.#options.writable) {
        this.#report.add('warning', `${text} Fixed`)
        return false
      }
      this.unrepairedCount++
      this.#report.add('warning', `${text} Skipped`)
      return true
    }
    const cluster = entryToFileCluster(this.#version, entry, this.#clusterSectors)
    if (cluster === unalignedEntry) {
      return this.#fatal(`L2 slot (${clusterIndex}) corrupted...`)
    }
    if (entry === forbiddenEntry || cluster >= this.#wholeClusters) {
      if (this.#completes(cluster)) return this.#use(cluster, clusterIndex)
      return this.#fatal(`Data cluster ${cluster} beyond EOF, vsec=${clusterIndex}...`)
    }
    return this.#use(cluster, clusterIndex)
  }

  #use(cluster: number, clusterIndex: number): boolean {
    const isNew = this.used.add(cluster)
    if (!this.#options.detailed || (isNew && cluster >= this.#firstDataCluster)) return true
    const text = `Block ${cluster} is used more than once, vsec=${clusterIndex}...`
    if (this.#options.hardForce && this.#options.writable) {
      this.#report.add('warning', `${text} Ignored`)
      return true
    }
    this.#report.add('error', `${text} FATAL`)
    this.fatalCount++
    return true
  }

  /** The last cluster is there in part: zeros behind it lose nothing. */
  #completes(cluster: number): boolean {
    const startBytes = cluster * this.#clusterBytes
    const isPartial = cluster === this.#wholeClusters && startBytes < this.#fileSizeBytes
    if (!isPartial || !this.#options.hardForce || !this.#options.writable) return false
    if (this.wantedBytes === 0) {
      this.wantedBytes = startBytes + this.#clusterBytes
      const missing = this.wantedBytes - this.#fileSizeBytes
      this.#report.add(
        'warning',
        `Data cluster ${cluster} is cut short... Filled with ${missing} zero bytes`,
      )
    }
    return true
  }

  #fatal(text: string): boolean {
    if (this.#options.hardForce && this.#options.writable) {
      this.#report.add('warning', `${text} Fixed`)
      return false
    }
    this.#report.add('error', `${text} FATAL`)
    this.fatalCount++
    return true
  }
}

// SPDX-License-Identifier: MIT
/**
 * Writes pages of the top's BAT: 4096 bytes each, composed from the map.
 *
 * The page at offset 0 carries the 64-byte header as well; it is written from the same bytes each
 * time (in-use mark set), so a page write can never bring an older header back. Pages are written
 * in groups of one job buffer, neighbours with one operation.
 */
import type { DiskCore } from './core.js'
import { clientErrno, errno } from './errno.js'
import { pieceBytes } from './host.js'

const pageBytes = 4096
const pageEntries = pageBytes / 4
const headerEntries = 16
const groupPages = pieceBytes / pageBytes

export class BatPages {
  readonly #core: DiskCore
  readonly #view: DataView
  /** multiplies a file cluster into an entry: sectors in version 1, clusters in version 2 */
  readonly #entryUnit: number

  constructor(core: DiskCore) {
    this.#core = core
    const { memory } = core
    this.#view = new DataView(memory.buffer, memory.byteOffset, memory.byteLength)
    this.#entryUnit = core.options.version === 1 ? core.clusterBytes / 512 : 1
  }

  /**
   * Writes every page that holds one of the `publishing` entries.
   * @param collecting what the disk must go on holding for entries that changed since
   * @param ended 0 or a positive errno
   */
  write(
    publishing: ReadonlyMap<number, number>,
    collecting: ReadonlyMap<number, number>,
    ended: (code: number) => void,
  ): void {
    const distinct = new Set<number>()
    for (const clusterIndex of publishing.keys()) {
      distinct.add(Math.floor((clusterIndex + headerEntries) / pageEntries))
    }
    const pages = [...distinct].sort((left, right) => left - right)
    this.#core.withBuffer(buffer => {
      this.#writeGroup(pages, 0, collecting, buffer, code => {
        this.#core.giveBuffer(buffer)
        ended(code)
      })
    })
  }

  #writeGroup(
    pages: readonly number[],
    first: number,
    collecting: ReadonlyMap<number, number>,
    buffer: number,
    ended: (code: number) => void,
  ): void {
    if (first >= pages.length) {
      ended(0)
      return
    }
    const core = this.#core
    const end = Math.min(pages.length, first + groupPages)
    this.#composeGroup(pages.slice(first, end), collecting, buffer)
    let pendingCount = 1
    let failure = 0
    const partEnded = (code: number): void => {
      if (code !== 0) failure = code
      pendingCount -= 1
      if (pendingCount > 0) return
      if (failure !== 0) ended(failure)
      else this.#writeGroup(pages, end, collecting, buffer, ended)
    }
    for (let at = first; at < end;) {
      let next = at + 1
      while (next < end && pages[next] === (pages[next - 1] ?? 0) + 1) next += 1
      const lengthBytes = (next - at) * pageBytes
      const offsetBytes = (pages[at] ?? 0) * pageBytes
      pendingCount += 1
      this.#writeRun(offsetBytes, lengthBytes, buffer + (at - first) * pageBytes, partEnded)
      at = next
    }
    core.counters.batPagesWritten += end - first
    partEnded(0)
  }

  #writeRun(
    offsetBytes: number,
    lengthBytes: number,
    buffer: number,
    ended: (code: number) => void,
  ): void {
    const core = this.#core
    const mark = (): void => core.tracker?.mark(Math.floor(offsetBytes / core.clusterBytes))
    mark()
    core.perform(
      token => {
        core.host.write(core.top.file, offsetBytes, lengthBytes, buffer, token)
      },
      result => {
        mark()
        if (result === lengthBytes) ended(0)
        else ended(result < 0 ? clientErrno(result) : errno.EIO)
      },
    )
  }

  /** Composes pages behind each other, then puts back what the disk must go on holding. */
  #composeGroup(
    pages: readonly number[],
    collecting: ReadonlyMap<number, number>,
    buffer: number,
  ): void {
    const placeOf = new Map<number, number>()
    for (const [at, page] of pages.entries()) {
      this.#compose(page, buffer + at * pageBytes)
      placeOf.set(page, buffer + at * pageBytes)
    }
    for (const [clusterIndex, fileCluster] of collecting) {
      const slot = clusterIndex + headerEntries
      const place = placeOf.get(Math.floor(slot / pageEntries))
      if (place === undefined) continue
      this.#view.setUint32(place + (slot % pageEntries) * 4, fileCluster * this.#entryUnit, true)
    }
  }

  /** A page as the map has it now. */
  #compose(page: number, buffer: number): void {
    const { map, topMark, memory, options } = this.#core
    const view = this.#view
    const unit = this.#entryUnit
    const { levels, clusters } = map
    const firstCluster = page * pageEntries - headerEntries
    const end = Math.min(pageEntries, levels.length - firstCluster)
    memory.fill(0, buffer, buffer + pageBytes)
    for (let entry = Math.max(0, -firstCluster); entry < end; entry++) {
      const clusterIndex = firstCluster + entry
      if (levels[clusterIndex] !== topMark) continue
      view.setUint32(buffer + entry * 4, (clusters[clusterIndex] ?? 0) * unit, true)
    }
    if (page === 0) memory.set(options.headerBytes, buffer)
  }
}

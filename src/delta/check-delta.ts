// SPDX-License-Identifier: MIT
/**
 * Consistency of one delta: what `ploop check` does, as plain data.
 *
 * Order and verdicts are those of genuine ploop: header, every slot of the table, tail, in-use
 * mark, "empty" flag, header. Duplicates are never repaired. Deliberate differences: nothing is
 * written with `readOnly`, a last cluster that is only cut short is filled up with zeros rather than
 * given up, clusters of a format extension count as used, and a file with holes is fine unless the
 * caller asks for more. See docs/format.md, "Consistency".
 */
import { PloopError } from '../base/errors.js'
import { exitStatus, type ExitStatusName } from '../base/exit-status.js'
import { flagEmpty, flagVersionConversion } from '../format/constants.js'
import {
  type Extension,
  decodeExtension,
  extensionFileClusters,
  extensionOffsetBytes,
} from '../format/extension.js'
import { clusterBytesOf, hasExtension, isInUse } from '../format/header.js'
import type { Files } from '../io/files.js'
import { eachBatPage } from './bat-pages.js'
import { checkSlots, type SlotFindings } from './check-slots.js'
import { DeltaFile } from './delta-file.js'
import { fillHoles, firstHole } from './sparse-delta.js'

export interface CheckOptions {
  /** check although the mark is clear */
  readonly force?: boolean
  /** force, and set fatal slots to 0: loses data */
  readonly hardForce?: boolean
  /** duplicates and holes */
  readonly detailed?: boolean
  /** write nothing at all */
  readonly readOnly?: boolean
  /** no line about an image that needs no check */
  readonly silent?: boolean
  /** clear the in-use mark when the content is sound */
  readonly dropInUse?: boolean
  /** leave the in-use mark and call the image sound: it is about to be served */
  readonly keepInUse?: boolean
  /** leave an unreferenced tail alone */
  readonly keepTail?: boolean
  /** what to think of holes in the file; default 'accept' */
  readonly sparse?: 'accept' | 'refuse' | 'fill'
  /** a headerless image with clusters of this size: only the sparse test */
  readonly rawClusterSectors?: number | undefined
  readonly signal?: AbortSignal | undefined
  /** Called with each message at once; the result keeps no more than {@link messageCountMax}. */
  readonly onMessage?: (message: CheckMessage) => void
}

export interface CheckMessage {
  readonly level: 'info' | 'warning' | 'error'
  readonly text: string
}

export interface CheckResult {
  readonly status: ExitStatusName
  readonly exitStatus: number
  readonly messages: readonly CheckMessage[]
  /** beyond {@link messageCountMax} */
  readonly omittedCount: number
  /** the mark was clear and nobody asked for more */
  readonly skipped: boolean
  readonly clusterSectors: number | undefined
  /** highest file cluster in use + 1; undefined when not looked at */
  readonly usedClusters: number | undefined
}

export const messageCountMax = 1000

/** Collects messages, within bounds. */
export class CheckReport {
  readonly messages: CheckMessage[] = []
  omittedCount = 0
  readonly #onMessage: ((message: CheckMessage) => void) | undefined

  constructor(onMessage?: (message: CheckMessage) => void) {
    this.#onMessage = onMessage
  }

  add(level: CheckMessage['level'], text: string): void {
    const message = { level, text }
    this.#onMessage?.(message)
    if (this.messages.length < messageCountMax) this.messages.push(message)
    else this.omittedCount++
  }
}

/** Opens, locks, checks and closes. What can be said of the image is in the result, not thrown. */
export async function checkDelta(
  files: Files,
  path: string,
  options: CheckOptions = {},
): Promise<CheckResult> {
  const report = new CheckReport(options.onMessage)
  const { readOnly = false, rawClusterSectors } = options
  let delta: DeltaFile
  try {
    delta = await DeltaFile.open(files, path, { writable: !readOnly, rawClusterSectors })
  } catch (error) {
    if (!(error instanceof PloopError)) throw error
    const isShort = error.code === 'HEADER_FILE_SHORT'
    report.add('error', isShort ? `Short read index table: ${error.message}` : error.message)
    return resultOf(report, isShort ? 'read' : error.status)
  }
  try {
    return await checkOpenDelta(delta, options, report)
  } catch (error) {
    if (!(error instanceof PloopError)) throw error
    report.add('error', error.message)
    return resultOf(report, error.status)
  } finally {
    await delta.close()
  }
}

/** Checks a delta whose lock the caller holds. `readOnly` is implied by how it was opened. */
export async function checkOpenDelta(
  delta: DeltaFile,
  options: CheckOptions = {},
  report = new CheckReport(options.onMessage),
): Promise<CheckResult> {
  const check = new Check(delta, options, report)
  return await check.run()
}

class Check {
  readonly #delta: DeltaFile
  readonly #options: CheckOptions
  readonly #report: CheckReport
  readonly #writable: boolean
  #usedClusters: number | undefined

  constructor(delta: DeltaFile, options: CheckOptions, report: CheckReport) {
    this.#delta = delta
    this.#options = options
    this.#report = report
    this.#writable = delta.writable && options.readOnly !== true
  }

  async run(): Promise<CheckResult> {
    const { header } = this.#delta
    if (header !== undefined) {
      const force = this.#options.force === true || this.#options.hardForce === true
      if (!isInUse(header.inUse) && !force) {
        if (this.#options.silent !== true) this.#say('info', 'Image is clean, check is skipped')
        return await this.#finish('ok', true)
      }
      const status = await this.#checkContent()
      if (status !== 'ok') return this.#result(status)
    }
    return await this.#finish('ok', false)
  }

  async #checkContent(): Promise<ExitStatusName> {
    const header = this.#header
    if (isInUse(header.inUse) && hasFlag(header.flags, flagVersionConversion)) {
      this.#say('error', `Image ${this.#delta.path} is in the changing version state`)
      return 'busy'
    }
    const extension = await this.#readExtension()
    const slots = await this.#walkSlots(extension)
    if (slots.fatalCount > 0) {
      this.#say('error', `Fatal errors were found, image ${this.#delta.path} is not repaired`)
      return 'format'
    }
    this.#usedClusters = Math.max(slots.used.highest + 1, this.#delta.batClusterCount)
    await this.#checkTail(this.#usedClusters)
    return await this.#checkHeader(slots)
  }

  async #walkSlots(extension: Extension | undefined): Promise<SlotFindings> {
    const { signal, detailed = false, hardForce = false } = this.#options
    const slots = checkSlots(this.#delta, this.#report, {
      detailed,
      hardForce,
      writable: this.#writable,
    })
    const { handle } = this.#delta
    await eachBatPage(handle, this.#header, slots.onPage, signal)
    if (slots.wantedBytes > this.#delta.fileSizeBytes && this.#writable) {
      await this.#delta.truncate(slots.wantedBytes)
    }
    if (slots.fixedCount > 0) await handle.sync()
    if (extension !== undefined) {
      for (const cluster of extensionFileClusters(this.#header, extension)) slots.used.add(cluster)
    }
    if (detailed) {
      const first = this.#delta.batClusterCount
      for (const { start, end } of slots.used.missing(first)) {
        const until = end === start ? '' : ` … ${end}`
        this.#say('info', `Hole at block ${start}${until}`)
      }
    }
    return slots
  }

  /** undefined when there is none that may be believed */
  async #readExtension(): Promise<Extension | undefined> {
    const header = this.#header
    if (!hasExtension(header)) return undefined
    try {
      return await readExtension(this.#delta)
    } catch (error) {
      if (!(error instanceof PloopError) || error.code !== 'EXTENSION_INVALID') throw error
      this.#say('warning', error.message)
      if (this.#writable) await this.#delta.writeHeader({ inUse: 0, extensionOffsetSectors: 0 })
      return undefined
    }
  }

  async #checkTail(usedClusters: number): Promise<void> {
    const usedBytes = usedClusters * this.#delta.clusterBytes
    if (this.#delta.fileSizeBytes <= usedBytes || this.#options.keepTail === true) return
    if (!this.#writable) {
      this.#say('warning', 'Want to trim tail')
      return
    }
    this.#say('info', 'Trimming tail')
    await this.#delta.truncate(usedBytes)
  }

  async #checkHeader(slots: SlotFindings): Promise<ExitStatusName> {
    const header = this.#header
    const { dropInUse = false, keepInUse = false } = this.#options
    const dirty = isInUse(header.inUse)
    if (dirty && !keepInUse) {
      this.#say(dropInUse ? 'warning' : 'error', 'Dirty flag is set')
      if (!dropInUse) return 'inUse'
    }
    const areaBytes = this.#delta.batClusterCount * this.#delta.clusterBytes
    const isEmpty = this.#delta.fileSizeBytes <= areaBytes
    const flagWrong = hasFlag(header.flags, flagEmpty) !== isEmpty
    if (flagWrong && !keepInUse) this.#say('warning', 'CIF_Empty flag is incorrect')
    if (slots.unrepairedCount > 0) return 'format'
    if (keepInUse) return 'ok'
    const staleOffset = dirty && header.extensionOffsetSectors !== 0
    if (!dirty && !flagWrong && !staleOffset) return 'ok'
    if (!this.#writable) {
      this.#say('error', 'Image is clean but unable to fix the header on ro image')
      return 'write'
    }
    const others = header.flags - (hasFlag(header.flags, flagEmpty) ? flagEmpty : 0)
    // what was written must be durable before the mark says so
    await this.#delta.handle.sync()
    await this.#delta.writeHeader({
      inUse: dirty ? 0 : header.inUse,
      flags: others + (isEmpty ? flagEmpty : 0),
      extensionOffsetSectors: dirty ? 0 : header.extensionOffsetSectors,
    })
    return 'ok'
  }

  /** The sparse test comes last, and only when all else was in order. */
  async #finish(status: ExitStatusName, skipped: boolean): Promise<CheckResult> {
    const { sparse = 'accept', signal } = this.#options
    const { handle, fileSizeBytes, path } = this.#delta
    if (sparse === 'accept' || (await firstHole(handle, fileSizeBytes)) === undefined) {
      return this.#result(status, skipped)
    }
    if (sparse === 'refuse' || !this.#writable) {
      this.#say('error', `Error: ploop image '${path}' is sparse`)
      return this.#result('format', skipped)
    }
    this.#say('warning', `Warning: ploop image '${path}' is sparse`)
    const say = (startBytes: number, lengthBytes: number) =>
      this.#say('info', `Filling hole at start=${startBytes} len=${lengthBytes}`)
    await fillHoles(handle, fileSizeBytes, say, signal)
    return this.#result(status, skipped)
  }

  get #header() {
    const { header } = this.#delta
    if (header === undefined) throw new TypeError('a raw image has no header')
    return header
  }

  #say(level: CheckMessage['level'], text: string): void {
    this.#report.add(level, text)
  }

  #result(status: ExitStatusName, skipped = false): CheckResult {
    const base = resultOf(this.#report, status)
    const { clusterSectors } = this.#delta
    return { ...base, skipped, clusterSectors, usedClusters: this.#usedClusters }
  }
}

/**
 * The extension of a closed delta.
 *
 * @throws {PloopError} `EXTENSION_INVALID`
 */
export async function readExtension(delta: DeltaFile): Promise<Extension | undefined> {
  const { header } = delta
  if (header === undefined || !hasExtension(header)) return undefined
  const offset = extensionOffsetBytes(header, delta.fileSizeBytes)
  if (offset === undefined) {
    throw new PloopError(
      'EXTENSION_INVALID',
      `invalid format extension: sector ${header.extensionOffsetSectors} lies outside of the data`,
      { status: 'format', path: delta.path },
    )
  }
  const cluster = new Uint8Array(clusterBytesOf(header))
  await delta.handle.read(cluster, offset)
  const extension = decodeExtension(cluster, header)
  for (const used of extensionFileClusters(header, extension)) {
    if (used < delta.batClusterCount || used >= Math.min(delta.allocHead, 2 ** 32)) {
      throw new PloopError(
        'EXTENSION_INVALID',
        `invalid format extension: file cluster ${used} lies outside of the data`,
        { status: 'format', path: delta.path },
      )
    }
  }
  return extension
}

function resultOf(report: CheckReport, status: ExitStatusName): CheckResult {
  return {
    status,
    exitStatus: exitStatus[status],
    messages: report.messages,
    omittedCount: report.omittedCount,
    skipped: false,
    clusterSectors: undefined,
    usedClusters: undefined,
  }
}

function hasFlag(flags: number, flag: number): boolean {
  return (flags & flag) !== 0
}

// SPDX-License-Identifier: MIT
/**
 * A random client on a disk on the simulated storage, everything checked against the model.
 *
 * One `Session` is the life of a chain: open, work, perhaps lose power, open again. Between any two
 * steps a copy of the storage can lose power and be judged (`probePowerCut`), without harm to the
 * session. The choice of every step comes from the seed.
 */
import { NONE, pieceBytes } from '../../src/disk/host.js'
import { Disk, type DiskLevel } from '../../src/disk/disk.js'
import type { PendingMirror } from '../../src/disk/pending-mirror.js'
import { diskCommand, DiskRequest } from '../../src/disk/request.js'
import { SimChain, type OpenChain } from './chain.js'
import { Mismatch, Model, type Change } from './model.js'
import type { Plan } from './plans.js'
import { Random } from './random.js'
import { SimHost } from './sim-host.js'
import { stamp } from './stamp.js'
import { drawRequest } from './requests.js'
import { Storage } from './storage.js'

/** What a client is waiting for. */
interface Call {
  readonly request: DiskRequest
  readonly slots: readonly number[]
  readonly change: Change | undefined
  readonly reader: object | undefined
  readonly startedAt: number
}

const arenaSlots = 96
const maxJobs = 32
/** Shared by all sessions of this process, which run one after the other. */
let arena: Uint8Array | undefined

export class Session {
  readonly random: Random
  storage: Storage
  readonly chain: SimChain
  readonly model: Model
  host!: SimHost
  disk!: Disk
  /** errno → how often a request ended with it */
  readonly errors = new Map<number, number>()
  /** errors that the faults of the plan explain */
  allowedErrors = new Set<number>()
  readonly trace: ((line: string) => void) | undefined
  #open!: OpenChain
  #calls = new Map<DiskRequest, Call>()
  #slots: number[] = []
  #tag = 0
  #submitted = 0
  #nowMs = 1000
  #readersInFlight = 0
  flushFailed = false
  /** of the next disk that is opened */
  pending: PendingMirror | undefined

  constructor(readonly plan: Plan) {
    this.random = new Random(plan.seed)
    this.storage = new Storage(this.random.fork())
    this.trace =
      process.env['SIM_TRACE'] === undefined
        ? undefined
        : line => process.stderr.write(`${this.storage.clock} ${line}\n`)
    const built = SimChain.build(this.storage, plan, this.random.fork())
    this.chain = built.chain
    this.model = new Model(plan.clusterCount * plan.clusterBytes, built.content)
    this.open()
    this.storage.faults = { ...plan.faults }
  }

  /** Makes a disk of what is on the storage. */
  open(): void {
    const { plan, storage } = this
    const files = this.chain.files(storage)
    const top = files.at(-1)
    if (top === undefined) throw new Error('no files')
    // the opener drops the trace of an interrupted growth
    const wholeClusters = Math.floor(top.sizeBytes / plan.clusterBytes)
    if (!this.chain.isTopRaw && wholeClusters * plan.clusterBytes !== top.sizeBytes) {
      const offsetBytes = wholeClusters * plan.clusterBytes
      storage.perform({ kind: 'truncate', file: top, offsetBytes, lengthBytes: 0 })
      storage.perform({ kind: 'sync', file: top, offsetBytes: 0, lengthBytes: 0 })
    }
    this.#open = this.chain.read(storage)
    arena ??= new Uint8Array((maxJobs + arenaSlots) * pieceBytes)
    this.host = new SimHost(
      storage,
      files.map((file, level) => ({
        file,
        writable: level === files.length - 1,
        directAlignmentBytes: this.#alignment(level),
      })),
      arena,
      plan.jobCount,
      this.random.fork(),
    )
    this.#slots = Array.from({ length: arenaSlots }, (_, slot) => (maxJobs + slot) * pieceBytes)
    const { deltas, map } = this.#open
    const topDelta = deltas[deltas.length - 1]
    if (topDelta === undefined) throw new Error('no deltas')
    this.disk = new Disk({
      host: this.host,
      clusterBytes: plan.clusterBytes,
      sizeBytes: plan.clusterBytes * plan.clusterCount,
      version: plan.version,
      headerBytes: topDelta.headerBytes,
      firstDataCluster: topDelta.firstDataCluster,
      levels: deltas.map((delta, level): DiskLevel => ({
        file: level,
        clusterCount: delta.clusterCount,
        sizeBytes: delta.source.sizeBytes,
        raw: delta.raw,
        direct: this.#alignment(level) > 0,
        alignmentBytes: Math.max(1, this.#alignment(level)),
      })),
      map,
      readOnly: false,
      allocHead: wholeClusters,
      maxFileClusters: wholeClusters + plan.clusterCount * 64,
      copyRange: plan.copyRange,
      pending: this.pending,
    })
    this.host.disk = this.disk
  }

  /** Submits and completes until that many more requests were submitted. */
  work(requestCount: number): void {
    const goal = this.#submitted + requestCount
    while (this.#submitted < goal) this.step(true)
  }

  /** Lets everything under way end. */
  drain(): void {
    this.host.giveBackOthersBuffers()
    while (this.#inFlight > 0) this.step(false)
  }

  /** One random event. */
  step(mayStart: boolean): void {
    const { random, host, disk } = this
    const roll = random.below(100)
    if (roll < 2) this.#tick(random.between(1, 3500))
    else if (roll < 4 && mayStart) host.stirBuffers()
    else if (roll < 10 && host.feedStarved()) this.#takeReplies()
    else if (roll < 14 && disk.hasWork) this.#inDisk(() => disk.work())
    else if (roll < 55 && mayStart && this.#inFlight < this.plan.queueDepth) this.#start()
    else if (this.storage.step()) this.#takeReplies()
    else if (mayStart && this.#inFlight < this.plan.queueDepth) this.#start()
    else this.#unstick()
  }

  /** A copy of the storage loses power now, in a random way, and is judged. */
  probePowerCut(): void {
    const copy = this.storage.clone(this.random.next())
    copy.cutPower()
    this.#judge(copy, (offset, bytes) => {
      this.model.checkSurvivors(offset, bytes)
    })
  }

  /** The power fails for good; what is left is judged, opened and becomes the new beginning. */
  losePower(): void {
    this.trace?.('power cut')
    this.storage.cutPower()
    this.restart()
  }

  /** The process dies: whatever was answered must be there when somebody has put it back. */
  die(): void {
    this.trace?.('the process dies')
    this.storage.killProcess()
    this.model.flushed(this.model.now())
  }

  /** What is on the storage is judged, opened and becomes the new beginning. */
  restart(): void {
    this.#judge(this.storage, (offset, bytes) => {
      this.model.checkSurvivors(offset, bytes)
      this.model.restart(offset, bytes)
    })
    this.#calls.clear()
    this.#readersInFlight = 0
    this.flushFailed = false
    this.open()
  }

  /** Requests under way end, everything becomes durable, and the disk goes on. */
  quiesce(): number {
    let code = -1
    this.host.giveBackOthersBuffers()
    this.#inDisk(() => {
      this.disk.quiesce(result => (code = result))
    })
    for (let turns = 0; code < 0; turns++) {
      if (turns > 100_000) throw new Mismatch('the disk never came to rest')
      if (!this.storage.step()) this.#unstick()
      this.#takeReplies()
    }
    if (this.#calls.size > 0) throw new Mismatch('the disk rests with requests under way')
    if (code === 0) {
      this.model.flushed(this.model.now())
      this.probePowerCut()
    }
    this.disk.resume()
    return code
  }

  /** A clean end: all is durable and the file holds what it must, nothing more. */
  close(): number {
    this.drain()
    const startedAt = this.model.now()
    let code = -1
    this.#inDisk(() => {
      this.disk.close(result => (code = result))
    })
    for (let turns = 0; code < 0; turns++) {
      if (turns > 100_000) throw new Mismatch('the disk never closed')
      if (!this.storage.step()) this.#unstick()
      this.#takeReplies()
    }
    while (this.storage.step());
    this.host.assertIdle()
    if (code !== 0) return code
    this.model.flushed(startedAt)
    const file = this.chain.files(this.storage).at(-1)
    if (file === undefined) throw new Error('no top')
    const offsetBytes = this.disk.allocHead * this.plan.clusterBytes
    if (!this.chain.isTopRaw) {
      this.storage.perform({ kind: 'truncate', file, offsetBytes, lengthBytes: 0 })
    }
    this.storage.perform({ kind: 'sync', file, offsetBytes: 0, lengthBytes: 0 })
    this.storage.cutPower(this.random, { keep: () => 'lose' })
    this.#judge(this.storage, (offset, bytes) => {
      this.model.checkSurvivors(offset, bytes)
    })
    return 0
  }

  /** Reads the whole disk, one cluster after the other, and compares. */
  readAll(): void {
    const { clusterBytes, clusterCount } = this.plan
    for (let index = 0; index < clusterCount; index++) {
      while (this.#inFlight >= this.plan.queueDepth) this.step(false)
      for (let done = 0; done < clusterBytes; done += this.plan.requestBytesMax) {
        const length = Math.min(this.plan.requestBytesMax, clusterBytes - done)
        this.submit(diskCommand.read, index * clusterBytes + done, length)
      }
    }
    this.drain()
  }

  /** @returns the request, whose reply is taken during later steps */
  submit(
    command: number,
    offsetBytes: number,
    lengthBytes: number,
    flags: { fua?: boolean; noHole?: boolean; fastZero?: boolean } = {},
  ): DiskRequest {
    const { model, host } = this
    const request = new DiskRequest()
    request.command = command
    request.offsetBytes = offsetBytes
    request.lengthBytes = lengthBytes
    request.fua = flags.fua ?? false
    request.noHole = flags.noHole ?? false
    request.fastZero = flags.fastZero ?? false
    const tag = ++this.#tag
    const hasMemory = command === diskCommand.read || command === diskCommand.write
    const slots = hasMemory ? this.#takeMemory(request) : []
    if (command === diskCommand.write) {
      eachPiece(request, (buffer, position, count) => {
        stamp(host.memory.subarray(buffer, buffer + count), offsetBytes + position, tag)
      })
    }
    const isRead = command === diskCommand.read
    const isChange = !isRead && command !== diskCommand.flush
    const isZero = command !== diskCommand.write
    const startedAt = model.now()
    this.trace?.(
      `#${tag} ${nameOf(command)} ${offsetBytes}+${lengthBytes} ${Object.keys(flags).join(' ')}`,
    )
    request.tag = tag
    this.#calls.set(request, {
      request,
      slots,
      startedAt,
      change: isChange
        ? model.begin(tag, isZero, offsetBytes, lengthBytes, isLoose(request))
        : undefined,
      reader: isRead ? model.beginRead() : undefined,
    })
    this.#submitted++
    host.lend(request)
    this.#inDisk(() => {
      this.disk.submit(request)
    })
    return request
  }

  get #inFlight(): number {
    return this.#calls.size + this.#readersInFlight
  }

  #alignment(level: number): number {
    const { levelCount, topAlignmentBytes, lowerAlignmentBytes } = this.plan
    return level === levelCount - 1 ? topAlignmentBytes : lowerAlignmentBytes
  }

  #inDisk(action: () => void): void {
    this.host.enter(action)
    this.#takeReplies()
  }

  #tick(ms: number): void {
    this.#nowMs += ms
    this.#inDisk(() => {
      this.disk.tick(this.#nowMs)
    })
  }

  /** Nothing is in flight, yet requests are open: only time, other disks or `work` can help. */
  #unstick(): void {
    const { host, disk } = this
    const before = host.inFlightCount + this.#calls.size
    host.giveBackOthersBuffers()
    if (host.feedStarved()) this.#takeReplies()
    if (disk.hasWork) this.#inDisk(() => disk.work())
    this.#tick(5000)
    if (host.inFlightCount > 0 || before === 0 || this.#calls.size < before) return
    const stuck = [...this.#calls.values()].map(({ request }) => `#${request.tag}`)
    throw new Mismatch(`stuck: nothing is in flight, but ${stuck.join(', ')} have no answer`)
  }

  #start(): void {
    const drawn = drawRequest(this.plan, this.random)
    if (drawn.command === 'read past') this.#readPast(drawn.offsetBytes, drawn.lengthBytes)
    else this.submit(drawn.command, drawn.offsetBytes, drawn.lengthBytes, drawn.flags)
  }

  /** A read as the data plane does it by itself: look up, read the file, tell nobody. */
  #readPast(offsetBytes: number, lengthBytes: number): void {
    const { disk, host, model, plan } = this
    const clusterIndex = Math.floor(offsetBytes / plan.clusterBytes)
    const inside = offsetBytes - clusterIndex * plan.clusterBytes
    const count = Math.min(lengthBytes, plan.clusterBytes - inside, pieceBytes)
    const mark = disk.map.levels[clusterIndex] ?? 0
    const level = this.#open.deltas[mark - 1]
    if (mark === 0 || level === undefined) return
    const from = (disk.map.clusters[clusterIndex] ?? 0) * plan.clusterBytes + inside
    const unit = Math.max(1, this.#alignment(mark - 1))
    if (from % unit !== 0 || count % unit !== 0) return
    if (level.raw && from + count > level.source.sizeBytes) return
    const request = new DiskRequest()
    request.lengthBytes = count
    const slots = this.#takeMemory(request)
    host.lend(request)
    const reader = model.beginRead()
    this.trace?.(`reads past ${offsetBytes}+${count} from level ${mark - 1} at ${from}`)
    this.#readersInFlight++
    host.readPast(mark - 1, from, count, request.buffer, result => {
      this.#readersInFlight--
      host.takeBack(request)
      this.#slots.push(...slots)
      if (result === count) {
        model.endRead(
          reader,
          offsetBytes,
          host.memory.subarray(request.buffer, request.buffer + count),
        )
        return
      }
      model.dropRead(reader)
      this.#countError(result < 0 ? -result : 5, 'a reader past the disk')
    })
  }

  #takeMemory(request: DiskRequest): number[] {
    const count = Math.max(1, Math.ceil(request.lengthBytes / pieceBytes))
    const slots: number[] = []
    for (let i = 0; i < count; i++) {
      const slot = this.#slots.splice(this.random.below(this.#slots.length), 1)[0]
      if (slot === undefined) throw new Error('the arena of the test is too small')
      slots.push(slot)
    }
    request.buffer = slots[0] ?? NONE
    request.pieces = count > 1 ? slots : undefined
    eachPiece(request, (buffer, _, length) => {
      this.host.memory.fill(0x77, buffer, buffer + length)
    })
    return slots
  }

  #takeReplies(): void {
    for (const request of this.host.replies.splice(0)) this.#ended(request)
  }

  #ended(request: DiskRequest): void {
    const call = this.#calls.get(request)
    if (call === undefined) throw new Mismatch(`an answer to nobody's request`)
    this.#calls.delete(request)
    this.#slots.push(...call.slots)
    const { errno } = request
    this.trace?.(`#${request.tag} ended, errno ${errno}`)
    const refused = errno === 95 && request.fastZero
    if (errno !== 0 && !refused)
      this.#countError(errno, `#${request.tag} ${nameOf(request.command)}`)
    if (call.reader !== undefined) this.#endRead(call.reader, request)
    else if (call.change !== undefined) this.#endChange(call.change, request, refused)
    else if (errno === 0) {
      if (this.flushFailed) throw new Mismatch('a flush succeeded after one had failed')
      this.model.flushed(call.startedAt)
    } else this.flushFailed = true
  }

  #endRead(reader: object, request: DiskRequest): void {
    if (request.errno !== 0) {
      this.model.dropRead(reader)
      return
    }
    const bytes = new Uint8Array(request.lengthBytes)
    eachPiece(request, (buffer, position, count) => {
      bytes.set(this.host.memory.subarray(buffer, buffer + count), position)
    })
    this.model.endRead(reader, request.offsetBytes, bytes, isLoose(request))
  }

  #endChange(change: Change, request: DiskRequest, refused: boolean): void {
    const { errno, fua, command } = request
    if (refused) this.model.end(change, 'never', false)
    else if (errno !== 0 || command === diskCommand.trim) this.model.end(change, 'maybe', fua)
    else {
      if (fua && this.flushFailed) throw new Mismatch('FUA succeeded after a flush had failed')
      this.model.end(change, 'done', fua)
    }
  }

  #countError(errno: number, what: string): void {
    this.errors.set(errno, (this.errors.get(errno) ?? 0) + 1)
    if (!this.allowedErrors.has(errno)) throw new Mismatch(`${what} failed with errno ${errno}`)
  }

  #judge(storage: Storage, visit: (offsetBytes: number, bytes: Uint8Array) => void): void {
    this.chain.assertLowerUnchanged(storage)
    const open = this.chain.read(storage)
    const before = this.#open.deltas.at(-1)?.headerBytes ?? new Uint8Array(0)
    const after = open.deltas.at(-1)?.headerBytes ?? new Uint8Array(0)
    if (Buffer.compare(before, after) !== 0) throw new Mismatch('the header of the top has changed')
    this.chain.contents(open, visit)
  }
}

function eachPiece(
  request: DiskRequest,
  visit: (buffer: number, position: number, count: number) => void,
): void {
  const pieces = request.pieces ?? [request.buffer]
  pieces.forEach((buffer, index) => {
    const position = index * pieceBytes
    visit(buffer, position, Math.min(pieceBytes, request.lengthBytes - position))
  })
}

/** NBD knows no sectors, yet only requests that keep to them get whole ones when they are long. */
function isLoose(request: DiskRequest): boolean {
  return request.offsetBytes % 512 !== 0 && request.lengthBytes > pieceBytes / 2
}

function nameOf(command: number): string {
  const names = Object.entries(diskCommand)
  return names.find(([, value]) => value === command)?.[0] ?? `command ${command}`
}

/** Runs `action`; what it throws carries the seed and the plan. */
export function withPlan(plan: Plan, action: (session: Session) => void): void {
  let session: Session | undefined
  try {
    session = new Session(plan)
    action(session)
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause)
    throw new Error(`SIM_SEED=${plan.seed}: ${message}\nplan: ${JSON.stringify(plan)}`, { cause })
  }
}

/** @returns the sum of what `action` counts */
export function runPlans(plans: readonly Plan[], action: (session: Session) => number): number {
  let sum = 0
  for (const plan of plans) withPlan(plan, session => (sum += action(session)))
  return sum
}

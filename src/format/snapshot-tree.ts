// SPDX-License-Identifier: MIT
/**
 * The tree of shots in a descriptor: who is whose parent.
 *
 * A tree that exists is sound: GUIDs are unique, every parent is known, there is exactly one base
 * and no cycle. Everything else is refused when it is made. GUIDs compare without regard to case.
 */
import { unreachable } from '../base/assert.js'
import { PloopError } from '../base/errors.js'
import { type Guid, noneGuid, sameGuid } from '../base/guid.js'

export interface TreeShot {
  readonly guid: Guid
  readonly parentGuid: Guid
}

export class SnapshotTree<Shot extends TreeShot> {
  readonly base: Shot
  readonly #shots = new Map<string, Shot>()
  readonly #children = new Map<string, Shot[]>()

  /** @throws {PloopError} `SNAPSHOT_TREE`, status 23 */
  constructor(shots: Iterable<Shot>) {
    const bases: Shot[] = []
    for (const shot of shots) this.#add(shot, bases)
    const [base, second] = bases
    if (base === undefined) refuse('no shot is the base (has no parent)')
    if (second !== undefined) {
      refuse(`two shots are the base (have no parent): ${base.guid} and ${second.guid}`)
    }
    this.base = base
    for (const shot of this.#shots.values()) {
      if (shot !== base && !this.has(shot.parentGuid)) {
        refuse(`the parent ${shot.parentGuid} of shot ${shot.guid} does not exist`)
      }
    }
    this.#refuseCycles()
  }

  get size(): number {
    return this.#shots.size
  }

  has(guid: Guid): boolean {
    return this.#shots.has(key(guid))
  }

  /** undefined when there is no such shot */
  lookup(guid: Guid): Shot | undefined {
    return this.#shots.get(key(guid))
  }

  /** The shot must exist. */
  get(guid: Guid): Shot {
    return this.lookup(guid) ?? unreachable(`no shot ${guid}`)
  }

  /** undefined for the base */
  parentOf(guid: Guid): Shot | undefined {
    const shot = this.get(guid)
    return shot === this.base ? undefined : this.get(shot.parentGuid)
  }

  /** In the order of the descriptor. */
  childrenOf(guid: Guid): readonly Shot[] {
    return this.#children.get(key(guid)) ?? []
  }

  /** From the base up to this shot, both included. */
  chainOf(guid: Guid): Shot[] {
    const chain: Shot[] = []
    for (let shot: Shot | undefined = this.get(guid); shot; shot = this.parentOf(shot.guid)) {
      chain.push(shot)
    }
    return chain.reverse()
  }

  /** True when `ancestor` lies below `descendant` on the way to the base. Never true of one shot. */
  isAncestor(ancestor: Guid, descendant: Guid): boolean {
    if (sameGuid(ancestor, descendant)) return false
    return this.chainOf(descendant).some(shot => sameGuid(shot.guid, ancestor))
  }

  #add(shot: Shot, bases: Shot[]): void {
    if (sameGuid(shot.guid, noneGuid)) refuse(`a shot has the reserved GUID ${noneGuid}`)
    if (this.has(shot.guid)) refuse(`two shots have the GUID ${shot.guid}`)
    this.#shots.set(key(shot.guid), shot)
    if (sameGuid(shot.parentGuid, noneGuid)) {
      bases.push(shot)
      return
    }
    const siblings = this.#children.get(key(shot.parentGuid))
    if (siblings === undefined) this.#children.set(key(shot.parentGuid), [shot])
    else siblings.push(shot)
  }

  /** Whatever the base does not reach hangs on a cycle, since every parent is known. */
  #refuseCycles(): void {
    const reached = new Set<string>()
    const open = [this.base]
    for (let shot = open.pop(); shot !== undefined; shot = open.pop()) {
      reached.add(key(shot.guid))
      open.push(...this.childrenOf(shot.guid))
    }
    for (const shot of this.#shots.values()) {
      if (!reached.has(key(shot.guid))) {
        refuse(`shot ${shot.guid} is among its own ancestors`)
      }
    }
  }
}

function key(guid: Guid): string {
  return guid.toLowerCase()
}

function refuse(fact: string): never {
  throw new PloopError('SNAPSHOT_TREE', `invalid disk descriptor: ${fact}`, { status: 'lock' })
}

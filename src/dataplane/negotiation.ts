// SPDX-License-Identifier: MIT
/**
 * What clients get: the exports of this process, by name, and who may enter.
 *
 * Owns:     names, the default export, limits of connections, the rule that a writable export
 *           belongs to one user at a time.
 * Leaves:   the option phase itself to the protocol package.
 */
import type { FoundExport, HandshakePolicy, ListedExport, Refusal } from 'nbd-server-protocol'
import { contextNames, type ServedExport } from './served-export.js'

export interface EnterRules {
  /** connections in transmission, over all exports */
  transmittingCount(): number
  readonly connectionsMax: number
  readonly isShuttingDown: boolean
  /** who is connected to the export already: users as Connection.peer names them */
  peersOf(served: ServedExport): readonly string[]
  /** peers of the export that hung up, but whose last requests are not yet read */
  hasUnreadGone(served: ServedExport): boolean
}

/** The exports by name, in the order in which they were added. */
export class ExportTable {
  readonly #exports = new Map<string, ServedExport>()

  add(served: ServedExport): void {
    this.#exports.set(served.name, served)
  }

  remove(name: string): void {
    this.#exports.delete(name)
  }

  get(name: string): ServedExport | undefined {
    return this.#exports.get(name)
  }

  get all(): readonly ServedExport[] {
    return [...this.#exports.values()]
  }

  /** The empty name means the only export. */
  find(name: string): FoundExport<ServedExport> | Refusal {
    const only = this.#exports.size === 1 ? this.all[0] : undefined
    const served = this.#exports.get(name) ?? (name === '' ? only : undefined)
    if (served !== undefined) return { export: served, info: served.info }
    const text =
      name === ''
        ? 'there is no default export here: name one of the list'
        : 'there is no export of this name'
    return { kind: 'unknown', text }
  }
}

/** The policy for one connection. */
export function policyFor(
  table: ExportTable,
  rules: EnterRules,
  peer: string,
): HandshakePolicy<ServedExport> {
  return {
    tls: 'off',
    get shuttingDown(): boolean {
      return rules.isShuttingDown
    },
    listExports: (): readonly ListedExport[] =>
      table.all.map(served => ({ name: served.name, description: served.info.description })),
    findExport: name => table.find(name),
    contextsOf: () => contextNames,
    enter: served => mayEnter(rules, served, peer),
  }
}

function mayEnter(
  rules: EnterRules,
  served: ServedExport,
  peer: string,
): 'enter' | 'wait' | Refusal {
  if (rules.transmittingCount() >= rules.connectionsMax) {
    return refusal(`the server has its ${rules.connectionsMax} connections already`)
  }
  if (served.connections.size >= served.connectionsMax) {
    return refusal(`the export has its ${served.connectionsMax} connections already`)
  }
  if (!served.info.readOnly && rules.peersOf(served).some(other => other !== peer)) {
    return refusal('another user writes to this export now')
  }
  return rules.hasUnreadGone(served) ? 'wait' : 'enter'
}

function refusal(text: string): Refusal {
  return { kind: 'policy', text }
}

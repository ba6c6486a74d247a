// SPDX-License-Identifier: MIT
/**
 * Names of metadata contexts, and which of them a client's queries mean.
 *
 * Facts: a query is `namespace:leaf`. In NBD_OPT_LIST_META_CONTEXT "namespace:" means all contexts
 *        of the namespace, and "qemu:dirty-bitmap:" or "x-ploop:dirty:" all of that family; in
 *        NBD_OPT_SET_META_CONTEXT only full names select. Unknown queries are ignored.
 *        The names under `qemu:` have the meaning qemu publishes.
 */
import { NBD_OPT_LIST_META_CONTEXT } from './constants.js'
import { type MetaContextRequest, forEachQuery } from './option-codec.js'
import { decodeText, encodeText } from './text.js'

/** status: NBD_STATE_HOLE, NBD_STATE_ZERO */
export const CONTEXT_BASE_ALLOCATION = 'base:allocation'
/** status: 0 owned by nobody, 1 by the top of the chain, 2 by the next lower one, and so on */
export const CONTEXT_ALLOCATION_DEPTH = 'qemu:allocation-depth'
/** status: 0 owned by nobody, else counted from the base, which is 1 */
export const CONTEXT_LAYER = 'x-ploop:layer'
/** followed by a name; status: NBD_STATE_DIRTY */
export const CONTEXT_QEMU_DIRTY_PREFIX = 'qemu:dirty-bitmap:'
/** the same content under our own name */
export const CONTEXT_DIRTY_PREFIX = 'x-ploop:dirty:'

/**
 * The contexts out of `offered` that an option of the client asks for, each once, in the order
 * offered.
 */
export function matchContexts(
  option: number,
  data: Uint8Array,
  request: MetaContextRequest,
  offered: readonly string[],
): string[] {
  const lists = option === NBD_OPT_LIST_META_CONTEXT
  if (lists && request.queryCount === 0) return [...offered]
  const longest = offered.reduce((length, name) => Math.max(length, encodeText(name).length), 0)
  const asked = new Set<string>()
  forEachQuery(data, request, (start, end) => {
    if (end - start === 0 || end - start > longest) return
    const query = decodeText(data.subarray(start, end))
    if (query !== undefined) asked.add(query)
  })
  return offered.filter(name => asked.has(name) || (lists && hasAskedPrefix(name, asked)))
}

/** Whether a query ends in a colon and `name` goes on after it. */
function hasAskedPrefix(name: string, asked: ReadonlySet<string>): boolean {
  for (let at = name.indexOf(':'); at >= 0; at = name.indexOf(':', at + 1)) {
    if (asked.has(name.slice(0, at + 1))) return true
  }
  return false
}

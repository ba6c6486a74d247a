// SPDX-License-Identifier: MIT
/**
 * Which files make up the chain that somebody asks for, before any of them is opened.
 *
 * Owns:     the way from a descriptor and a GUID, or a list of deltas, to files in order; refusing
 *           disks of other kinds, and writing below a snapshot's children.
 * Leaves:   the files themselves to open.ts.
 */
import { PloopError } from '../base/errors.js'
import { type Guid, noneGuid, sameGuid } from '../base/guid.js'
import { type Descriptor, imagePath } from '../format/descriptor.js'
import type { StoredDescriptor } from './transaction.js'

export type ChainInput =
  | {
      readonly kind: 'descriptor'
      readonly path: string
      /** a GUID, or 'base'; default: the top */
      readonly guid?: Guid | undefined
    }
  | {
      readonly kind: 'stored'
      /** read by a caller who holds the lock of the descriptor */
      readonly stored: StoredDescriptor
      readonly guid?: Guid | undefined
    }
  | {
      readonly kind: 'deltas'
      /** base first */
      readonly paths: readonly string[]
      /** the base has no header: cluster size in sectors */
      readonly rawClusterSectors?: number | undefined
    }

/** What the plan depends on, besides the input. */
export interface PlanOptions {
  readonly readOnly: boolean
  /** overrides the descriptor's cluster size, for raw disks */
  readonly rawClusterSectors?: number | undefined
}

/** Where a level lies, before it is open. */
export interface Place {
  readonly path: string
  readonly guid: Guid | undefined
  readonly rawClusterSectors: number | undefined
}

export interface Plan {
  readonly places: readonly Place[]
  readonly stored: StoredDescriptor | undefined
  readonly maxDeltaSectors: number | undefined
  /** what the descriptor says; images must agree */
  readonly clusterSectors: number | undefined
}

export function planOfPaths(
  input: Extract<ChainInput, { kind: 'deltas' }>,
  options: PlanOptions,
): Plan {
  const raw = input.rawClusterSectors ?? options.rawClusterSectors
  const places = input.paths.map((path, level) => {
    const rawClusterSectors = level === 0 ? raw : undefined
    return { path, guid: undefined, rawClusterSectors }
  })
  return { places, stored: undefined, maxDeltaSectors: undefined, clusterSectors: raw }
}

export function planOfDescriptor(
  stored: StoredDescriptor,
  wanted: Guid | undefined,
  options: PlanOptions,
): Plan {
  const { descriptor, directory, path } = stored
  const tree = descriptor.tree()
  const guid = wanted === 'base' ? tree.base.guid : (wanted ?? descriptor.topGuid)
  if (!tree.has(guid)) {
    throw new PloopError('NO_SNAPSHOT', `Uuid ${guid} not found`, { status: 'noSnapshot', path })
  }
  const chain = tree.chainOf(guid)
  refuseForeign(stored, options)
  const childCount = tree.childrenOf(guid).length
  if (!options.readOnly && childCount > 0) {
    const children = `${childCount} ${childCount === 1 ? 'child' : 'children'}`
    throw new PloopError(
      'SNAPSHOT_HAS_CHILDREN',
      `Unable to mount (rw) snapshot ${guid}: it has ${children}`,
      { status: 'parameter', path, hint: 'open it read-only (-r)' },
    )
  }
  const clusterSectors = clusterSectorsOf(descriptor, options)
  const places = chain.map(shot => {
    const file = descriptor.image(shot.guid)?.file ?? ''
    const isRaw = descriptor.mode === 'raw' && sameGuid(shot.parentGuid, noneGuid)
    const rawClusterSectors = isRaw ? clusterSectors : undefined
    return { path: imagePath(directory, file), guid: shot.guid, rawClusterSectors }
  })
  return { places, stored, maxDeltaSectors: descriptor.maxDeltaSectors, clusterSectors }
}

function clusterSectorsOf(descriptor: Descriptor, options: PlanOptions): number {
  const wanted = descriptor.mode === 'raw' ? options.rawClusterSectors : undefined
  return wanted ?? descriptor.clusterSectors
}

/** Disks of other kinds are recognised and named. */
function refuseForeign({ descriptor, path }: StoredDescriptor, options: PlanOptions): void {
  if (descriptor.encryptionKey !== undefined) {
    throw new PloopError('DISK_ENCRYPTED', 'the disk is encrypted, which is not supported', {
      status: 'parameter',
      path,
    })
  }
  const merging = descriptor.shots.find(shot => shot.foreignMerge !== undefined)
  if (merging !== undefined && !options.readOnly) {
    throw new PloopError(
      'FOREIGN_MERGE',
      `snapshot ${merging.guid} is marked ${merging.foreignMerge}: ` +
        'a merge by a later generation of ploop was interrupted',
      { status: 'parameter', path, hint: 'let that ploop finish the merge first' },
    )
  }
}

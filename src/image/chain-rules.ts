// SPDX-License-Identifier: MIT
/** What must hold between the deltas of a chain, whatever is in them. */
import { PloopError } from '../base/errors.js'
import type { DeltaFile } from '../delta/delta-file.js'
import {
  flagVersionConversion,
  levelCountMaxReadOnly,
  levelCountMaxWritable,
} from '../format/constants.js'
import type { FormatVersion } from '../format/geometry.js'
import type { Files } from '../io/files.js'
import type { Place } from './chain-plan.js'

export function checkLevelCount(places: readonly Place[], readOnly: boolean): void {
  const max = readOnly ? levelCountMaxReadOnly : levelCountMaxWritable
  if (places.length > 0 && places.length <= max) return
  throw new PloopError(
    'CHAIN_LENGTH',
    `the chain has ${places.length} deltas, 1 … ${max} are possible`,
    { status: 'parameter', path: places.at(-1)?.path, hint: 'merge snapshots first' },
  )
}

/** One file at two levels would lock itself out, and own its own past. */
export async function refuseSameFile(files: Files, places: readonly Place[]): Promise<void> {
  const seen = new Map<string, string>()
  for (const { path } of places) {
    const stat = await files.stat(path)
    if (stat === undefined) continue
    const identity = `${stat.device}:${stat.inode}`
    const other = seen.get(identity)
    if (other !== undefined) {
      throw new PloopError('SAME_FILE', `is the same file as ${other}, at another level`, {
        status: 'parameter',
        path,
      })
    }
    seen.set(identity, path)
  }
}

/** One cluster size, one version, sizes that never fall towards the top, no half conversion. */
export function checkRelations(
  deltas: readonly DeltaFile[],
  clusterSectors: number | undefined,
): void {
  let lower: DeltaFile | undefined
  let version: FormatVersion | undefined
  const expected = clusterSectors ?? deltas[0]?.clusterSectors
  for (const delta of deltas) {
    const { path } = delta
    if (delta.clusterSectors !== expected) {
      throw new PloopError(
        'CHAIN_CLUSTER_SIZE',
        `Incorrect blocksize bs=${delta.clusterSectors} [current bs=${expected}]`,
        { status: 'parameter', path },
      )
    }
    if (((delta.header?.flags ?? 0) & flagVersionConversion) !== 0) {
      throw new PloopError('VERSION_CONVERSION', 'Image is in the changing version state', {
        status: 'busy',
        path,
        hint: 'the ploop that began the conversion finishes it',
      })
    }
    if (version !== undefined && delta.version !== version) {
      throw new PloopError(
        'CHAIN_VERSION',
        `version ${delta.version} on top of version ${version}: one chain has one version`,
        { status: 'format', path },
      )
    }
    if (lower !== undefined && delta.sizeSectors < lower.sizeSectors) {
      throw new PloopError(
        'CHAIN_SIZE',
        `${delta.sizeSectors} sectors on top of ${lower.path} with ${lower.sizeSectors}: ` +
          'a delta is never smaller than what lies below',
        { status: 'format', path },
      )
    }
    version = delta.version ?? version
    lower = delta
  }
}

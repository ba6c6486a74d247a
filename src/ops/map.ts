// SPDX-License-Identifier: MIT
/** map: where the data of a disk, or of one delta file, is stored. */
import type { Guid } from '../base/guid.js'
import {
  mapExtents,
  viewChain,
  viewDeltas,
  type MapExtent,
  type ViewedChain,
} from '../image/map.js'
import { readDescriptor } from '../image/transaction.js'
import type { OperationContext } from './context.js'

export interface MapInput {
  readonly path: string
  /** `path` is a descriptor; else it is one image file */
  readonly isDescriptor: boolean
  readonly uuid?: Guid | undefined
}

export interface MapFacts {
  readonly sizeBytes: number
  readonly clusterBytes: number
  /** files by level, base first */
  readonly paths: readonly string[]
}

/** @param onExtent called in the order of the disk; awaited */
export async function map(
  input: MapInput,
  context: OperationContext,
  onFacts: (facts: MapFacts) => void,
  onExtent: (extent: MapExtent) => void | Promise<void>,
): Promise<void> {
  const chain = await openChainOf(input, context)
  try {
    const { sizeBytes, clusterBytes } = chain
    onFacts({ sizeBytes, clusterBytes, paths: chain.deltas.map(delta => delta.path) })
    for await (const extent of mapExtents(chain, context.signal)) {
      context.progress.update(extent.offsetBytes, sizeBytes)
      await onExtent(extent)
    }
  } finally {
    await chain.close()
  }
}

async function openChainOf(input: MapInput, context: OperationContext): Promise<ViewedChain> {
  const { files } = context
  if (!input.isDescriptor) return viewDeltas(files, [{ path: input.path }])
  return viewChain(files, await readDescriptor(files, input.path), input.uuid)
}

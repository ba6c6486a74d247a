// SPDX-License-Identifier: MIT
/**
 * init: a new disk, with a file system unless none is wanted.
 *
 * The file system is made in a sparse file beside the image, which is then copied into it cluster
 * by cluster and removed in all cases: no device, no mount, no privileges.
 */
import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { makeBalloonFile, makeFileSystem, type FileSystemType } from '../host/filesystem.js'
import { createImage, planImage, type NewImagePlan } from '../image/create.js'
import type { FormatVersion } from '../format/geometry.js'
import type { DiskMode } from '../format/descriptor.js'
import { removeStale } from '../io/atomic-file.js'
import type { OperationContext } from './context.js'

export type InitFileSystem = FileSystemType | 'none'

export interface InitInput {
  readonly imagePath: string
  readonly sizeSectors: number
  readonly mode: DiskMode
  readonly version: FormatVersion
  readonly clusterSectors?: number | undefined
  readonly fileSystem: InitFileSystem
  readonly fileSystemBlockBytes: number
  readonly lazy: boolean
}

export interface InitResult {
  readonly descriptorPath: string
  readonly imagePath: string
  readonly sizeSectors: number
  readonly clusterSectors: number
}

export async function init(input: InitInput, context: OperationContext): Promise<InitResult> {
  const { files, log, signal, progress } = context
  const { fileSystem } = input
  const plan = await planImage(files, { ...input, partitioned: fileSystem !== 'none' })
  const { imagePath, sizeSectors, clusterSectors } = plan
  const options = { log, signal, progress }
  const descriptorPath =
    fileSystem === 'none' || plan.partition === undefined
      ? await createImage(files, plan, options)
      : await withPartitionFile(plan, { ...input, fileSystem }, context, partitionFile =>
          createImage(files, plan, { ...options, partitionFile }),
        )
  return { descriptorPath, imagePath, sizeSectors, clusterSectors }
}

/** Makes the file system in a file of the partition's size, which goes away afterwards. */
async function withPartitionFile<Value>(
  plan: NewImagePlan,
  input: InitInput & { readonly fileSystem: FileSystemType },
  context: OperationContext,
  action: (path: string) => Promise<Value>,
): Promise<Value> {
  const { files, signal } = context
  const sizeBytes = plan.partition?.lengthBytes ?? 0
  const path = join(plan.directory, `.ploop-nbd-${randomUUID()}.tmp`)
  const file = await files.open(path, 'create')
  try {
    try {
      await file.truncate(sizeBytes)
    } finally {
      await file.close()
    }
    await makeFileSystem(path, {
      ...{ type: input.fileSystem, blockBytes: input.fileSystemBlockBytes },
      ...{ lazy: input.lazy, sizeBytes, signal },
    })
    await makeBalloonFile({ path }, { signal })
    return await action(path)
  } finally {
    await removeStale(files, path)
  }
}

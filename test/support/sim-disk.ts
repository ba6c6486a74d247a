// SPDX-License-Identifier: MIT
/** A small disk on simulated storage, for tests of opening: /d/0, /d/1, … and its descriptor. */
import { noneGuid, topGuid } from '../../src/base/guid.js'
import { Descriptor } from '../../src/format/descriptor.js'
import { openChain, type MapTarget, type OpenChainOptions } from '../../src/image/open.js'
import { buildDelta, type BuiltFile, type DeltaDescription } from './image-builder.js'
import { SimFiles } from '../simulation/sim-files.js'
import { Storage } from '../simulation/storage.js'

export const clusterBytes = 32_768
export const guidA = '{aaaaaaaa-0000-4000-8000-000000000001}'
export const guidB = '{bbbbbbbb-0000-4000-8000-000000000002}'
export const xml = '/d/DiskDescriptor.xml'
export const rw: OpenChainOptions = { readOnly: false, newMap }
export const ro: OpenChainOptions = { readOnly: true, newMap }

export function newMap(clusterCount: number): MapTarget {
  return {
    levels: new Uint8Array(clusterCount),
    clusters: new Uint32Array(clusterCount),
    shadowed: new Uint8Array(Math.ceil(clusterCount / 8)),
  }
}

/** Clusters with these indexes, each filled with its level's byte. */
export function owned(...indexes: number[]): Map<number, Uint8Array> {
  return new Map(indexes.map(index => [index, new Uint8Array(clusterBytes).fill(7)]))
}

export function delta(
  clusterCount: number,
  indexes: number[],
  more: Partial<DeltaDescription> = {},
) {
  const sizeBytes = clusterCount * clusterBytes
  return buildDelta({ version: 2, clusterBytes, sizeBytes, clusters: owned(...indexes), ...more })
}

export async function put(files: SimFiles, path: string, built: BuiltFile): Promise<void> {
  const handle = await files.open(path, 'create')
  await handle.truncate(built.sizeBytes)
  for (const { offsetBytes, bytes } of built.pieces) await handle.write(bytes, offsetBytes)
  await handle.sync()
  await handle.close()
}

export async function contentOf(files: SimFiles, path: string): Promise<Uint8Array> {
  const handle = await files.open(path, 'read')
  const bytes = new Uint8Array((await handle.stat()).sizeBytes)
  await handle.read(bytes, 0)
  await handle.close()
  return bytes
}

/** Files of a disk, base first: /d/0, /d/1, …; GUIDs A, B, then the top's. */
export async function newDisk(built: readonly BuiltFile[], raw = false): Promise<SimFiles> {
  const files = new SimFiles(new Storage(1))
  files.storage.directory.makeDirectory('/d')
  const guids = [guidA, guidB].slice(0, built.length - 1).concat(topGuid)
  const descriptor = Descriptor.create({
    sizeSectors: 640,
    clusterSectors: 64,
    mode: 'expanded',
    file: '0',
  })
  for (const [level, file] of built.entries()) {
    await put(files, `/d/${level}`, file)
    const guid = guids[level] ?? ''
    if (level === 0) descriptor.renameGuid(topGuid, guid)
    else {
      descriptor.addImage({ guid, file: String(level) })
      descriptor.addShot({ guid, parentGuid: guids[level - 1] ?? noneGuid })
    }
  }
  descriptor.setTopGuid(topGuid)
  if (raw) descriptor.setMode('raw')
  const handle = await files.open(xml, 'create')
  await handle.write(Buffer.from(descriptor.toString()), 0)
  await handle.sync()
  await handle.close()
  await files.syncDirectory('/d')
  return files
}

export const paths = (count: number) => Array.from({ length: count }, (_, level) => `/d/${level}`)
export const open = (files: SimFiles, options: OpenChainOptions, guid?: string) =>
  openChain(files, { kind: 'descriptor', path: xml, guid }, options)

// SPDX-License-Identifier: MIT
/**
 * The images that are served, made when a row first needs them.
 *
 * Owns:     a folder, which is removed with everything in it at the end.
 * Promises: competitors get the same file where they read the same format, and the same content in
 *           the same cluster size where they do not (qcow2 chains).
 */
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { run } from '../../scripts/setup/step.mjs'
import { clusterBytes, range, writeDelta } from './delta-files.mjs'

const qcow2Options = ['-f', 'qcow2', '-o', `cluster_size=${clusterBytes}`]

export class Images {
  /** @param sizeMiB of disks that hold data */
  constructor(folder, sizeMiB) {
    this.folder = folder
    this.sizeBytes = sizeMiB * 2 ** 20
    this.made = new Map()
    mkdirSync(folder, { recursive: true })
  }

  path(name) {
    return join(this.folder, name)
  }

  remove() {
    rmSync(this.folder, { recursive: true, force: true })
  }

  /**
   * @returns `deltas` from base to top, `qemu` with its format, and for single images `dataOffset`;
   *   `reset()` where every run wants a fresh one
   */
  async get(kind) {
    if (!this.made.has(kind)) this.made.set(kind, await this.#make(kind))
    return this.made.get(kind)
  }

  /** Frees the space of an image that no later row uses. */
  forget(kind) {
    for (const path of this.made.get(kind)?.files ?? []) rmSync(path, { force: true })
    this.made.delete(kind)
  }

  #make(kind) {
    const [word, parameter] = kind.split(':')
    switch (word) {
      case 'full':
        return this.#full()
      case 'empty':
        return this.#empty(Number(parameter) * 2 ** 20)
      case 'wipe':
        return this.#fresh('wipe.hds', this.sizeBytes / 2, range(this.sizeBytes / 2 / clusterBytes))
      case 'overlay':
        return this.#overlay()
      case 'chain':
        return this.#chain(Number(parameter))
      default:
        throw new Error(`no image of the kind ${kind}`)
    }
  }

  /** One image, every cluster present. */
  #full() {
    const path = this.path('full.hds')
    const dataOffset = writeDelta(path, this.sizeBytes, range(this.sizeBytes / clusterBytes))
    return single(path, dataOffset)
  }

  #empty(sizeBytes) {
    return this.#fresh(`empty-${sizeBytes / 2 ** 20}.hds`, sizeBytes, [])
  }

  /** One image, made anew for each run. */
  #fresh(name, sizeBytes, clusters) {
    const path = this.path(name)
    const reset = () => {
      rmSync(path, { force: true })
      writeDelta(path, sizeBytes, clusters)
    }
    reset()
    return { ...single(path, undefined), sizeBytes, reset }
  }

  /** A full parent and an empty top, the top made anew for each run. */
  async #overlay() {
    const { deltas } = await this.get('full')
    const [top, parent, child] = ['top.hds', 'parent.qcow2', 'child.qcow2'].map(name =>
      this.path(name),
    )
    await run('qemu-img', ['convert', '-f', 'parallels', ...qcow2Target, deltas[0], parent])
    const reset = async () => {
      rmSync(top, { force: true })
      rmSync(child, { force: true })
      writeDelta(top, this.sizeBytes, [])
      await createQcow2(child, parent)
    }
    await reset()
    return {
      deltas: [deltas[0], top],
      qemu: { path: child, format: 'qcow2' },
      files: [top, parent, child],
      warm: [deltas[0], parent],
      sizeBytes: this.sizeBytes,
      reset,
    }
  }

  /** Clusters dealt out to the levels in turn, so that every level is asked all the time. */
  async #chain(depth) {
    const count = this.sizeBytes / clusterBytes
    const deltas = range(depth).map(level => this.path(`chain-${depth}-${level}.hds`))
    deltas.forEach((path, level) => {
      const mine = range(count).filter(cluster => cluster % depth === level)
      writeDelta(path, this.sizeBytes, mine)
    })
    // a deep chain is compared with our own single image; qcow2 gets one where it is the peer
    if (depth > 4) return { deltas, files: deltas, warm: deltas }
    const qcow2 = await this.#qcow2Chain(depth, count)
    const files = [...deltas, ...qcow2]
    return { deltas, files, warm: files, qemu: { path: qcow2.at(-1), format: 'qcow2' } }
  }

  async #qcow2Chain(depth, count) {
    const paths = range(depth).map(level => this.path(`chain-${depth}-${level}.qcow2`))
    for (const [level, path] of paths.entries()) {
      await createQcow2(path, paths[level - 1], this.sizeBytes)
      const writes = range(count)
        .filter(cluster => cluster % depth === level)
        .flatMap(cluster => ['-c', `write -q -P ${(cluster % 255) + 1} ${cluster}M 1M`])
      await run('qemu-io', ['-f', 'qcow2', ...writes, path])
    }
    return paths
  }
}

const qcow2Target = ['-O', ...qcow2Options.slice(1)]

function createQcow2(path, parent, sizeBytes) {
  const backing = parent === undefined ? [] : ['-b', parent, '-F', 'qcow2']
  const size = parent === undefined ? [String(sizeBytes)] : []
  return run('qemu-img', ['create', ...qcow2Options, ...backing, path, ...size])
}

function single(path, dataOffset) {
  return {
    deltas: [path],
    qemu: { path, format: 'parallels' },
    files: [path],
    warm: [path],
    dataOffset,
  }
}

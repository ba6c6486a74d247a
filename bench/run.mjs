#!/usr/bin/env node
// SPDX-License-Identifier: MIT
/**
 * npm run bench: compares ploop-nbd with other servers on the same images, side by side.
 *
 * Installs what is missing, makes images in .state/bench, prints one table of ratios and removes
 * the images. bench/README.md tells how to read it.
 */
import { availableParallelism, cpus, release } from 'node:os'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { runScript, setUp } from '../scripts/setup.mjs'
import { SetupError, root, say } from '../scripts/setup/step.mjs'
import { parseArguments, usage } from './lib/arguments.mjs'
import { buildLoad } from './lib/build-load.mjs'
import { compareRuns, median } from './lib/compare.mjs'
import { mountReflinkFolder, whyNoReflink } from './lib/reflink-folder.mjs'
import { chooseCells, scenarios } from './lib/scenarios.mjs'
import { formatSummary, formatTable } from './lib/table.mjs'

/** The XFS holds a full image of each format and the copies that grow beside them. */
const reflinkSizeFactor = 6

async function main() {
  const options = parseArguments(process.argv.slice(2))
  if (options.help) return process.stdout.write(usage) && 0
  if (options.list) return listScenarios()
  const cells = chooseCells(options)
  if (cells.length === 0) throw new SetupError('no workload has such a name; see --list')
  await setUp('bench')
  const bench = await Bench.prepare(options)
  try {
    const rows = await bench.measure(cells)
    process.stdout.write(`${formatTable(rows)}\n\n${formatSummary(rows)}\n`)
    if (options.json !== undefined) writeJson(options, rows)
    return rows.some(({ isOurFault }) => isOurFault) ? 1 : 0
  } finally {
    await bench.cleanUp()
  }
}

function listScenarios() {
  for (const { name, title, inShort } of scenarios) {
    process.stdout.write(`${name.padEnd(32)}${inShort ? 'short  ' : '       '}${title}\n`)
  }
  return 0
}

class Bench {
  static async prepare(options) {
    const program = await buildLoad()
    // these import what setting up has just built
    const { Images } = await import('./lib/images.mjs')
    const { measureCell } = await import('./lib/measure.mjs')
    const bench = new Bench()
    bench.folder = options.folder ?? join(root, '.state', 'bench', 'images')
    rmSync(bench.folder, { recursive: true, force: true })
    mkdirSync(bench.folder, { recursive: true })
    Object.assign(bench, { options, program, measureCell, Images, mounted: undefined })
    bench.images = new Images(bench.folder, options.imageMiB)
    for (const signal of ['SIGINT', 'SIGTERM']) {
      process.once(signal, () => void bench.cleanUp().finally(() => process.exit(130)))
    }
    return bench
  }

  async measure(cells) {
    const rows = []
    const begin = performance.now()
    const leftOut = new Set()
    for (const [turn, cell] of cells.entries()) {
      const { scenario, cache } = cell
      const seconds = (performance.now() - begin) / 1000
      if (seconds > this.options.budgetSeconds) {
        leftOut.add(scenario.name)
        continue
      }
      const label = `[${turn + 1}/${cells.length}, ${seconds.toFixed(0)} s] ${scenario.name} ${cache}`
      rows.push(...(await this.#measureOne(cell, label)))
      const isLast = !cells.slice(turn + 1).some(later => usesImage(later, scenario.image))
      if (isLast) (await this.#imagesFor(scenario)).forget(scenario.image)
    }
    if (leftOut.size > 0) say(`no time left for ${[...leftOut].join(', ')}`, 'bench')
    return rows
  }

  async #measureOne(cell, label) {
    const { scenario, cache, comparisons } = cell
    const { warmupSeconds, runSeconds, pairs } = this.options
    const head = { name: scenario.name, title: scenario.title, cache }
    const why = scenario.needsReflink ? whyNoReflink() : undefined
    if (why !== undefined) {
      return comparisons.map(({ subject, peer }) => ({ ...head, subject, peer, problem: why }))
    }
    try {
      const images = await this.#imagesFor(scenario)
      const runs = await this.measureCell(cell, {
        ...{ images, program: this.program, folder: this.folder, pairs },
        times: { warmupSeconds, runSeconds },
        progress: text => progress(`${label} ${text}`),
      })
      return comparisons.map(each => ({ ...head, ...compared(each, runs) }))
    } catch (error) {
      say(`${label}: ${error.message}`, 'bench')
      const problem = error.message.split('\n')[0].slice(0, 60)
      return comparisons.map(({ subject, peer }) => ({
        ...{ ...head, subject, peer, problem, isOurFault: true },
      }))
    }
  }

  async #imagesFor({ needsReflink }) {
    if (!needsReflink) return this.images
    if (this.mounted === undefined) {
      const sizeMiB = this.options.imageMiB * reflinkSizeFactor
      this.mounted = await mountReflinkFolder(this.folder, sizeMiB)
      this.reflinkImages = new this.Images(
        join(this.mounted.folder, 'images'),
        this.options.imageMiB,
      )
    }
    return this.reflinkImages
  }

  async cleanUp() {
    const { mounted } = this
    this.mounted = undefined
    await mounted?.unmount()
    this.images.remove()
  }
}

function usesImage({ scenario, comparisons }, image) {
  if (scenario.image === image) return true
  // an overlay stands on the full image
  if (image === 'full' && scenario.image === 'overlay') return true
  return comparisons.some(({ peer }) => peer.endsWith(`@${image}`))
}

function compared({ subject, peer, goals }, runs) {
  const erroneous = [subject, peer].find(name => runs[name].some(({ errors }) => errors > 0))
  if (erroneous !== undefined) {
    const { firstError } = runs[erroneous].find(({ errors }) => errors > 0)
    const problem = `${erroneous} answers with error ${firstError}`
    const isOurFault = erroneous === 'ploop' || erroneous === 'threads'
    return { subject, peer, problem, isOurFault, runs }
  }
  return {
    ...{ subject, peer },
    comparison: compareRuns(runs[subject], runs[peer], goals),
    subjectMedians: medians(runs[subject]),
    peerMedians: medians(runs[peer]),
    runs: { [subject]: runs[subject], [peer]: runs[peer] },
  }
}

function medians(runs) {
  const names = Object.keys(runs[0]).filter(name => typeof runs[0][name] === 'number')
  return Object.fromEntries(names.map(name => [name, median(runs.map(run => run[name]))]))
}

function writeJson(options, rows) {
  const machine = {
    processor: cpus()[0]?.model,
    processors: availableParallelism(),
    kernel: release(),
    node: process.versions.node,
  }
  const { mode, pairs, warmupSeconds, runSeconds, imageMiB, json } = options
  const settings = { mode, pairs, warmupSeconds, runSeconds, imageMiB }
  writeFileSync(json, `${JSON.stringify({ machine, settings, rows }, null, 2)}\n`)
}

function progress(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
  else if (/ 1\/\d+ (ploop|threads)$/.test(text)) say(text.replace(/ 1\/.*$/, ''), 'bench')
}

await runScript(main)

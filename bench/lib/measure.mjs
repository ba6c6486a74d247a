// SPDX-License-Identifier: MIT
/**
 * Measures one row: every competitor in turn, again and again, all in the same state of the cache.
 *
 * Owns:     the order of turns, and what happens around a run: images, cache, servers.
 * Promises: the figures of one turn were taken right after each other. A run with an error in any
 *           reply is marked, and its comparisons with it.
 */
import { readFileSync } from 'node:fs'
import { runFio, runNbdLoad } from './loads.mjs'
import { dropCache, sync, warmBySmallWrites, warmCache } from './page-cache.mjs'
import { peakMemoryMiB, startServer, stopServer } from './servers.mjs'

/** What a server that has just started does first, so that its compiler has seen it. */
const preloadTimes = { warmupSeconds: 0, runSeconds: 0.25 }
const preloadReads = { rw: 'randread', qd: 32 }

/** @returns competitor → its runs, in the order of turns */
export async function measureCell(cell, context) {
  const { scenario, comparisons } = cell
  const names = [...new Set(comparisons.flatMap(({ subject, peer }) => [subject, peer]))]
  const competitors = []
  for (const name of names) {
    const [kind, imageKind = scenario.image] = name.split('@')
    competitors.push({ name, kind, image: await context.images.get(imageKind), runs: [] })
  }
  await prepareCache(cell, competitors)
  const run = { reading: runReading, opening: runOpening }[scenario.serves] ?? runWriting
  const servers = scenario.serves === 'reading' ? await startAll(competitors, cell, context) : []
  try {
    for (let turn = 0; turn < context.pairs; turn++) {
      for (const competitor of competitors) {
        context.progress(`${turn + 1}/${context.pairs} ${competitor.name}`)
        competitor.runs.push(await run(competitor, cell, context))
      }
    }
  } finally {
    for (const server of servers) await stopServer(server)
  }
  return Object.fromEntries(competitors.map(({ name, runs }) => [name, runs]))
}

async function prepareCache({ scenario, cache }, competitors) {
  if (scenario.serves === 'opening') return
  const [{ image }] = competitors
  if (cache === 'page' && scenario.warm === 'small writes') {
    const { regionBytes } = scenario.load
    return warmBySmallWrites(image.deltas[0], image.dataOffset, regionBytes)
  }
  for (const path of new Set(competitors.flatMap(({ image }) => image.warm ?? []))) {
    if (cache === 'direct' || scenario.warm === 'large reads') dropCache(path)
    if (cache === 'page') warmCache(path)
  }
}

async function startAll(competitors, cell, context) {
  const servers = []
  for (const competitor of competitors) {
    if (competitor.kind === 'raw') continue
    competitor.server = await start(competitor, cell, context)
    servers.push(competitor.server)
  }
  return servers
}

function start({ kind, name, image }, { scenario, cache }, { folder }) {
  const writable = scenario.serves !== 'reading' && scenario.serves !== 'opening'
  const tag = name.includes('@') ? 'other' : 'own'
  return startServer(kind, { image, cache, writable, folder, tag })
}

function runReading(competitor, { scenario, cache }, context) {
  const { kind, image, server } = competitor
  if (kind === 'raw') {
    return runFio(image, scenario.load, cache, context.times, context.images.sizeBytes)
  }
  return runNbdLoad(context.program, server, scenario.load, context.times)
}

async function runWriting(competitor, cell, context) {
  const { scenario } = cell
  const { image, kind } = competitor
  if (kind === 'raw') {
    const result = await runReading(competitor, cell, context)
    sync(image.deltas[0])
    return result
  }
  if (scenario.serves === 'fresh') {
    await image.reset()
    image.files.forEach(cell.cache === 'direct' ? dropCache : sync)
  }
  const server = await start(competitor, cell, context)
  let result
  try {
    const load = await preload(server, image, cell, context)
    result = await runNbdLoad(context.program, server, load, context.times)
  } finally {
    await stopServer(server)
  }
  // a fresh image is removed before anything of it need be written back
  if (scenario.serves !== 'fresh') image.files.forEach(sync)
  return result
}

/**
 * Requests that do not count. A fresh image gives up its first part for them, if it can.
 *
 * @returns the load that counts
 */
async function preload(server, image, { scenario }, { program, times }) {
  const { load, preloadShare, serves } = scenario
  const flushEvery = load.flushEvery === undefined ? undefined : 8
  const busy = { ...load, flushEvery, connections: 1, qd: Math.max(load.qd, 32) }
  if (preloadShare !== undefined) {
    const startBytes = image.sizeBytes * preloadShare
    const first = { ...busy, regionBytes: startBytes }
    await runNbdLoad(program, server, first, { ...times, runSeconds: 30 })
    return { ...load, startBytes }
  }
  await runNbdLoad(program, server, serves === 'fresh' ? preloadReads : busy, preloadTimes)
  return load
}

/** From the start of the program to the reply to a first read. */
async function runOpening(competitor, cell, context) {
  const begin = performance.now()
  const server = await start(competitor, cell, context)
  try {
    const { load } = cell.scenario
    const result = await runNbdLoad(context.program, server, load, context.times)
    const milliseconds = performance.now() - begin
    return {
      perSecond: 1000 / milliseconds,
      p50Microseconds: milliseconds * 1000,
      cpuMicroseconds: cpuSecondsOf(server.pid) * 1e6,
      memoryMiB: peakMemoryMiB(server.pid),
      operations: 1,
      errors: result.errors,
    }
  } finally {
    await stopServer(server)
  }
}

/** Of all threads, in ticks of 10 ms: enough for a whole start. */
function cpuSecondsOf(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / 100
}

// SPDX-License-Identifier: MIT
/**
 * One run of a load, against a server (nbd-load) or against the bare file (fio, io_uring): the
 * physical limit, with neither a protocol nor a format in between.
 */
import { spawn } from 'node:child_process'
import { findProgram } from '../../scripts/setup/step.mjs'
import { peakMemoryMiB } from './servers.mjs'

/** @returns what every run reports: rates, latencies, CPU per operation, memory, errors */
export async function runNbdLoad(program, server, load, { warmupSeconds, runSeconds }) {
  const words = [
    ...['--unix', server.socket, '--export', 'disk', '--cpu-of', String(server.pid)],
    ...['--warmup', String(load.countsAll ? 0 : warmupSeconds), '--runtime', String(runSeconds)],
    ...nbdLoadWords(load),
  ]
  const { status, stdout, stderr } = await collect(program, words)
  if (status !== 0 && status !== 3) {
    throw new Error(`nbd-load against ${server.competitor} ended with ${status}\n${stderr}`)
  }
  const result = JSON.parse(stdout)
  const latency = result.flushes > 0 ? addLatencies(result) : result.latencyMicroseconds
  return {
    perSecond: result.perSecond,
    mibPerSecond: result.mibPerSecond,
    p50Microseconds: latency.p50,
    p99Microseconds: latency.p99,
    cpuMicroseconds: result.serverCpuMicroseconds,
    clientCpuMicroseconds: result.clientCpuMicroseconds,
    memoryMiB: peakMemoryMiB(server.pid),
    operations: result.operations,
    errors: result.errors,
    firstError: result.firstError,
  }
}

/** A write with its flush is one operation to whoever waits for it. */
function addLatencies({ latencyMicroseconds: data, flushLatencyMicroseconds: flush }) {
  return { p50: data.p50 + flush.p50, p99: data.p99 + flush.p99 }
}

function nbdLoadWords(load) {
  const words = ['--rw', load.rw, '--bs', String(load.bs ?? 4096), '--qd', String(load.qd ?? 1)]
  if (load.connections !== undefined) words.push('--conns', String(load.connections))
  if (load.flushEvery !== undefined) words.push('--fsync', String(load.flushEvery))
  if (load.regionBytes !== undefined) words.push('--region', String(load.regionBytes))
  if (load.startBytes !== undefined) words.push('--from', String(load.startBytes))
  if (load.count !== undefined) words.push('--count', String(load.count))
  if (load.once) words.push('--once')
  if (load.structured) words.push('--structured')
  return words
}

const fioKinds = {
  ...{ randread: 'randread', read: 'read', randwrite: 'randwrite', write: 'write' },
  mixed: 'randrw',
}

/** The same load on the data area of the image file. */
export async function runFio(image, load, cache, { warmupSeconds, runSeconds }, sizeBytes) {
  const size = load.regionBytes === undefined ? sizeBytes : Math.min(load.regionBytes, sizeBytes)
  const words = [
    ...['--name=raw', `--filename=${image.deltas[0]}`, `--offset=${image.dataOffset}`],
    ...[`--size=${size}`, `--rw=${fioKinds[load.rw]}`, `--bs=${load.bs ?? 4096}`],
    ...[`--iodepth=${load.qd ?? 1}`, `--numjobs=${load.connections ?? 1}`, '--group_reporting'],
    ...['--ioengine=io_uring', `--direct=${cache === 'direct' ? 1 : 0}`, '--rwmixread=70'],
    ...[
      '--time_based',
      `--runtime=${runSeconds * 1000}ms`,
      `--ramp_time=${warmupSeconds * 1000}ms`,
    ],
    ...['--norandommap', '--randrepeat=0', '--invalidate=0', '--fallocate=none'],
    ...(load.flushEvery === undefined ? [] : [`--fdatasync=${load.flushEvery}`]),
    '--output-format=json',
  ]
  const { status, stdout, stderr } = await collect(findProgram('fio'), words)
  if (status !== 0) throw new Error(`fio ended with ${status}\n${stderr}`)
  const [job] = JSON.parse(stdout.slice(stdout.indexOf('{'))).jobs
  const sides = [job.read, job.write].filter(side => side.total_ios > 0)
  const sum = name => sides.reduce((total, side) => total + side[name], 0)
  const busiest = sides.reduce((a, b) => (a.total_ios >= b.total_ios ? a : b))
  const quantile = key => (busiest.clat_ns.percentile?.[key] ?? 0) / 1000
  return {
    perSecond: sum('iops'),
    mibPerSecond: sum('bw_bytes') / 2 ** 20,
    p50Microseconds: quantile('50.000000'),
    p99Microseconds: quantile('99.000000'),
    operations: sum('total_ios'),
    errors: job.error,
  }
}

function collect(program, words) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, words, { stdio: ['ignore', 'pipe', 'pipe'] })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', chunk => (stdout += chunk))
    child.stderr.setEncoding('utf8').on('data', chunk => (stderr += chunk))
    child.on('error', reject)
    child.on('close', (status, signal) =>
      resolve({ status: status ?? signal, stdout, stderr: stderr.trim() }),
    )
  })
}

#!/usr/bin/env node
// SPDX-License-Identifier: MIT
/**
 * Builds the addon when a source is newer than the result; says nothing unless it fails.
 *
 * node-gyp works in native/build/stage, and the finished file is renamed to its place: a `.node`
 * that another process has mapped is never written to. Several builds at once take turns.
 */
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const native = path.join(root, 'native')
const stage = path.join(native, 'build', 'stage')
const target = path.join(native, 'build', 'Release', 'ploop_nbd.node')

function newestSource() {
  const sources = fs.readdirSync(path.join(native, 'src')).map(name => path.join('src', name))
  const times = ['binding.gyp', 'src', ...sources].map(
    name => fs.statSync(path.join(native, name)).mtimeMs,
  )
  return Math.max(...times)
}

function isUpToDate() {
  const built = fs.statSync(target, { throwIfNoEntry: false })
  return built !== undefined && built.mtimeMs >= newestSource()
}

/** Where Node's headers are on this machine, so that node-gyp does not fetch them. */
function localHeaders() {
  if (process.env.npm_config_nodedir !== undefined) return []
  const prefix = path.dirname(path.dirname(fs.realpathSync(process.execPath)))
  return fs.existsSync(path.join(prefix, 'include', 'node', 'node_api.h'))
    ? [`--nodedir=${prefix}`]
    : []
}

/** The stage has links to the sources, so that node-gyp puts its own files there. */
function prepareStage() {
  fs.mkdirSync(stage, { recursive: true })
  fs.mkdirSync(path.dirname(target), { recursive: true })
  for (const name of ['binding.gyp', 'src']) {
    const link = path.join(stage, name)
    if (fs.lstatSync(link, { throwIfNoEntry: false }) === undefined)
      fs.symlinkSync(path.join('..', '..', name), link)
  }
}

function build() {
  const started = new Date(Math.ceil(newestSource())) // a Date has whole milliseconds
  prepareStage()
  const nodeGyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js')
  const result = spawnSync(
    process.execPath,
    [nodeGyp, 'configure', 'build', '--jobs', '2', '--directory', stage, ...localHeaders()],
    { cwd: stage, encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 },
  )
  if (result.status !== 0) {
    process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}`)
    process.stderr.write('build-native: the addon could not be built\n')
    return 1
  }
  const fresh = `${target}.${process.pid}.new`
  fs.copyFileSync(path.join(stage, 'build', 'Release', 'ploop_nbd.node'), fresh)
  // a source that was saved while the compiler ran is newer than this
  fs.utimesSync(fresh, started, started)
  fs.renameSync(fresh, target)
  return 0
}

/** Runs this script once more under a lock; without flock(1) it just builds. */
function takeTurns() {
  fs.mkdirSync(path.dirname(target), { recursive: true })
  const lock = path.join(native, 'build', 'lock')
  const again = [process.execPath, fileURLToPath(import.meta.url), '--locked']
  const result = spawnSync('flock', [lock, ...again], { stdio: 'inherit' })
  return result.error === undefined ? (result.status ?? 1) : build()
}

if (isUpToDate()) process.exitCode = 0
else process.exitCode = process.argv.includes('--locked') ? build() : takeTurns()

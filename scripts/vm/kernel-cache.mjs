// SPDX-License-Identifier: MIT
/**
 * Gets a stock Debian kernel (26 MB, through apt, never installed) and keeps what the machine
 * boots from: plain kernel, first file system, modules.
 *
 * Promises: a cache folder is complete or absent; two runs may fill it at once.
 */
import { spawnSync } from 'node:child_process'
import * as fs from 'node:fs'
import { homedir } from 'node:os'
import { basename, join } from 'node:path'
import { run, say } from '../setup/step.mjs'
import { deviceEntry, fileEntry, folderEntry, writeCpio } from './cpio.mjs'
import { unpackKernel } from './kernel-image.mjs'
import { indexModules, orderBootModules } from './kernel-modules.mjs'
import { machinePrograms } from './machine-programs.mjs'

/** Raise it when what the folder holds changes. */
const layoutVersion = 1
const metaPackage = 'linux-image-cloud-amd64'
const env = { DEBIAN_FRONTEND: 'noninteractive' }

function cacheFolder() {
  const caches = process.env.XDG_CACHE_HOME || join(homedir(), '.cache')
  return process.env.VM_RUN_CACHE || join(caches, 'ploop-nbd', 'vm')
}

/** @returns paths: `kernel`, `initrd`, `modules`; and `version`, that of the kernel */
export async function prepareKernel({ isUpdate = false } = {}) {
  const slot = join(cacheFolder(), `v${layoutVersion}`)
  const kept = readKept(slot)
  if (kept !== undefined && !isUpdate) return kept
  fs.mkdirSync(cacheFolder(), { recursive: true })
  const temporary = fs.mkdtempSync(join(cacheFolder(), 'build-'))
  try {
    const packageName = await kernelPackage()
    if (kept?.packageName === packageName) return kept
    say(`getting ${packageName} for the virtual machine`, 'vm-run')
    await fill(temporary, await download(packageName, temporary))
    return putInPlace(temporary, slot)
  } finally {
    fs.rmSync(temporary, { recursive: true, force: true })
  }
}

function readKept(slot) {
  try {
    const { version, packageName } = JSON.parse(fs.readFileSync(join(slot, 'meta.json'), 'utf8'))
    const modules = fs.realpathSync(join(slot, 'modules', version))
    const files = { kernel: join(slot, 'kernel'), initrd: join(slot, 'initrd'), modules }
    return { ...files, version, packageName }
  } catch {
    return undefined
  }
}

/** In one step; another run may have been quicker. */
function putInPlace(temporary, slot) {
  const old = `${temporary}-old`
  try {
    fs.renameSync(slot, old)
  } catch {
    // none there
  }
  try {
    fs.renameSync(temporary, slot)
  } catch (error) {
    if (readKept(slot) === undefined) throw error
  }
  fs.rmSync(old, { recursive: true, force: true })
  return readKept(slot)
}

/** The package with a version in its name that the meta package stands for. */
async function kernelPackage() {
  const look = () => {
    const words = ['--no-all-versions', 'show', metaPackage]
    const result = spawnSync('apt-cache', words, { encoding: 'utf8' })
    return /^Depends:.*?\b(linux-image-[0-9][^\s,(]*)/m.exec(result.stdout ?? '')?.[1]
  }
  const known = look()
  if (known !== undefined) return known
  await run('apt-get', ['update', '-qq'], { env })
  const found = look()
  if (found === undefined) throw new Error(`apt knows no package ${metaPackage}`)
  return found
}

async function download(packageName, folder) {
  // as root: the folder is closed to apt's own user
  const words = ['-o', 'APT::Sandbox::User=root', 'download', packageName]
  const get = () => run('apt-get', words, { cwd: folder, env })
  try {
    await get()
  } catch {
    await run('apt-get', ['update', '-qq'], { env })
    await get()
  }
  return join(
    folder,
    fs.readdirSync(folder).find(name => name.endsWith('.deb')),
  )
}

async function fill(folder, archive) {
  const unpacked = join(folder, 'unpacked')
  await run('dpkg-deb', ['-x', archive, unpacked])
  const modulesFolder = ['lib/modules', 'usr/lib/modules']
    .map(path => join(unpacked, path))
    .find(path => fs.existsSync(path))
  if (modulesFolder === undefined) throw new Error(`${basename(archive)} holds no modules`)
  const [version] = fs.readdirSync(modulesFolder)
  const packed = fs.readFileSync(join(unpacked, 'boot', `vmlinuz-${version}`))
  fs.writeFileSync(join(folder, 'kernel'), unpackKernel(packed) ?? packed)
  fs.mkdirSync(join(folder, 'modules'))
  fs.renameSync(join(modulesFolder, version), join(folder, 'modules', version))
  fs.rmSync(unpacked, { recursive: true })
  fs.rmSync(archive)
  const { busybox } = machinePrograms()
  const bootModules = orderBootModules(indexModules(join(folder, 'modules', version)))
  await writeModuleDependencies(folder, version, busybox)
  fs.writeFileSync(join(folder, 'initrd'), firstFileSystem(busybox, bootModules))
  const meta = { version, packageName: basename(archive).split('_')[0] }
  fs.writeFileSync(join(folder, 'meta.json'), `${JSON.stringify(meta)}\n`)
}

/** depmod looks below BASE/lib/modules only. */
async function writeModuleDependencies(folder, version, busybox) {
  const base = join(folder, 'base')
  fs.mkdirSync(join(base, 'lib', 'modules'), { recursive: true })
  fs.symlinkSync(join(folder, 'modules', version), join(base, 'lib', 'modules', version))
  await run(busybox, ['depmod', '-b', base, version])
  fs.rmSync(base, { recursive: true })
}

function firstFileSystem(busybox, bootModules) {
  const folders = ['bin', 'proc', 'sys', 'dev', 'modules', 'host', 'rw', 'new', 'job']
  return writeCpio([
    ...folders.map(folderEntry),
    deviceEntry('dev/console', 5, 1),
    fileEntry('bin/busybox', fs.readFileSync(busybox), 0o755),
    ...bootModules.map(([name, content]) => fileEntry(`modules/${name}.ko`, content)),
    fileEntry('modules/order', bootModules.map(([name]) => `${name}\n`).join('')),
  ])
}

// SPDX-License-Identifier: MIT
/**
 * Finds Node's header files on this machine, so that node-gyp downloads nothing.
 *
 * Node's own archives, NodeSource's packages and the container images carry them beside the
 * program. Debian's libnode-dev belongs to Debian's own Node and mostly is another version.
 */
import { readFileSync, realpathSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { SetupError, findProgram } from './step.mjs'

/** @returns the folder that node-gyp calls `nodedir`: the one that holds include/node */
export function nodeHeaderFolder() {
  const major = Number(process.versions.node.split('.')[0])
  const candidates = candidateFolders()
  const found = candidates.find(folder => headerMajor(folder) === major)
  if (found !== undefined) return found
  const others = candidates.filter(folder => headerMajor(folder) !== undefined)
  throw new SetupError(
    [
      `the header files of Node ${process.versions.node} are not on this machine; the addon cannot be built`,
      `looked for include/node/node_version.h below: ${candidates.join(', ')}`,
      ...others.map(folder => `${folder} has those of Node ${headerMajor(folder)}`),
      'install Node from an archive of nodejs.org or from the NodeSource packages, which bring them,',
      'or unpack such an archive of the same version and name its folder: npm_config_nodedir=FOLDER npm start',
    ].join('\n'),
  )
}

function candidateFolders() {
  const besideNode = dirname(dirname(realpathSync(process.execPath)))
  const besideLink = dirname(dirname(findProgram('node') ?? process.execPath))
  const configured = [process.env.npm_config_nodedir, nodedirOfUser()]
  const all = [...configured, besideNode, besideLink, '/usr/local', '/usr']
  return [...new Set(all.filter(folder => folder !== undefined && folder !== ''))]
}

/** `nodedir=` of ~/.npmrc, without starting npm for it. */
function nodedirOfUser() {
  try {
    const text = readFileSync(join(process.env.HOME ?? '/', '.npmrc'), 'utf8')
    return /^\s*nodedir\s*=\s*(.+?)\s*$/m.exec(text)?.[1]
  } catch {
    return undefined
  }
}

function headerMajor(folder) {
  for (const path of ['include/node/node_version.h', 'src/node_version.h']) {
    try {
      const text = readFileSync(join(folder, path), 'utf8')
      const major = /#define NODE_MAJOR_VERSION (\d+)/.exec(text)?.[1]
      if (major !== undefined) return Number(major)
    } catch {
      // not there
    }
  }
  return undefined
}

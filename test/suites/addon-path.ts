// SPDX-License-Identifier: MIT
/** Where the addon is: threads and processes that tests start as plain JavaScript load it by path. */
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const require = createRequire(import.meta.url)
const nodeGypBuild = require('node-gyp-build') as { resolve: (directory: string) => string }

export const addonPath = nodeGypBuild.resolve(
  fileURLToPath(new URL('../../native', import.meta.url)),
)

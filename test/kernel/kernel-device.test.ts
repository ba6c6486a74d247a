// SPDX-License-Identifier: MIT
/** The kernel's nbd client can be tested here: it attaches what qemu-nbd serves. */
import { join } from 'node:path'
import t from 'tap'
import { requiresKernelDevice, runWithKernelDevice } from '../support/kernel-device.js'
import { runJudge } from '../support/programs.js'
import { requires } from '../support/requires.js'
import { imageFolder } from '../support/temp-dir.js'

t.test(
  'the kernel attaches a served disk and what it writes reaches the image',
  { skip: requiresKernelDevice() || requires('qemu-img', 'qemu-nbd', 'qemu-io'), timeout: 240_000 },
  async t => {
    const folder = imageFolder(t)
    const image = join(folder, 'root.hds')
    await runJudge('qemu-img', ['create', '-q', '-f', 'parallels', image, '64M'])
    const result = await runWithKernelDevice(
      [
        'set -e',
        'socket=$(mktemp -d)/s',
        `qemu-nbd --fork -f parallels -k $socket ${image}`,
        'nbd-client -u $socket -t 60 /dev/nbd0 >&2',
        'blockdev --getsize64 /dev/nbd0',
        'tr "\\0" "\\125" </dev/zero | dd of=/dev/nbd0 bs=4096 count=1 conv=fsync 2>/dev/null',
        'nbd-client -d /dev/nbd0 >&2',
      ].join('\n'),
      { writableFolders: [folder] },
    )
    t.equal(result.status, 0, result.stderr)
    t.equal(result.stdout.trim(), String(64 * 1024 * 1024))
    const compared = await runJudge('qemu-io', [
      '-f',
      'parallels',
      '-c',
      'read -P 0x55 0 4k',
      image,
    ])
    t.match(compared, /read 4096\/4096/)
    t.notMatch(compared, /verification failed/)
  },
)

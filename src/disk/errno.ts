// SPDX-License-Identifier: MIT
/** The few errno values of Linux that decide what the disk does, and what it answers. */

export const errno = {
  EIO: 5,
  EINVAL: 22,
  ENOSPC: 28,
  ENOTSUP: 95,
} as const

const EXDEV = 18
const EFBIG = 27
const ENOSYS = 38
const EOPNOTSUPP = 95
const EDQUOT = 122

/** What a client is told of a failed file operation: no space, or an I/O error. */
export function clientErrno(result: number): number {
  const code = -result
  return code === errno.ENOSPC || code === EDQUOT || code === EFBIG ? errno.ENOSPC : errno.EIO
}

/** The file system cannot do this kind of operation; another way will do. */
export function isUnsupported(result: number): boolean {
  const code = -result
  return code === EOPNOTSUPP || code === ENOSYS || code === EXDEV || code === errno.EINVAL
}

// SPDX-License-Identifier: MIT
/**
 * Takes the plain kernel (ELF) out of a bzImage, so that it boots without unpacking itself: under
 * emulation that alone costs several seconds.
 *
 * Facts: boot protocol of the kernel (Documentation/arch/x86/boot.rst): set-up sectors at 0x1f1,
 * payload offset and length at 0x248 and 0x24c. LZ4 legacy frames: blocks of at most 8 MiB.
 */
const magic = { elf: 0x7f454c46, lz4Legacy: 0x02214c18 }
const blockLimitBytes = 8 << 20

/** @returns the ELF file, or undefined when it is packed in another way than Debian's cloud kernel */
export function unpackKernel(bzImage) {
  const setupBytes = ((bzImage[0x1f1] || 4) + 1) * 512
  const offset = setupBytes + bzImage.readUInt32LE(0x248)
  const payload = bzImage.subarray(offset, offset + bzImage.readUInt32LE(0x24c))
  if (payload.readUInt32BE(0) !== magic.lz4Legacy) return undefined
  const elf = unpackLz4Legacy(payload)
  return elf.length > 4 && elf.readUInt32BE(0) === magic.elf ? elf : undefined
}

function unpackLz4Legacy(source) {
  const blocks = []
  let position = 4
  while (position + 4 <= source.length) {
    const length = source.readUInt32LE(position)
    const end = position + 4 + length
    // behind the last block the kernel's build puts the unpacked size
    if (length === 0 || end > source.length) break
    blocks.push(unpackBlock(source.subarray(position + 4, end)))
    position = end
  }
  return Buffer.concat(blocks)
}

function unpackBlock(source) {
  const target = Buffer.allocUnsafe(blockLimitBytes)
  let from = 0
  let to = 0
  const readLength = start => {
    let length = start
    if (start % 16 < 15) return length
    let more
    do length += more = source[from++]
    while (more === 255)
    return length
  }
  while (from < source.length) {
    const token = source[from++]
    const literalCount = readLength(token >> 4)
    source.copy(target, to, from, from + literalCount)
    from += literalCount
    to += literalCount
    if (from >= source.length) break
    const distance = source.readUInt16LE(from)
    from += 2
    const matchCount = readLength(token & 15) + 4
    copyMatch(target, to, distance, matchCount)
    to += matchCount
  }
  return target.subarray(0, to)
}

/** A match may overlap what it produces: then it repeats byte by byte. */
function copyMatch(target, to, distance, count) {
  if (distance >= count) {
    target.copy(target, to, to - distance, to - distance + count)
    return
  }
  for (let index = to; index < to + count; index++) target[index] = target[index - distance]
}

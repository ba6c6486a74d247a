// SPDX-License-Identifier: MIT
/**
 * Reads tap's stream line by line: passes on one line for each test file, and each failed or
 * skipped point with its diagnostics; keeps tap's own count of assertions from the last line.
 *
 * Leaves: understanding the stream in full (tap-parser). Indentation and a few words do here.
 */
export class TapReader {
  #write
  #rest = ''
  #counts = {}
  #followsFailure = false
  /** the line that ends the diagnostics being passed on */
  #diagnosticsEnd = undefined

  constructor(writeLine) {
    this.#write = writeLine
  }

  push(chunk) {
    const lines = (this.#rest + chunk).split('\n')
    this.#rest = lines.pop()
    for (const line of lines) this.#readLine(line)
  }

  /** @param status how tap ended: a failure that no assertion counted still is one */
  summary(status) {
    const { pass = 0, fail = 0, skip = 0 } = this.#counts
    const failed = status === 0 ? fail : Math.max(fail, 1)
    return `${pass} passed, ${failed} failed${skip > 0 ? `, ${skip} skipped` : ''}`
  }

  #readLine(line) {
    if (this.#diagnosticsEnd !== undefined) {
      this.#write(line)
      if (line === this.#diagnosticsEnd) this.#diagnosticsEnd = undefined
      return
    }
    const text = line.trimStart()
    const indent = line.slice(0, line.length - text.length)
    if (this.#followsFailure && text === '---') {
      this.#write(line)
      this.#diagnosticsEnd = `${indent}...`
    } else if (isWorthALine(indent, text)) {
      this.#write(line)
    } else if (indent === '' && text.startsWith('# {')) {
      this.#counts = readCounts(text)
    }
    this.#followsFailure = text.startsWith('not ok')
  }
}

function isWorthALine(indent, text) {
  if (text.startsWith('not ok') || text.startsWith('Bail out!')) return true
  if (!text.startsWith('ok ')) return false
  return indent === '' || / # (skip|todo)/i.test(text)
}

/** `# { total: 6, pass: 2, fail: 2, skip: 2 }` */
function readCounts(text) {
  const pairs = [...text.matchAll(/(\w+): (\d+)/g)].map(([, name, count]) => [name, Number(count)])
  return Object.fromEntries(pairs)
}

// SPDX-License-Identifier: MIT
/**
 * Progress of long work: a bar on a terminal, `n/100` lines on a descriptor for programs, and one
 * line on request (SIGUSR2).
 */
import { writeSync } from 'node:fs'
import type { Progress } from '../base/progress.js'
import type { Output } from './output.js'

export interface ProgressDisplay extends Progress {
  /** One sentence about the present state; undefined before the work reports anything. */
  describe(): string | undefined
  /** Removes the bar from the terminal. Idempotent. */
  finish(): void
}

export type ProgressChoice = 'none' | 'bar' | { readonly descriptor: number }

const barWidth = 40

function percentOf(doneCount: number, totalCount: number): number {
  return totalCount <= 0 ? 100 : Math.min(100, Math.floor((doneCount * 100) / totalCount))
}

function drawBar(percent: number, note: string, columns: number): string {
  const filled = Math.round((percent * barWidth) / 100)
  const bar = '#'.repeat(filled).padEnd(barWidth, '-')
  return `[${bar}] ${String(percent).padStart(3)} % ${note}`.trimEnd().slice(0, columns - 1)
}

export function createProgress(choice: ProgressChoice, terminal: Output): ProgressDisplay {
  let percent = -1
  let note = ''
  let drawn = false
  const show = (): void => {
    if (choice === 'bar') {
      terminal.write(`\r\u001b[K${drawBar(percent, note, terminal.columns ?? 80)}`)
      drawn = true
    } else if (choice !== 'none') {
      writeSync(choice.descriptor, `${String(percent)}/100\n`)
    }
  }
  return {
    update(doneCount, totalCount, newNote = '') {
      const newPercent = percentOf(doneCount, totalCount)
      if (newPercent === percent && newNote === note) return
      percent = newPercent
      note = newNote
      show()
    },
    describe() {
      return percent < 0 ? undefined : `${String(percent)} % done${note === '' ? '' : `: ${note}`}`
    },
    finish() {
      if (drawn) terminal.write('\r\u001b[K')
      drawn = false
    },
  }
}

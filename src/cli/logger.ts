// SPDX-License-Identifier: MIT
/**
 * The Logger of the program: JSON lines for a service manager, plain sentences for everybody else.
 *
 * Verbosity is that of ploop(8): 3 by default, each -v one more. 1: errors, 2: warnings,
 * 3: information, 4 and more: everything.
 */
import { pino } from 'pino'
import type { LogFields, Logger } from '../base/log.js'
import type { Output } from './output.js'

export const verbosityDefault = 3

const levels = ['error', 'warn', 'info', 'debug'] as const
type Level = (typeof levels)[number]

function enabledLevels(verbosity: number): readonly Level[] {
  return levels.slice(0, Math.max(0, verbosity))
}

/** True when standard error goes to the journal or the process is a service. */
export function underServiceManager(env: Readonly<Record<string, string | undefined>>): boolean {
  return env['JOURNAL_STREAM'] !== undefined || env['NOTIFY_SOCKET'] !== undefined
}

export function plainLogger(output: Output, verbosity: number): Logger {
  const enabled = new Set(enabledLevels(verbosity))
  const writer =
    (level: Level) =>
    (message: string, fields: LogFields = {}): void => {
      if (!enabled.has(level)) return
      const words = level === 'warn' ? `warning: ${message}` : message
      const facts = Object.entries(fields).filter(([, value]) => value !== undefined)
      const tail = facts.map(([name, value]) => ` ${name}=${String(value)}`).join('')
      output.write(`ploop-nbd: ${words}${tail}\n`)
    }
  return {
    error: writer('error'),
    warn: writer('warn'),
    info: writer('info'),
    debug: writer('debug'),
  }
}

export function jsonLogger(output: Output, verbosity: number): Logger {
  const level = enabledLevels(verbosity).at(-1) ?? 'silent'
  const sink = pino({ level, base: null }, { write: (line: string) => output.write(line) })
  const writer =
    (level: Level) =>
    (message: string, fields: LogFields = {}): void => {
      sink[level](fields, message)
    }
  return {
    error: writer('error'),
    warn: writer('warn'),
    info: writer('info'),
    debug: writer('debug'),
  }
}

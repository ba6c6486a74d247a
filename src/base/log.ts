// SPDX-License-Identifier: MIT
/** What the layers below the program say while they work. Implemented in src/cli/logger.ts only. */

export type LogFields = Readonly<Record<string, string | number | boolean | undefined>>

export interface Logger {
  error(message: string, fields?: LogFields): void
  warn(message: string, fields?: LogFields): void
  info(message: string, fields?: LogFields): void
  debug(message: string, fields?: LogFields): void
}

const nothing = (): void => undefined

export const silentLogger: Logger = { error: nothing, warn: nothing, info: nothing, debug: nothing }

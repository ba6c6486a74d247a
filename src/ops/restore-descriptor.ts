// SPDX-License-Identifier: MIT
/** restore-descriptor: a descriptor for an image file, beside the image or elsewhere. */
import {
  restoreDescriptor as restore,
  type RestoreDescriptorOptions,
} from '../image/restore-descriptor.js'
import type { OperationContext } from './context.js'

export function restoreDescriptor(
  input: RestoreDescriptorOptions,
  context: OperationContext,
): Promise<string> {
  const { log, signal } = context
  return restore(context.files, input, { log, signal })
}

// SPDX-License-Identifier: MIT
/** snapshot-list: reads the descriptor without its lock and lists what it says. */
import { listSnapshots, type ListedSnapshot, type ListOptions } from '../image/info.js'
import { readDescriptor } from '../image/transaction.js'
import type { OperationContext } from './context.js'

export async function snapshotList(
  input: ListOptions & { readonly descriptorPath: string },
  context: OperationContext,
): Promise<ListedSnapshot[]> {
  return listSnapshots(await readDescriptor(context.files, input.descriptorPath), input)
}

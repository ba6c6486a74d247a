// SPDX-License-Identifier: MIT
/**
 * The one table of commands: names, options, help, examples, exit statuses.
 *
 * The parser (build-program.ts), the help (help-text.ts), the manual page, shell completion and
 * the command list of the README are all made from it, so they cannot disagree. A command is one
 * row here and one file in commands/.
 */
import type { CommandInput } from './command-input.js'
import type { CommandContext } from './context.js'

export type CommandGroup =
  'Basic commands' | 'Snapshots' | 'Image copying' | 'Ballooning' | 'Serving' | 'Other'

export interface OptionRow {
  /** name under which the command finds it */
  readonly key: string
  /** one letter */
  readonly short?: string
  readonly long?: string
  /** further long names that are understood and not shown */
  readonly hidden?: readonly string[]
  /** what the value is called in the help; absent: the option takes none */
  readonly value?: string
  /** `--long` and `--long=VALUE` are both allowed */
  readonly valueOptional?: boolean
  /** may be given several times; every value counts */
  readonly repeatable?: boolean
  readonly text: string
}

export interface CommandModule {
  /** @returns the exit status; nothing means 0 */
  run(input: CommandInput, context: CommandContext): Promise<number | undefined>
}

export interface CommandRow {
  readonly name: string
  readonly group: CommandGroup
  /** what follows program and command, one line per form */
  readonly synopsis: readonly string[]
  /** one line for the list of commands */
  readonly summary: string
  readonly description: readonly string[]
  /** those of ploop(8) */
  readonly options: readonly OptionRow[]
  /** those we add */
  readonly also: readonly OptionRow[]
  readonly grammar?: readonly string[]
  readonly examples: readonly string[]
  readonly exits: readonly (readonly [status: number, meaning: string])[]
  /** exit status of a usage error; default 38 */
  readonly usageStatus?: number
  readonly load: () => Promise<CommandModule>
}

const json: OptionRow = { key: 'json', long: 'json', text: 'print the result as JSON' }
const progress: OptionRow = {
  key: 'progress',
  long: 'progress',
  value: 'FD',
  valueOptional: true,
  text: 'show progress on the terminal, or as lines on descriptor FD',
}
const uuidGrammar = 'UUID := {xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx}   (braces may be left out)'
const sizeGrammar = 'SIZE := NUMBER[KMGT]   (without a letter: sectors of 512 bytes)'
const exitLocked = [23, 'descriptor locked, unreadable or invalid'] as const
const exitUsage = [38, 'bad parameter'] as const
const exitNoDescriptor = [39, 'descriptor not found or cannot be stored'] as const

const init: CommandRow = {
  name: 'init',
  group: 'Basic commands',
  synopsis: [
    '-s SIZE [-f FORMAT] [-v VERSION] [-t FSTYPE] [-b BLOCKSIZE] [-B FSBLOCKSIZE] [-n] NEW_DELTA',
  ],
  summary: 'create an image, its descriptor and a file system',
  description: [
    'Create the image file NEW_DELTA and DiskDescriptor.xml beside it, with one partition and a',
    'file system on it. Needs no privileges: nothing is mounted.',
  ],
  options: [
    { key: 'size', short: 's', value: 'SIZE', text: 'size of the disk' },
    { key: 'format', short: 'f', value: 'FORMAT', text: 'format of the image (default: expanded)' },
    {
      key: 'version',
      short: 'v',
      value: 'VERSION',
      text: 'version of the image format (default: 2)',
    },
    { key: 'type', short: 't', value: 'FSTYPE', text: 'file system (default: ext4)' },
    {
      key: 'blocksize',
      short: 'b',
      value: 'BLOCKSIZE',
      text: 'cluster size in sectors (default: 2048)',
    },
    {
      key: 'fsblocksize',
      short: 'B',
      value: 'FSBLOCKSIZE',
      text: 'block size of the file system in bytes (default: 4096)',
    },
    { key: 'nolazy', short: 'n', long: 'nolazy', text: 'write inode tables and journal at once' },
  ],
  also: [progress, json],
  grammar: [
    sizeGrammar,
    'FORMAT := { raw | expanded | ploop1 | preallocated }',
    'VERSION := { 1 | 2 }',
    'FSTYPE := { none | ext3 | ext4 }',
  ],
  examples: ['init -s 10G root.hdd/root.hds', 'init -s 500G -f preallocated -t none disk.hds'],
  exits: [
    [0, 'created'],
    [1, 'cannot create a file'],
    [24, 'making the file system failed'],
    [38, 'bad parameter, or a file exists already'],
    [39, 'descriptor cannot be stored'],
  ],
  load: () => import('./commands/init.js'),
}

const info: CommandRow = {
  name: 'info',
  group: 'Basic commands',
  synopsis: ['[-s] [-d] DiskDescriptor.xml'],
  summary: 'show sizes of a disk and of its file system',
  description: [
    'Show how full the file system of the disk is, or facts about the disk itself.',
    'Nothing is mounted and nothing is written.',
  ],
  options: [
    {
      key: 'size',
      short: 's',
      text: 'show size and cluster size in sectors, and the format version',
    },
    { key: 'device', short: 'd', text: 'show the device that the disk is attached to' },
  ],
  also: [json],
  examples: ['info DiskDescriptor.xml', 'info -s DiskDescriptor.xml'],
  exits: [
    [0, 'shown'],
    [4, 'an image cannot be opened or was not closed cleanly'],
    exitLocked,
    exitUsage,
    exitNoDescriptor,
  ],
  load: () => import('./commands/info.js'),
}

const restoreDescriptor: CommandRow = {
  name: 'restore-descriptor',
  group: 'Basic commands',
  synopsis: ['[-f FORMAT] [-b BLOCKSIZE] DISK_DIR BASE_DELTA'],
  summary: 'make a new DiskDescriptor.xml for a base delta',
  description: [
    'Write DISK_DIR/DiskDescriptor.xml for the image file BASE_DELTA. Works for base deltas alone:',
    'a delta with others below it looks the same and would lack their data.',
  ],
  options: [
    { key: 'format', short: 'f', value: 'FORMAT', text: 'format of BASE_DELTA (default: ploop1)' },
    {
      key: 'blocksize',
      short: 'b',
      value: 'BLOCKSIZE',
      text: 'cluster size in sectors, for a raw image',
    },
  ],
  also: [],
  grammar: ['FORMAT := { raw | ploop1 }'],
  examples: ['restore-descriptor -f ploop1 /vz/disk /vz/disk/root.hds'],
  exits: [
    [0, 'written'],
    [4, 'BASE_DELTA cannot be opened or is no image'],
    [38, 'bad parameter, or the descriptor exists already'],
    exitNoDescriptor,
  ],
  load: () => import('./commands/restore-descriptor.js'),
}

const map: CommandRow = {
  name: 'map',
  group: 'Basic commands',
  synopsis: ['[-u UUID] DiskDescriptor.xml', 'DELTA'],
  summary: 'show where the data of a disk is stored',
  description: [
    'List the disk from its start to its end: which delta holds each extent, and where in its file.',
    'Only reads, also while the disk is being served.',
  ],
  options: [],
  also: [
    { key: 'uuid', short: 'u', long: 'uuid', value: 'UUID', text: 'snapshot (default: the top)' },
    json,
  ],
  grammar: [uuidGrammar],
  examples: ['map DiskDescriptor.xml', 'map --json DiskDescriptor.xml'],
  exits: [
    [0, 'shown'],
    [4, 'an image cannot be opened'],
    [11, 'an image is damaged'],
    exitLocked,
    exitUsage,
    exitNoDescriptor,
    [43, 'no such snapshot'],
  ],
  load: () => import('./commands/map.js'),
}

const snapshot: CommandRow = {
  name: 'snapshot',
  group: 'Snapshots',
  synopsis: ['[-u UUID] DiskDescriptor.xml'],
  summary: 'freeze the present state of a disk and go on in a new delta',
  description: [
    'Make a snapshot: the top delta becomes read-only under the GUID UUID, and a new empty delta',
    'takes what is written from now on.',
  ],
  options: [
    { key: 'uuid', short: 'u', value: 'UUID', text: 'GUID of the snapshot (default: a new one)' },
  ],
  also: [json],
  grammar: [uuidGrammar],
  examples: ['snapshot DiskDescriptor.xml'],
  exits: [
    [0, 'made'],
    [11, 'the top delta is damaged'],
    exitLocked,
    [37, 'another process serves the disk'],
    [38, 'bad parameter, or the UUID exists already'],
    exitNoDescriptor,
  ],
  load: () => import('./commands/snapshot.js'),
}

const snapshotList: CommandRow = {
  name: 'snapshot-list',
  group: 'Snapshots',
  synopsis: ['[-H] [-o FIELD[,FIELD…]] [-s] [-u UUID] DiskDescriptor.xml'],
  summary: 'list snapshots',
  description: ['List snapshots in the order of the descriptor; the active one is marked by *.'],
  options: [
    { key: 'noHeader', short: 'H', long: 'no-header', text: 'leave out the line of titles' },
    {
      key: 'output',
      short: 'o',
      long: 'output',
      value: 'FIELD,…',
      text: 'fields to show (default: parent_uuid,current,uuid,fname)',
    },
    { key: 'snapshot', short: 's', long: 'snapshot', text: 'leave out the top, mark its parent' },
    {
      key: 'uuid',
      short: 'u',
      long: 'uuid',
      hidden: ['id'],
      value: 'UUID',
      text: 'list from this snapshot down to the base',
    },
  ],
  also: [json],
  grammar: ['FIELD := { uuid | parent_uuid | current | fname }', uuidGrammar],
  examples: ['snapshot-list DiskDescriptor.xml', 'snapshot-list -H -o uuid DiskDescriptor.xml'],
  exits: [
    [0, 'listed'],
    [1, 'any error but the next'],
    [38, 'malformed UUID'],
  ],
  usageStatus: 1,
  load: () => import('./commands/snapshot-list.js'),
}

const serve: CommandRow = {
  name: 'serve',
  group: 'Serving',
  synopsis: [
    '[-r] [-u UUID|base] DiskDescriptor.xml',
    '[-r] [-f FORMAT] [-b BLOCKSIZE] BASE_DELTA [DELTA…]',
    '[-r] NAME=DiskDescriptor.xml [NAME=…]',
  ],
  summary: 'serve disks over NBD',
  description: [
    'Serve a disk to NBD clients in the foreground: the kernel (nbd-client), qemu, libnbd, fio.',
    'Prints the NBD URI when clients can connect, and nothing else; ends on SIGINT or SIGTERM',
    'with a consistent image. A service manager or libnbd may pass listening sockets instead.',
  ],
  options: [
    { key: 'readOnly', short: 'r', text: 'read-only: writes to no file' },
    {
      key: 'uuid',
      short: 'u',
      value: 'UUID',
      text: 'snapshot to serve (default: the top); one with children only with -r',
    },
    { key: 'format', short: 'f', value: 'FORMAT', text: 'format of BASE_DELTA (default: ploop1)' },
    {
      key: 'blocksize',
      short: 'b',
      value: 'BLOCKSIZE',
      text: 'cluster size in sectors, for a raw base',
    },
  ],
  also: [
    {
      key: 'socket',
      long: 'socket',
      value: 'PATH',
      text: 'listen on this unix socket, mode 0600 (default: one in the runtime directory)',
    },
    {
      key: 'bind',
      long: 'bind',
      value: 'ADDRESS',
      repeatable: true,
      text: 'listen on TCP at this address (default with --port: 127.0.0.1 and ::1)',
    },
    { key: 'port', long: 'port', value: 'N', text: 'TCP port (default with --bind: 10809)' },
    { key: 'export', long: 'export', value: 'NAME', text: 'name of the export' },
    {
      key: 'cache',
      long: 'cache',
      value: 'MODE',
      text: 'past the page cache for the writable delta (auto), for all (direct), for none (buffered)',
    },
    {
      key: 'pending',
      long: 'pending',
      value: 'HOW',
      text: 'how answered writes outlive a killed server: shared memory (auto), published first (publish), not (none)',
    },
    { key: 'engine', long: 'engine', value: 'ENGINE', text: 'default: auto, uring where possible' },
    {
      key: 'maxConnections',
      long: 'max-connections',
      value: 'N',
      text: 'clients at a time (default: 128)',
    },
    {
      key: 'maxMapSize',
      long: 'max-map-size',
      value: 'SIZE',
      text: 'memory for the map of a disk, 5 bytes per cluster (default: 1G)',
    },
    { key: 'exitWithParent', long: 'exit-with-parent', text: 'end when the parent process ends' },
    {
      key: 'run',
      long: 'run',
      value: 'COMMAND',
      text: 'run a shell command with $uri and $unixsocket, then end with its exit status',
    },
  ],
  grammar: [
    'FORMAT := { raw | ploop1 }',
    'MODE := { auto | direct | buffered }',
    'HOW := { auto | publish | none }',
    'ENGINE := { auto | uring | threads }',
    sizeGrammar,
    uuidGrammar,
  ],
  examples: [
    'serve DiskDescriptor.xml',
    "serve -r -u '{e9d4…}' --socket /run/snap.sock DiskDescriptor.xml",
    'serve --run \'nbdinfo "$uri"\' DiskDescriptor.xml',
  ],
  exits: [
    [0, 'stopped on request, everything durable'],
    [1, 'cannot listen'],
    [4, 'an image cannot be opened'],
    [6, 'an image cannot be read, or is too short'],
    [7, 'writing failed: the image stays marked in use'],
    [11, 'an image is damaged'],
    exitLocked,
    [37, 'another process uses an image'],
    exitUsage,
    exitNoDescriptor,
    [43, 'no such snapshot'],
  ],
  load: () => import('./commands/serve.js'),
}

const version: CommandRow = {
  name: 'version',
  group: 'Other',
  synopsis: [''],
  summary: 'show the version and what this machine allows',
  description: ['Show the version of ploop-nbd and of what it stands on, and what is missing.'],
  options: [],
  also: [json],
  examples: ['version'],
  exits: [[0, 'shown'], exitUsage],
  load: () => import('./commands/version.js'),
}

const help: CommandRow = {
  name: 'help',
  group: 'Other',
  synopsis: ['[COMMAND]'],
  summary: 'show the commands, or the help of one',
  description: ['Show the list of commands, or the help of one command.'],
  options: [],
  also: [],
  examples: ['help', 'help snapshot'],
  exits: [[0, 'shown'], exitUsage],
  load: () => import('./commands/help.js'),
}

/** In the order of the help. */
export const commandTable: readonly CommandRow[] = [
  init,
  info,
  restoreDescriptor,
  map,
  snapshot,
  snapshotList,
  serve,
  version,
  help,
]

export function findCommand(name: string): CommandRow | undefined {
  return commandTable.find(row => row.name === name)
}

/** Options that every command understands. */
export const commonOptions: readonly OptionRow[] = [
  { key: 'help', short: 'h', long: 'help', text: 'show this help' },
]

export function allOptions(row: CommandRow): OptionRow[] {
  const own = [...row.options, ...row.also]
  const letters = new Set(own.map(option => option.short))
  return [...own, ...commonOptions.filter(option => !letters.has(option.short))]
}

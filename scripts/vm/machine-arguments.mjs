// SPDX-License-Identifier: MIT
/** Command lines of qemu and virtiofsd, and why they are what they are. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** A guest of seconds on a busy machine: no watchdogs, no audit, no self-tests. */
const kernelWords = [
  ...['console=ttyS0', 'quiet', 'loglevel=4', 'panic=-1', 'oops=panic', 'mitigations=off'],
  ...['tsc=reliable', 'no_timer_check', 'nowatchdog', 'rcupdate.rcu_cpu_stall_suppress=1'],
  ...['workqueue.watchdog_thresh=0', 'cryptomgr.notests', 'random.trust_cpu=on'],
  ...['net.ifnames=0', 'audit=0', 'apparmor=0'],
].join(' ')

export function qemuArguments(options, kernelPath, folder) {
  const socket = id => ['-chardev', `socket,id=${id},path=${join(folder, id)}`]
  const port = id => [
    ...socket(id),
    ...['-device', `virtserialport,chardev=${id},name=vmrun.${id}`],
  ]
  return [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-M', 'q35'],
    ...processorWords(options),
    ...['-kernel', kernelPath, '-initrd', join(folder, 'initrd'), '-append', kernelWords],
    ...[...socket('console'), '-serial', 'chardev:console'],
    ...['-device', 'virtio-serial-pci,ioeventfd=off'],
    ...[...port('control'), ...port('out'), ...port('err')],
    '-drive',
    `if=none,id=scratch,file=${join(folder, 'scratch')},format=raw,cache=unsafe,discard=unmap`,
    ...['-device', 'virtio-blk-pci,drive=scratch'],
    // virtiofs needs memory that both processes map
    ...['-object', `memory-backend-memfd,id=mem,size=${options.memory},share=on`],
    ...['-numa', 'node,memdev=mem', ...socket('files')],
    ...['-device', 'vhost-user-fs-pci,queue-size=1024,chardev=files,tag=hostroot'],
  ]
}

function processorWords({ cpuCount, memory }) {
  const words = ['-smp', String(cpuCount), '-m', memory]
  return hasHardwareVirtualization()
    ? ['-accel', 'kvm', '-cpu', 'host', ...words]
    : ['-accel', 'tcg,thread=multi,tb-size=512', '-cpu', 'max,la57=off', ...words]
}

/** /dev/kvm alone does not say so: inside some guests it is there and stock kernels hang under it. */
function hasHardwareVirtualization() {
  const hasFlag = /\b(vmx|svm)\b/.test(readFileSync('/proc/cpuinfo', 'utf8'))
  return hasFlag && existsSync('/dev/kvm')
}

/** The program of qemu 7 and the later one in Rust take the same under other names. */
export function virtiofsdArguments(program, socketPath) {
  const limits = readFileSync('/proc/self/limits', 'utf8')
  const openFiles = Number(/Max open files\s+\S+\s+(\d+)/.exec(limits)?.[1] ?? 0)
  const shared = [
    `--socket-path=${socketPath}`,
    // 0: leave the limit as it is, which a container may not raise
    `--rlimit-nofile=${openFiles >= 65_536 ? openFiles : 0}`,
  ]
  return program.includes('/qemu/')
    ? [...shared, '-o', 'source=/', '-o', 'cache=always', '-o', 'sandbox=chroot']
    : [...shared, '--shared-dir=/', '--cache=always', '--sandbox=chroot']
}

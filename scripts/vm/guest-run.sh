#!/bin/sh
# SPDX-License-Identifier: MIT
# First process of the guest in its final root: runs the command and ships its output to the host.
# Words on the control port: HELLO, START, EXIT status to the host; DUMP from it, answered by DUMPED.
D=/run/vm-run
B=$D/busybox
. $D/settings
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec >/dev/console 2>&1 </dev/null
port() {
  for p in /sys/class/virtio-ports/*; do
    read -r n <"$p/name"
    [ "$n" = "vmrun.$1" ] && echo "/dev/${p##*/}" && return
  done
}
exec 5<>"$(port control)"
echo HELLO >&5
$B hostname vm-run
$B ifconfig lo 127.0.0.1 up
ulimit -n 1048576
ulimit -c 0
while IFS= read -r m; do
  [ -n "$m" ] || continue
  # shellcheck disable=SC2086 # module and parameters are words
  modprobe $m || { echo "vm-run: guest: modprobe $m failed" && echo "EXIT 125" >&5; }
done <<X
$LOAD_MODULES
X
# a port can be opened only once, so the command gets pipes; an end mark on each says that all came
$B mkfifo $D/o $D/e
exec 7<>$D/o 8<>$D/e
$B cat <$D/o >"$(port out)" 5>&- 7>&- 8>&- &
$B cat <$D/e >"$(port err)" 5>&- 7>&- 8>&- &
(
  while read -r word; do
    [ "$word" = DUMP ] || continue
    echo 8 >/proc/sys/kernel/printk
    echo w >/proc/sysrq-trigger
    $B ps | $B grep -v " \[" >/dev/console
    echo DUMPED >&5
  done <&5
) 7>&- 8>&- &
echo START >&5
$B setsid /bin/sh $D/command </dev/null >$D/o 2>$D/e 5>&- 7>&- 8>&- &
wait $!
status=$?
printf %s "$END_MARK" >&7
printf %s "$END_MARK" >&8
echo "EXIT $status" >&5
while :; do $B sleep 1000; done

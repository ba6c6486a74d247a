#!/bin/busybox sh
# SPDX-License-Identifier: MIT
# First process of the guest, in the first file system: loads modules, mounts the files of the host
# under an overlay that is thrown away, and goes on with guest-run.sh in there.
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev
die() {
  echo "vm-run: guest: cannot set up: $*" >/dev/console
  $B sleep 1
  echo b >/proc/sysrq-trigger
  $B sleep 60
}
. /job/settings
while read -r m; do $B insmod "/modules/$m.ko" || die "module $m"; done </modules/order

MODE=ro
[ -s /job/writable ] && MODE=rw
$B mount -t virtiofs -o $MODE hostroot /host || die "files of the host"
$B mount -t ext4 -o noatime,noinit_itable,discard /dev/vda /rw || die "scratch disk"
# not a tmpfs: that knows no direct I/O in kernel 6.1
$B mkdir -p /rw/upper /rw/work /rw/data/tmp
$B chmod 1777 /rw/data/tmp
$B mount -t overlay -o lowerdir=/host,upperdir=/rw/upper,workdir=/rw/work overlay /new ||
  die "overlay"

cd /new || die "overlay"
$B mkdir -p proc sys dev run tmp scratch "lib/modules/$KERNEL"
for d in proc sys dev; do $B mount -o move /$d /new/$d || die "move $d"; done
$B mount -o bind /rw/data /new/scratch || die "scratch folder"
$B mount -t tmpfs -o mode=755 run /new/run || die "run folder"
$B mount -o bind "/host$MODULES" "/new/lib/modules/$KERNEL" || die "modules folder"
$B mkdir -p /new/run/lock /new/run/vm-run /new/dev/pts /new/dev/shm
$B chmod 1777 /new/run/lock /new/tmp
$B mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /new/dev/pts
$B mount -t tmpfs -o mode=1777 shm /new/dev/shm
$B mount -t debugfs debugfs /new/sys/kernel/debug 2>/dev/null
$B mount -t cgroup2 cgroup2 /new/sys/fs/cgroup 2>/dev/null

cd /new/dev || die "devices"
$B ln -sf /proc/self/fd fd
$B ln -sf fd/0 stdin
$B ln -sf fd/1 stdout
$B ln -sf fd/2 stderr
# opening these makes the kernel load their module
[ -e loop-control ] || $B mknod -m 660 loop-control c 10 237
[ -e fuse ] || $B mknod -m 666 fuse c 10 229
cd /
while IFS= read -r d; do
  $B mkdir -p "/new$d"
  $B mount -o bind "/host$d" "/new$d" || die "bind $d"
done </job/writable
$B cp /bin/busybox /job/settings /job/run /job/command /new/run/vm-run/
for a in modprobe lsmod rmmod insmod modinfo; do
  [ -e /new/sbin/$a ] || [ -e /new/usr/sbin/$a ] || $B ln -s /run/vm-run/busybox /new/sbin/$a
done
exec $B switch_root /new /run/vm-run/busybox sh /run/vm-run/run

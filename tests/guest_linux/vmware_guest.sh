#!/bin/busybox sh
# SPDX-License-Identifier: BSD-2-Clause
# First process of a guest whose kernel has VMware's drivers: loads the balloon, keeps data that must
# stay what they are while it grows and shrinks, and says what the driver counted.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t debugfs debugfs /sys/kernel/debug
mount -t tmpfs tmpfs /tmp
insmod /vmw_vmci.ko && insmod /vmw_balloon.ko || echo "GUEST FAIL: modules"
dmesg | grep -a "Hypervisor detected: VMware" || echo "GUEST FAIL: not detected"
dd if=/dev/urandom of=/tmp/random bs=64k count=64 2>/dev/null
seq 1 200000 >/tmp/text
first=$(sha256sum /tmp/random /tmp/text)
counts=/sys/kernel/debug/vmmemctl

# The balloon's size, as the driver has it.
size() { sed -n 's/^current[ :]*\([0-9]*\).*/\1/p' $counts; }
# $1: a test of the size; $2: what it shall be
await() {
    while ! [ "$(size)" "$1" "$2" ]; do sleep 1; done
    [ "$(sha256sum /tmp/random /tmp/text)" = "$first" ] || echo "GUEST FAIL: contents changed"
    echo "GUEST BALLOON $(size)"
}

echo "GUEST UP"
await -ge "$(sed -n 's/.*\binflate=\([0-9]*\).*/\1/p' /proc/cmdline)"
await -eq 0
await -gt 0 # the host has looked
grep -a . $counts
# Every command but the doorbell's, which needs a VMCI device, was carried out.
awk '/\(.* failed\)/ && $1 != "doorbellSet" && $1 !~ /^prim/ {
    split($0, n, "("); if (n[2] + 0 != 0) exit 1 }' $counts || echo "GUEST FAIL: failed commands"
grep -a -q "used capabilities.*0xe" $counts || echo "GUEST FAIL: capabilities"
dmesg | grep -a -E "Out of memory|BUG:|Call Trace" && echo "GUEST FAIL: kernel"
echo "GUEST PASSED"
poweroff -f

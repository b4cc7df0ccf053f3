#!/bin/busybox sh
# SPDX-License-Identifier: BSD-2-Clause
# Runs in the guest as /t/virtio_guest.sh; /t/expect holds what the host wants to see.
# Every check prints a line; the first failure ends the script, and the host then fails the test.
fail() {
    echo "GUEST FAIL: $*"
    exit 1
}
note() {
    echo "guest: $*"
}
. /t/expect # PORT, WEB_SUM

port=
i=0
while [ -z "$port" ] && [ $i -lt 100 ]; do # the device says the name when it gets round to it
    for p in /sys/class/virtio-ports/*; do
        [ "$(cat "$p/name" 2>/dev/null)" = org.vmcore.test ] && port=/dev/${p##*/}
    done
    i=$((i + 1))
    [ -n "$port" ] || usleep 100000
done
[ -n "$port" ] || fail "the named port is missing"
exec 3<>"$port" || fail "cannot open $port"
ask() {
    echo "$*" >&3
    read -r answer <&3 || fail "no answer to: $*"
    [ "$answer" = ok ] || fail "$*: $answer"
}
note "console port $port"
echo text-for-hvc0 >/dev/hvc0
ask hvc

# ---- disk
[ "$(cat /sys/block/vda/serial)" = TEST-SERIAL-1 ] || fail "serial"
[ "$(cat /sys/block/vda/size)" = 32768 ] || fail "size"
[ "$(cat /sys/block/vda/queue/write_cache)" = "write back" ] || fail "write cache"
dd if=/dev/vda of=/tmp/first bs=64k count=4 2>/dev/null
[ "$(sha256sum </tmp/first | cut -d' ' -f1)" = "$DISK_SUM" ] || fail "the disk reads wrong"
dd if=/dev/urandom of=/tmp/random bs=64k count=16 2>/dev/null
dd if=/tmp/random of=/dev/vda bs=64k seek=16 conv=fsync 2>/dev/null || fail "write"
ask flushed 1
dd if=/tmp/random of=/dev/vda bs=64k seek=64 conv=fsync 2>/dev/null || fail "write"
blkdiscard -o $((4 * 1024 * 1024)) -l 524288 /dev/vda || fail "discard"
ask discarded 1
echo 1 >/proc/sys/vm/drop_caches
dd if=/dev/vda of=/tmp/back bs=64k skip=16 count=16 2>/dev/null
cmp /tmp/random /tmp/back || fail "what was written does not read back"
echo "WRITTEN $(sha256sum </tmp/random | cut -d' ' -f1)"
ask grow 33554432
i=0
while [ "$(cat /sys/block/vda/size)" != 65536 ]; do
    i=$((i + 1))
    [ $i -lt 100 ] || fail "the new size is not seen"
    usleep 100000
done
note "disk"

# ---- entropy
[ "$(cat /sys/class/misc/hw_random/rng_current)" = virtio_rng.0 ] || fail "entropy device"
dd if=/dev/hwrng of=/tmp/r1 bs=64 count=4 2>/dev/null
dd if=/dev/hwrng of=/tmp/r2 bs=64 count=4 2>/dev/null
[ "$(wc -c </tmp/r1)" = 256 ] || fail "too few random bytes"
cmp -s /tmp/r1 /tmp/r2 && fail "the random bytes repeat"
note "entropy"

# ---- network
ip link set eth0 up
udhcpc -i eth0 -n -q -s /bin/true -t 5 >/tmp/dhcp 2>&1 || fail "DHCP: $(cat /tmp/dhcp)"
grep -q "10.0.2.15" /tmp/dhcp || fail "DHCP gave another address"
ping -c 1 -W 10 10.0.2.2 >/dev/null || fail "ping"
wget -q -O /tmp/web "http://10.0.2.2:$PORT/file" || fail "wget"
[ "$(sha256sum </tmp/web | cut -d' ' -f1)" = "$WEB_SUM" ] || fail "the file came wrong"
note "network"

# ---- balloon
free_kb() {
    # With deflate-on-OOM negotiated the total stays; what is free does not.
    awk '/^MemFree/ {print $2}' /proc/meminfo
}
i=0
while :; do # while free pages are reported they do not count as free: then measure again
    before=$(free_kb)
    ask balloon 16384
    [ "$(free_kb)" -ge $((before - 56000)) ] || break
    i=$((i + 1))
    [ $i -lt 5 ] || fail "64 MiB in the balloon, and no memory less"
    ask balloon 0
    sleep 3
done
ask stats
ask paged
ask balloon 0
i=0
while [ "$(free_kb)" -le $((before - 8000)) ]; do # the driver frees them after it has told the host
    i=$((i + 1))
    [ $i -lt 100 ] || fail "memory did not come back: $(free_kb) of $before KiB are free"
    usleep 100000
done
ask stats
ask hints
dd if=/dev/zero of=/tmp/fill bs=1M count=24 2>/dev/null
rm /tmp/fill
ask reported 4194304
dd if=/dev/zero of=/tmp/fill bs=1M count=24 2>/dev/null
[ "$(tr -d '\0' </tmp/fill | wc -c)" = 0 ] || fail "memory changed under a file"
rm /tmp/fill
if [ "$VARIANT" = paged ]; then
    ask squeeze
    ask paged
    left=$(free_kb)
    # More than is left: the guest takes pages out of its balloon and kills nobody.
    dd if=/dev/zero of=/tmp/fill bs=64k count=$((left / 64 + 256)) 2>/tmp/dd ||
        fail "$(cat /tmp/dd)"
    ask deflated
    # A look at the last 16 MiB, which came out of the balloon.
    [ "$(tail -c 16777216 /tmp/fill | tr -d '\0' | wc -c)" = 0 ] ||
        fail "memory changed under a file"
    rm /tmp/fill
    ask balloon 0
    ask paged
fi
note "balloon"

dmesg | grep -E "virtio.*([Ee]rror|[Ff]ail|broken)|BUG:|Call Trace" && fail "the kernel complains"
if [ "$VARIANT" = intx ]; then
    grep -q "IO-APIC.*virtio" /proc/interrupts || fail "no interrupt pins"
else
    grep -q "MSI.*virtio0-req" /proc/interrupts || fail "no MSI-X"
fi
ask passed
echo "GUEST PASSED"

#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Volumes on block devices: a whole one, and partitions that are found by themselves (GPT, MBR).
# Needs loop devices, hence root. Usage: device.sh VMCORE
set -euo pipefail
vmcore=$1
PATH=$PATH:/usr/sbin:/sbin
skip() { echo "SKIPPED: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "only root attaches loop devices"
command -v losetup >/dev/null || skip "losetup is not installed"
dir=$(mktemp -d)
loop=
cleanup() {
    [ -z "$loop" ] || losetup -d "$loop" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
cd "$dir"
head -c 5000000 /dev/urandom >data
truncate -s 2G disk
loop=$(losetup --show -f disk 2>err) || { loop= ; skip "no loop device: $(cat err)"; }

use() { # WHAT VOLUME MKFS-OPTIONS...
    local what=$1 vol=$2
    shift 2
    "$vmcore" vmfs mkfs -q "$@" -L loop "$vol"
    "$vmcore" vmfs mkdir -p "$vol" /a/b
    "$vmcore" vmfs import -q "$vol" data /a/b/data
    "$vmcore" disk create "vmfs:$vol:/a/thin.vmdk" 300M
    "$vmcore" disk write -q data "vmfs:$vol:/a/thin.vmdk"
    cmp data <("$vmcore" vmfs cat "$vol" /a/b/data)
    cmp -n 5000000 data <("$vmcore" vmfs cat "$vol" /a/thin-flat.vmdk)
    "$vmcore" vmfs fsck "$vol" >fsck.out || { cat fsck.out; exit 1; }
    grep -q ' 0 lost, .*; 0 errors' fsck.out || { cat fsck.out; exit 1; }
    # What a device shows is what the file under it has.
    "$vmcore" vmfs info "$vol" >info.dev
    "$vmcore" vmfs info "$vol" --json >/dev/null
    echo "ok: $what"
}

use "a whole device" "$loop" --whole
if "$vmcore" vmfs mkfs -q "$loop" 2>mkfs.err; then echo "a volume was overwritten"; exit 1; fi
grep -q -- --force mkfs.err
use "a GPT partition of ours" "$loop" --force

# Another's file system, which is neither
truncate -s 1G other
printf '\x53\xef' | dd of=other bs=1 seek=1080 conv=notrunc status=none # an ext4 superblock's
cp --sparse=always other before
if "$vmcore" vmfs mkfs -q other 2>mkfs.err; then echo "a file system was overwritten"; exit 1; fi
grep -q 'other is not empty (byte 1080): --force overwrites it' mkfs.err
cmp other before
"$vmcore" vmfs mkfs -q --force other
rm other before
"$vmcore" vmfs info disk >info.file # after the device: the page caches differ until it is flushed
blockdev --flushbufs "$loop"
cmp data <("$vmcore" vmfs cat disk /a/b/data)

# A partition in an MBR that others made: type 0xFB from sector 2048 on; the volume comes from a file.
dd if=/dev/zero of="$loop" bs=1M count=20 conv=fsync status=none
truncate -s 1G part
"$vmcore" vmfs mkfs -q --whole part
"$vmcore" vmfs import -q part data /data
dd if=part of="$loop" bs=1M seek=1 conv=fsync,sparse status=none
printf '\x00\x00\x00\x00\xfb\x00\x00\x00\x00\x08\x00\x00\x00\x00\x20\x00' |
    dd of="$loop" bs=1 seek=446 conv=notrunc,fsync status=none
printf '\x55\xaa' | dd of="$loop" bs=1 seek=510 conv=notrunc,fsync status=none
cmp data <("$vmcore" vmfs cat "$loop" /data)
"$vmcore" vmfs mkdir "$loop" /more
"$vmcore" vmfs fsck "$loop" | grep -q '; 0 errors'
echo "ok: an MBR partition of others"

# Exports onto a device: what it held is gone, where there is nothing to write, too.
truncate -s 64M holes
head -c 100000 data | dd of=holes bs=1M seek=20 conv=notrunc status=none
"$vmcore" vmfs mkfs -q --size 600M vol
"$vmcore" vmfs import -q vol holes /holes
"$vmcore" disk import -q holes vmfs:vol:/disk.vmdk
for command in "vmfs export -q -f vol /holes" "disk export -q -f vmfs:vol:/disk.vmdk"; do
    head -c 80M /dev/urandom | dd of="$loop" conv=fsync status=none
    "$vmcore" $command "$loop"
    blockdev --flushbufs "$loop"
    cmp -n $((64 << 20)) holes disk
done
"$vmcore" vmfs mkfs -q --size 600M --force vol
"$vmcore" disk create vmfs:vol:/large.vmdk 3G
if "$vmcore" disk export -q -f vmfs:vol:/large.vmdk "$loop" 2>err; then echo "3 GiB fit 2"; exit 1; fi
grep -q 'No space' err
echo "ok: exports onto a device"

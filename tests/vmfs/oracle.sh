#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Volumes made by "vmcore vmfs" as the independent vmfs-tools see them.
set -euo pipefail
vmcore=$1
PATH=$PATH:/usr/sbin
for tool in debugvmfs fsck.vmfs; do
    command -v $tool >/dev/null || { echo "$tool is not installed"; exit 77; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
# First bytes of zero: fsck.vmfs takes data inside a descriptor for addresses.
{ printf '\0\0\0\0'; head -c 700 /dev/urandom; } >resident
head -c 5000 /dev/urandom >sub_block
head -c 3500000 /dev/urandom >blocks
truncate -s 400M sparse
head -c 4096 /dev/urandom | dd of=sparse bs=4096 seek=90000 conv=notrunc status=none

check() { # version, volume options...
    local version=$1 vol=$2
    "$vmcore" vmfs mkfs -q -V "$version" --whole --size 8G -L oracle "$vol"
    "$vmcore" vmfs mkdir -p "$vol" /a/b/c
    for i in 1 2 3; do
        "$vmcore" vmfs mkdir "$vol" /dir$i
        for f in resident sub_block blocks sparse; do
            "$vmcore" vmfs import -q "$vol" $f /dir$i/$f
        done
    done
    "$vmcore" vmfs rm "$vol" /dir2/blocks
    "$vmcore" vmfs mv "$vol" /dir1/blocks /a/b/c/moved
    "$vmcore" vmfs cp -q "$vol" /dir3/sub_block /a/copy
    "$vmcore" vmfs rm -r "$vol" /dir2
    "$vmcore" vmfs fsck "$vol" | tee fsck.ours
    grep -q '; 0 errors' fsck.ours

    [ "$(debugvmfs "$vol" check_vol_bitmaps | sed -n 's/Total errors: //p')" = 0 ]
    cmp blocks <(debugvmfs "$vol" cat /a/b/c/moved)
    cmp sub_block <(debugvmfs "$vol" cat /a/copy)
    cmp resident <(debugvmfs "$vol" cat /dir3/resident)
    cmp sparse <(debugvmfs "$vol" cat /dir3/sparse)
    ours=$("$vmcore" vmfs ls "$vol" /dir3 | awk '{ print $NF, $5 }' | sort)
    theirs=$(debugvmfs "$vol" ls -l /dir3 | awk '$NF !~ /^\.+$/ { print $NF, $5 }' | sort)
    [ "$ours" = "$theirs" ] || { diff <(echo "$ours") <(echo "$theirs"); exit 1; }
    fsck.vmfs "$vol" >fsck.theirs
    for what in 'Unallocated blocks' 'Lost blocks' 'Undefined inodes' 'Orphaned inodes' \
                'Directory errors'; do
        grep -q "^$what *: 0$" fsck.theirs || { cat fsck.theirs; exit 1; }
    done
    echo "VMFS$version: agreed"
}
check 5 five.img
check 3 three.img

# VMFS6 is made empty and on request only; its readers show the system files as we do.
if "$vmcore" vmfs mkfs -q -V 6 --whole --size 2G six.img 2>out || [ -e six.img ]; then
    echo "VMFS6 was made without being asked for as experimental"
    exit 1
fi
grep -q experimental out
for size in 786M 3G 700G; do
    "$vmcore" vmfs mkfs -q -V 6 --experimental --whole --size $size -L six six.img
    ours=$("$vmcore" vmfs ls six.img | awk '{ print $NF, $5 }' | sort)
    [ "$(echo "$ours" | wc -l)" = 8 ]
    if command -v debugvmfs6 >/dev/null; then
        theirs=$(debugvmfs6 six.img ls -l / | awk '$NF ~ /sf$/ { print $NF, $5 }' | sort)
        [ "$ours" = "$theirs" ] || { diff <(echo "$ours") <(echo "$theirs"); exit 1; }
        cmp <("$vmcore" vmfs cat six.img /.fbb.sf) \
            <(debugvmfs6 six.img cat /.fbb.sf | tail -n +2) # after a line with the version
    fi
    "$vmcore" vmfs mkdir six.img /x 2>out && { echo "VMFS6 was written"; exit 1; }
    rm six.img
done
echo "VMFS6: agreed"

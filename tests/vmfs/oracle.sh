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

# VMFS6 is made and written on request only; its readers see what was put there.
if "$vmcore" vmfs mkfs -q -V 6 --whole --size 2G six.img 2>out || [ -e six.img ]; then
    echo "VMFS6 was made without being asked for as experimental"
    exit 1
fi
grep -q experimental out
for size in 786M 3G 700G; do
    "$vmcore" vmfs mkfs -q -V 6 --experimental --whole --size $size -L six six.img
    ours=$("$vmcore" vmfs ls six.img | awk '{ print $NF, $5 }' | sort)
    [ "$(echo "$ours" | wc -l)" = 8 ]
    "$vmcore" vmfs fsck six.img | grep -q '; 0 errors'
    if command -v debugvmfs6 >/dev/null; then
        theirs=$(debugvmfs6 six.img ls -l / | awk '$NF ~ /sf$/ { print $NF, $5 }' | sort)
        [ "$ours" = "$theirs" ] || { diff <(echo "$ours") <(echo "$theirs"); exit 1; }
        cmp <("$vmcore" vmfs cat six.img /.fbb.sf) \
            <(debugvmfs6 six.img cat /.fbb.sf | tail -n +2) # after a line with the version
    fi
    "$vmcore" vmfs mkdir six.img /x 2>out && { echo "VMFS6 was written"; exit 1; }
    grep -q experimental out
    rm six.img
done

# Every layout: inside of the descriptor, one sub-block, blocks, pointer blocks, two levels of them.
sample() { # NAME SIZE [MiB...]: random data at some places of a sparse file
    truncate -s "$2" "$1"
    local name=$1 at
    shift 2
    for at; do
        head -c 70000 /dev/urandom | dd of="$name" bs=1M seek="$at" conv=notrunc status=none
    done
}
for n in 1 3584 3585 65536 65537 1048576 1048577; do
    head -c $n /dev/urandom >v6.$n
done
sample v6.direct 20M 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19
sample v6.pointers 500M 0 1 300 319 320 499
sample v6.large 1100M 0 300 511 512 513 1023 1024 1099
sample v6.double 3T 0 5000 8191 8192 2621439 2621440 3000000
w="--experimental --exclusive -q"
"$vmcore" vmfs mkfs -q -V 6 --experimental --whole --size 4G six.img
"$vmcore" vmfs mkdir $w -p six.img /a/b
for f in v6.*; do
    "$vmcore" vmfs import $w six.img "$f" "/a/b/$f"
done
"$vmcore" vmfs import $w --kind eager six.img v6.large /a/eager
"$vmcore" vmfs import $w --kind lazy six.img v6.pointers /a/lazy
"$vmcore" vmfs truncate $w six.img /a/eager 800M # divides its last large block
large=$("$vmcore" vmfs stat --json six.img /a/eager | sed -n 's/.*"large_blocks": *\([0-9]*\).*/\1/p')
[ "$large" = 1 ] || { echo "a thick file has $large large blocks"; exit 1; }
"$vmcore" vmfs mkdir $w six.img /many
mkdir many
for i in $(seq 60); do
    echo "file $i" >many/name-$i
done
for i in $(seq 60); do
    "$vmcore" vmfs import $w six.img many/name-$i /many/name-$i
done
for i in $(seq 1 3 60); do "$vmcore" vmfs rm $w six.img /many/name-$i; done
"$vmcore" disk import --experimental --exclusive -q v6.direct vmfs:six.img:/a/disk.vmdk
"$vmcore" vmfs fsck six.img | tee out
grep -q '; 0 errors' out
[ "$("$vmcore" vmfs ls six.img /many | wc -l)" = 40 ]
same() {
    cmp "$1" "$2" || { echo "$2 differs from $1"; exit 1; }
}
for f in v6.[0-9]* v6.direct v6.pointers; do
    same "$f" <("$vmcore" vmfs cat six.img "/a/b/$f")
done
same <(head -c 800M v6.large) <("$vmcore" vmfs cat six.img /a/eager)
if command -v vmfs6-fuse >/dev/null && [ -c /dev/fuse ] && mkdir mnt && vmfs6-fuse six.img mnt 2>/dev/null >out; then
    trap 'umount "$dir/mnt"; rm -rf "$dir"' EXIT
    for f in v6.[0-9]* v6.direct v6.pointers; do
        same "$f" "mnt/a/b/$f"
    done
    same v6.pointers mnt/a/lazy
    for at in 0 5000 8191 8192 2621439 2621440 3000000; do
        same <(dd if=v6.double bs=1M skip=$at count=1 status=none) \
             <(dd if=mnt/a/b/v6.double bs=1M skip=$at count=1 status=none)
    done
    for at in 0 1 300 511 512 513 1023 1024 1099; do
        same <(dd if=v6.large bs=1M skip=$at count=1 status=none) \
             <(dd if=mnt/a/b/v6.large bs=1M skip=$at count=1 status=none)
        [ $at -ge 800 ] || same <(dd if=v6.large bs=1M skip=$at count=1 status=none) \
                                <(dd if=mnt/a/eager bs=1M skip=$at count=1 status=none)
    done
    [ "$(ls mnt/many | wc -l)" = 40 ]
    same <(echo file 59) mnt/many/name-59
    umount mnt
    trap 'rm -rf "$dir"' EXIT
else
    echo "SKIPPED: vmfs6-fuse is not usable here"
fi

# What others made is never written to: here, a volume whose mark is gone.
dd if=/dev/zero of=six.img bs=4096 seek=$(((0x1100000 + 0x1FF000) / 4096)) count=1 conv=notrunc status=none
"$vmcore" vmfs mkdir $w six.img /x 2>out && { echo "VMFS6 of others was written"; exit 1; }
grep -q "not made by this library" out
# Its disks are read all the same.
"$vmcore" disk export -q vmfs:six.img:/a/disk.vmdk disk.raw
same v6.direct disk.raw
# A logical volume without its volume manager is read.
dd if=six.img of=bare.img bs=1M skip=17 conv=sparse status=none
same v6.direct <("$vmcore" vmfs cat bare.img /a/b/v6.direct)
echo "VMFS6: agreed"

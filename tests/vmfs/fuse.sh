#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Random operations through "vmcore vmfs mount" against a model; then the volume is checked, mounted
# again and compared. VMC_VMFS_FUSE_OPS says how many for each version, VMC_VMFS_SEED where they begin.
# Usage: fuse.sh VMCORE FUSE_MODEL
set -euo pipefail
vmcore=$1 model=$2
ops=${VMC_VMFS_FUSE_OPS:-1200} seed=${VMC_VMFS_SEED:-1}
dir=$(mktemp -d)
mounted=
cleanup() {
    [ -z "$mounted" ] || umount "$dir/mnt" 2>/dev/null || fusermount3 -u "$dir/mnt" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
cd "$dir"
mkdir mnt
skip() { echo "SKIPPED: $*"; exit 77; }
[ -c /dev/fuse ] && [ -r /dev/fuse ] && [ -w /dev/fuse ] || skip "/dev/fuse is not usable"

start() { # OPTIONS...
    "$vmcore" vmfs mount "$@" vol mnt >mount.log 2>&1 &
    mounted=$!
    for _ in $(seq 600); do
        mountpoint -q mnt && return
        kill -0 $mounted 2>/dev/null || break
        sleep 0.1
    done
    cat mount.log
    mounted=
    grep -q -i -e 'fuse' mount.log && skip "FUSE file systems cannot be mounted here"
    exit 1
}
stop() {
    umount mnt || fusermount3 -u mnt
    wait $mounted
    mounted=
}

check() { # VERSION OPTIONS...
    local version=$1
    shift
    rm -f vol
    "$vmcore" vmfs mkfs -q -V "$version" "$@" --size 1G vol
    start "$@"
    mkdir mnt/m
    "$model" mnt/m "$ops" "$seed"
    stop
    "$vmcore" vmfs fsck vol | tee fsck.out
    grep -q ' 0 lost, .*; 0 errors' fsck.out
    start "$@"
    "$model" mnt/m "$ops" "$seed" verify
    stop
    echo "VMFS$version: $ops operations through FUSE agree with the model"
}
# VMFS3 has no .sdd.sf: the numbers behind the six system files are those of any file, whichever host
# makes it (a kernel gives up a file that changes its type).
plain_files() {
    rm -f vol
    "$vmcore" vmfs mkfs -q -V 3 --size 1G vol
    start
    for name in 1 2 3 4; do
        echo "$name" >"mnt/$name"
        [ -f "mnt/$name" ] && [ "$(cat "mnt/$name")" = "$name" ]
    done
    stat -c %i mnt/? | grep -q '^29360132$'
    stop
}
# Whoever removes what he reads gets all names, however few of them fit a read.
remove_while_reading() {
    rm -f vol
    "$vmcore" vmfs mkfs -q --size 1G vol
    start
    mkdir mnt/d
    for i in $(seq 150); do : >"mnt/d/$(printf '%0100d' "$i")"; done
    python3 -c 'import os
for e in os.scandir("mnt/d"): os.unlink(e.path)'
    rmdir mnt/d
    stop
}
plain_files
remove_while_reading
check 5
check 3
check 6 --experimental

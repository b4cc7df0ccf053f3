#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Several FUSE mounts of one volume, killed (and stopped) at random, against a model; then the volume is
# checked. For longer runs: VMC_VMFS_FUSE_OPS (operations), VMC_VMFS_HOSTS, VMC_VMFS_VERSION,
# VMC_VMFS_SEED, VMC_VMFS_KILL_EVERY, VMC_VMFS_STALL_EVERY (operations; 0: never), VMC_VMFS_LEASE (s).
# Usage: fuse_hosts.sh VMCORE FUSE_HOSTS
set -euo pipefail
vmcore=$1 driver=$2
version=${VMC_VMFS_VERSION:-5} hosts=${VMC_VMFS_HOSTS:-2}
dir=$(mktemp -d)
cleanup() {
    local rc=$?
    [ $rc = 0 ] || [ $rc = 77 ] || tail -n 20 "$dir"/m/*.log 2>/dev/null || true
    for h in 0 1 2 3; do
        umount -l "$dir/m/h$h" 2>/dev/null || true
    done
    rm -rf --one-file-system "$dir"
}
trap cleanup EXIT
[ -c /dev/fuse ] && [ -r /dev/fuse ] && [ -w /dev/fuse ] && [ "$(id -u)" = 0 ] || {
    echo "SKIPPED: mounting through FUSE needs root and /dev/fuse"
    exit 77
}
experimental=
[ "$version" != 6 ] || experimental=--experimental
# Sparse; large, because the number of pointer blocks goes by the size.
"$vmcore" vmfs mkfs -q -V "$version" $experimental --size 64G "$dir/vol"
mkdir "$dir/probe" "$dir/m"
"$vmcore" vmfs mount $experimental "$dir/vol" "$dir/probe" >"$dir/log" 2>&1 &
for _ in $(seq 600); do
    mountpoint -q "$dir/probe" && break
    kill -0 $! 2>/dev/null || break
    sleep 0.1
done
mountpoint -q "$dir/probe" || {
    cat "$dir/log"
    grep -q -i fuse "$dir/log" && echo "SKIPPED: FUSE file systems cannot be mounted here" && exit 77
    exit 1
}
umount "$dir/probe"
wait $!
VERSION=$version "$driver" "$vmcore" "$dir/vol" "$dir/m" "$hosts" "${VMC_VMFS_FUSE_OPS:-600}" \
    "${VMC_VMFS_SEED:-1}" "${VMC_VMFS_KILL_EVERY:-300}" "${VMC_VMFS_STALL_EVERY:-0}" \
    "${VMC_VMFS_LEASE:-10}"
"$vmcore" vmfs fsck "$dir/vol" | tee "$dir/fsck"
grep -q ' 0 lost, .*; 0 errors' "$dir/fsck"

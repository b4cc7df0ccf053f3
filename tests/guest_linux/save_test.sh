#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# A guest that is saved in the middle of its work and goes on in another VM: its processes, clock,
# disk and random numbers are there.
# Usage: save_test.sh SAVE_VMM GUESTDIR
set -euo pipefail
vmm=$1 guest=$2
if [ ! -s "$guest/vmlinuz" ] || [ ! -s "$guest/initrd" ]; then
    echo "no guest kernel (scripts/fetch-guest $guest)"
    case ",${VMC_TEST_REQUIRE:-}," in *,linux,*) exit 1 ;; *) exit 77 ;; esac
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
truncate -s 16M "$dir/disk"
# What is written before is read afterwards, and the other way round; time goes on, on both processors.
work="head -c 4194304 /dev/urandom >/dev/shm.x;md5sum </dev/shm.x|sed s/^/BEFORE=/;\
dd if=/dev/shm.x of=/dev/vda bs=64k 2>/dev/null;(sleep 2;echo SLEPT) & echo SAVE-ME;\
dd if=/dev/shm.x of=/dev/vda bs=64k seek=64 conv=fsync 2>/dev/null;wait;md5sum </dev/shm.x|sed s/^/AFTER=/;\
taskset 1 true && taskset 2 true && head -c 16 /dev/hwrng|wc -c|sed s/^/RANDOM=/;blockdev --flushbufs /dev/vda"
status=0
timeout -k 5 1500 "$vmm" "$guest/vmlinuz" "$guest/initrd" "$dir/disk" \
    "console=ttyS0 panic=-1 quiet cryptomgr.notests run=$(tr ' ' + <<<"$work")" </dev/null >"$dir/out" 2>&1 || status=$?
tr -d '\r' <"$dir/out" >"$dir/txt"
fail() { echo "FAILED: $1 (status $status)"; cat "$dir/txt"; exit 1; }
[ $status = 0 ] || fail "the run"
grep -q '^\[1[0-9] devices restored\]$' "$dir/txt" || fail "nothing was restored"
sum=$(sed -n 's/^BEFORE=\([0-9a-f]*\).*/\1/p' "$dir/txt")
[ -n "$sum" ] && grep -q "^AFTER=$sum" "$dir/txt" || fail "what the guest had in memory"
grep -q '^SLEPT$' "$dir/txt" || fail "a timer of the guest"
grep -q '^RANDOM=16$' "$dir/txt" || fail "processors and entropy"
for at in 0 4; do
    [ "$(dd if="$dir/disk" bs=1M skip=$at count=4 status=none | md5sum | cut -d' ' -f1)" = "$sum" ] ||
        fail "the disk at $at MiB"
done
echo "ok: $(grep 'restored' "$dir/txt")"

#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# A guest boots from a thin disk on a VMFS volume, writes and powers off; other processes mount,
# check and boot it again; two hosts want the same disk; the one that has it is killed.
set -euo pipefail
vmcore=$1 boot=$2
PATH=$PATH:/usr/sbin
firmware=/usr/share/seabios/bios-256k.bin
[ -f $firmware ] || { echo "SeaBIOS is not installed"; exit 77; }
dir=$(mktemp -d)
holder=
trap '[ -z "$holder" ] || kill -9 $holder 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir"

fail() { echo "FAILED: $*"; exit 1; }
clean() {
    "$vmcore" vmfs fsck vol >fsck.out || { cat fsck.out; fail "fsck"; }
    grep -q ' 0 lost, .*; 0 errors' fsck.out || { cat fsck.out; fail "fsck found something"; }
}
boot() { # DISK NUMBER: the guest counts its starts
    timeout 120 "$vmcore" run --engine soft --firmware $firmware --mem 32M --disk "$1" --timeout 100 \
        </dev/null >out 2>&1 || { cat out; fail "boot $2 of $1"; }
    grep -q "boot number $2" out || { cat out; fail "not boot number $2 of $1"; }
    echo "ok: boot number $2 from $1"
}

truncate -s 8M image
dd if="$boot" of=image conv=notrunc status=none
"$vmcore" vmfs mkfs -q --size 2G -L vms vol
"$vmcore" vmfs mkdir vol /vm
"$vmcore" disk import -q image vmfs:vol:/vm/guest.vmdk
"$vmcore" disk grow vmfs:vol:/vm/guest.vmdk 1G
boot vmfs:vol:/vm/guest.vmdk 1
clean
# Thin: what the guest wrote is one block.
blocks=$("$vmcore" vmfs stat --json vol /vm/guest-flat.vmdk | sed -n 's/.*"blocks": *\([0-9]*\).*/\1/p')
[ "$blocks" -le 2 ] || fail "a thin disk has $blocks blocks"
boot vmfs:vol:/vm/guest.vmdk 2
clean
if command -v debugvmfs >/dev/null; then
    # The same number, as another reader sees it (debugvmfs wants the partition alone).
    tail -c +1048577 vol >partition
    truncate -s $(($(stat -c %s partition) / 512 * 512)) partition
    n=$(debugvmfs partition cat /vm/guest-flat.vmdk 2>/dev/null | od -An -tu4 -j512 -N4 | tr -d ' ' || true)
    [ "$n" = 2 ] || fail "debugvmfs reads $n, not 2"
    rm partition
    echo "ok: debugvmfs agrees"
fi

# Snapshots: the parent stays as it was; changes are thrown away, or kept.
"$vmcore" disk snapshot vmfs:vol:/vm/guest.vmdk guest-1.vmdk
boot vmfs:vol:/vm/guest-1.vmdk 3
"$vmcore" run --engine soft --firmware $firmware --mem 32M --disk vmfs:vol:/vm/guest.vmdk \
    --timeout 5 </dev/null >out 2>&1 && fail "a parent was started"
grep -q 'guest-1.vmdk' out || { cat out; fail "no word of the snapshot"; }
"$vmcore" disk revert vmfs:vol:/vm/guest-1.vmdk
boot vmfs:vol:/vm/guest-1.vmdk 3
"$vmcore" disk snapshot --log sesparse vmfs:vol:/vm/guest-1.vmdk guest-2.vmdk
boot vmfs:vol:/vm/guest-2.vmdk 4
"$vmcore" disk commit -q vmfs:vol:/vm/guest-2.vmdk
"$vmcore" disk commit -q vmfs:vol:/vm/guest-1.vmdk
"$vmcore" disk rm vmfs:vol:/vm/guest-2.vmdk
"$vmcore" disk rm vmfs:vol:/vm/guest-1.vmdk
boot vmfs:vol:/vm/guest.vmdk 5
"$vmcore" disk clone -q --kind lazy vmfs:vol:/vm/guest.vmdk vmfs:vol:/vm/copy.vmdk
boot vmfs:vol:/vm/copy.vmdk 6
clean

# Two hosts: the second is told who has the disk.
printf '\xeb\xfe' >spin
"$vmcore" run --engine soft --load-at 0x8000 --kernel spin --disk vmfs:vol:/vm/guest.vmdk --timeout 200 \
    </dev/null >holder.out 2>&1 &
holder=$!
for _ in $(seq 100); do
    "$vmcore" vmfs info vol | grep -q "pid $holder" && break
    sleep 0.1
done
if "$vmcore" run --engine soft --firmware $firmware --mem 32M --disk vmfs:vol:/vm/guest.vmdk --timeout 60 \
    </dev/null >out 2>&1; then
    fail "two machines have one disk"
fi
grep -q "pid $holder" out || { cat out; fail "the holder is not named"; }
echo "ok: $(tail -1 out)"
# What can be told of it without its lock is told.
"$vmcore" disk info vmfs:vol:/vm/guest.vmdk >out
grep -q "in use: .*pid $holder" out || { cat out; fail "disk info does not say who has the disk"; }
"$vmcore" disk info --json vmfs:vol:/vm/guest.vmdk >out
grep -q '"in_use":true' out && grep -q '"extent"' out || { cat out; fail "disk info --json"; }
# Its other disk is free.
boot vmfs:vol:/vm/copy.vmdk 7
# The holder dies; after its lease the disk can be had, and is as it was.
kill -9 $holder
wait $holder 2>/dev/null || true
holder=
boot vmfs:vol:/vm/guest.vmdk 6
clean
echo "ok: after the lease of a killed host"

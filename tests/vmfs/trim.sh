#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# A Linux guest discards parts of its disk: a thin disk gives the blocks back.
# Usage: trim.sh VMCORE GUESTDIR
set -euo pipefail
vmcore=$1 guest=$2
if [ ! -s "$guest/vmlinuz" ] || [ ! -s "$guest/initrd" ]; then
    echo "no guest kernel (scripts/fetch-guest $guest)"
    case " ${VMC_TEST_REQUIRE:-} " in *linux*) exit 1 ;; *) exit 77 ;; esac
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

fail() { echo "FAILED: $*"; exit 1; }
boot() { # COMMANDS: run in the guest, + for spaces; vda is thin, vdb thick, vdc has what to write
    timeout 1300 "$vmcore" run --mem=160 --timeout=1200 --kernel="$guest/vmlinuz" \
        --initrd="$guest/initrd" --disk vmfs:vol:/thin.vmdk --disk vmfs:vol:/thick.vmdk \
        --disk source --cmdline="console=ttyS0 panic=-1 quiet run=$1" </dev/null >out 2>&1 ||
        { tail -20 out; fail "the guest"; }
    grep -q 'run: exit status 0' out || { tail -20 out; fail "what the guest ran"; }
}
number() { "$vmcore" vmfs stat --json vol "/$1-flat.vmdk" | sed -n 's/.*"blocks": *\([0-9]*\).*/\1/p'; }
free() { "$vmcore" vmfs df --json vol | tr -d ' \n' | sed 's/.*"blocks":{[^}]*"free":\([0-9]*\).*/\1/'; }

"$vmcore" vmfs mkfs -q --size 1G vol
"$vmcore" disk create vmfs:vol:/thin.vmdk 64M
"$vmcore" disk create --kind eager vmfs:vol:/thick.vmdk 64M
[ "$(number thin)" = 0 ] || fail "an empty thin disk has $(number thin) blocks"
[ "$(number thick)" = 64 ] || fail "a thick disk has $(number thick) blocks"
before=$(free)

# The guest copies 32 MiB to both.
head -c 33554432 /dev/urandom >source
boot "for+d+in+vda+vdb;do+dd+if=/dev/vdc+of=/dev/\$d+bs=1M+||+exit+1;done;sync"
[ "$(number thin)" = 32 ] || fail "after 32 MiB the thin disk has $(number thin) blocks"
[ "$(free)" = $((before - 32)) ] || fail "32 blocks are in use, df says $((before - $(free)))"
cmp -n 33554432 source <("$vmcore" vmfs cat vol /thin-flat.vmdk) || fail "the thin disk's contents"

# 4 MiB .. 20 MiB go; so do 24.5 MiB .. 26.5 MiB, which is one whole block. A thick disk offers none.
boot "blkdiscard+-o+4194304+-l+16777216+/dev/vda+&&+blkdiscard+-o+25690112+-l+2097152+/dev/vda+&&+sync+&&+!+blkdiscard+/dev/vdb"
[ "$(number thin)" = 15 ] || fail "after discards the thin disk has $(number thin) blocks, not 15"
[ "$(number thick)" = 64 ] || fail "after discards the thick disk has $(number thick) blocks"
[ "$(free)" = $((before - 15)) ] || fail "15 blocks are in use, df says $((before - $(free)))"
head -c 33554432 <("$vmcore" vmfs cat vol /thin-flat.vmdk) >got
piece() { dd if="$1" bs=1M skip="$2" count="$3" status=none; }
cmp <(piece source 0 4) <(piece got 0 4) || fail "contents before the first hole"
cmp <(piece source 20 4) <(piece got 20 4) || fail "contents between the holes"
cmp <(piece source 27 5) <(piece got 27 5) || fail "contents behind the holes"
cmp -n 16777216 <(piece got 4 16) /dev/zero || fail "what was discarded is not zero"
"$vmcore" vmfs fsck vol | tee fsck.out
grep -q ' 0 lost, .*; 0 errors' fsck.out || fail "fsck"

echo "ok: discards in a guest return blocks of a thin disk"

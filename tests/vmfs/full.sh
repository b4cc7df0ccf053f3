#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# A Linux guest writes to thin disks until their volume is full. Its writes wait until there is room, or
# fail; nothing that was written is lost. Usage: full.sh VMCORE GUESTDIR
set -euo pipefail
vmcore=$1 guest=$2
PATH=$PATH:/usr/sbin
if [ ! -s "$guest/vmlinuz" ] || [ ! -s "$guest/initrd" ]; then
    echo "no guest kernel (scripts/fetch-guest $guest)"
    case " ${VMC_TEST_REQUIRE:-} " in *linux*) exit 1 ;; *) exit 77 ;; esac
fi
dir=$(mktemp -d)
vm=
trap '[ -z "$vm" ] || kill -9 $vm 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir"
mkfifo line
exec 3<>line # the guest's serial line
fail() { echo "FAILED: $*"; tail -20 out 2>/dev/null; exit 1; }
start() { # DISK COMMANDS: run in the guest, + for spaces; vda is the disk, vdb has what to write
    timeout 1300 "$vmcore" run --mem=160 --timeout=1200 --kernel="$guest/vmlinuz" \
        --initrd="$guest/initrd" --disk "$1" --disk source,ro \
        --cmdline="console=ttyS0 panic=-1 quiet run=$2" --control=socket <line >out 2>&1 &
    vm=$!
}
finish() { # STATUS of what the guest ran
    wait $vm || fail "the machine"
    vm=
    grep -q "run: exit status $1" out || fail "what the guest ran"
}
message() { # PATTERN: is printed soon
    for _ in $(seq 6000); do
        grep -q "$1" out 2>/dev/null && return
        kill -0 $vm 2>/dev/null || break
        sleep 0.1
    done
    fail "no word of '$1'"
}
clean() { # and other readers see the same
    "$vmcore" vmfs fsck vol >fsck.out || { cat fsck.out; fail "fsck"; }
    grep -q ' 0 lost, .*; 0 errors' fsck.out || { cat fsck.out; fail "fsck found something"; }
    command -v debugvmfs >/dev/null || return 0
    [ "$(debugvmfs vol check_vol_bitmaps | sed -n 's/Total errors: //p')" = 0 ] || fail "debugvmfs: bitmaps"
    cmp <("$vmcore" vmfs cat vol "$1") <(debugvmfs vol cat "$1") || fail "debugvmfs reads something else"
}
free() { "$vmcore" vmfs df --json vol | tr -d ' \n' | sed 's/.*"blocks":{[^}]*"free":\([0-9]*\).*/\1/'; }

"$vmcore" vmfs mkfs -q --whole --size 300M vol
"$vmcore" disk create vmfs:vol:/thin.vmdk 64M
head -c 32M /dev/urandom >source
left=$(($(free) - 12))
head -c "${left}M" /dev/zero | tr '\0' x >filler
"$vmcore" vmfs import -q vol filler /filler
[ "$(free)" = 12 ] || fail "$(free) blocks are free, not 12"

# 32 MiB do not fit 12: the guest waits, the user makes room, the guest goes on.
write="dd+if=/dev/vdb+of=/dev/vda+bs=1M+oflag=direct"
start vmfs:vol:/thin.vmdk "$write"
for _ in $(seq 600); do [ -S socket ] && break; sleep 0.1; done
"$vmcore" ctl socket list >list || fail "ctl list"
grep -q ' running ' list || { cat list; fail "ctl list of a machine that starts"; }
message 'thin.vmdk: no space left'
[ "$(free)" = 0 ] || fail "$(free) blocks are free"
sleep 3
"$vmcore" ctl socket list >list || fail "ctl list"
grep -q ' no space ' list || { cat list; fail "ctl list does not say it"; }
grep -q 'run: exit status' out && fail "the guest went on without space"
"$vmcore" vmfs rm vol /filler 2>rm.out || { cat rm.out; fail "rm"; }
[ ! -s rm.out ] || { cat rm.out; fail "a host that lives is called silent"; }
finish 0
grep -q 'thin.vmdk: there is space again' out || fail "no word of the space"
[ "$(grep -c 'no space left' out)" = 1 ] || fail "said more than once"
grep -qi 'I/O error' out && fail "the guest saw an error"
cmp -n 33554432 source <("$vmcore" vmfs cat vol /thin-flat.vmdk) || fail "the disk's contents"
clean /thin-flat.vmdk
echo "ok: writes wait for space"

# The guest itself makes room: what it discards is its own again.
"$vmcore" disk create vmfs:vol:/other.vmdk 64M
head -c "$(free)M" /dev/zero | tr '\0' y >filler
"$vmcore" vmfs import -q vol filler /filler 2>/dev/null || { truncate -s -1M filler; "$vmcore" vmfs import -q vol filler /filler; }
start vmfs:vol:/thin.vmdk "{+dd+if=/dev/vdb+of=/dev/vda+bs=1M+seek=32+count=8+oflag=direct+;+echo+wrote+\$?+;+}+&+read+x+</dev/ttyS0;+blkdiscard+-l+16777216+/dev/vda+;+wait"
message 'no space left'
echo go >&3
finish 0
grep -q 'wrote 0' out || fail "the guest's writes"
cmp <(head -c 8M source) <("$vmcore" vmfs cat vol /thin-flat.vmdk | tail -c +33554433 | head -c 8M) || fail "contents after discards"
cmp <(tail -c +16777217 source) <("$vmcore" vmfs cat vol /thin-flat.vmdk | tail -c +16777217 | head -c 16M) || fail "contents that stay"
clean /thin-flat.vmdk
echo "ok: a guest's discards make room"

# full=fail: errors to the guest; what was written before is there; with room it works again.
[ "$(free)" -gt 0 ] && head -c "$(free)M" /dev/zero | tr '\0' z >more && "$vmcore" vmfs import -q vol more /more
start vmfs:vol:/other.vmdk,full=fail "$write+&&+exit+9;+dd+if=/dev/vda+of=/dev/null+bs=1M+&&+exit+7"
finish 7
grep -q 'no free' out || fail "no word about the volume"
clean /thin-flat.vmdk
"$vmcore" vmfs rm vol /filler
start vmfs:vol:/other.vmdk,full=fail "$write"
finish 0
cmp -n 33554432 source <("$vmcore" vmfs cat vol /other-flat.vmdk) || fail "the other disk's contents"
clean /other-flat.vmdk
echo "ok: errors, where they are wanted"

# A machine that is ended while its writes wait.
"$vmcore" disk create vmfs:vol:/last.vmdk 256M
head -c "$(free)M" /dev/zero | tr '\0' y >filler
"$vmcore" vmfs import -q vol filler /filler 2>/dev/null || { truncate -s -1M filler; "$vmcore" vmfs import -q vol filler /filler; }
start vmfs:vol:/last.vmdk "$write"
message 'no space left'
since=$SECONDS
kill -TERM $vm
status=0
wait $vm || status=$?
vm=
[ $status = 4 ] || fail "exit status $status"
[ $((SECONDS - since)) -lt 60 ] || fail "it took $((SECONDS - since)) s"
grep -qi 'I/O error' out && fail "the guest saw an error"
"$vmcore" vmfs rm vol /last-flat.vmdk 2>rm.out || { cat rm.out; fail "rm"; }
[ ! -s rm.out ] || { cat rm.out; fail "the volume was not given back"; }
clean /other-flat.vmdk
echo "ok: the end of a machine whose writes wait"

#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# The disk of a machine does not answer: it lies on a FUSE mount whose process is stopped. That machine's
# reset, and its end, wait for what is in flight; nothing else waits: no other machine of a host, no signal,
# no control socket. Usage: stuck.sh VMCORE GUESTDIR
set -euo pipefail
vmcore=$1 guest=$2
if [ ! -s "$guest/vmlinuz" ] || [ ! -s "$guest/initrd" ]; then
    echo "no guest kernel (scripts/fetch-guest $guest)"
    case " ${VMC_TEST_REQUIRE:-} " in *linux*) exit 1 ;; *) exit 77 ;; esac
fi
dir=$(mktemp -d)
mounted='' host=''
cleanup() {
    [ -z "$mounted" ] || kill -9 "$mounted" 2>/dev/null || true # requests to it fail then
    [ -z "$host" ] || kill -9 "$host" 2>/dev/null || true
    wait
    umount -l "$dir/mnt" 2>/dev/null || fusermount3 -u "$dir/mnt" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
cd "$dir"
mkdir mnt
skip() { echo "SKIPPED: $*"; exit 77; }
[ -c /dev/fuse ] && [ -r /dev/fuse ] && [ -w /dev/fuse ] || skip "/dev/fuse is not usable"
fail() { echo "FAILED: $*"; cat host.log list; tail -5 serial; exit 1; }
soon() { # MESSAGE COMMAND...: succeeds some time
    local message=$1
    shift
    for _ in $(seq 6000); do
        "$@" && return
        kill -0 $host 2>/dev/null || break
        sleep 0.1
    done
    fail "$message"
}
ctl() { timeout 20 "$vmcore" ctl socket "$@"; }
said() { grep -q "$1" host.log; }
is() { ctl list 2>/dev/null >list; grep -q " $1 " list; }
state() { # MACHINE STATE
    timeout 60 "$vmcore" ctl socket list >list && grep -q "^$1  *$2 " list
}
started() { [ "$(grep -c STARTED serial)" = "$1" ]; }
flag() { printf '%-4096s' "$1" | dd of=flag conv=notrunc status=none; }

"$vmcore" vmfs mkfs -q --size 400M vol
truncate -s 64M image
"$vmcore" vmfs import -q vol image /disk
: >list
: >serial
"$vmcore" vmfs mount --exclusive vol mnt >mount.log 2>&1 &
mounted=$!
for _ in $(seq 600); do
    [ -f mnt/disk ] && break
    kill -0 $mounted 2>/dev/null || { cat mount.log; mounted=; skip "FUSE file systems cannot be mounted here"; }
    sleep 0.1
done

# The guest writes all the time, and resets its machine when the second disk says so.
flag stay
printf '\xeb\xfe' >spin
run="{ while :; do dd if=/dev/zero of=/dev/vda bs=64k oflag=direct 2>/dev/null; done; } & sleep 1; echo STARTED;
while ! dd if=/dev/vdb iflag=direct bs=512 count=1 2>/dev/null | grep -q reset; do sleep 1; done; echo b >/proc/sysrq-trigger"
cat >conf <<CONF
host_memory = "512M";
control = "$dir/socket";
vms = ( { name = "stuck"; kernel = "$guest/vmlinuz"; initrd = "$guest/initrd"; memory = "160M";
          disks = [ "$dir/mnt/disk", "$dir/flag" ]; serial = "file:$dir/serial";
          cmdline = "console=ttyS0 panic=-1 quiet run=$(tr ' \n' '++' <<<"$run")"; },
        { name = "other"; kernel = "$dir/spin"; load_at = 0x8000; memory = "8M"; } );
CONF
"$vmcore" host conf >host.log 2>&1 &
host=$!
soon "the guest does not start" started 1
kill -STOP $mounted
flag reset
soon "no reset that waits" state stuck resetting
state other running || fail "the other machine"
timeout 60 "$vmcore" ctl socket pause stuck 2>/dev/null && fail "a machine that is being reset is paused"
soon "nobody is told" grep -q "VM 'stuck': waiting for a disk that does not answer" host.log
flag stay
kill -CONT $mounted
soon "no reset" started 2
echo "ok: a reset waits for the disk, and nobody for the reset"

kill -STOP $mounted
sleep 1
timeout 60 "$vmcore" ctl socket quit stuck || fail "ctl quit"
state stuck ending || fail "it does not wait for its disk"
state other running || fail "the other machine"
kill -CONT $mounted
soon "no end" state stuck ended
timeout 60 "$vmcore" ctl socket quit || fail "ctl quit"
wait $host || fail "the host's status"
host=

# Whoever does not want to wait for ever says so twice.
flag stay
: >serial
"$vmcore" host conf >host.log 2>&1 &
host=$!
soon "the guest does not start" started 1
kill -STOP $mounted
sleep 1
kill -TERM $host
soon "nobody is told how to leave" said 'another signal or quit leaves it'
state other ended || fail "the other machine"
timeout 60 "$vmcore" ctl socket quit || fail "ctl quit"
left() { ! timeout 60 "$vmcore" ctl socket list >list 2>&1; }
soon "a second quit is ignored" left
kill -CONT $mounted
status=0
wait $host || status=$?
[ $status = 4 ] || fail "exit status $status of the host"
host=
echo "ok: a second quit leaves a disk that does not answer"

# "run": the same, and whoever does not want to wait for ever says so twice.
flag stay
: >serial
"$vmcore" run --mem=160 --kernel="$guest/vmlinuz" --initrd="$guest/initrd" --disk mnt/disk --disk flag \
    --serial="file:$dir/serial" --control=socket --no-sandbox \
    --cmdline="console=ttyS0 panic=-1 quiet run=$(tr ' \n' '++' <<<"$run")" >host.log 2>&1 &
host=$!
soon "the guest does not start" started 1
kill -STOP $mounted
sleep 1
since=$SECONDS
ctl pause vm || fail "ctl pause"
is paused || fail "it is not paused"
[ $((SECONDS - since)) -lt 15 ] || fail "a pause took $((SECONDS - since)) s"
ctl resume vm || fail "ctl resume"
flag reset
soon "no reset that waits" is resetting
ctl pause vm 2>/dev/null && fail "a machine that is being reset is paused"
soon "nobody is told" said 'waiting for a disk that does not answer'
flag stay
kill -CONT $mounted
soon "no reset" started 2
is running || fail "it does not run"
echo "ok: run answers while a reset waits for the disk"

kill -STOP $mounted
sleep 1
kill -TERM $host
soon "it does not end" is ending
soon "nobody is told how to leave" said 'another signal or quit leaves it'
kill -TERM $host
gone() { ! is ending; }
soon "a second signal is ignored" gone
kill -CONT $mounted
status=0
wait $host || status=$?
[ $status = 4 ] || fail "exit status $status"
host=
echo "ok: a second signal leaves a disk that does not answer"
for _ in $(seq 600); do # the kernel takes its time to close what io_uring had
    umount mnt 2>/dev/null || fusermount3 -u mnt 2>/dev/null || { sleep 0.1; continue; }
    break
done
wait $mounted || fail "the mount's status"
mounted=
"$vmcore" vmfs fsck vol >list || fail "fsck"
echo "ok: an end waits for the disk, and nobody for the end"

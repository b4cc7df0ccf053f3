#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Swap files that go wrong under "vmcore host". "full": no write beyond the first megabyte succeeds
# while memory is short; when there is room again both guests get their work done. "end": the same,
# but the host is told to end meanwhile, and does. "read": what one guest has in its swap file is gone;
# that guest ends, with a message, and the other gets its work done. "stuck": the disk of the swap files
# does not answer any more (a FUSE mount that is stopped); the host still answers, and the second signal
# ends it; "pause": a guest is paused then, and the second signal comes before anybody is told.
# usage: swap_faults_test.sh VMCORE GUEST_DIR full|end|read|stuck|pause
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
vmcore=$1
guest=$2
what=$3

if [ ! -s "$guest/vmlinuz" ] || [ ! -s "$guest/initrd" ]; then
    echo "no guest kernel in $guest (scripts/fetch-guest makes it)"
    case ",${VMC_TEST_REQUIRE:-}," in
    *,linux,*) exit 1 ;;
    *) exit 77 ;;
    esac
fi
dir=$(mktemp -d)
host=
mounted=
finish() {
    if [ -n "$mounted" ]; then
        kill -KILL "$mounted" 2>/dev/null || true # what waits for it fails then
        umount -l "$dir/swap" 2>/dev/null || fusermount3 -u "$dir/swap" 2>/dev/null || true
    fi
    if [ -n "$host" ]; then
        kill "$host" 2>/dev/null || true
        wait "$host" 2>/dev/null || true
    fi
    rm -rf "$dir"
}
trap finish EXIT
mkdir -p "$dir/root/t" "$dir/swap"
cp "$here/swap_faults_guest.sh" "$dir/root/t/"
(cd "$dir/root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$dir/extra"
cat "$guest/initrd" "$dir/extra" >"$dir/initrd"

# $1: name, $2: role
vm() {
    echo '{ name = "'"$1"'"; memory = "96M"; kernel = "'"$guest"'/vmlinuz";'
    echo '  initrd = "'"$dir"'/initrd"; serial = "file:'"$dir/$1"'.log";'
    echo '  cmdline = "console=ttyS0 panic=-1 run=sh+/t/swap_faults_guest.sh+'"$2"'"; }'
}
{
    # Without compression and sharing whatever does not fit has to be swapped.
    echo 'host_memory = "112M"; compression = false; sharing = false;'
    echo 'swap = "'"$dir"'/swap"; control = "'"$dir"'/control"; vms = ('
    vm victim "$what"
    echo ,
    vm other work
    echo ');'
} >"$dir/host.cfg"

fail() {
    echo "FAIL: $1"
    cat "$dir/out"
    tail -n 5 "$dir"/*.log
    exit 1
}
# A guest's line; there is no limit but the test's own.
await_line() {
    until grep -a -q "$2" "$dir/$1.log" 2>/dev/null; do
        kill -0 "$host" 2>/dev/null || fail "the host ended before '$2'"
        sleep 0.2
    done
}
# No thread of the host has anything to do, but for a timer now and then.
still() {
    local busy=0
    for _ in $(seq 20); do
        ! grep -q '^State:[[:space:]]*R' /proc/"$host"/task/*/status 2>/dev/null || busy=$((busy + 1))
        sleep 0.1
    done
    [ "$busy" -lt 4 ]
}
# A number of a VM's memory.
memory() {
    "$vmcore" ctl --json "$dir/control" stats "$1" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["memory"]["'"$2"'"])'
}

if [ "$what" = stuck ] || [ "$what" = pause ]; then
    [ -r /dev/fuse ] && [ -w /dev/fuse ] || { echo "SKIPPED: /dev/fuse is not usable"; exit 77; }
    "$vmcore" vmfs mkfs -q --size 800M "$dir/vol"
    "$vmcore" vmfs mount --exclusive "$dir/vol" "$dir/swap" >"$dir/mount.log" 2>&1 &
    mounted=$!
    until mountpoint -q "$dir/swap"; do
        kill -0 "$mounted" 2>/dev/null || { cat "$dir/mount.log"; mounted=; echo "SKIPPED: no FUSE"; exit 77; }
        sleep 0.1
    done
fi
# A write beyond a limit is an error then, not a signal; the host inherits that.
trap '' XFSZ
"$vmcore" host "$dir/host.cfg" >"$dir/out" 2>&1 </dev/null &
host=$!
status=0
if [ "$what" = stuck ] || [ "$what" = pause ]; then
    until [ -S "$dir/control" ] && [ "$(memory victim swapped)" -gt 8000000 ]; do
        kill -0 "$host" 2>/dev/null || fail "the host ended"
        sleep 0.2
    done
    await_line victim "GUEST READY"
    await_line other "GUEST READY"
    kill -STOP "$mounted"
    # Until both want pages that are in their swap files; on a busy machine that takes its time.
    until still; do
        kill -0 "$host" 2>/dev/null || fail "the host ended"
    done
    if [ "$what" = stuck ]; then
        timeout 30 "$vmcore" ctl "$dir/control" list >"$dir/list" || fail "the control socket waits"
        since=$SECONDS
        kill -TERM "$host"
        until grep -q 'another signal or quit leaves it' "$dir/out"; do
            kill -0 "$host" 2>/dev/null || fail "the host ended by one signal"
            [ $((SECONDS - since)) -lt 120 ] || fail "nobody is told what the end waits for"
            sleep 0.2
        done
        timeout 30 "$vmcore" ctl "$dir/control" list >"$dir/list" || fail "the control socket waits"
        kill -TERM "$host"
        # Its requests may keep the process until the file system answers, but it has given up.
        while timeout 30 "$vmcore" ctl "$dir/control" list >"$dir/list" 2>&1; do
            [ $((SECONDS - since)) -lt 240 ] || fail "a second signal is ignored"
            sleep 0.2
        done
    else
        timeout 60 "$vmcore" ctl "$dir/control" pause victim >/dev/null || fail "a pause waits for a page"
        timeout 60 "$vmcore" ctl "$dir/control" list >"$dir/list" || fail "the control socket waits"
        grep -q 'victim *paused' "$dir/list" || fail "it is not paused"
        timeout 60 "$vmcore" ctl "$dir/control" resume victim >/dev/null || fail "resume"
        kill -TERM "$host"
        sleep 1
        kill -TERM "$host"
        since=$SECONDS
        while timeout 30 "$vmcore" ctl "$dir/control" list >"$dir/list" 2>&1; do
            [ $((SECONDS - since)) -lt 240 ] || fail "two signals, one soon after the other, are ignored"
            sleep 0.2
        done
    fi
    kill -CONT "$mounted"
    wait "$host" || status=$?
    host=
    [ "$status" = 4 ] || fail "status $status"
elif [ "$what" != read ]; then
    until [ -S "$dir/control" ]; do
        kill -0 "$host" 2>/dev/null || fail "the host ended"
        sleep 0.1
    done
    prlimit --pid "$host" --fsize=1048576:unlimited # its swap files have their size already
    # Memory is short then, and no page can go: what is there stays, until there is room again.
    until [ $(($(memory victim swap_errors) + $(memory other swap_errors))) -gt 100 ]; do
        kill -0 "$host" 2>/dev/null || fail "the host ended"
        sleep 0.2
    done
    if [ "$what" = end ]; then
        # Every vCPU waits for a page that nobody can make room for.
        errors=0
        until [ "$(memory victim swap_errors)" -gt 2000 ] || [ "$errors" -gt 25 ]; do
            errors=$((errors + 1))
            sleep 0.2
        done
        kill -TERM "$host"
        wait "$host" || status=$?
        host=
        [ "$status" = 0 ] || fail "status $status"
        echo PASS
        exit 0
    fi
    prlimit --pid "$host" --fsize=unlimited:unlimited
    wait "$host" || status=$?
    host=
    for n in victim other; do
        grep -a -q "^GUEST PASSED" "$dir/$n.log" || fail "guest $n"
    done
    [ "$status" = 0 ] || fail "status $status"
else
    await_line victim "GUEST READY"
    until [ "$(memory victim swapped)" -gt 16000000 ]; do
        kill -0 "$host" 2>/dev/null || fail "the host ended"
        sleep 0.2
    done
    # The first swap file is the first VM's. It has no name; this is the file behind its descriptor.
    file=
    while read -r fd; do
        case $(readlink "/proc/$host/fd/$fd" || true) in
        "$dir"/swap/*) file=${file:-/proc/$host/fd/$fd} ;;
        esac
    done < <(find "/proc/$host/fd" -mindepth 1 -printf '%f\n' | sort -n)
    [ -n "$file" ] || fail "no swap file found"
    truncate -s 0 "$file"
    wait "$host" || status=$?
    host=
    grep -a -q "^GUEST PASSED" "$dir/other.log" || fail "the other guest suffered"
    if grep -a -q "^GUEST PASSED" "$dir/victim.log"; then fail "the victim noticed nothing"; fi
    grep -q "VM 'victim': page [0-9]* of its memory is lost: it cannot be read back" "$dir/out" || fail "no message"
    [ "$status" = 4 ] || fail "status $status"
fi
cat "$dir/out"
echo PASS

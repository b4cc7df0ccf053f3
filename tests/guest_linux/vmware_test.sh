#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# The unmodified vmw_balloon driver of Debian's kernel in "vmcore host": the guest finds VMware, its
# balloon grows and shrinks as it is told, its memory comes to the host and goes back, and its data
# stay what they were.
# usage: vmware_test.sh VMCORE GUEST_DIR
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
vmcore=$1
guest=$2

if [ ! -s "$guest/vmlinuz" ] || [ ! -s "$guest/vmw_balloon.ko" ]; then
    echo "no guest kernel in $guest (scripts/fetch-vmware-guest makes it)"
    case ",${VMC_TEST_REQUIRE:-}," in
    *,linux,*) exit 1 ;;
    *) exit 77 ;;
    esac
fi
dir=$(mktemp -d)
host=
finish() {
    if [ -n "$host" ]; then
        kill "$host" 2>/dev/null || true
        wait "$host" 2>/dev/null || true
    fi
    rm -rf "$dir"
}
trap finish EXIT
mkdir -p "$dir/root"/{bin,dev,proc,sys,tmp}
cp "$(command -v busybox)" "$dir/root/bin/busybox"
cp "$guest"/*.ko "$dir/root/"
cp "$here/vmware_guest.sh" "$dir/root/init"
(cd "$dir/root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$dir/initrd"
cat >"$dir/host.cfg" <<END
host_memory = "256M";
control = "$dir/control";
sharing = false;
compression = false;
vms = ( { name = "g"; memory = "160M"; hypervisor = "vmware"; kernel = "$guest/vmlinuz";
          initrd = "$dir/initrd"; serial = "file:$dir/log";
          cmdline = "console=ttyS0 quiet panic=-1 inflate=16384"; } );
END
"$vmcore" host "$dir/host.cfg" >"$dir/out" 2>&1 </dev/null &
host=$!

fail() {
    echo "FAIL: $1"
    cat "$dir/out"
    tail -30 "$dir/log"
    exit 1
}
# Wait for a line of the guest; there is no limit but the test's own.
await_line() {
    until grep -a -q "$1" "$dir/log" 2>/dev/null; do
        kill -0 "$host" 2>/dev/null || fail "the host ended before '$1'"
        if grep -a -q "GUEST FAIL" "$dir/log" 2>/dev/null; then fail "the guest complains"; fi
        sleep 0.2
    done
}
ballooned() {
    "$vmcore" ctl --json "$dir/control" stats |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["vms"][0]["memory"]["ballooned"] >> 20)'
}

await_line "GUEST UP"
"$vmcore" ctl "$dir/control" balloon g 64M
await_line "GUEST BALLOON [1-9]...."
got=$(ballooned)
echo "inflated: $got MiB"
[ "$got" -ge 60 ] || fail "$got MiB came to the host"
"$vmcore" ctl "$dir/control" balloon g 0M
await_line "GUEST BALLOON 0"
got=$(ballooned)
[ "$got" = 0 ] || fail "$got MiB are still in the balloon"
"$vmcore" ctl "$dir/control" balloon g 8M # the guest waits for that before it powers off
await_line "GUEST PASSED"
status=0
wait "$host" || status=$?
host=
[ "$status" = 0 ] || fail "status $status"
grep -a "Hypervisor detected\|Lock\|lock" "$dir/log" || true
echo PASS

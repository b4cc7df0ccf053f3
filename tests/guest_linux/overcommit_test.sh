#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Three stock guests in "vmcore host", on a third of their memory: all get their work done, their
# data stay what they were, and no guest kills anything.
# usage: overcommit_test.sh VMCORE GUEST_DIR
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
vmcore=$1
guest=$2

if [ ! -s "$guest/vmlinuz" ] || [ ! -s "$guest/initrd" ]; then
    echo "no guest kernel in $guest (scripts/fetch-guest makes it)"
    case ",${VMC_TEST_REQUIRE:-}," in
    *,linux,*) exit 1 ;;
    *) exit 77 ;;
    esac
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/root/t" "$dir/swap"
cp "$here/overcommit_guest.sh" "$dir/root/t/"
(cd "$dir/root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$dir/extra"
cat "$guest/initrd" "$dir/extra" >"$dir/initrd"

{
    echo 'host_memory = "96M"; swap = "'"$dir"'/swap"; vms = ('
    for n in 1 2 3; do
        [ $n = 1 ] || echo ','
        echo '{ name = "g'$n'"; memory = "96M"; kernel = "'"$guest"'/vmlinuz";'
        echo '  initrd = "'"$dir"'/initrd"; serial = "file:'"$dir"'/g'$n'.log";'
        echo '  cmdline = "console=ttyS0 panic=-1 run=sh+/t/overcommit_guest.sh"; }'
    done
    echo ');'
} >"$dir/host.cfg"
status=0
timeout "${VMC_TEST_LIMIT:-840}" "$vmcore" host "$dir/host.cfg" >"$dir/out" 2>&1 </dev/null ||
    status=$?
cat "$dir/out"
for n in 1 2 3; do
    grep -a -q "^GUEST PASSED" "$dir/g$n.log" && continue
    echo "FAIL: guest $n"
    tail -15 "$dir/g$n.log"
    status=1
done
[ "$status" = 0 ] || { echo "FAIL: status $status"; exit 1; }
[ -z "$(ls "$dir/swap")" ] || { echo "FAIL: swap files are left"; exit 1; }
echo PASS

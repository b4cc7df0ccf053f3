#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# user.c as the first process of a guest: what it prints is the same as on hardware.
# usage: user_test.sh VMCORE GUEST_DIR PROGRAM [OPTION...]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
vmcore=$1
guest=$2
program=$3
shift 3

if [ ! -s "$guest/vmlinuz" ]; then
    echo "no guest kernel in $guest (scripts/fetch-guest makes it)"
    case ",${VMC_TEST_REQUIRE:-}," in
    *,linux,*) exit 1 ;;
    *) exit 77 ;;
    esac
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/root/dev"
cp "$program" "$dir/root/init"
(cd "$dir/root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$dir/initrd"
"$vmcore" run --engine=soft --mem=256 --kernel="$guest/vmlinuz" --initrd="$dir/initrd" \
    --cmdline="console=ttyS0 quiet panic=-1" "$@" </dev/null >"$dir/log" 2>"$dir/err" || {
    echo "FAIL: the run ended with $?"
    cat "$dir/err"
    tail -30 "$dir/log"
    exit 1
}
tr -d '\r' <"$dir/log" | sed -n '/^BEGIN/,/^END/p' | diff "$here/user.expected" -

#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# "vmcore trace" with a tiny Multiboot guest whose only loop is at 0x100020: what it lists.
set -u
vmcore=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

{
    # magic, flags (addresses are given), checksum; header, load, load end, bss end, entry
    printf '\x02\xb0\xad\x1b\x00\x00\x01\x00\xfe\x4f\x51\xe4'
    printf '\x00\x00\x10\x00\x00\x00\x10\x00\x00\x10\x10\x00\x00\x20\x10\x00\x20\x00\x10\x00'
    printf '\xb9\xe8\x03\x00\x00'             # 100020: mov ecx, 1000
    printf '\x8b\x15\x00\x00\x10\x00'         # 100025: mov edx, [0x100000]
    printf '\x01\xd0\x49\x75\xf5'             # 10002b: add eax, edx; dec ecx; jnz 100025
    printf '\xb0\x15\xe6\xf4\xf4'             # mov al, 21; out 0xf4, al; hlt
    head -c 4096 /dev/zero
} >"$dir/guest"

. "$(dirname "$0")/verdict.sh"

trace() { # STATUS ARGS...: run it; the listing is in out
    local status=$1 got
    shift
    timeout -k 5 300 "$vmcore" trace "$@" --kernel "$dir/guest" --exit-port 0xf4 >"$dir/out" 2>"$dir/err" </dev/null
    got=$?
    [ "$got" = "$status" ] || { echo "status $got, not $status"; cat "$dir/err"; return 1; }
}
listed() { grep -qE -e "$1" "$dir/out"; }

if ! grep -qw fsgsbase /proc/cpuinfo || ! grep -qw bmi2 /proc/cpuinfo; then
    echo "this processor cannot run translated code"
    trace 43 --at 100025 && exit 77
    exit 1
fi
verdict "the loop is listed, and ends the run" trace 0 --at 100025
verdict "whose translation it is" listed '^translation of 100025 on vCPU 0: [0-9]+ bytes at [0-9a-f]+$'
verdict "a copied instruction" listed '^10002b  add eax, edx +\| [0-9a-f]+  .*'
verdict "its host code" listed '\| [0-9a-f]+  add eax, edx$'
verdict "a load" listed '^100025  mov edx, dword ptr \[0x100000\] +\|'
verdict "... through the TLB" listed '\| [0-9a-f]+  mov rcx, qword ptr gs:'
verdict "cold code of the load" listed '^cold 100025  mov edx'
verdict "one translation" [ "$(grep -c ^translation "$dir/out")" = 1 ]
verdict "a range" trace 0 --at=100000-100fff --count=1
verdict "everything, until the guest ends" trace 43
verdict "something" listed '^translation of'
verdict "an address where nothing is" trace 43 --at 200000
verdict "nothing" [ ! -s "$dir/out" ]
verdict "a file" trace 0 --at 100025 --output "$dir/list"
verdict "in the file" grep -q '^translation of 100025' "$dir/list"
verdict "not an address" trace 2 --at hello
verdict "a range backwards" trace 2 --at 2000-1000
verdict "not a count" trace 2 --count many
verdict "an option of run that is wrong" trace 2 --mem none
exit $failed

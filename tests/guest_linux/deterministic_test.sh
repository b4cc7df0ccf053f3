#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Two runs of the same guest in deterministic mode: the same output, the same number of instructions.
# The second one has so little memory for translated code that some is evicted all the time.
# Usage: deterministic_test.sh VMCORE GUESTDIR CPUS
set -u
vmcore=$1 guest=$2 cpus=$3
if [ ! -s "$guest/vmlinuz" ] || [ ! -s "$guest/initrd" ]; then
    echo "no guest kernel (scripts/fetch-guest $guest)"
    case " ${VMC_TEST_REQUIRE:-} " in *linux*) exit 1 ;; *) exit 77 ;; esac
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# What differs between two boots if anything does: time, entropy, addresses, interrupts.
show="date;od+-x+-N16+/dev/urandom;od+-x+-N16+/dev/hwrng;cat+/proc/uptime+/proc/interrupts"
show="$show;cat+/proc/self/maps+/proc/sys/kernel/random/boot_id"

run() {
    "$vmcore" run --deterministic --code-memory="$2" --cpus="$cpus" --mem=256 --timeout=500 \
        --kernel="$guest/vmlinuz" --initrd="$guest/initrd" \
        --cmdline="console=ttyS0 panic=-1 run=$show" --stats="$tmp/$1.json" \
        </dev/null >"$tmp/$1.log" 2>&1
    local rc=$?
    grep '"instructions"' "$tmp/$1.json" >"$tmp/$1.count"
    if [ $rc -ne 0 ] || ! grep -q 'run: exit status 0' "$tmp/$1.log"; then
        tail -20 "$tmp/$1.log"
        echo "run $1 failed with status $rc"
        exit 1
    fi
}

run a 32M
run b 4M
evicted=$(sed -n 's/.*"bt.evictions":\([0-9]*\).*/\1/p' "$tmp/b.json" | head -1)
if grep -qw fsgsbase /proc/cpuinfo && grep -qw bmi2 /proc/cpuinfo && [ "${evicted:-0}" -lt 100 ]; then
    echo "only ${evicted:-0} evictions"
    exit 1
fi
if ! cmp "$tmp/a.log" "$tmp/b.log"; then
    diff "$tmp/a.log" "$tmp/b.log" | head -20
    exit 1
fi
diff "$tmp/a.count" "$tmp/b.count" || exit 1
echo "$(wc -l <"$tmp/a.log") lines and$(tr -d '\n' <"$tmp/a.count") twice"

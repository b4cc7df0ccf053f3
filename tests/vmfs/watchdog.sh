#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Hosts that are stopped for longer than their lease. Usage: watchdog.sh VMCORE WATCHDOG
set -euo pipefail
vmcore=$1 watchdog=$2
dir=$(mktemp -d)
server=
cleanup() {
    [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
"$vmcore" vmfs mkfs -q --size 2G "$dir/vol"
"$watchdog" "$dir/vol"
"$vmcore" vmfs fsck "$dir/vol" | tee "$dir/fsck"
grep -q ' 0 lost, .*; 0 errors' "$dir/fsck"

# The command itself: stopped for good, it is gone when its lease is over.
truncate -s 1M "$dir/raw"
"$vmcore" vmfs import -q "$dir/vol" "$dir/raw" /raw
serve() {
    "$vmcore" vmfs nbd "$@" --lease 2 "$dir/vol" /raw "$dir/socket" 2>"$dir/log" &
    server=$!
    for _ in $(seq 3000); do
        [ -S "$dir/socket" ] && return
        kill -0 "$server" 2>/dev/null || return 0
        sleep 0.02
    done
}
serve
kill -STOP "$server" 2>/dev/null || true
rc=0
wait "$server" 2>/dev/null || rc=$?
[ "$rc" = 137 ] || { echo "stopped: status $rc, not 137"; cat "$dir/log"; exit 1; }
rm -f "$dir/socket"

# And not when that was asked for.
serve --no-watchdog
kill -STOP "$server"
sleep 4
kill -CONT "$server"
kill -TERM "$server"
rc=0
wait "$server" || rc=$?
server=
[ "$rc" = 0 ] || { echo "without a watchdog: status $rc"; cat "$dir/log"; exit 1; }

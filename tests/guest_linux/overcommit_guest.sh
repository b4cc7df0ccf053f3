#!/bin/busybox sh
# SPDX-License-Identifier: BSD-2-Clause
# Runs in a guest as /t/overcommit_guest.sh: fills memory with numbers that cannot be compressed and
# with text that can, and looks whether they stay what they were.
dd if=/dev/urandom of=/tmp/random bs=64k count=64 2>/dev/null || exit 1
seq 1 450000 >/tmp/text || exit 1
first=$(sha256sum /tmp/random /tmp/text)
for round in 1 2 3; do
    sleep 1
    dd if=/tmp/random of=/tmp/copy bs=64k 2>/tmp/said || {
        echo "GUEST FAIL: round $round: $(cat /tmp/said)"
        exit 1
    }
    [ "$(sha256sum /tmp/random /tmp/text)" = "$first" ] || {
        echo "GUEST FAIL: round $round: contents changed"
        exit 1
    }
    cmp /tmp/random /tmp/copy || {
        echo "GUEST FAIL: round $round: the copy differs"
        exit 1
    }
done
dmesg | grep -E "Out of memory|BUG:|Call Trace" && exit 1
echo "GUEST PASSED"

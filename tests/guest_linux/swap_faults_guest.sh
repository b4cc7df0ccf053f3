#!/bin/busybox sh
# SPDX-License-Identifier: BSD-2-Clause
# Runs in a guest as /t/swap_faults_guest.sh ROLE: fills memory with noise and looks whether it stays
# what it was. work, full: again and again; read: with seconds of sleep between.
role=$1
rmmod virtio_balloon # nothing is given up: what does not fit has to be swapped
dd if=/dev/urandom of=/tmp/a bs=64k count=256 2>/dev/null || exit 1
first=$(sha256sum /tmp/a)
echo "GUEST READY"
case $role in
read) rounds=12; nap=6 ;;
*) rounds=6; nap=1 ;;
esac
round=0
while [ $round -lt $rounds ]; do
    sleep $nap
    [ "$(sha256sum /tmp/a)" = "$first" ] || {
        echo "GUEST FAIL: round $round: contents changed"
        exit 1
    }
    round=$((round + 1))
done
# A guest that had to wait may have complained of that.
dmesg | grep "Out of memory" && exit 1
echo "GUEST PASSED"

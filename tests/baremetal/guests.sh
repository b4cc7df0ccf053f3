#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Debian's cloud kernel to a busybox shell under the example hypervisor.
# Usage: guests.sh BUILD MACHINE ENGINE SECONDS [two|apic]
# two: two guests at once on two processors, one of them with two vCPUs.
# apic: one with two vCPUs, whose local APICs the processor works on.
# shellcheck source=tests/baremetal/lib.sh
. "$(dirname "$0")/lib.sh"
m=$1 engine=$2 seconds=$3 how=${4:-one}
need_machine "$m"
need_guest
dir=$build/tests/baremetal/guests-${m/:/-}-$how
mkdir -p "$dir"
cmdline="console=ttyS0 loglevel=5 earlyprintk=serial,ttyS0,115200 panic=-1 cryptomgr.notests" # warnings are shown
{
    echo "hypervisor { status = 20; when_done = poweroff"
    [ "$how" != apic ] || echo " apic = processor"
    echo "}"
    echo "guest one { kernel = vmlinuz; initrd = initrd; mem = 128M; network = yes"
    [ "$how" != apic ] || echo " cpus = 2"
    echo " cmdline = \"$cmdline run=echo+hello+from+one;nproc\" }"
    if [ "$how" = two ]; then
        echo "guest two { kernel = vmlinuz; initrd = initrd; mem = 160M; cpus = 2; shares = 2000"
        echo " network = yes; cmdline = \"$cmdline run=echo+hello+from+two;echo+CPUs:\$(nproc)\" }"
    fi
} >"$dir/vmcore.conf"
cpus=1
mem=512
[ "$how" != two ] || cpus=2 mem=768
# Two processors of QEMU without instruction counting stop each other when the host is busy: a vCPU
# that holds a lock does not run while another one spins on it.
qemu=()
[ "$how$engine" != twosvm ] || qemu=(--qemu "-icount shift=2,sleep=off")
machine "$dir/log.txt" "$seconds" "${qemu[@]}" --machine "$m" --cpus $cpus --mem $mem --ips 25000000 \
    --module "$dir/vmcore.conf=vmcore.conf" --module "$build/guest/vmlinuz=vmlinuz" \
    --module "$build/guest/initrd=initrd"
want "$dir/log.txt" "^\[vmcore\] engine: $engine$"
want "$dir/log.txt" "^\[one\] hello from one$"
[ "$how" != apic ] || want "$dir/log.txt" "^\[one\] 2$"
want "$dir/log.txt" "^\[vmcore\] one: ended: powered off$"
want "$dir/log.txt" "^\[vmcore\] one: [1-9][0-9]* pages returned, 0 leaked$"
want "$dir/log.txt" "every guest has ended, switching off$"
if [ "$how" = two ]; then
    want "$dir/log.txt" "^\[two\] hello from two$"
    want "$dir/log.txt" "^\[two\] CPUs:2$"
    want "$dir/log.txt" "^\[vmcore\] two: [1-9][0-9]* pages returned, 0 leaked$"
fi
forbid "$dir/log.txt" "PANIC"
forbid_complaints "$dir/log.txt"
forbid "$dir/log.txt" "(cpu|stolen) [0-9]{4,}\." # percent
# Without the libraries of others the image stays below 512 KiB, and it takes little memory.
size=$(sed -n 's/.*image \([0-9]*\) KiB and.*/\1/p' "$dir/log.txt")
resident=$(sed -n 's/.* resident \([0-9]*\) KiB.*/\1/p' "$dir/log.txt")
[ "${size:-999}" -lt 512 ] || fail "the image has $size KiB"
[ "${resident:-99999}" -lt $((8192 + mem * 4)) ] || fail "$resident KiB are resident"
verdict

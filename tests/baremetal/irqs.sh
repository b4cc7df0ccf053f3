#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Three guests on two processors take interrupts as fast as they can. None may come while interrupts
# are off, which is what a processor does that delivers one twice (svm_inject). Every third interrupt
# of the timers of QEMU's processors is taken for lost, as QEMU may do when it enters guests.
# Usage: irqs.sh BUILD MACHINE ENGINE SECONDS
# shellcheck source=tests/baremetal/lib.sh
. "$(dirname "$0")/lib.sh"
m=$1 engine=$2 seconds=$3
need_machine "$m"
dir=$build/tests/baremetal/irqs-${m/:/-}
mkdir -p "$dir"
{
    echo "hypervisor { status = 0; when_done = poweroff }"
    for g in a b c; do echo "guest $g { kernel = tiny; cmdline = irqs; mem = 4M }"; done
} >"$dir/vmcore.conf"
log=$dir/log.txt
machine "$log" "$seconds" --machine "$m" --cpus 2 --mem 256 --ips 25000000 \
    --qemu "-icount shift=3,sleep=off" --append "panic=poweroff lose=3" \
    --module "$dir/vmcore.conf=vmcore.conf" --module "$build/bin/tiny_guest=tiny"
want "$log" "^\[vmcore\] engine: $engine$"
for g in a b c; do want "$log" "^\[$g\] interrupts that came while they were off: 0$"; done
want "$log" "every guest has ended, switching off$"
forbid "$log" "PANIC"
verdict

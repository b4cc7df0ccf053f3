#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Mistakes that the kernel must catch end in a panic with a backtrace; an engine that the machine does
# not have, in a line that says so. Usage: faults.sh BUILD
# shellcheck source=tests/baremetal/lib.sh
. "$(dirname "$0")/lib.sh"
need_machine qemu-none
dir=$build/tests/baremetal/faults
mkdir -p "$dir"
# one NAME TEXT
one() {
    local log=$dir/$1.txt
    echo "== $1"
    machine "$log" 40 --machine qemu-none --kernel "$build/bin/kernel_test" \
        --append "fault=$1 panic=poweroff" --cpus 2 --mem 128
    want "$log" "PANIC on CPU 0: $2"
    want "$log" "^  (at|by) 0xffffffff8"
    forbid "$log" "the mistake was caught"
}
one code "page fault, error code 0x3"
one data "page fault, error code 0x11"
one stack "(double fault|page fault)"
one freed "free page 0x[0-9a-f]+ was written"
one low "page fault, error code 0x2, cr2 0x200000"
echo "== engine"
echo "hypervisor { when_done = poweroff; engine = vmx } guest a { kernel = tiny; mem = 4M }" \
    >"$dir/vmcore.conf"
machine "$dir/engine.txt" 40 --machine qemu-svm --mem 128 --module "$dir/vmcore.conf=vmcore.conf"
want "$dir/engine.txt" "engine: this machine has no 'vmx', but svm and soft"
want "$dir/engine.txt" "a: cannot be started: no engine"
want "$dir/engine.txt" "switching off$"
forbid "$dir/engine.txt" PANIC
verdict

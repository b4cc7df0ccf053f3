#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# One processor, a guest in an endless loop and one that sleeps: each gets its share. A second busy
# one with twice the shares gets twice as much. Whoever is killed gives all its pages back.
# Usage: shares.sh BUILD MACHINE ENGINE SECONDS [LOOP]
# LOOP: busy (default), with interrupts off, or work, with interrupts on. In emulated processors
# without preemption timer the former cannot be interrupted.
# shellcheck source=tests/baremetal/lib.sh
. "$(dirname "$0")/lib.sh"
m=$1 engine=$2 seconds=$3 loop=${4:-busy}
need_machine "$m"
dir=$build/tests/baremetal/shares-${m/:/-}
mkdir -p "$dir"
run="start idle; start busy; start twice; kill twice; kill busy; kill idle" # what is made once
run="$run; mem; start idle; mem; start busy; mem; wait 500; sched; wait 2000; sched"
run="$run; start twice; wait 300; sched; wait 3000; sched"
run="$run; mem; kill twice; wait 100; mem; kill busy; wait 600; mem; kill idle; mem"
cat >"$dir/vmcore.conf" <<CONF
hypervisor { status = 0; when_done = poweroff
    run = "$run" }
guest idle  { kernel = tiny; cmdline = idle; mem = 4M; start = no }
guest busy  { kernel = tiny; cmdline = $loop; mem = 3M; shares = 1000; start = no }
guest twice { kernel = tiny; cmdline = $loop; mem = 3M; shares = 2000; start = no }
CONF
log=$dir/log.txt
# Both emulators count instructions: the machine's time has nothing to do with the host's. A guest of
# the software CPU needs a faster machine to come to its loop at all.
shift=3
[ "$engine" != soft ] || shift=1
machine "$log" "$seconds" --machine "$m" --cpus 1 --mem 256 --ips 25000000 \
    --qemu "-icount shift=$shift,sleep=off" \
    --module "$dir/vmcore.conf=vmcore.conf" --module "$build/bin/tiny_guest=tiny"
want "$log" "^\[vmcore\] engine: $engine$"
want "$log" "every guest has ended, switching off$"
forbid "$log" "PANIC"

# field REGEX LOOK: the number that REGEX picks out, of the LOOK-th line that has it
field() { sed -n "s/^\[vmcore\] $1/\1/p" "$log" | sed -n "$2p"; }
ran() { field " *$1.0: ran \([0-9]*\) ms.*" "$2"; }
check() {
    local what=$1
    shift
    echo "$what: $*"
    [ $(($*)) = 1 ] || fail "$what: $*"
}

# The machine's time between two looks is what the processor was busy and idle.
time=$(($(field 'CPU 0: busy \([0-9]*\) ms.*' 2) + $(field 'CPU 0: busy [0-9]* ms, idle \([0-9]*\) ms.*' 2)))
time=$((time - $(field 'CPU 0: busy \([0-9]*\) ms.*' 1) - $(field 'CPU 0: busy [0-9]* ms, idle \([0-9]*\) ms.*' 1)))
busy=$(($(ran busy 2) - $(ran busy 1)))
idle=$(($(ran idle 2) - $(ran idle 1)))
check "the busy guest has what the idle one leaves" "($busy + $idle) * 100 >= $time * 80"
check "the idle one takes little" "$idle * 100 <= $time * 25"
# It ticks twice a second while the other one is in its loop.
ticks=$(sed -n '/^\[busy\] busy$/,/ twice: started/s/^\[idle\] tick.*/x/p' "$log" | wc -l)
check "the idle one is not kept waiting" "$ticks >= 3"
busy=$(($(ran busy 4) - $(ran busy 3)))
twice=$(($(ran twice 2) - $(ran twice 1)))
check "two shares to one" "$twice * 10 >= $busy * 16 && $twice * 10 <= $busy * 25"

# Every page of the machine is free, the kernel's or a guest's, at any time.
looks=0
while read -r all free kernel guests; do
    looks=$((looks + 1))
    check "look $looks: all pages are accounted for" "$all == $free + $kernel + $guests"
done < <(awk '$2 == "memory:" { if (n++) print all, free, kernel, guests
                               all = $3; free = $5; kernel = $7; guests = 0 }
              $1 == "[vmcore]" && NF == 4 && $4 == "pages" && $3 ~ /^[0-9]+$/ { guests += $3 }
              END { if (n) print all, free, kernel, guests }' "$log")
check "looks" "$looks == 7"
free() { field 'memory: [0-9]* pages, \([0-9]*\) free.*' "$1"; }
check "in the end as many are free as before the first guest" "$(free 7) == $(free 1)"
# What a guest has when it is killed is what comes back.
for g in twice busy idle; do
    had=$(grep -E "^\[vmcore\] +$g +[0-9]+ pages$" "$log" | awk 'END { print $3 }')
    back=$(sed -n "s/^\[vmcore\] $g: \([0-9]*\) pages returned, 0 leaked$/\1/p" "$log" | tail -1)
    check "$g gives back what it had" "${had:-0} == ${back:-1} && ${back:-0} > 0"
done
verdict

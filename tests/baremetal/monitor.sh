#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Consoles, the monitor, pause, kill and a guest that crashes, with tiny guests. What shares give is
# looked at by shares.sh, in time that does not depend on the host's load.
# Usage: monitor.sh BUILD MACHINE ENGINE SECONDS
# shellcheck source=tests/baremetal/lib.sh
. "$(dirname "$0")/lib.sh"
m=$1 engine=$2 seconds=$3
need_machine "$m"
dir=$build/tests/baremetal/monitor-$m
mkdir -p "$dir"
cat >"$dir/vmcore.conf" <<'CONF'
# Comments, quotes, bare words and semicolons are all in here.
hypervisor { status = 3; when_done = poweroff; hotkey = ^B }
guest idle  { kernel = tiny; cmdline = idle; mem = 4M }
guest echo  { kernel = tiny; cmdline = "echo"; mem = 4M }
guest crash { kernel = tiny; cmdline = crash; mem = 4M }
guest large { kernel = tiny; cmdline = busy; mem = 3M; shares = 3000; start = no }
guest small { kernel = tiny; cmdline = busy; mem = 3M; shares = 1000; start = no }
guest smc   { kernel = tiny; cmdline = smc; mem = 4M }
guest regs  { kernel = tiny; cmdline = regs; mem = 4M }
CONF
log=$dir/log.txt
: >"$log.raw"
rm -f "$dir/keys"
mkfifo "$dir/keys"
# shellcheck disable=SC2046
"$root/scripts/baremetal" --kernel "$build/bin/baremetal" --work "$dir/work" --machine "$m" --cpus 1 --mem 512 \
    --append panic=poweroff $(limits "$seconds") --module "$dir/vmcore.conf=vmcore.conf" \
    --module "$build/bin/tiny_guest=tiny" <"$dir/keys" >"$log.raw" 2>&1 &
pid=$!
exec 9>"$dir/keys"
trap '' PIPE

# await PATTERN [times]: wait until it is in the transcript that often
await() {
    while [ "$(tr -d '\r' <"$log.raw" | grep -cE "$1")" -lt "${2:-1}" ]; do
        kill -0 $pid 2>/dev/null || {
            fail "the machine ended before: $1"
            return 0
        }
        sleep 0.2
    done
}
# said GUEST TEXT: wait until a guest has said it. On a busy host a line may come in pieces, each with the
# guest's name before it.
said() {
    until tr -d '\r' <"$log.raw" | sed -n "s/^\[$1\] //p" | tr -d '\n' | grep -q "$2"; do
        kill -0 $pid 2>/dev/null || {
            fail "the machine ended before $1 said: $2"
            return 0
        }
        sleep 0.2
    done
}
keys() { printf '%b' "$1" >&9 2>/dev/null || true; }

said idle 'tick 1'
await 'status: idle running'
said crash 'about to crash'
await '^\[vmcore\] crash: vCPU 0 at [0-9a-f]+:1[0-9a-f]+, '
await '^\[vmcore\] crash: CR0 [0-9a-f]+ .* IDT [0-9a-f]+, limit 0$'
await '^\[vmcore\] crash: ended: crashed: triple fault$'
said smc 'modified code is right'
await '^\[vmcore\] smc: ended: halted with interrupts off$'
said regs 'CR0 is right'
said echo ready
keys '\x022'                       # the console of guest 2 alone
await 'console of echo alone'
until tr -d '\r' <"$log.raw" | grep -q '^HELLO$' || ! kill -0 $pid 2>/dev/null; do
    keys 'hello\r' # a status line may come into the middle of the answer
    sleep 1
done
keys '\x02a'                        # all again
await 'consoles of all guests'
keys '\x02m'
await 'vmcore> '
keys 'list\r'
await 'crash +off .*triple fault'
keys 'pause idle\r'
await 'idle: paused'
keys 'resume idle\r'
await 'idle: running'
keys 'stats idle\r'
await 'vCPU 0: .* interrupts'
keys 'mem\r'
await 'memory: [0-9]+ pages'
keys 'kill nobody\r'
await "there is no guest 'nobody'"
keys 'kill echo\r'
await 'echo: ended: killed'
keys 'start large\rstart small\r'
said large busybusy
said small busybusy
keys 'sched\r'
await '^\[vmcore\] small.0: ran [0-9]+ ms'
keys 'kill large\rkill small\rkill idle\r'
wait $pid || true
exec 9>&-
tr -d '\r' <"$log.raw" >"$log"
cat "$log"

want "$log" "^\[vmcore\] engine: $engine$"
want "$log" "status: idle running"
for g in idle echo crash large small smc regs; do
    want "$log" "^\[vmcore\] $g: [1-9][0-9]* pages returned, 0 leaked$"
done
want "$log" "every guest has ended, switching off$"
forbid "$log" "PANIC"
forbid "$log" "(cpu|stolen) [0-9]{4,}\." # percent
verdict

#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# "vmcore host", "vmcore ctl" and "vmcore top" with tiny guests in real mode.
# Usage: check_host.sh VMCORE
set -u
vmcore=$1
dir=$(mktemp -d)
host=
trap '[ -z "$host" ] || kill "$host" 2>/dev/null; rm -rf "$dir"' EXIT
. "$(dirname "$0")/verdict.sh"
guest() { # NAME BYTES: a flat binary
    printf "$2" >"$dir/$1"
}
guest exit21 '\xb0\x15\xe6\xf4\xeb\xfe'           # mov al, 21; out 0xf4, al; jmp .
guest spin '\xeb\xfe'                             # jmp .
guest sleep '\xfb\xf4\xeb\xfc'                    # sti; hlt; jmp back
printf '\x2e\x0f\x01\x1e\x07\x00\xcc\x00\x00\x00\x00\x00\x00' >"$dir/triple"
# Touch a byte of each page from 0x10000 to 0x90000, then spin.
guest touch '\xb8\x00\x10\x8e\xd8\xc6\x06\x00\x00\x5a\x05\x00\x01\x3d\x00\x90\x75\xf1\xeb\xfe'

# config NAME TEXT
config() {
    printf '%s\n' "$2" >"$dir/$1.cfg"
}
# refuse NAME STATUS PATTERN CONFIG-TEXT [ARGS...]
refuse() {
    local name=$1 status=$2 pattern=$3 got
    config bad "$4"
    shift 4
    timeout -k 5 300 "$vmcore" host "$dir/bad.cfg" "$@" >"$dir/out" 2>&1 </dev/null
    got=$?
    verdict "$name" eval "[ $got = $status ] && grep -q -e '$pattern' '$dir/out'"
}
one='kernel = "'$dir'/spin"; load_at = 0x8000; memory = "4M";'
refuse "no VMs" 2 'no VMs' 'host_memory = "64M";'
refuse "no memory" 2 'host_memory must be given' "vms = ( { $one } );"
refuse "syntax" 2 'bad.cfg:2: syntax error' $'host_memory = "64M";\nvms = ( { ;'
timeout -k 5 300 "$vmcore" host "$dir/none.cfg" >"$dir/out" 2>&1 </dev/null
verdict "no configuration" eval "[ $? = 4 ] && grep -q -e 'none.cfg: No such file' '$dir/out'"
refuse "unknown setting" 2 'bad.cfg:1: hostmemory: no such setting' 'hostmemory = "64M";'
refuse "unknown setting of a VM" 2 'bad.cfg:1: kernal: no such setting' 'vms = ( { kernal = "x"; } );'
refuse "unknown entitlement" 2 'share: unknown' \
    "host_memory = \"64M\"; vms = ( { $one memory_policy = { share = 5; }; } );"
refuse "bad size" 2 'not a size' "host_memory = \"64Q\"; vms = ( { $one } );"
refuse "bad size on the command line" 2 'not a size' "vms = ( { $one } );" --host-memory=much
refuse "bad machine" 2 "VM .vm1.: --mem lots: not a size" \
    'host_memory = "64M"; vms = ( { kernel = "x"; memory = "lots"; } );'
refuse "two of a name" 2 "two VMs are called .a." \
    "host_memory = \"64M\"; vms = ( { name = \"a\"; $one }, { name = \"a\"; $one } );"
refuse "console on stdio" 2 'cannot be on stdio' \
    "host_memory = \"64M\"; vms = ( { $one serial = \"stdio\"; } );"
refuse "reservation above the limit" 2 'larger than the limit' \
    "host_memory = \"64M\"; vms = ( { $one memory_policy = { reservation = \"4M\"; limit = \"2M\"; }; } );"
refuse "a part of a CPU that is none" 2 'is neither a number of CPUs nor such as' \
    "host_memory = \"64M\"; vms = ( { $one cpu_policy = { limit = \"50 %\"; }; } );"
refuse "a reservation in percent above the limit" 2 'larger than the limit' \
    "host_memory = \"64M\"; vms = ( { $one cpu_policy = { reservation = \"50%\"; limit = 0.4; }; } );"
refuse "more reserved than there is" 4 'does not fit' \
    "host_memory = \"16M\"; swap = \"$dir\"; vms = ( { kernel = \"$dir/spin\"; load_at = 0x8000;
     memory = \"64M\"; memory_policy = { reservation = \"32M\"; }; } );"
refuse "no place for what is not reserved" 4 'no folder for swap files' \
    "host_memory = \"16M\"; vms = ( { kernel = \"$dir/spin\"; load_at = 0x8000; memory = \"64M\"; } );"
refuse "engine left to chance" 2 'expected "soft" or "kvm"' \
    "host_memory = \"64M\"; vms = ( { $one engine = \"auto\"; } );"
refuse "missing kernel" 4 "VM .a.: --kernel /none/k: No such file" \
    'host_memory = "64M"; vms = ( { name = "a"; kernel = "/none/k"; memory = "4M"; } );'
refuse "missing folder for swap" 4 'swap file in /none' \
    "host_memory = \"64M\"; swap = \"/none\"; vms = ( { $one } );"
refuse "a guest that crashes" 6 "VM .vm1.: crashed (triple fault)" \
    "host_memory = \"64M\"; vms = ( { kernel = \"$dir/triple\"; load_at = 0x8000; memory = \"4M\"; } );"
config exit 'host_memory = "64M"; vms = ( { kernel = "'$dir'/exit21"; load_at = 0x8000; memory = "4M";
    exit_port = 0xf4; } );'
timeout -k 5 300 "$vmcore" host "$dir/exit.cfg" >"$dir/out" 2>&1 </dev/null
verdict "ends with its last VM" [ $? = 0 ]
timeout -k 5 300 "$vmcore" host --trace="$dir/trace.json" "$dir/exit.cfg" >"$dir/out" 2>&1 </dev/null
verdict "traces the scheduler" eval \
    "[ $? = 0 ] && python3 '$(dirname "$0")/../sched/check_trace.py' '$dir/trace.json' >>'$dir/out' 2>&1"
timeout -k 5 300 "$vmcore" host --trace=/none/trace "$dir/exit.cfg" >"$dir/out" 2>&1 </dev/null
verdict "no place for the trace" eval "[ $? = 4 ] && grep -q -e 'cannot write /none/trace' '$dir/out'"
timeout -k 5 300 "$vmcore" host --check "$dir/exit.cfg" >"$dir/out" 2>&1
verdict "a check runs nothing" [ $? = 0 ]

# A host with four VMs, more memory than there is, and the control socket.
truncate -s 1M "$dir/disk"
config four '
host_memory = "16M"; control = "'$dir'/socket"; swap = "'$dir'"; idle_tax = 50; cpus = 2;
vms = (
  { name = "spin"; kernel = "'$dir'/spin"; load_at = 0x8000; memory = "8M"; cpus = 2; trust = "t";
    memory_policy = { shares = 2000; reservation = "1M"; limit = "6M"; };
    cpu_policy = { shares = 500; limit = "50%"; }; },
  { name = "sleep"; kernel = "'$dir'/sleep"; load_at = 0x8000; memory = "8M"; trust = "t";
    disks = [ "'$dir'/disk" ]; },
  { name = "touch"; kernel = "'$dir'/touch"; load_at = 0x8000; memory = "8M";
    serial = "file:'$dir'/serial"; },
  { name = "ends"; kernel = "'$dir'/exit21"; load_at = 0x8000; memory = "8M"; exit_port = 0xf4; }
);'
"$vmcore" host "$dir/four.cfg" >"$dir/host.out" 2>&1 </dev/null &
host=$!
for _ in $(seq 3000); do
    [ -S "$dir/socket" ] && break
    kill -0 "$host" || break
    sleep 0.1
done
ctl() {
    timeout -k 5 300 "$vmcore" ctl "$@" >"$dir/out" 2>&1 </dev/null
}
# Wait until a command's output has a pattern.
await() { # PATTERN ARGS...
    local pattern=$1
    shift
    for _ in $(seq 3000); do
        ctl "$@"
        grep -q -e "$pattern" "$dir/out" && return 0
        kill -0 "$host" 2>/dev/null || return 1
        sleep 0.1
    done
    return 1
}
verdict "a VM ends, the others go on" await '^ends  *ended .*wrote to the exit port' "$dir/socket" list
verdict "three run" [ "$(grep -c ' running ' "$dir/out")" = 3 ]
# 128 pages were written, and nothing else but what the machine is loaded with.
touched() {
    python3 - "$vmcore" "$dir/socket" <<'END'
import json, subprocess, sys
vm = json.loads(subprocess.check_output([sys.argv[1], "ctl", "--json", sys.argv[2], "stats", "touch"]))
m = vm["memory"]
assert m["configured"] == 8 << 20, m
assert 128 * 4096 <= m["granted"] <= 160 * 4096 + m["shared"], m
assert m["granted"] + m["zero"] + m["ballooned"] + m["compressed"] + m["swapped"] == 8 << 20, m
END
}
verdict "pages were granted" await '"granted": *[5-9][0-9][0-9][0-9][0-9][0-9],' --json "$dir/socket" stats touch
verdict "pages are counted" touched
ctl "$dir/socket" pause spin
verdict "pause" await '^spin  *paused' "$dir/socket" list
ctl "$dir/socket" resume spin
verdict "resume" await '^spin  *running' "$dir/socket" list
ctl "$dir/socket" set spin memory-shares=1234 memory-limit=0 memory-reservation=2M cpu-limit=0 cpu-shares=77
verdict "entitlements change" await '"shares": *1234,.*' --json "$dir/socket" stats spin
verdict "reservation changes" grep -q '"reservation": *2097152' "$dir/out"
verdict "CPU shares change" grep -q '"shares": *77,' "$dir/out"
ctl "$dir/socket" set spin memory-reservation=8M memory-limit=4M
verdict "nonsense is refused" eval "[ $? = 4 ] && grep -q 'not above the limit' '$dir/out'"
ctl "$dir/socket" set spin memory-size=8M
verdict "unknown entitlement is refused" [ $? = 2 ]
ctl "$dir/socket" set none memory-shares=1
verdict "unknown VM is refused" grep -q 'no VM of this name' "$dir/out"
ctl "$dir/socket" set ends memory-shares=1
verdict "a VM that ended is left alone" grep -q 'has ended' "$dir/out"
ctl "$dir/socket" balloon spin 2M
verdict "balloon by the user" await '"balloon_by": *"user"' --json "$dir/socket" stats spin
verdict "balloon target" grep -q '"balloon_target": *2097152' "$dir/out"
ctl "$dir/socket" balloon spin auto
verdict "balloon by policy" await '"balloon_by": *"policy"' --json "$dir/socket" stats spin
ctl "$dir/socket" idle-tax 10
verdict "idle tax" await 'idle tax 10 %' "$dir/socket" stats
ctl "$dir/socket" idle-tax 100
verdict "no idle tax of 100 %" [ $? = 2 ]
printf '%s' '{"jsonrpc":"2.0","id":1,"method":"set","params":{"vm":"spin","memory_shares":-1}}' |
    timeout 300 python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(sys.stdin.buffer.read())
print(s.makefile().readline())' "$dir/socket" >"$dir/out" 2>&1
verdict "negative shares are refused" grep -q '"error"' "$dir/out"
timeout -k 5 300 "$vmcore" top -b -n 2 -d 0.2 "$dir/socket" >"$dir/out" 2>&1 </dev/null
verdict "top in batch mode" [ $? = 0 ]
csv() {
    python3 - "$dir/out" <<'END'
import csv, sys
rows = list(csv.DictReader(open(sys.argv[1])))
assert [r["vm"] for r in rows] == ["spin", "sleep", "touch", "ends"] * 2, rows
last = {r["vm"]: r for r in rows[4:]}
assert all(None not in r and None not in r.values() for r in rows), rows
assert float(last["touch"]["configured_mib"]) == 8, last
assert float(last["touch"]["granted_mib"]) + float(last["touch"]["swapped_mib"]) + float(
    last["touch"]["compressed_mib"]) >= 0.5, last
assert last["ends"]["state"] == "ended" and float(last["ends"]["granted_mib"]) == 0, last
assert last["spin"]["host_state"] in ("high", "clear", "soft", "hard", "low"), last
END
}
verdict "its CSV makes sense" csv
timeout -k 5 300 "$vmcore" top -n 0 "$dir/socket" >"$dir/out" 2>&1 </dev/null
verdict "no samples is nonsense" [ $? = 2 ]
# On a terminal: every page is shown, and q leaves.
cat >"$dir/keys.py" <<'END'
import os, pty, sys, time
pid, fd = pty.fork()
if pid == 0:
    os.environ.update(TERM="xterm", LINES="24", COLUMNS="100")
    os.execv(sys.argv[1], [sys.argv[1], "top", "-d", "30", sys.argv[2]])
seen = b""
def until(text):
    global seen
    while text not in seen:
        seen += os.read(fd, 4096)
for key, text in (b"", b"TARGET"), (b"c", b"%RDY"), (b"d", b"WRITES/s"), (b"m", b"memory"):
    seen = b""
    os.write(fd, key)
    until(text)
os.write(fd, b"q")
try:
    while os.read(fd, 4096):
        pass
except OSError:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
END
timeout -k 5 300 python3 "$dir/keys.py" "$vmcore" "$dir/socket" >"$dir/out" 2>&1 </dev/null
verdict "top on a terminal" [ $? = 0 ]
ctl "$dir/socket" quit sleep
verdict "one VM is ended" await '^sleep  *ended .*by the user' "$dir/socket" list
kill -TERM "$host"
wait "$host"
status=$?
host=
verdict "SIGTERM ends everything in order" [ "$status" = 0 ]
verdict "nothing is left behind" [ -z "$(ls "$dir" | grep -e socket -e swap)" ]
verdict "nothing was complained about" [ ! -s "$dir/host.out" ]
ctl "$dir/socket" list
verdict "no host, no answer" [ $? = 4 ]

# A host that is killed leaves nothing that stands in the way of the next.
for delay in 0.05 0.3 1; do
    "$vmcore" host "$dir/four.cfg" >"$dir/host.out" 2>&1 </dev/null &
    host=$!
    sleep $delay
    kill -KILL "$host"
    wait "$host" 2>/dev/null
    host=
done
# On a loaded machine the kernel takes its time to close what the last one's io_uring had.
for _ in $(seq 60); do
    "$vmcore" host "$dir/four.cfg" >"$dir/host.out" 2>&1 </dev/null &
    host=$!
    await '^ends ' "$dir/socket" list && break
    grep -q 'in use' "$dir/host.out" || break
    wait "$host"
done
verdict "the next host takes its socket" await '^ends  *ended' "$dir/socket" list
kill -TERM "$host"
wait "$host"
status=$?
host=
verdict "and ends in order" [ "$status" = 0 ]
exit $failed

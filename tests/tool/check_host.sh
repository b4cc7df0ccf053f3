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
config part $'kernel = "x";\nkernal = "x";'
refuse "a mistake in a file that is included" 2 'part.cfg:2: kernal: no such setting' \
    $'host_memory = "64M";\nvms = ( {\n@include "'"$dir"$'/part.cfg"\n} );'
refuse "more CPUs than a number has room for" 2 'limit: must be a number of CPUs' \
    "host_memory = \"64M\"; vms = ( { $one cpu_policy = { limit = 99999999999L; }; } );"
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
refuse "a limit of less than a page" 2 'less than a page' \
    "host_memory = \"64M\"; vms = ( { $one memory_policy = { limit = \"1K\"; }; } );"
refuse "reservation above the limit" 2 'larger than the limit' \
    "host_memory = \"64M\"; vms = ( { $one memory_policy = { reservation = \"4M\"; limit = \"2M\"; }; } );"
refuse "a part of a CPU that is none" 2 'is neither a number of CPUs nor such as' \
    "host_memory = \"64M\"; vms = ( { $one cpu_policy = { limit = \"50 %\"; }; } );"
refuse "a reservation in percent above the limit" 2 'larger than the limit' \
    "host_memory = \"64M\"; vms = ( { $one cpu_policy = { reservation = \"50%\"; limit = 0.4; }; } );"
refuse "a pool that there is not" 2 "bad.cfg:1: VM .vm1.: there is no pool .x." \
    "host_memory = \"64M\"; vms = ( { $one cpu_pool = \"x\"; } );"
refuse "a pool below a later one" 2 "parent: there is no pool .b. before this one" \
    "cpu_pools = ( { name = \"a\"; parent = \"b\"; }, { name = \"b\"; } );"
refuse "a pool without a name" 2 "expected a list of groups with names" 'cpu_pools = ( { shares = 2; } );'
refuse "two pools of a name" 2 "two pools are called .a." \
    'cpu_pools = ( { name = "a"; }, { name = "a"; } );'
refuse "a cap of nothing" 2 'can be held to 0.001 to 1' \
    "host_memory = \"64M\"; vms = ( { $one cpu_cap = 0; } );"
for set in '' 1- 2-1 ,1 1, x 256 1,,2; do
    refuse "no processors: '$set'" 2 'is not a list of processors' \
        "host_memory = \"64M\"; vms = ( { $one cpu_affinity = \"$set\"; } );"
done
refuse "processors that the host has not" 4 'the affinity names no CPU' \
    "host_memory = \"64M\"; cpus = 2; vms = ( { $one cpu_affinity = \"2-9\"; } );"
refuse "a pool that reserves less than its VM" 4 'reserves 100000, of which 0 is taken and 500000' \
    "host_memory = \"64M\"; cpu_pools = ( { name = \"a\"; cpu_policy = { reservation = 0.1; }; } );
     vms = ( { $one cpu_pool = \"a\"; cpu_policy = { reservation = 0.5; }; } );"
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
timeout -k 5 300 "$vmcore" host --verbose "$dir/exit.cfg" >"$dir/out" 2>&1 </dev/null
verdict "what it says of a VM names the VM" eval "[ -s '$dir/out' ] && ! grep -v \"^vmcore host: VM 'vm1': \" '$dir/out'"
timeout -k 5 300 "$vmcore" host --check "$dir/exit.cfg" >"$dir/out" 2>&1
verdict "a check runs nothing" [ $? = 0 ]

# A host with four VMs, more memory than there is, and the control socket.
truncate -s 1M "$dir/disk"
config four '
host_memory = "16M"; control = "'$dir'/socket"; swap = "'$dir'"; idle_tax = 50; cpus = 2;
cpu_pools = (
  { name = "all"; cpu_policy = { shares = 3000; reservation = "50%"; }; },
  { name = "part"; parent = "all"; cpu_policy = { limit = 1.5; reservation = 0.25; }; }
);
vms = (
  { name = "spin"; kernel = "'$dir'/spin"; load_at = 0x8000; memory = "8M"; cpus = 2; trust = "t";
    cpu_pool = "part"; cpu_cap = "40%"; cpu_affinity = "0-1";
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
ctl "$dir/socket" set spin memory-reservation=0 memory-limit=1K
verdict "a limit that would be rounded to none" eval "[ $? = 4 ] && grep -q 'less than a page' '$dir/out'"
# Pools, caps and affinity, in the file and by the socket. JSON: an expression about the host's stats.
holds() { # EXPRESSION
    python3 - "$vmcore" "$dir/socket" "$1" <<'END'
import json, subprocess, sys
s = json.loads(subprocess.check_output([sys.argv[1], "ctl", "--json", sys.argv[2], "stats"]))
vm = {v["name"]: v for v in s["vms"]}
pool = {p["name"]: p for p in s["cpu_pools"]}
assert eval("(" + sys.argv[3] + ")"), s
END
}
verdict "a cap, an affinity and a pool" holds \
    'vm["spin"]["cpu"]["cap"] == 400000 and vm["spin"]["cpu"]["affinity"] == "0-1" and
     vm["spin"]["cpu"]["pool"] == "part" and vm["sleep"]["cpu"]["affinity"] == "all"'
verdict "pools nest" holds \
    'pool["part"]["parent"] == "all" and pool["all"]["parent"] == "" and
     pool["part"]["cpu"]["limit"] == 1500000 and pool["all"]["cpu"]["reservation"] == 500000'
# One of the two processors waits to be started; what the other is entitled to is told of both.
entitled() { # PERMILLE
    for _ in $(seq 300); do
        holds "[c['entitled_permille'] for c in vm['spin']['vcpus']] in ([$1] * 2, [$1 - 1] * 2)" \
            2>/dev/null && return 0
        sleep 0.1
    done
    return 1
}
verdict "a capped VM is entitled to its cap" entitled 200
ctl "$dir/socket" set spin cpu-cap=25% cpu-affinity=1,0
verdict "the cap changes" entitled 125
ctl "$dir/socket" set spin cpu-cap=0 cpu-affinity=all
verdict "a cap and an affinity go" holds \
    'vm["spin"]["cpu"]["cap"] == 0 and vm["spin"]["cpu"]["affinity"] == "all"'
ctl "$dir/socket" set-pool part cpu-shares=7 cpu-limit=0.6
verdict "a pool changes" holds 'pool["part"]["cpu"] == {"shares": 7, "reservation": 250000, "limit": 600000}'
verdict "a pool's limit holds its VM" entitled 300
ctl "$dir/socket" set spin cpu-affinity=7 cpu-shares=5
verdict "a processor that is not there" eval "[ $? = 4 ] && grep -q 'none of these' '$dir/out' &&
    holds 'vm[\"spin\"][\"cpu\"][\"shares\"] == 77'"
ctl "$dir/socket" set spin cpu-reservation=0.5 cpu-affinity=1
verdict "more than the pool has to reserve" eval "[ $? = 4 ] && grep -q 'reserves 250000' '$dir/out' &&
    holds 'vm[\"spin\"][\"cpu\"][\"affinity\"] == \"all\"'"
ctl "$dir/socket" set spin cpu-affinity=1-0
verdict "no list of processors" [ $? = 2 ]
ctl "$dir/socket" set-pool none cpu-shares=7
verdict "unknown pool is refused" eval "[ $? = 4 ] && grep -q 'no pool of this name' '$dir/out'"
ctl "$dir/socket" set-pool part memory-shares=7
verdict "a pool has no memory" eval "[ $? = 4 ] && grep -q 'not known' '$dir/out'"
ctl "$dir/socket" set-pool all cpu-reservation=0.1
verdict "a pool keeps what its members reserve" eval "[ $? = 4 ] && grep -q 'reserve more' '$dir/out'"
ctl "$dir/socket" pools
verdict "pools are listed" grep -q '^part  *in all  *7 shares, reservation 0.25 CPUs, limit 0.60' "$dir/out"
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
ctl "$dir/socket" stats none
verdict "no statistics of a VM that is not there" eval "[ $? = 4 ] && grep -q \"no VM 'none'\" '$dir/out' &&
    [ \$(wc -l <'$dir/out') = 1 ]"
# Many replies at once, more than the socket has room for: none is lost.
cat >"$dir/many.py" <<'END'
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
n = 60
s.sendall(b"".join(b'{"jsonrpc":"2.0","id":%d,"method":"stats"}\n' % i for i in range(n)))
for i, line in zip(range(n), s.makefile()):
    r = json.loads(line)
    assert r["id"] == i and len(r["result"]["vms"]) == 4, r
assert i == n - 1, i
END
timeout -k 5 300 python3 "$dir/many.py" "$dir/socket" >"$dir/out" 2>&1
verdict "many requests at once" [ $? = 0 ]
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
assert last["spin"]["cpu_pool"] == "part" and last["spin"]["cpu_affinity"] == "all", last
assert last["spin"]["host_state"] in ("high", "clear", "soft", "hard", "low"), last
END
}
verdict "its CSV makes sense" csv
timeout -k 5 300 "$vmcore" top -n 0 "$dir/socket" >"$dir/out" 2>&1 </dev/null
verdict "no samples is nonsense" [ $? = 2 ]
timeout -k 5 300 "$vmcore" ctl "$dir/socket" stats 2>"$dir/out" >/dev/full </dev/null
verdict "an answer that cannot be written" eval "[ $? = 4 ] && grep -q 'cannot be written' '$dir/out'"
# On a terminal: every page is shown, and q leaves.
cat >"$dir/keys.py" <<'END'
import os, pty, sys, time
pid, fd = pty.fork()
if pid == 0:
    os.environ.update(TERM="xterm", LINES="24", COLUMNS=sys.argv[3])
    os.execv(sys.argv[1], [sys.argv[1], "top", "-d", "30", sys.argv[2]])
seen = b""
def until(text):
    global seen
    while text not in seen:
        seen += os.read(fd, 4096)
for key, text in (b"", sys.argv[4].encode()), (b"c", b"pool"), (b"d", b"WRITES/s"), (b"m", b"memory"):
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
timeout -k 5 300 python3 "$dir/keys.py" "$vmcore" "$dir/socket" 100 TARGET >"$dir/out" 2>&1 </dev/null
verdict "top on a terminal" [ $? = 0 ]
timeout -k 5 300 python3 "$dir/keys.py" "$vmcore" "$dir/socket" 80 SHRD >"$dir/out" 2>&1 </dev/null
verdict "top on a narrow one" [ $? = 0 ]
timeout -k 5 300 env TERM=dumb python3 -c '
import os, pty, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))' "$vmcore" top "$dir/socket" >"$dir/out" 2>&1 </dev/null
verdict "top on a terminal without a cursor" eval "[ $? = 4 ] && grep -q 'cannot move its cursor' '$dir/out'"
ctl "$dir/socket" quit sleep
verdict "one VM is ended" await '^sleep  *ended .*by the user' "$dir/socket" list
timers() { # N: so many machines' clocks go on
    for _ in $(seq 300); do
        [ "$(grep -lx timers /proc/"$host"/task/*/comm | wc -l)" = "$1" ] && return 0
        sleep 0.1
    done
    return 1
}
verdict "the timers of machines that have ended wake nobody" timers 2
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
ctl "$dir/socket" quit
verdict "a host that is told to end answers" [ $? = 0 ]
wait "$host"
status=$?
host=
verdict "and ends in order" [ "$status" = 0 ]
exit $failed

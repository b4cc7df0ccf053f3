#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# "vmcore sim memory": traces, their output, and what the policy promises.
# Usage: check_sim_memory.sh VMCORE
set -u
vmcore=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
. "$(dirname "$0")/verdict.sh"
sim() {
    timeout -k 5 900 "$vmcore" sim memory "$@" >"$dir/out" 2>&1 </dev/null
}
refuse() { # NAME PATTERN TRACE-TEXT
    printf "$3" >"$dir/bad"
    sim "$dir/bad"
    verdict "$1" eval "[ $? = 4 ] && grep -q '$2' '$dir/out'"
}
refuse "no VMs" 'bad:1: no VMs' 'host 100\n'
refuse "no host" 'host must be given' 'vm a 64 1000 0 0 1\n'
refuse "unknown word" 'bad:2: not known' 'host 100\nhots 100\n'
refuse "unknown VM" 'bad:3: no VM of this name' 'host 100\nvm a 64 1 0 0 1\nat 0 b 1 1\n'
refuse "more active than allocated" 'active must be' 'host 100\nvm a 64 1 0 0 1\nat 0 a 9 8\n'
refuse "more than it has" 'at most what the VM has' 'host 100\nvm a 64 1 0 0 1\nat 0 a 9 80\n'
refuse "so much that it overflows" 'at most what the VM has' \
    'host 100\nvm a 64 1 0 0 1\nat 0 a 9 72057594037927936\n'
refuse "two VMs of a name" 'bad:3: two VMs of this name' 'host 100\nvm a 64 1 0 0 1\nvm a 64 1 0 0 1\n'
refuse "a name that is two fields of CSV" 'a name is made of' 'host 100\nvm a,b 64 1 0 0 1\n'
refuse "time goes back" 'must ascend' 'host 100\nvm a 64 1 0 0 1\nat 5 a 1 1\nat 4 a 1 1\n'
refuse "reservations that do not fit" 'do not fit' 'host 100\nvm a 99 1 99 0 1\n'
refuse "negative size" 'makes no sense' 'host 100\nvm a -1 1 0 0 1\n'
refuse "no passes" "not known, or out of range" "host 100\npasses 0\n"
refuse "no shares" 'makes no sense' 'host 100\nvm a 64 0 0 0 1\n'
refuse "no seconds" 'not known, or out of range' 'host 100\nseconds 0\n'
refuse "a number and more" 'bad:1: expected a number' 'host 100M\n'
refuse "a VM and more" 'bad:2: expected: vm' 'host 100\nvm a 64 1 0 0 1 1\n'
refuse "an event and more" 'bad:3: expected: at' 'host 100\nvm a 64 1 0 0 1\nat 0 a 1 1 1\n'
"$vmcore" sim memory --generate >/dev/full 2>"$dir/out"
verdict "a trace that cannot be written" eval "[ $? = 4 ] && grep -q 'cannot be written' '$dir/out'"
sim --frobnicate
verdict "unknown option" [ $? = 2 ]

# An idle VM and a busy one, as in section 5 of Waldspurger's paper, without and with the tax; the
# busy one grows at 100 s.
tax() {
    printf 'host 360\ntax %s\nturns 0\nseconds 300\nvm idle 256 1000 0 0 1\nvm busy 256 1000 0 0 1
at 0 idle 0 240\nat 0 busy 100 100\nat 100 busy 256 256\n' "$1" >"$dir/tax"
    sim --csv "$dir/$1.csv" --svg "$dir/$1.svg" "$dir/tax"
}
tax 0
verdict "a trace runs" [ $? = 0 ]
tax 75
cat >"$dir/look.py" <<'END'
import csv, sys, xml.etree.ElementTree as xml
def last(tax):
    rows = list(csv.DictReader(open(f"{sys.argv[1]}/{tax}.csv")))
    assert len(rows) == 600, len(rows)
    xml.parse(f"{sys.argv[1]}/{tax}.svg")
    for r in rows:
        assert float(r["free_mib"]) >= 0, r
    return {r["vm"]: r for r in rows[-2:]}, rows
even, _ = last(0)
taxed, rows = last(75)
# Equal shares: equal memory without the tax.
assert abs(float(even["idle"]["target_mib"]) - float(even["busy"]["target_mib"])) < 0.1, even
# With it a page of the idle one costs four times as much: one to four, or all that the busy one has.
idle, busy = float(taxed["idle"]["target_mib"]), float(taxed["busy"]["target_mib"])
assert abs(busy - 256) < 0.1 or abs(busy / idle - 4) < 0.05, taxed
assert busy > 1.4 * float(even["busy"]["target_mib"]), (taxed, even)
# It is also obeyed: most of the busy one's working set is in memory, and less without the tax.
assert float(taxed["busy"]["missing_mib"]) < 20, taxed
assert float(even["busy"]["missing_mib"]) > float(taxed["busy"]["missing_mib"]) + 50, even
# The idle one gave by its balloon.
assert float(taxed["idle"]["balloon_mib"]) > 50, taxed
END
verdict "the idle tax moves memory" python3 "$dir/look.py" "$dir"
# Four VMs that use twice the memory there is: nobody gets much done, unless they take turns.
thrash() { # TURNS
    printf 'host 256\nturns %s\nseconds 400\npack_percent 0\nfault_rate 1000\nswap_in_us 30\npasses 100\n' \
        "$1" >"$dir/thrash"
    for vm in a b c; do
        printf 'vm %s 256 1000 0 0 0\nat 0 %s 64 70\n' $vm $vm
    done | sort -r >>"$dir/thrash"
    printf 'vm own 128 1000 100 0 0\nat 0 own 90 96\n' >>"$dir/thrash"
    sim --csv "$dir/turns$1.csv" --svg "$dir/turns$1.svg" "$dir/thrash"
}
thrash 0
verdict "without turns" eval "[ $? = 0 ] && grep -q '^0 turns' '$dir/out'"
thrash 1
verdict "with turns" eval "[ $? = 0 ] && ! grep -q '^0 turns' '$dir/out'"
cat >"$dir/work.py" <<'END'
import csv, sys, xml.etree.ElementTree as xml
def load(turns):
    work, rest = {}, {}
    for r in csv.DictReader(open(f"{sys.argv[1]}/turns{turns}.csv")):
        assert 0 <= float(r["wait_percent"]) + float(r["work_percent"]) <= 100.01, r
        assert r["rests"] == "0" or float(r["work_percent"]) == 0, r
        if int(r["second"]) > 100:
            work[r["vm"]] = work.get(r["vm"], 0) + float(r["work_percent"])
            rest[r["vm"]] = rest.get(r["vm"], 0) + int(r["rests"])
    grey = sum(e.get("fill") == "#ddd" for e in xml.parse(f"{sys.argv[1]}/turns{turns}.svg").iter())
    return work, rest, grey
before, never, white = load(0)
after, rests, grey = load(1)
assert not any(never.values()) and white == 0, never
# Whoever has a reservation for all that it has never rests; the others all do, and about as often.
assert rests["own"] == 0 and after["own"] > 29000, (rests, after)
others = [rests[v] for v in "abc"]
assert min(others) > 50 and max(others) < 1.5 * min(others) and grey > 10, (rests, grey)
# All three get done more than before.
assert all(after[v] > 1.2 * before[v] for v in "abc"), (before, after)
END
verdict "turns get more done" eval "python3 '$dir/work.py' '$dir' >>'$dir/out' 2>&1"
"$vmcore" sim memory --generate --seed 7 --vms 5 >"$dir/made" 2>"$dir/out"
verdict "a trace is made" [ "$(grep -c '^vm ' "$dir/made")" = 5 ]
sim --csv "$dir/made.csv" "$dir/made"
verdict "and runs" [ "$(wc -l <"$dir/made.csv")" = 1501 ]
cp "$dir/made" "$dir/first"
"$vmcore" sim memory --generate --seed 7 --vms 5 >"$dir/made"
verdict "the same seed makes the same" cmp "$dir/made" "$dir/first"
sim --property --seed 1000 --traces 300
verdict "promises are kept" grep -q '^300 traces, 90000 seconds: every promise was kept' "$dir/out"
exit $failed

#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Suspend to RAM, ended by the RTC's alarm and by the power button.
# usage: check_sleep.sh VMCORE ALARM_KERNEL BUTTON_KERNEL
set -u
vmcore=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0

for options in "" "--no-translate --cpus 2" "--workers 1"; do
    timeout -k 5 600 "$vmcore" run --engine soft $options --kernel "$2" --exit-port 0xf4 \
        --serial none </dev/null
    status=$?
    if [ $status != 1 ]; then
        echo "FAILED: woken by the alarm ($options): status $status"
        failed=1
    fi
done

timeout -k 5 600 "$vmcore" run --engine soft --kernel "$3" --exit-port 0xf4 --serial none \
    --control "$dir/sock" </dev/null &
vm=$!
python3 - "$dir/sock" <<'PY' || failed=1
import json, socket, sys, time
for _ in range(3000):
    try:
        s = socket.socket(socket.AF_UNIX)
        s.connect(sys.argv[1])
        break
    except OSError:
        time.sleep(0.1)
f = s.makefile("rw")
def call(method):
    f.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method}) + "\n")
    f.flush()
    return json.loads(f.readline())["result"]
for turn in range(2):
    while call("status")["state"] != "suspended":
        time.sleep(0.01)
    if turn == 0: # a pause outlasts being woken
        call("pause")
        call("powerdown")
        assert call("status")["state"] == "paused"
        call("resume")
    else:
        f.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "powerdown"}) + "\n")
        f.flush()
PY
wait "$vm"
status=$?
if [ $status != 1 ]; then
    echo "FAILED: woken by the button: status $status"
    failed=1
fi
# Not where the clock stands still with the processors.
timeout -k 5 600 "$vmcore" run --engine soft --deterministic --kernel "$2" --exit-port 0xf4 \
    --serial none </dev/null
status=$?
if [ $status != $((3 << 1 | 1)) ]; then
    echo "FAILED: offered in deterministic mode: status $status"
    failed=1
fi
exit $failed

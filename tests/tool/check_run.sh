#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# "vmcore run" with tiny guests in real mode: what it exits with and what it says.
set -u
vmcore=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0

# check NAME STATUS PATTERN ARGS...: run, compare the exit status, look for PATTERN in the output
check() {
    local name=$1 status=$2 pattern=$3 got
    shift 3
    timeout -k 5 300 "$vmcore" run --engine soft "$@" >"$dir/out" 2>&1 </dev/null
    got=$?
    if [ "$got" != "$status" ] || { [ -n "$pattern" ] && ! grep -q -e "$pattern" "$dir/out"; }; then
        echo "FAILED: $name: status $got (expected $status), output:"
        head -5 "$dir/out"
        failed=1
    else
        echo "ok: $name"
    fi
}

guest() { # NAME BYTES: a flat binary
    printf "$2" >"$dir/$1"
}
guest exit21 '\xb0\x15\xe6\xf4\xeb\xfe'                          # mov al, 21; out 0xf4, al; jmp .
guest hello '\xba\xf8\x03\xb0\x68\xee\xb0\x69\xee\xb0\x00\xe6\xf4\xf4' # "hi" to COM1, then exit 0
guest spin '\xeb\xfe'
guest ready '\xb0\x72\xe6\xe9\xeb\xfe'                           # "r" to port 0xe9, then spin
# lidt [table with limit 0]; int3
printf '\x2e\x0f\x01\x1e\x07\x00\xcc\x00\x00\x00\x00\x00\x00' >"$dir/triple"
guest post '\xb0\xa5\xe6\x80\xb0\x3c\xe6\x90\xe4\x90\xe6\xf4\xf4'    # POST a5 to 0x80, 3c to 0x90; exit with in al, 0x90
# xor ax, ax; mov ds, ax; sti; hlt; hlt; cli; mov ax, [0x46c]; out 0xf4, al
guest ticks '\x31\xc0\x8e\xd8\xfb\xf4\xf4\xfa\xa1\x6c\x04\xe6\xf4\xf4'
guest e9 '\xe4\xe9\xe6\xf4\xf4'                                  # in al, 0xe9; out 0xf4, al
flat="--load-at 0x8000"

check "exit port" 43 "" $flat --kernel "$dir/exit21" --exit-port 0xf4
check "serial output" 1 "hi" $flat --kernel "$dir/hello" --exit-port 0xf4
check "debug console reads 0xe9" $(((0xe9 << 1 | 1) & 255)) "" $flat --kernel "$dir/e9" --exit-port 0xf4
check "POST codes" $((0x1ff & 255)) "POST code a5" $flat --kernel "$dir/post" --post-port 0x80 --exit-port 0xf4
check "POST codes elsewhere" $(((0x3c << 1 | 1) & 255)) "POST code 3c" $flat --kernel "$dir/post" --post-port 0x90 --exit-port 0xf4
# "hi" to the debug console at 0x402; to the printer, "h" with a strobe, "i" without one; then exit with its paper bit
guest e402 '\xba\x02\x04\xb0\x68\xee\xb0\x69\xee\xb0\x00\xe6\xf4\xf4'
guest lpt '\xba\x78\x03\xb0\x68\xee\x42\x42\xb0\x0d\xee\xb0\x0c\xee\x4a\x4a\xb0\x69\xee\x42\xec\x24\x20\xe6\xf4\xf4'
check "debug console elsewhere" 1 "hi" $flat --kernel "$dir/e402" --exit-port 0xf4 --debugcon stdio --debugcon-port 0x402
check "no debug console there" 2 "debugcon-port" $flat --kernel "$dir/e402" --debugcon-port 0x3f8
check "debug console out of range" 2 "must be a number" $flat --kernel "$dir/e402" --debugcon-port 0x10000
check "a printer" 1 "" $flat --kernel "$dir/lpt" --exit-port 0xf4 --parallel "file:$dir/printed"
if [ "$(cat "$dir/printed")" = h ]; then
    echo "ok: what was printed"
else
    echo "FAILED: what was printed: $(head -c 20 "$dir/printed")"
    failed=1
fi
check "no printer" 65 "" $flat --kernel "$dir/lpt" --exit-port 0xf4
check "the printer's data as a debug console" 65 "hi" $flat --kernel "$dir/lpt" --exit-port 0xf4 --debugcon stdio --debugcon-port 0x378
check "a printer and a console there" 2 "debugcon-port" $flat --kernel "$dir/lpt" --parallel stdio --debugcon-port 0x378
check "a POST port that is taken" 2 "" $flat --kernel "$dir/post" --post-port 0x20
check "the timer ticks as under a BIOS" 5 "" $flat --kernel "$dir/ticks" --exit-port 0xf4
check "timeout" 124 "timeout" $flat --kernel "$dir/spin" --timeout 0.5
check "triple fault" 6 "triple fault" $flat --kernel "$dir/triple"
check "deterministic" 43 "" $flat --kernel "$dir/exit21" --exit-port 0xf4 --deterministic
check "interpreted" 43 "" $flat --kernel "$dir/exit21" --exit-port 0xf4 --no-translate
check "code memory" 43 "" $flat --kernel "$dir/exit21" --exit-port 0xf4 --code-memory 4M
check "code memory of an odd size" 2 "power of two" $flat --kernel "$dir/exit21" --code-memory 5M
check "too little code memory" 2 "between 4M and 1024M" $flat --kernel "$dir/exit21" --code-memory 1M
if [ "$(cat /sys/kernel/mm/ksm/run 2>/dev/null)" = 0 ]; then
    check "memory to merge, scanner off" 43 "nothing is merged" $flat --kernel "$dir/exit21" --exit-port 0xf4 --merge
elif [ -e /sys/kernel/mm/ksm/run ]; then
    check "memory to merge" 43 "" $flat --kernel "$dir/exit21" --exit-port 0xf4 --merge
fi
check "two processors" 43 "" $flat --kernel "$dir/exit21" --exit-port 0xf4 --cpus 2
check "two processors on one worker" 43 "" $flat --kernel "$dir/exit21" --exit-port 0xf4 --cpus 2 --workers 1
check "a timeout on workers" 124 "timeout" $flat --kernel "$dir/spin" --workers 2 --timeout 0.5
check "a crash on a worker" 6 "triple fault" $flat --kernel "$dir/triple" --workers 1
check "no workers in deterministic mode" 2 "exclude each other" $flat --kernel "$dir/exit21" --workers 1 --deterministic
check "trace" 43 "" $flat --kernel "$dir/exit21" --exit-port 0xf4 --cpus 2 --trace "$dir/trace.json"
if python3 - "$dir/trace.json" <<'PY'; then
import json, sys
events = json.load(open(sys.argv[1]))["traceEvents"]
runs = [e for e in events if e["name"] == "run"]
assert runs and all(e["ph"] == "X" and e["dur"] >= 0 and e["ts"] >= 0 and e["pid"] == 1 for e in runs)
assert all(isinstance(e["args"]["exit"], str) for e in runs)
assert {e["tid"] for e in events if e["name"] == "thread_name"} == {0, 1}
PY
    echo "ok: the trace is what viewers read"
else
    echo "FAILED: the trace is not what viewers read"
    failed=1
fi
check "trace nowhere" 4 "cannot create" $flat --kernel "$dir/exit21" --trace "$dir/none/trace"
check "no sandbox" 43 "" $flat --kernel "$dir/exit21" --exit-port 0xf4 --no-sandbox

check "nothing to run" 2 "nothing to run"
check "unknown option" 2 "unrecognized option" --frobnicate
check "bad engine" 2 "expected auto, kvm or soft" --engine tcg --kernel x
check "absurd memory" 2 "must be between" --kernel "$dir/spin" --mem 900T
check "tiny memory" 2 "must be between" --kernel "$dir/spin" --mem 4K
check "bad memory" 2 "not a size" --kernel "$dir/spin" --mem lots
check "no processors" 2 "must be a number" --kernel "$dir/spin" --cpus 0
check "too many processors" 2 "must be a number" --kernel "$dir/spin" --cpus 5000
check "unknown CPU model" 2 "no CPU model" $flat --kernel "$dir/spin" --cpu z80
check "unknown feature" 2 "" $flat --kernel "$dir/spin" --cpu default,+warp
check "exit port in use" 2 "exit port 0x3f8: a device" $flat --kernel "$dir/spin" --exit-port 0x3f8
check "no exit port" 2 "must be a number" $flat --kernel "$dir/spin" --exit-port 0
check "TAP without a name" 2 "name of the interface is missing" --kernel "$dir/spin" --net tap:
check "long TAP name" 4 "1 to 15 characters" $flat --kernel "$dir/spin" --net tap:0123456789abcdef
check "empty disk serial" 2 "1 to 20 characters" --kernel "$dir/spin" --disk "$dir/spin,serial="
check "missing kernel" 4 "No such file" --kernel "$dir/none"
check "kernel is a folder" 4 "not a regular file" --kernel "$dir"
check "missing disk" 4 "" $flat --kernel "$dir/spin" --disk "$dir/none"
check "bad disk option" 2 "unknown option" --kernel "$dir/spin" --disk "$dir/spin,rw"
printf 'QFI\xfb\0\0\0\3' >"$dir/qcow2"
truncate -s 1M "$dir/qcow2"
check "disk of another program" 4 "a qcow2 image, not a raw one" $flat --kernel "$dir/spin" \
    --disk "$dir/qcow2"
check "which is taken for raw" 43 "" $flat --kernel "$dir/exit21" --exit-port 0xf4 \
    --disk "$dir/qcow2,raw"
# Disks with a descriptor on a folder of the host are disks; its text is no raw disk.
"$vmcore" disk create "$dir/ours.vmdk" 1M || failed=1
check "a disk with a descriptor" 43 "" $flat --kernel "$dir/exit21" --exit-port 0xf4 \
    --disk "$dir/ours.vmdk"
cp "$dir/ours.vmdk" "$dir/descriptor"
check "a descriptor's text as a raw disk" 4 "a vmdk image, not a raw one" $flat \
    --kernel "$dir/spin" --disk "$dir/descriptor"
printf 'KDMV\1\0\0\0' >"$dir/sparse.vmdk"
truncate -s 1M "$dir/sparse.vmdk"
cp "$dir/sparse.vmdk" "$dir/sparse"
check "a sparse vmdk as a raw disk" 4 "a vmdk image, not a raw one" $flat --kernel "$dir/spin" \
    --disk "$dir/sparse"
check "a sparse vmdk without a descriptor" 4 "are no descriptor" $flat --kernel "$dir/spin" \
    --disk "$dir/sparse.vmdk"
cp "$dir/qcow2" "$dir/qcow2.vmdk"
check "a descriptor that is none" 4 "are no descriptor" $flat --kernel "$dir/spin" --disk "$dir/qcow2.vmdk"
head -c 700 /dev/urandom >"$dir/junk"
check "no known image" 4 "" --kernel "$dir/junk"
printf '\x7fELF\x02\x01\x01' >"$dir/elf"
check "truncated ELF" 4 "" --kernel "$dir/elf"

# Wait until a file holds a pattern, for as long as the process lives that writes it.
await() { # FILE PATTERN PID
    until grep -q -e "$2" "$1" 2>/dev/null; do
        kill -0 "$3" 2>/dev/null || return 1
        sleep 0.1
    done
}

# A disk is used by one run at a time.
truncate -s 1M "$dir/disk"
# (Without timeout(1), which may be gone before what it ran has let go of the disk.)
"$vmcore" run --engine soft $flat --kernel "$dir/ready" --disk "$dir/disk" --timeout 600 \
    --debugcon "file:$dir/first" >/dev/null 2>&1 </dev/null &
first=$!
await "$dir/first" r "$first"
check "locked disk" 4 "disk" $flat --kernel "$dir/spin" --disk "$dir/disk" --timeout 1
kill "$first" 2>/dev/null
wait "$first" 2>/dev/null
status=$?
if [ "$status" = 4 ]; then
    echo "ok: SIGTERM ends a run in order"
else
    echo "FAILED: SIGTERM ends a run in order: status $status (expected 4)"
    failed=1
fi

check "disk given twice" 2 "given twice" $flat --kernel "$dir/spin" --disk "$dir/disk" \
    --disk "$dir/./disk,ro"
check "disk shared for reading" 43 "" $flat --kernel "$dir/exit21" --exit-port 0xf4 \
    --disk "$dir/disk,ro" --disk "$dir/disk,ro"

# KVM, where there is one: guests that end, and one that halts for ever inside the kernel.
printf '\xfa\xf4\xeb\xfd' >"$dir/halt" # cli; hlt
check "halted with interrupts off" 4 "halted with interrupts off" $flat --kernel "$dir/halt"
if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
    for cpus in 1 2; do
        check "KVM exit port, $cpus" 43 "" $flat --kernel "$dir/exit21" --exit-port 0xf4 \
            --engine kvm --cpus $cpus
        check "KVM halted with interrupts off, $cpus" 4 "halted with interrupts off" $flat \
            --kernel "$dir/halt" --engine kvm --cpus $cpus
    done
    printf '\xfb\xf4\xeb\xfd' >"$dir/sleep" # sti; hlt
    check "KVM sleeps with interrupts on" 124 timeout $flat --kernel "$dir/sleep" --engine kvm \
        --timeout 3
else
    echo "**** SKIP: KVM engine: /dev/kvm cannot be opened"
fi

# A debugger on a 32-bit program.
cat >"$dir/g32.c" <<'C'
__attribute__((section(".text.0"))) const unsigned header[] = {0x1badb002, 0, -0x1badb002};
volatile int counter;
void stop(void) { for (;;) counter++; }
void _start(void) { counter = 41; stop(); }
C
printf 'ENTRY(_start) SECTIONS { . = 0x100000; .text : { *(.text.0) *(.text*) *(.data*) *(.bss*) } }' \
    >"$dir/g32.ld"
if ! command -v gdb >/dev/null; then
    echo "**** SKIP: debugger: gdb is not installed"
elif gcc -m32 -g -w -ffreestanding -fno-pic -no-pie -nostdlib -static -Wl,-n,--build-id=none \
    -Wl,-T,"$dir/g32.ld" "$dir/g32.c" -o "$dir/g32.elf"; then
    timeout -k 5 600 "$vmcore" run --engine soft --kernel "$dir/g32.elf" --gdb 0 >"$dir/out" 2>&1 \
        </dev/null &
    vm=$!
    await "$dir/out" "waiting for gdb" "$vm"
    port=$(sed -n 's/.*waiting for gdb: target remote 127.0.0.1://p' "$dir/out")
    timeout -k 5 500 gdb -nx -batch -ex "set tcp connect-timeout 300" \
        -ex "set remotetimeout 300" -ex "target remote 127.0.0.1:$port" -ex "break stop" -ex continue \
        -ex "print counter" -ex "print \$eip == (long)\$pc" -ex kill "$dir/g32.elf" \
        >"$dir/gdb" 2>&1 </dev/null
    wait "$vm"
    if grep -q '^Breakpoint 1, .*stop ()' "$dir/gdb" && grep -q '= 41$' "$dir/gdb" &&
        grep -q '= 1$' "$dir/gdb"; then
        echo "ok: debugger on a 32-bit program"
    else
        echo "FAILED: debugger on a 32-bit program:"
        cat "$dir/gdb"
        failed=1
    fi
fi

# The protocol by hand: steps are of one instruction whatever runs the vCPUs; a breakpoint is met each time
# round; one that is left by a debugger that goes away stops nobody.
guest round '\x90\x90\x90\xeb\xfb'
cat >"$dir/steps.py" <<'PY'
import json, re, socket, subprocess, sys
vmcore, kernel, control, *options = sys.argv[1:]
vm = subprocess.Popen([vmcore, "run", "--engine", "soft", "--kernel", kernel, "--load-at", "0x8000", "--gdb", "0",
                       "--control", control, "--timeout", "500", *options],
                      stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
line = vm.stderr.readline().decode()
gdb = socket.create_connection(("127.0.0.1", int(re.search(r"127.0.0.1:(\d+)", line)[1])))
gdb.settimeout(300)
left = b""
def command(text):
    global left
    gdb.sendall(b"$%s#%02x" % (text.encode(), sum(text.encode()) & 255))
    while not (m := re.search(rb"\$([^#]*)#..", left)):
        more = gdb.recv(65536)
        assert more, "the connection is closed"
        left += more
    left = left[m.end():]
    return m[1].decode()
def rip():
    return int(command("p10")[:2], 16)
try:
    command("QStartNoAckMode")
    assert rip() == 0
    for i in range(200):
        assert command("vCont;s:1").startswith("T05thread:1;"), i
        assert rip() == (i + 1) % 4, i
    for i in range(50):
        assert command("Z0,8002,1") == "OK"
        assert command("c") == "T05thread:1;hwbreak:;", i
        assert rip() == 2
        assert command("z0,8002,1") == "OK"
        command("vCont;s:1")
    def call(method):
        s = socket.socket(socket.AF_UNIX)
        s.connect(control)
        s.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method}).encode() + b"\n")
        return json.loads(s.makefile().readline())["result"]
    # Somebody else may pause it, but not let it go on while the debugger looks at it.
    call("pause")
    call("resume")
    before = call("stats")["vcpus"][0]["instructions"]
    for i in range(20):
        assert rip() == 3
    assert call("stats")["vcpus"][0]["instructions"] == before
    assert command("Z0,8002,1") == "OK"
    gdb.close()
    def instructions():
        call("pause")
        n = call("stats")["vcpus"][0]["instructions"]
        call("resume")
        return n
    first = instructions()
    while instructions() < first + 1000:
        pass
finally:
    vm.kill()
PY
for options in "" "--deterministic" "--workers 1" "--cpus 2 --workers 2" "--cpus 2"; do
    # shellcheck disable=SC2086
    if timeout -k 5 400 python3 "$dir/steps.py" "$vmcore" "$dir/round" "$dir/steps.sock" $options >"$dir/out" 2>&1; then
        echo "ok: steps and breakpoints $options"
    else
        echo "FAILED: steps and breakpoints $options:"
        cat "$dir/out"
        failed=1
    fi
done

# Control socket and statistics.
timeout -k 5 620 "$vmcore" run --engine soft $flat --kernel "$dir/spin" --control "$dir/sock" \
    --stats "$dir/stats.json" --timeout 600 >/dev/null 2>&1 </dev/null &
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
def call(method, **kw):
    f.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, **kw}) + "\n")
    f.flush()
    return json.loads(f.readline())
assert call("status")["result"]["state"] == "running"
assert call("pause")["result"] is True
assert call("status")["result"]["state"] == "paused"
a = call("stats")["result"]["vcpus"][0]["instructions"]
assert call("stats")["result"]["vcpus"][0]["instructions"] == a
assert call("resume")["result"] is True
assert call("nonsense")["error"]["code"] == -32601
assert call("status", params=7)["error"]["code"] == -32602
f.write("}{\n")
f.flush()
assert json.loads(f.readline())["error"]["code"] == -32700
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b'{"jsonrpc":"2.0","id":2,"method":"quit"}\n')
assert json.loads(s.makefile().readline())["result"] is True
print("ok: control socket")
PY
wait "$vm"
status=$?
if [ "$status" != 0 ] || ! python3 -c "
import json, sys
d = json.load(open('$dir/stats.json'))
assert d['engine'] == 'soft' and d['vcpus'][0]['instructions'] > 0, d"; then
    echo "FAILED: statistics (status $status)"
    failed=1
else
    echo "ok: statistics"
fi
exit $failed

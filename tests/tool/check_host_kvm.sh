#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# "vmcore host" with VMs on KVM, alone and beside one on the software CPU: the same sharing, the
# same policy, and memory that is too small. Tiny guests in real mode.
# Usage: check_host_kvm.sh VMCORE    77: KVM or userfaultfd is not to be had here
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
guest stuck '\xfa\xf4\xeb\xfe'                    # cli; hlt; jmp .
# Touch a byte of each page from 0x10000 to 0x90000, then spin.
guest touch '\xb8\x00\x10\x8e\xd8\xc6\x06\x00\x00\x5a\x05\x00\x01\x3d\x00\x90\x75\xf1\xeb\xfe'
# Write 16 words of each page from 0x10000 to 0x90000, values from the time stamp counter; then see
# whether they are still there, and write others; twice, then exit. Otherwise it is stuck.
{
    printf '\x0f\x31\x89\xc6\x31\xed'                     # rdtsc; mov si, ax; xor bp, bp
    printf '\xbb\x00\x10\x8e\xdb\x8e\xc3'                 # pass: mov bx, 0x1000; page: mov ds, bx; mov es, bx
    printf '\x89\xda\x31\xf2\x01\xea\x85\xed\x74\x14'     # mov dx, bx; xor dx, si; add dx, bp; test bp, bp; jz fill
    printf '\x89\xd0\x31\xff\xb9\x10\x00'                 # mov ax, dx; xor di, di; mov cx, 16
    printf '\x3b\x05\x75\x32\x05\x37\x9e'                 # check: cmp ax, [di]; jne bad; add ax, 0x9e37
    printf '\x81\xc7\x00\x01\xe2\xf3'                     # add di, 256; loop check
    printf '\x89\xd0\x40\x31\xff\xb9\x10\x00'             # fill: mov ax, dx; inc ax; xor di, di; mov cx, 16
    printf '\x89\x05\x81\xc7\x00\x01\x05\x37\x9e\xe2\xf5' # store: mov [di], ax; add di, 256; add ax, 0x9e37; loop store
    printf '\x81\xc3\x00\x01\x81\xfb\x00\x90\x75\xc1'     # add bx, 0x100; cmp bx, 0x9000; jne page
    printf '\x45\x83\xfd\x02\x75\xb8'                     # inc bp; cmp bp, 2; jne pass
    printf '\xb0\x00\xe6\xf4\xeb\xfe'                     # mov al, 0; out 0xf4, al; jmp .
    printf '\xfa\xf4\xeb\xfe'                             # bad: cli; hlt; jmp .
} >"$dir/churn"

# run TEXT: a host with this configuration
run() {
    printf '%s\n' "$1" >"$dir/host.cfg"
    timeout -k 5 300 "$vmcore" host "$dir/host.cfg" >"$dir/out" 2>&1 </dev/null
}
run 'host_memory = "16M"; vms = ( { engine = "kvm"; kernel = "'$dir'/exit21"; load_at = 0x8000;
    memory = "4M"; exit_port = 0xf4; } );'
status=$?
if [ $status != 0 ] && grep -q -e '--engine kvm:' -e 'no KVM engine' -e 'userfaultfd' "$dir/out"; then
    echo "SKIPPED, VMs of a host cannot run on KVM here: $(head -1 "$dir/out")"
    exit 77
fi
verdict "a VM on KVM runs and exits" [ $status = 0 ]
run 'host_memory = "16M"; vms = ( { engine = "kvm"; kernel = "'$dir'/stuck"; load_at = 0x8000;
    memory = "4M"; } );'
verdict "a guest that is stuck fails" eval "[ $? = 4 ] && grep -q 'halted with interrupts off' '$dir/out'"

# Both engines on one pool: pages alike are one page, whoever runs the guest.
printf '%s\n' 'host_memory = "16M"; control = "'$dir'/socket"; cpus = 2;
vms = (
  { name = "a"; engine = "kvm"; kernel = "'$dir'/touch"; load_at = 0x8000; memory = "4M"; trust = "t"; },
  { name = "b"; engine = "soft"; kernel = "'$dir'/touch"; load_at = 0x8000; memory = "4M"; trust = "t"; },
  { name = "c"; engine = "kvm"; kernel = "'$dir'/touch"; load_at = 0x8000; memory = "4M"; }
);' >"$dir/host.cfg"
"$vmcore" host "$dir/host.cfg" >"$dir/host.out" 2>&1 </dev/null &
host=$!
shared() { # waits until a VM of each engine saves what the guest has touched
    python3 - "$vmcore" "$dir/socket" <<'END'
import json, subprocess, sys, time
touched = 128 * 4096
for i in range(600):
    p = subprocess.run([sys.argv[1], "ctl", "--json", sys.argv[2], "stats"], capture_output=True)
    try:
        vm = {v["name"]: v["memory"] for v in json.loads(p.stdout)["vms"]}
    except (ValueError, KeyError):
        vm = {}
    if vm and all(v["shared"] >= touched for v in vm.values()):
        # one frame for both of a group: each pays half. c shares within itself only.
        assert vm["a"]["saved"] >= touched // 2 and vm["b"]["saved"] >= touched // 2, vm
        assert vm["c"]["consumed"] < touched // 2, vm
        sys.exit(0)
    time.sleep(0.1)
sys.exit(f"not shared: {vm}")
END
}
verdict "pages are shared across engines" eval "shared >'$dir/out' 2>&1"
kill -TERM "$host"
wait "$host"
status=$?
host=
verdict "SIGTERM ends everything in order" eval "[ $status = 0 ] && [ ! -s '$dir/host.out' ]"

# More is written than there is memory: nothing is lost.
vms=
for i in $(seq 34); do
    vms="$vms${vms:+,} { engine = \"kvm\"; kernel = \"$dir/churn\"; load_at = 0x8000; memory = \"4M\"; exit_port = 0xf4; }"
done
run 'host_memory = "16M"; swap = "'$dir'"; cpus = 2; vms = ( '"$vms"' );'
verdict "34 VMs keep 17 MiB in 16" eval "[ $? = 0 ] && [ ! -s '$dir/out' ]"
exit $failed

#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# The kernel and its drivers, tested from inside. Usage: kernel.sh BUILD MACHINE CONTROLLER
# CONTROLLER: ata, ahci, nvme, nvme4k, virtio, virtio32 (queues of 32 entries), or none; or stalls: one of
# each kind that is far too slow
# shellcheck source=tests/baremetal/lib.sh
. "$(dirname "$0")/lib.sh"
m=$1 controller=$2
need_machine "$m"
command -v python3 >/dev/null || skip "python3 is not installed"
dir=$build/tests/baremetal/$m-$controller
mkdir -p "$dir"
disk=$dir/disk.img

# 8 MiB: each 64-bit word says which it is. After the test the second half is inverted.
cat >"$dir/pattern.py" <<'PY'
import struct, sys
MAGIC, N = 0x766d636f72655f31, 1 << 20
half = N // 2
data = struct.pack(f"<{N}Q", *(MAGIC ^ i for i in range(N)))
if sys.argv[1] == "make":
    open(sys.argv[2], "wb").write(data)
else:
    want = data[:half * 8] + struct.pack(f"<{half}Q", *(~(MAGIC ^ i) & (2**64 - 1) for i in range(half, N)))
    sys.exit(open(sys.argv[2], "rb").read() != want)
PY
python3 "$dir/pattern.py" make "$disk"
drive="-drive file=$disk,format=raw,if=none,id=d"
net="-netdev user,id=n -device virtio-net-pci,netdev=n"
options=()
case $controller in
none) ;;
ata) options=(--disk "$disk") ;;
# requests finish one by one, not all at once
ahci) options=(--qemu "$drive,throttling.iops-total=4000 -device ahci,id=ah -device ide-hd,bus=ah.0,drive=d") ;;
nvme) options=(--qemu "$drive -device nvme,serial=a,drive=d") ;;
nvme4k) options=(--qemu "$drive -device nvme,serial=a,drive=d,logical_block_size=4096,physical_block_size=4096") ;;
virtio) options=(--qemu "$drive -device virtio-blk-pci,drive=d $net") ;;
stalls)
    for i in 1 2 3 4; do cp "$disk" "$disk.$i"; done
    slow() { echo "-drive file=$disk.$1,format=raw,if=none,id=d$1,throttling.bps-total=4096"; }
    options=(--append "panic=poweroff stalls=1" --qemu "$(slow 1) -device ide-hd,bus=ide.0,drive=d1 \
        $(slow 2) -device ahci,id=ah -device ide-hd,bus=ah.0,drive=d2 \
        $(slow 3) -device nvme,serial=a,drive=d3 $(slow 4) -device virtio-blk-pci,request-merging=off,drive=d4") ;;
virtio32) options=(--append "panic=poweroff rest=1" --qemu "$drive -device virtio-blk-pci,queue-size=32,drive=d") ;;
*) echo "no controller $controller"; exit 2 ;;
esac
machine "$dir/log.txt" 200 --machine "$m" --kernel "$build/bin/kernel_test" --cpus 2 --mem 256 \
    "${options[@]}"
want "$dir/log.txt" "^RESULT: [1-9][0-9]* passed, 0 failed$"
forbid "$dir/log.txt" "PANIC|FAIL"
if [ "$controller" = stalls ]; then
    [ "$(grep -c "^PASS disk .*: works again$" "$dir/log.txt")" = 4 ] || fail "not all disks work again"
    [ "$(grep -c "^PASS disk .*: no write after its lease$" "$dir/log.txt")" = 4 ] ||
        fail "not all disks heed a lease"
    [ "$(grep -c "not finished at the end of a lease" "$dir/log.txt")" = 4 ] || fail "not ended by the lease"
elif [ "$controller" != none ]; then
    [ "$controller" != virtio32 ] || want "$dir/log.txt" "^PASS disk .*: rests$"
    forbid "$dir/log.txt" "not finished after"
    want "$dir/log.txt" "^PASS disk .*: writes$"
    python3 "$dir/pattern.py" check "$disk" || fail "the disk does not hold what was written"
fi
[ "$controller" != virtio ] || want "$dir/log.txt" "^PASS network"
verdict

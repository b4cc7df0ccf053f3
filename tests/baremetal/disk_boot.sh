#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# A guest that boots from its disk, as a machine does: SeaBIOS, GRUB, and then the hypervisor again,
# inside itself. Usage: disk_boot.sh BUILD MACHINE ENGINE SECONDS
# shellcheck source=tests/baremetal/lib.sh
. "$(dirname "$0")/lib.sh"
m=$1 engine=$2 seconds=$3
bios=/usr/share/seabios/bios-256k.bin
need_machine "$m"
need_machine bochs # for GRUB
[ -s $bios ] || skip "seabios is not installed"
dir=$build/tests/baremetal/disk-boot
mkdir -p "$dir"
echo "hypervisor { when_done = poweroff }" >"$dir/inner.conf"
"$root/scripts/baremetal" --work "$dir/inner" --kernel "$build/bin/baremetal" \
    --module "$dir/inner.conf=vmcore.conf" --iso "$dir/disk.img"
cat >"$dir/vmcore.conf" <<'CONF'
hypervisor { when_done = poweroff }
guest outer { firmware = bios.bin; disk = disk.img; mem = 64M }
CONF
machine "$dir/log.txt" "$seconds" --machine "$m" --mem 512 \
    --module "$dir/vmcore.conf=vmcore.conf" --module "$bios=bios.bin" \
    --module "$dir/disk.img=disk.img"
want "$dir/log.txt" "^\[vmcore\] engine: $engine$"
want "$dir/log.txt" "^\[outer\] vmcore bare-metal kernel, loaded .* by GRUB"
want "$dir/log.txt" "^\[outer\] acpi: VMCORE"
want "$dir/log.txt" "^\[outer\] \[vmcore\] every guest has ended, switching off$"
want "$dir/log.txt" "^\[vmcore\] outer: ended: powered off$"
want "$dir/log.txt" "^\[vmcore\] outer: [1-9][0-9]* pages returned, 0 leaked$"
forbid "$dir/log.txt" "PANIC"
verdict

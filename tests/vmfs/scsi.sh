#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# VMFS on SCSI disks that hosts share: a Linux guest in QEMU with a SCSI target of its kernel (LIO), one
# disk with two paths, and a second kind of disk (scsi_debug). What is done there is in scsi_guest.sh.
# Usage: scsi.sh VMCORE PROCESSES SCSI_COMMAND SCSI_HOST GUEST-DIRECTORY [PART]
set -euo pipefail
vmcore=$1 processes=$2 scsi_command=$3 scsi_host=$4 guest=$5 part=${6:-all}
here=$(cd "$(dirname "$0")" && pwd)
skip() { echo "SKIPPED: $*"; exit 77; }
command -v qemu-system-x86_64 >/dev/null || skip "qemu-system-x86_64 is not installed"
command -v busybox >/dev/null && command -v cpio >/dev/null || skip "busybox-static and cpio are needed"
[ -s "$guest/vmlinuz" ] && [ -s "$guest/scsi/order" ] ||
    skip "no kernel with SCSI targets (scripts/fetch-vmware-guest $guest)"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
root=$dir/root
mkdir -p "$root"/{bin,dev,proc,sys,tmp,etc/target/pr,lib64,lib/modules}
cp "$(command -v busybox)" "$root/bin/busybox"
cp "$guest"/scsi/* "$root/lib/modules/"
install -m 755 "$here/scsi_guest.sh" "$root/init"
for p in vmcore processes scsi_command scsi_host; do
    strip -o "$root/bin/$p" "${!p}"
    # The libraries that it says it needs, where it looks for them.
    ldd "${!p}" | grep -o '/[^ ]*' | while read -r lib; do
        mkdir -p "$root/$(dirname "$lib")"
        [ -e "$root/$lib" ] || cp -L "$lib" "$root/$lib"
    done
done
(cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$dir/initrd"
timeout -k 5 "${VMC_VMFS_SCSI_TIMEOUT:-1500}" qemu-system-x86_64 -M q35,accel=tcg -cpu max -smp 2 -m 2048 -display none \
    -no-reboot -nodefaults -serial "file:$dir/console" -kernel "$guest/vmlinuz" -initrd "$dir/initrd" \
    -append "console=ttyS0 panic=-1 quiet cryptomgr.notests mitigations=off seconds=${VMC_VMFS_SECONDS:-40} part=$part" ||
    { cat "$dir/console"; echo "FAILED: the machine ended with status $?"; exit 1; }
tr -d '\r' <"$dir/console"
grep -q '^all passed' "$dir/console"

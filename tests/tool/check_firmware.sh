#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Firmware images: SeaBIOS boots a GRUB disk to its prompt, OVMF reaches its shell.
# Usage: check_firmware.sh VMCORE
set -u
vmcore=$1
seabios=/usr/share/seabios/bios-256k.bin
ovmf=/usr/share/ovmf/OVMF.fd
grub=/usr/lib/grub-rescue/grub-rescue-usb.img
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0
ran=0

# wait_for NAME PATTERN KEY ARGS...: press KEY every two seconds until PATTERN is on the console
wait_for() {
    local name=$1 pattern=$2 key=$3 vm i
    shift 3
    mkfifo "$dir/keys"
    timeout -k 5 1200 "$vmcore" run --engine soft "$@" <"$dir/keys" >"$dir/out" 2>&1 &
    vm=$!
    exec 8>"$dir/keys"
    for i in $(seq 550); do
        printf '%s' "$key" >&8
        sleep 2
        grep -q -a "$pattern" "$dir/out" && break
        kill -0 "$vm" 2>/dev/null || break
    done
    exec 8>&-
    kill "$vm" 2>/dev/null
    wait "$vm" 2>/dev/null
    rm "$dir/keys"
    ran=1
    if grep -q -a "$pattern" "$dir/out"; then
        echo "ok: $name"
    else
        echo "FAILED: $name; the end of the console:"
        tail -c 1500 "$dir/out"
        failed=1
    fi
}

if [ -r "$seabios" ] && [ -r "$grub" ]; then
    cp "$grub" "$dir/grub.img"
    wait_for "GRUB's prompt on SeaBIOS" "grub>" c --firmware "$seabios" --disk "$dir/grub.img"
else
    echo "**** SKIP: the packages seabios and grub-rescue-pc are needed"
fi
if [ -r "$ovmf" ]; then
    wait_for "OVMF's shell" "Shell>" "" --firmware "$ovmf"
else
    echo "**** SKIP: the package ovmf is needed"
fi
[ $ran = 1 ] || exit 77
exit $failed

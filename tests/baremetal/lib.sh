# SPDX-License-Identifier: BSD-2-Clause
# What the tests of the bare-metal kernel share.
# shellcheck shell=bash
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$(cd "$1" && pwd)
shift
fails=0

skip() {
    case ",${VMC_TEST_REQUIRE:-}," in
    *,baremetal,*) echo "**** FAIL: $*"; exit 1 ;;
    esac
    echo "**** SKIP: $*"
    exit 77
}

# need_machine M: skip where its emulator is missing
need_machine() {
    case $1 in
    bochs*) command -v bochs >/dev/null || skip "bochs is not installed"
            command -v grub-mkrescue >/dev/null || skip "grub-mkrescue is not installed" ;;
    *) command -v qemu-system-x86_64 >/dev/null || skip "qemu-system-x86_64 is not installed" ;;
    esac
    if [ "$1" = qemu-uefi ]; then
        command -v grub-mkrescue >/dev/null || skip "grub-mkrescue is not installed"
        [ -d /usr/lib/grub/x86_64-efi ] || skip "grub-efi-amd64-bin is not installed"
        [ -s /usr/share/OVMF/OVMF_CODE.fd ] || skip "ovmf is not installed"
    fi
}

need_guest() {
    "$root/scripts/fetch-guest" "$build/guest" || skip "no guest kernel could be fetched"
}

# Limits of a machine: so many seconds of its emulator's processor time, which do not depend on what
# else the host does; and, for one that sleeps for ever, many more by the clock.
limits() { echo "--cpu-limit $1 --timeout $(($1 * 8))"; }

# machine LOG SECONDS OPTION...: run, keep the transcript, show it
machine() {
    local log=$1 seconds=$2 status=0
    shift 2
    # shellcheck disable=SC2046
    "$root/scripts/baremetal" --kernel "$build/bin/baremetal" --work "${log%.txt}.work" \
        --append panic=poweroff $(limits "$seconds") \
        "$@" </dev/null >"$log.raw" 2>&1 || status=$?
    tr -d '\r' <"$log.raw" >"$log"
    rm -f "$log.raw"
    cat "$log"
    case $status in
    124) fail "the machine did not end in $((seconds * 8)) s" ;;
    137 | 152) fail "the machine used up $seconds s of processor time" ;;
    esac
}

fail() {
    echo "**** FAIL: $*"
    fails=$((fails + 1))
}

want() {
    grep -qE "$2" "$1" || fail "missing in the transcript: $2"
}

forbid() {
    ! grep -qE "$2" "$1" || fail "in the transcript: $2"
}

# What a Linux guest says when the machine did something that it should not have. Advice about
# weaknesses of the processor that is emulated is none of it.
forbid_complaints() {
    grep -E '^\[[^]]+\] \[ *[0-9]+\.[0-9]+\]' "$1" | grep -v "Speculative Return Stack Overflow" >"$1.said"
    [ -s "$1.said" ] || fail "no message of a guest's kernel in the transcript"
    forbid "$1.said" "WARNING:|Call Trace|cut here|BUG|Oops|general protection|[Kk]ernel panic|end Kernel"
    forbid "$1.said" "lockup|detected stalls|rcu.*(stall|starved)|hung_task|blocked for more than"
    forbid "$1.said" "unchecked MSR|clocksource.*(unstable|skew|wd)|TSC.*(unstable|unreliable|warp)"
    forbid "$1.said" "nobody cared|IRQ #|spurious|[Tt]ime went backwards|APIC error|Machine [Cc]heck"
    forbid "$1.said" "Firmware Bug"
}

verdict() {
    [ $fails = 0 ] && echo "**** PASS"
    exit $((fails != 0))
}

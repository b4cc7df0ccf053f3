#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Python, gcc, luajit, node and stress-ng of Debian's packages in a guest, from a disk image; what they print is
# compared with the same programs on the host (whose CPU model the guest has, because the C library
# chooses its functions by it). Takes from a minute (all but stress-ng) to hours (stress-ng
# class by class), so VMC_LONG_TESTS=1 asks for it.
# Usage: programs_test.sh VMCORE GUESTDIR [python] [gcc] [luajit] [node] [CLASS of stress-ng...]
#            [python:MODULE of Python's own tests...] [go:PACKAGE of Go's standard library...]
# Environment: CPUS (2), VMCORE_ARGS, SECONDS_EACH (1) of each stressor, TIMEOUT (6000),
#   ARCH=i386 (32-bit programs, which come to GUESTDIR/i386), KERNELDIR (whose vmlinuz and fsmodules
#   to take), and what fetch-guest-programs takes: go: needs PACKAGES=golang-go
set -u
vmcore=$1 guest=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
skip() {
    echo "$1"
    exit 77
}
[ "${VMC_LONG_TESTS:-0}" = 1 ] || skip "long; VMC_LONG_TESTS=1 runs it"
[ -s "$guest/vmlinuz" ] || skip "no guest kernel (scripts/fetch-guest $guest)"
[ -z "${ARCH:-}" ] || guest=$guest/$ARCH
# shellcheck disable=SC2086
"$here/../../scripts/fetch-guest-programs" "$guest" ${ARCH:-} || exit 1
kernel=${KERNELDIR:-$guest}

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# ---- what runs, in the guest and on the host --------------------------------------------------

mkdir "$tmp/tests"
cp "$here"/programs.{py,c,lua,js} "$tmp/tests/"
cat >"$tmp/tests/compare" <<'END'
#!/bin/busybox sh
# Programs whose output must be the host's. Argument: python, gcc, luajit, node, python:... or go:...
set -e
export PATH=/usr/bin:/bin LC_ALL=C HOME=/tmp
cd /tests
verdicts() { # "ok TEST", "FAIL TEST", of the output of a unit test
    busybox sed -nE 's/ \([0-9.]+s\)$//; s/^ *--- PASS: /ok /p; s/^ *--- FAIL: /FAIL /p
        s/^(test[^ ]* \([^ ]*\)).* \.\.\. .*ok$/ok \1/p; s/^(FAIL|ERROR): (test.*)/FAIL \2/p' | busybox sort -u
}
case $1 in
python) python3 programs.py ;;
luajit) luajit programs.lua ;;
python:*) # -u none: nothing that takes a network, much disk or an hour
    cd /tmp
    PYTHONDONTWRITEBYTECODE=1 python3 -m test -u none -v "${1#*:}" >log 2>&1 </dev/null || :
    verdicts <log ;;
go:*)
    cd "/usr/lib/go/src/${1#*:}" # which has the tests' data
    "/tests/$(echo "$1" | busybox tr :/ __)" -test.short -test.v >/tmp/log 2>&1 || :
    verdicts </tmp/log ;;
node) # not to a terminal, where numbers would be coloured
    unset NODE_OPTIONS NODE_EXTRA_CA_CERTS
    node programs.js >/tmp/out
    busybox cat /tmp/out ;;
gcc)
    for o in "-O0" "-O2" "-O3 -ffast-math" "-O2 -march=x86-64-v2"; do
        gcc $o -fno-ident -w -o /tmp/a.out programs.c -lm
        busybox md5sum </tmp/a.out
        /tmp/a.out
    done ;;
esac
END
chmod 755 "$tmp/tests/compare"

# A command on the host: in the programs' root, with a loopback of its own.
native() {
    # shellcheck disable=SC2016
    unshare -rmn /bin/sh -c 'busybox ip link set lo up; r=$0; mount --rbind /dev "$r/dev"
        mount --rbind /proc "$r/proc"; mount --rbind /sys "$r/sys"; mount -t tmpfs t "$r/tmp"
        exec chroot "$r" "$@"' "$guest/root" "$@"
}
for t in "$@"; do # Go's tests are compiled here
    case $t in
    go:*)
        program=$(echo "$t" | tr :/ __)
        native /bin/busybox sh -c "cd /usr/lib/go/src/${t#*:} && HOME=/tmp CGO_ENABLED=0 GO111MODULE=off \
            /usr/lib/go/bin/go test -c -o /tests/$program ." || exit 1
        mv "$guest/root/tests/$program" "$tmp/tests/"
        ;;
    esac
done

# ---- the guest --------------------------------------------------------------------------------

root="$tmp/initrd"
mkdir -p "$root"/{bin,dev,proc,sys,mnt,lib,tests}
cp "$guest/root/bin/busybox" "$root/bin/"
cp "$kernel"/fsmodules/* "$root/lib/"
cp "$tmp"/tests/* "$root/tests/"
cat >"$root/init" <<END
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
for m in \$(cat /lib/order); do insmod /lib/\$m; done
mount -t ext4 /dev/vda /mnt || poweroff -f
mount -o bind /dev /mnt/dev; mount -t proc p /mnt/proc; mount -t sysfs s /mnt/sys
mount -t tmpfs t /mnt/tmp; mkdir -p /dev/shm /dev/pts; mount -t tmpfs t /dev/shm; mount -t devpts p /dev/pts
mount -o bind /dev/shm /mnt/dev/shm; mount -o bind /dev/pts /mnt/dev/pts; ifconfig lo 127.0.0.1 up
cp /tests/* /mnt/tests/
for t in $*; do
    echo "== \$t"
    case \$t in
    python|gcc|luajit|node|*:*) chroot /mnt /tests/compare \$t 2>&1; echo "== status \$?" ;;
    *) cd /tmp 2>/dev/null
       chroot /mnt /bin/busybox sh -c "cd /tmp; stress-ng --class \$t --seq ${CPUS:-2} --verify \
           --timeout ${SECONDS_EACH:-1} --metrics-brief --oomable" >/mnt/tmp/log 2>&1
       rc=\$?
       grep -E 'fail|error|verif|untrustworthy|unsuccess' /mnt/tmp/log | head -40
       tail -3 /mnt/tmp/log
       echo "== status \$rc" ;;
    esac
done
echo "== end"
umount /mnt/tmp; mount -o remount,ro /mnt
poweroff -f
END
chmod 755 "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) >"$tmp/initrd.img"
cp --sparse=always "$guest/programs.img" "$tmp/disk.img"

# shellcheck disable=SC2086
timeout "${TIMEOUT:-6000}" "$vmcore" run --cpus="${CPUS:-2}" --mem=1024 --kernel="$kernel/vmlinuz" \
    --initrd="$tmp/initrd.img" --disk="$tmp/disk.img" --cpu=host ${VMCORE_ARGS:-} \
    --cmdline="console=ttyS0 panic=-1 quiet" </dev/null 2>&1 | tr -d '\r' >"$tmp/log"
grep -q '^== end' "$tmp/log" || {
    tail -20 "$tmp/log"
    echo "the guest did not come to its end"
    exit 1
}

# ---- the comparison ---------------------------------------------------------------------------

section() { sed -n "\|^== $1\$|,/^== status/p" "$tmp/log" | grep -v -e '^==' -e '^\[ *[0-9]'; }
failed=0
for t in "$@"; do
    status=$(sed -n "\|^== $t\$|,/^== status/p" "$tmp/log" | sed -n 's/^== status //p')
    case $t in
    python | gcc | luajit | node)
        cp "$tmp"/tests/* "$guest/root/tests/"
        native /bin/busybox sh /tests/compare "$t" >"$tmp/host" 2>&1
        section "$t" >"$tmp/guest"
        if [ "$status" = 0 ] && [ -s "$tmp/host" ] && diff "$tmp/host" "$tmp/guest"; then
            echo "$t: $(wc -l <"$tmp/guest") lines as on the host"
        else
            echo "$t: FAILED, status $status"
            failed=1
        fi
        ;;
    *:*) # what fails on the host may fail
        cp "$tmp"/tests/* "$guest/root/tests/"
        native /bin/busybox sh /tests/compare "$t" >"$tmp/host" 2>&1
        section "$t" >"$tmp/guest"
        ok=$(grep -c '^ok ' "$tmp/guest")
        if [ "$status" = 0 ] && [ "$ok" -gt 0 ] &&
            ! grep '^FAIL ' "$tmp/guest" | grep -vxF -f <(echo; grep '^FAIL ' "$tmp/host"); then
            echo "$t: $ok passed, $(grep -c '^ok ' "$tmp/host") on the host"
        else
            echo "$t: FAILED, status $status, $ok passed, $(grep -c '^ok ' "$tmp/host") on the host"
            failed=1
        fi
        ;;
    *)  # 0: all passed; 3, 4: some lack a resource or are not implemented here
        section "$t"
        case $status in
        0 | 3 | 4) echo "stress-ng class $t: passed (status $status)" ;;
        *) echo "stress-ng class $t: FAILED, status $status"; failed=1 ;;
        esac
        ;;
    esac
done
exit $failed

#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# "vmcore run" with Debian's kernel: processors, kernel log, disk, both kinds of network, power-off and
# reboot. Usage: check_linux.sh VMCORE GUEST-DIRECTORY ENGINE
set -u
vmcore=$1
guest=$2
engine=$3
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; rm -rf "$dir"' EXIT
failed=0

skip() {
    echo "**** SKIP: $*"
    exit 77
}
command -v busybox >/dev/null && command -v cpio >/dev/null || skip "busybox-static and cpio are needed"
"$here/../../scripts/fetch-guest" "$guest" || skip "no guest kernel could be fetched"

# guest NAME COMMANDS ARGS...: run shell commands in the guest; its console is in $dir/NAME
guest() {
    local name=$1 commands=$2
    shift 2
    timeout -k 5 900 "$vmcore" run --engine "$engine" --kernel "$guest/vmlinuz" \
        --initrd "$guest/initrd" --timeout 850 "$@" --serial "file:$dir/$name" \
        --cmdline "console=ttyS0 panic=-1 cryptomgr.notests run=$(tr ' ' + <<<"$commands")" \
        </dev/null >"$dir/$name.out" 2>&1
    status=$?
    tr -d '\r' <"$dir/$name" >"$dir/$name.txt"
}
verdict() { # NAME CONDITION...: a shell condition that must hold
    local name=$1
    shift
    if "$@"; then
        echo "ok: $name"
    else
        echo "FAILED: $name (exit status $status); the end of the console:"
        tail -15 "$dir"/*.txt
        cat "$dir"/*.out
        failed=1
    fi
}
has() { grep -q -e "$2" "$dir/$1.txt"; }
lacks() { ! grep -v 'and report a bug$' "$dir/$1.txt" | grep -i -E "$2"; }

# Processors, a quiet log, a disk.
truncate -s 16M "$dir/disk"
guest first "nproc|sed s/^/CPUS=/;yes vmcore|head -c 8000000|dd of=/dev/vda bs=1M conv=fsync 2>/dev/null;\
blockdev --flushbufs /dev/vda;cat /sys/block/vda/serial|sed s/^/SERIAL=/" \
    --cpus 2 --disk "$dir/disk,serial=abc123"
verdict "power-off" [ "$status" = 0 ]
verdict "two processors" has first CPUS=2
verdict "no error of ACPI, APIC, clock or PCI code" lacks first \
    '(acpi|apic|clock|tsc|timer|pci|hpet|rtc|mtrr).*(error|fail|warn|bug|invalid|unstable|not respond)'
verdict "no warning at all" lacks first 'WARNING:|BUG:|Oops|Call Trace'
verdict "disk serial number" has first SERIAL=abc123
yes vmcore | head -c 8000000 >"$dir/expected"
verdict "disk is intact outside" cmp -n 8000000 "$dir/disk" "$dir/expected"
verdict "nothing more was written" [ -z "$(tail -c +8388609 "$dir/disk" | tr -d '\0' | head -c 1)" ]

# A web server on the host, through user networking.
mkdir "$dir/www"
head -c 300000 /dev/urandom | base64 >"$dir/www/data"
sum=$(md5sum <"$dir/www/data" | cut -d' ' -f1)
PYTHONUNBUFFERED=1 python3 -m http.server --bind 127.0.0.1 -d "$dir/www" 0 >"$dir/server" 2>&1 &
server=$!
port= # it says which it took
while [ -z "$port" ] && kill -0 "$server" 2>/dev/null; do
    sleep 0.1
    port=$(sed -n 's/^Serving HTTP on .* port \([0-9]*\) .*/\1/p' "$dir/server")
done
guest user "wget -q -O- http://10.0.2.2:$port/data|md5sum|sed s/^/SUM=/" --net user
verdict "wget through user networking" has user "SUM=$sum"
kill "$server"
wait "$server" 2>/dev/null
server=

# The same through a TAP interface, in a network namespace of our own.
cat >"$dir/tap.sh" <<'TAP'
ip link set lo up && ip tuntap add vmctap0 mode tap && ip addr add 10.77.0.1/24 dev vmctap0 &&
    ip link set vmctap0 up || exit 77
python3 -m http.server --bind 10.77.0.1 -d "$1/www" 8123 >/dev/null 2>&1 &
server=$!
shift
"$@"
kill $server
TAP
inside="unshare --net"
[ "$(id -u)" = 0 ] || inside="unshare --map-root-user --net"
if ! command -v ip >/dev/null || ! $inside true 2>/dev/null || ! (: <>/dev/net/tun) 2>/dev/null; then
    echo "**** SKIP: TAP: needs ip, a network namespace and /dev/net/tun"
else
    commands="ip addr flush dev eth0;ip addr add 10.77.0.2/24 dev eth0;ping -c 1 10.77.0.1;\
wget -q -O- http://10.77.0.1:8123/data|md5sum|sed s/^/SUM=/"
    $inside bash "$dir/tap.sh" "$dir" timeout -k 5 900 "$vmcore" run --engine "$engine" \
        --kernel "$guest/vmlinuz" --initrd "$guest/initrd" --timeout 850 --net tap:vmctap0 \
        --serial "file:$dir/tap" \
        --cmdline "console=ttyS0 quiet panic=-1 cryptomgr.notests run=$(tr ' ' + <<<"$commands")" \
        </dev/null >"$dir/tap.out" 2>&1
    status=$?
    tr -d '\r' <"$dir/tap" >"$dir/tap.txt"
    verdict "ping through TAP" has tap "1 packets received"
    verdict "wget through TAP" has tap "SUM=$sum"
fi

# Reboot, typed at the shell before it is there; power-off, at the second.
boots() { grep -c 'CPU(s),' "$dir/reboot.txt"; }
mkfifo "$dir/keys"
timeout -k 5 900 "$vmcore" run --engine "$engine" --kernel "$guest/vmlinuz" \
    --initrd "$guest/initrd" --timeout 850 --cmdline "console=ttyS0 quiet panic=-1 cryptomgr.notests" \
    <"$dir/keys" >"$dir/reboot.txt" 2>"$dir/reboot.out" &
vm=$!
exec 8>"$dir/keys"
echo reboot >&8
until [ "$(boots)" = 2 ] || ! kill -0 "$vm" 2>/dev/null; do
    sleep 0.5
done
echo poweroff >&8
exec 8>&-
wait "$vm"
status=$?
verdict "reboot and power-off from the shell" [ "$status" = 0 ]
verdict "two boots" [ "$(boots)" = 2 ]
exit $failed

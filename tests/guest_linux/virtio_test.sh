#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Boot Debian's kernel with all virtio devices and check them from both sides.
# usage: virtio_test.sh VIRTIO_VMM GUEST_DIR packed|split|intx|paged
# GUEST_DIR is what scripts/fetch-guest makes. Exit status 77: no kernel here.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
vmm=$1
guest=$2
variant=$3
limit=${VMC_TEST_LIMIT:-540}

if [ ! -s "$guest/vmlinuz" ] || [ ! -s "$guest/initrd" ]; then
    echo "no guest kernel in $guest (scripts/fetch-guest makes it)"
    case ",${VMC_TEST_REQUIRE:-}," in
    *,linux,*) exit 1 ;;
    *) exit 77 ;;
    esac
fi
dir=$(mktemp -d)
server=
cleanup() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
sum() {
    sha256sum | cut -d' ' -f1
}

# A disk with known contents at its start, 16 MiB.
truncate -s 16M "$dir/disk"
dd if=/dev/urandom of="$dir/disk" bs=64k count=4 conv=notrunc status=none
disk_sum=$(dd if="$dir/disk" bs=64k count=4 status=none | sum)

# A web server on the host.
mkdir "$dir/web"
dd if=/dev/urandom of="$dir/web/file" bs=1000 count=300 status=none
for try in 1 2 3 4 5 6 7 8; do
    port=$((20000 + (RANDOM % 20000)))
    busybox httpd -f -p "127.0.0.1:$port" -h "$dir/web" 2>/dev/null &
    server=$!
    sleep 0.3
    kill -0 "$server" 2>/dev/null && break
    server=
done
[ -n "$server" ] || { echo "cannot start a web server"; exit 1; }

# The guest's script in a second archive behind the first.
mkdir -p "$dir/root/t"
cp "$here/virtio_guest.sh" "$dir/root/t/"
cat >"$dir/root/t/expect" <<END
PORT=$port
WEB_SUM=$(sum <"$dir/web/file")
DISK_SUM=$disk_sum
VARIANT=$variant
END
(cd "$dir/root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$dir/extra"
cat "$guest/initrd" "$dir/extra" >"$dir/initrd"

status=0
timeout "$limit" "$vmm" "$guest/vmlinuz" "$dir/initrd" "$dir/disk" \
    "console=ttyS0 panic=-1 cryptomgr.notests run=sh+/t/virtio_guest.sh" "$variant" </dev/null \
    >"$dir/log" 2>&1 || status=$?
grep -aE "^(guest:|GUEST|\[vmm\]|WRITTEN)|virtio_vmm:|Kernel panic" "$dir/log" || true
if [ "$status" != 0 ]; then
    tail -40 "$dir/log"
    echo "FAIL: virtio_vmm ended with status $status"
    exit 1
fi

# The outside of the disk: the start as it was, what the guest wrote, a hole where it discarded.
written=$(sed -n 's/^WRITTEN \([0-9a-f]*\).*/\1/p' "$dir/log" | tr -d '\r')
[ -n "$written" ] || { echo "FAIL: the guest wrote nothing"; exit 1; }
[ "$(dd if="$dir/disk" bs=64k count=4 status=none | sum)" = "$disk_sum" ] ||
    { echo "FAIL: the start of the disk changed"; exit 1; }
[ "$(dd if="$dir/disk" bs=64k skip=16 count=16 status=none | sum)" = "$written" ] ||
    { echo "FAIL: the disk outside differs from what the guest wrote"; exit 1; }
[ "$(dd if="$dir/disk" bs=64k skip=64 count=8 status=none | tr -d '\0' | wc -c)" = 0 ] ||
    { echo "FAIL: discarded blocks still have contents"; exit 1; }
[ "$(dd if="$dir/disk" bs=64k skip=72 count=8 status=none | tr -d '\0' | wc -c)" -gt 0 ] ||
    { echo "FAIL: blocks that were not discarded are gone"; exit 1; }
[ "$(stat -c %s "$dir/disk")" = 33554432 ] || { echo "FAIL: size of the disk"; exit 1; }
echo "PASS"

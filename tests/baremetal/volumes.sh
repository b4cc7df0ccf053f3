#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Guests from a VMFS volume on the machine's disk: configuration, kernels and virtual disks are on it, and
# there is no boot module. Usage: volumes.sh BUILD MACHINE ENGINE SECONDS guests|held|cut
#   guests  two at once, on a thin disk and on a snapshot; others that cannot start; a damaged volume
#   held    another hypervisor has one of the disks; a process has the volume; and no configuration anywhere
#   cut     the machine loses its power while a guest writes; and it stands still for too long
# shellcheck source=tests/baremetal/lib.sh
. "$(dirname "$0")/lib.sh"
m=$1 engine=$2 seconds=$3 how=$4
need_machine "$m"
[ "$how" = held ] || need_guest
vmcore=$build/bin/vmcore
dir=$build/tests/baremetal/volumes-$m-$how
mkdir -p "$dir"
cd "$dir"
rm -f ./*.img ./*.raw partition
kernel=(--kernel "$build/bin/baremetal-vmfs" --machine "$m" --mem 512)
drive() { echo "-drive file=$dir/$1,format=raw,if=none,id=$2,cache=unsafe"; }
cmdline() { echo "console=ttyS0 loglevel=5 earlyprintk=serial,ttyS0,115200 panic=-1 cryptomgr.notests run=$(tr -d '\n' <<<"$1" | tr -s ' ' +)"; }
volume() { # IMAGE LABEL
    truncate -s 1G "$1"
    "$vmcore" vmfs mkfs --label "$2" "$1"
}
put() { "$vmcore" vmfs import -q "$1" "$2" "$3"; }
disk() { "$vmcore" disk create -q "vmfs:$1:$2" 32M; }
sound() { # IMAGE
    "$vmcore" vmfs fsck "$1" >fsck.txt 2>&1 || true
    cat fsck.txt
    want fsck.txt "files,.* 0 lost, .*; 0 errors, 0 repaired"
}
# What a guest saw last is what others read: our tools, and independent readers of VMFS.
same() { # GUEST IMAGE DISK EXTENT
    local sum
    sum=$(sed -n "s/^\[$1\] \([0-9a-f]\{32\}\) *\/dev\/vda$/\1/p" log.txt)
    [ -n "$sum" ] || fail "guest $1 did not say what it wrote"
    rm -f out.raw
    "$vmcore" disk export -q "vmfs:$2:$3" out.raw
    [ "$sum" = "$(md5sum <out.raw | cut -d' ' -f1)" ] || fail "$3 does not hold what $1 saw"
    [ -n "$4" ] && command -v debugvmfs >/dev/null || return 0
    dd if="$2" of=partition bs=1M skip=1 conv=sparse status=none
    [ "$sum" = "$(debugvmfs partition cat "$4" | md5sum | cut -d' ' -f1)" ] ||
        fail "debugvmfs reads something else in $4"
    mkdir -p mnt
    if command -v vmfs-fuse >/dev/null && [ -w /dev/fuse ] && vmfs-fuse partition mnt 2>fuse.txt; then
        [ "$sum" = "$(md5sum <"mnt$4" | cut -d' ' -f1)" ] || fail "vmfs-fuse reads something else in $4"
        fusermount -u mnt 2>/dev/null || umount mnt
    fi
}

if [ "$how" = guests ]; then
    volume ds.img datastore1
    "$vmcore" vmfs mkdir ds.img /web
    put ds.img "$build/guest/vmlinuz" /vmlinuz
    put ds.img "$build/guest/initrd" /initrd
    put ds.img "$build/bin/tiny_guest" /tiny
    disk ds.img /web/web.vmdk
    yes parent | head -c 33554432 >parent.raw || true
    "$vmcore" disk import -q parent.raw vmfs:ds.img:/base.vmdk
    "$vmcore" disk snapshot -q vmfs:ds.img:/base.vmdk top.vmdk
    "$vmcore" disk create -q --kind thin vmfs:ds.img:/spare.vmdk 32M
    volume bad.img broken
    printf '\xee\xee\xee\xee' | dd of=bad.img bs=1 seek=$((2097152 + 4)) conv=notrunc status=none
    truncate -s 16M empty.img
    uuid=$("$vmcore" vmfs info ds.img | sed -n 's/^  UUID *//p')
    d=vmfs:datastore1:
    cat >vmcore.conf <<CONF
hypervisor { status = 0; when_done = poweroff; run = "volumes" }
guest web   { kernel = $d/vmlinuz; initrd = $d/initrd; mem = 96M; disk = $d/web/web.vmdk
  cmdline = "$(cmdline "yes web | head -c 8000000 | dd of=/dev/vda bs=1M seek=3 conv=fsync 2>/dev/null;
    blkdiscard -o 4194304 -l 2097152 /dev/vda && blockdev --flushbufs /dev/vda && md5sum /dev/vda")" }
guest snap  { kernel = $d/vmlinuz; initrd = $d/initrd; mem = 96M; disk = $d/top.vmdk; disk = ro:$d/spare.vmdk
  cmdline = "$(cmdline "yes snap | head -c 3000000 | dd of=/dev/vda bs=64k seek=40 conv=fsync 2>/dev/null;
    cat /sys/block/vdb/ro | sed s/^/READONLY=/; blockdev --flushbufs /dev/vda; md5sum /dev/vda")" }
guest twin   { kernel = $d/tiny; mem = 4M; disk = vmfs:$uuid:/web/web.vmdk }
guest raw    { kernel = $d/tiny; mem = 4M; disk = nvme0 }
guest lost   { kernel = vmfs:nowhere:/tiny; mem = 4M }
guest gone   { kernel = $d/nothing; mem = 4M }
guest nodisk { kernel = $d/tiny; mem = 4M; disk = $d/web/none.vmdk }
guest text   { kernel = $d/tiny; mem = 4M; disk = $d/vmcore.conf }
guest parent { kernel = $d/tiny; mem = 4M; disk = $d/base.vmdk }
guest syntax { kernel = vmfs:datastore1; mem = 4M }
guest tiny   { kernel = $d/tiny; mem = 4M; cmdline = smc }
CONF
    put ds.img vmcore.conf /vmcore.conf
    # Two guests on a processor that is taken away keep bad time; idle time is as long as it is.
    machine log.txt "$seconds" "${kernel[@]}" --cpus 2 --append "panic=poweroff host=esx7" --qemu \
        "-icount shift=2,sleep=on $(drive ds.img a) -device nvme,serial=a,drive=a $(drive bad.img b) -device ahci,id=h \
         -device ide-hd,bus=h.0,drive=b $(drive empty.img c) -device virtio-blk-pci,drive=c"
    said() { want log.txt "^\[vmcore\] $1"; }
    said "engine: $engine$"
    said "volume datastore1: VMFS-5.81 on nvme0, [0-9]+ MiB$"
    said "volume on ahci0: LVM major version is 4008636142, not 3 to 6"
    said "configuration: vmfs:datastore1:/vmcore.conf$"
    said "  heartbeat slot [0-9]+: esx7, this host$"
    said "  web has /web/web.vmdk: thin, 1 files in its chain$"
    said "  snap has /top.vmdk: redo log, 2 files in its chain$"
    said "twin: disk vmfs:$uuid:/web/web.vmdk is in use by guest web"
    said "raw: disk nvme0 is in use: it holds volume datastore1"
    said "lost: vmfs:nowhere:/tiny: no such volume is mounted"
    said "gone: ${d}/nothing: no \"nothing\" here"
    said "nodisk: disk ${d}/web/none.vmdk: no \"none.vmdk\" here"
    said "text: disk ${d}/vmcore.conf: .*vmcore.conf"
    said "parent: disk ${d}/base.vmdk: .*top.vmdk"
    said "syntax: 'vmfs:datastore1' is not vmfs:VOLUME:/PATH"
    want log.txt "^\[tiny\] modified code is right$"
    want log.txt "^\[snap\] READONLY=1$"
    for g in web snap; do
        said "$g: ended: powered off$"
        want log.txt "^\[$g\] run: exit status 0"
    done
    for g in web snap twin raw lost gone nodisk text parent syntax tiny; do
        said "$g: [0-9]+ pages returned, 0 leaked$"
    done
    said "volume datastore1: unmounted$"
    forbid log.txt "PANIC|empty|vblk0: "
    forbid_complaints log.txt
    sound ds.img
    same web ds.img /web/web.vmdk /web/web-flat.vmdk
    same snap ds.img /top.vmdk ""
    "$vmcore" vmfs export -q ds.img /base-flat.vmdk base.raw
    cmp parent.raw base.raw || fail "the parent of a snapshot was changed"
    want <("$vmcore" vmfs stat ds.img /web/web-flat.vmdk) "^blocks +6 of 1.0 MiB" # 8 written, 2 discarded
fi

# start LOG OPTION...: the machine in the background, with keys from descriptor 9
start() {
    local log=$1
    shift
    rm -f keys
    mkfifo keys
    : >"$log.raw"
    # shellcheck disable=SC2046
    "$root/scripts/baremetal" --work "$dir/work" "${kernel[@]}" $(limits "$seconds") "$@" \
        <keys >"$log.raw" 2>&1 &
    pid=$!
    exec 9>keys
}
# await LOG PATTERN
await() {
    until tr -d '\r' <"$1.raw" | grep -qE "$2"; do
        kill -0 $pid 2>/dev/null || {
            fail "the machine ended before: $2"
            return 0
        }
        sleep 0.2
    done
}
ended() { # LOG
    wait $pid || true
    exec 9>&-
    tr -d '\r' <"$1.raw" >"$1"
    rm -f "$1.raw"
    cat "$1"
}
monitor() { printf '\001m%b' "$1" >&9 2>/dev/null || true; }

if [ "$how" = held ]; then
    volume ds.img datastore1
    put ds.img "$build/bin/tiny_guest" /tiny
    disk ds.img /a.vmdk
    disk ds.img /b.vmdk
    volume evil.img $'e\e[2Jv\ni\xc2\x9bl'
    echo "== no configuration, and a volume whose label a terminal would obey"
    trap '' PIPE
    start none.txt --append panic=poweroff --qemu "$(drive ds.img a) -device virtio-blk-pci,drive=a \
        $(drive evil.img b) -device virtio-blk-pci,drive=b"
    await none.txt "no guests"
    monitor 'volumes\rpoweroff\r'
    ended none.txt
    want none.txt "^\[vmcore\] there is no module 'vmcore.conf': no guests$"
    want none.txt "^\[vmcore\] +[0-9]+ of [0-9]+ MiB are free, [0-9]+ of [0-9]+ files$"
    want none.txt "^\[vmcore\] volume datastore1: unmounted$"
    want none.txt "^\[vmcore\] volume e\?\[2Jv\?i\?\?l: VMFS-5.81 on vblk1, "
    forbid none.txt $'\e\\[2J'
    echo "== a mistake in it, on a volume that is only read"
    printf 'hypervisor { when_done = stay }\nguest a { kernel = k; color = red }\n' >mistake.conf
    put ds.img mistake.conf /vmcore.conf
    start mistake.txt --append "panic=poweroff volumes=ro" \
        --qemu "$(drive ds.img a) -device virtio-blk-pci,drive=a"
    await mistake.txt "vmfs:datastore1:/vmcore.conf:2: a guest has no setting 'color'"
    monitor 'poweroff\r'
    ended mistake.txt
    want mistake.txt "^\[vmcore\] volume datastore1: VMFS-5.81 on vblk0, [0-9]+ MiB, read-only$"
    echo "== another hypervisor has the disk"
    shared="-drive file=$dir/ds.img,format=raw,if=none,id=a,cache=writethrough,file.locking=off"
    shared+=" -device virtio-blk-pci,drive=a"
    cat >holder.conf <<'CONF'
hypervisor { status = 0 }
guest keeper { kernel = vmfs:datastore1:/tiny; mem = 4M; disk = vmfs:datastore1:/a.vmdk; cmdline = idle }
CONF
    cat >vmcore.conf <<'CONF'
hypervisor { status = 0; when_done = poweroff; run = "volumes" }
guest first  { kernel = vmfs:datastore1:/tiny; mem = 4M; disk = vmfs:datastore1:/a.vmdk }
guest second { kernel = vmfs:datastore1:/tiny; mem = 4M; disk = vmfs:datastore1:/b.vmdk; cmdline = smc }
CONF
    start holder.txt --module "$dir/holder.conf=vmcore.conf" --append "panic=poweroff host=esx1" --qemu "$shared"
    await holder.txt "^\[keeper\] tick 1"
    machine log.txt "$seconds" "${kernel[@]}" --module "$dir/vmcore.conf=vmcore.conf" \
        --append host=esx2 --qemu "$shared"
    monitor 'poweroff\r'
    ended holder.txt
    want log.txt "^\[vmcore\] first: disk vmfs:datastore1:/a.vmdk: .*held by host esx1"
    want log.txt "^\[vmcore\] +heartbeat slot [0-9]+: esx1$"
    want log.txt "^\[vmcore\] +heartbeat slot [0-9]+: esx2, this host$"
    want log.txt "^\[second\] modified code is right$"
    want holder.txt "^\[vmcore\] volume datastore1: unmounted$"
    forbid holder.txt PANIC
    echo "== a process that locks in another way has the volume"
    "$vmcore" vmfs nbd ds.img /a-flat.vmdk "$dir/socket" >nbd.txt 2>&1 &
    nbd=$!
    for _ in $(seq 200); do [ -S socket ] && break; sleep 0.1; done
    machine other.txt "$seconds" "${kernel[@]}" --module "$dir/vmcore.conf=vmcore.conf" --qemu "$shared"
    want other.txt "^\[vmcore\] volume on vblk0 is only read: the host in heartbeat slot [0-9]+ \($(uname -n) pid $nbd\)"
    want other.txt "^\[vmcore\] second: disk vmfs:datastore1:/b.vmdk: the volume is mounted read-only$"
    kill $nbd
    wait $nbd || true
    forbid other.txt PANIC
    forbid log.txt PANIC
    sound ds.img
fi

if [ "$how" = cut ]; then
    volume ds.img datastore1
    put ds.img "$build/guest/vmlinuz" /vmlinuz
    put ds.img "$build/guest/initrd" /initrd
    disk ds.img /web.vmdk
    cat >vmcore.conf <<CONF
hypervisor { status = 0; when_done = poweroff }
guest web { kernel = vmfs:datastore1:/vmlinuz; initrd = vmfs:datastore1:/initrd; mem = 96M
  disk = vmfs:datastore1:/web.vmdk; cmdline = "$(cmdline 'for i in 1 2 3 4 5 6 7 8; do
    yes $i | head -c 2097152 | dd of=/dev/vda bs=64k seek=$((i*40)) conv=fsync 2>/dev/null && echo wrote $i;
    sleep 1; done')" }
CONF
    put ds.img vmcore.conf /vmcore.conf
    how_disk="-pidfile $dir/qemu.pid $(drive ds.img a) -device nvme,serial=a,drive=a"
    echo "== the power fails"
    start cut.txt --append panic=poweroff --qemu "$how_disk"
    await cut.txt "^\[web\] wrote 3"
    kill -9 "$(cat qemu.pid)"
    ended cut.txt
    wrote=$(sed -n 's/^\[web\] wrote \([0-9]\)/\1/p' cut.txt | tail -1)
    "$vmcore" disk export -q --exclusive vmfs:ds.img:/web.vmdk out.raw # replays what was left
    for i in $(seq "${wrote:-0}"); do
        cmp <(yes "$i" | head -c 2097152) <(tail -c +$((i * 40 * 65536 + 1)) out.raw | head -c 2097152) ||
            fail "what was written as number $i is lost"
    done
    [ "${wrote:-0}" -ge 3 ] || fail "the guest did not write"
    sound ds.img
    echo "== it stands still, and another host takes over"
    "$vmcore" vmfs truncate ds.img /web-flat.vmdk 0 # its blocks are to be found again
    "$vmcore" vmfs truncate ds.img /web-flat.vmdk 32M
    start still.txt --append panic=poweroff --qemu "$how_disk"
    await still.txt "^\[web\] wrote 2"
    kill -STOP "$(cat qemu.pid)"
    # Waits until the lease is over, and then does what a host does that takes a machine over.
    "$vmcore" disk snapshot vmfs:ds.img:/web.vmdk next.vmdk || fail "nobody can take over"
    "$vmcore" disk export -q vmfs:ds.img:/web.vmdk before.raw
    kill -CONT "$(cat qemu.pid)"
    ended still.txt
    want still.txt "^\[vmcore\] volume datastore1: .*(lost its lease|was taken from us|lease had expired|lease on the shared resource was lost)"
    [ "$(grep -c 'warning: .*lost its lease' still.txt)" -lt 20 ] || fail "it says so again and again"
    forbid still.txt "PANIC|\[web\] wrote 8"
    "$vmcore" disk export -q vmfs:ds.img:/web.vmdk after.raw
    cmp before.raw after.raw || fail "a host that was fenced has written"
    sound ds.img
fi
verdict

#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# A tree of some thousand files is unpacked into the mounted volume and compared, there and by another
# reader; then the volume is filled until nothing fits. Usage: fuse_tree.sh VMCORE
set -euo pipefail
vmcore=$1
PATH=$PATH:/usr/sbin
dir=$(mktemp -d)
mounted=
cleanup() {
    [ -z "$mounted" ] || umount "$dir/mnt" 2>/dev/null || fusermount3 -u "$dir/mnt" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
cd "$dir"
mkdir mnt
skip() { echo "SKIPPED: $*"; exit 77; }
fail() { echo "FAILED: $*"; exit 1; }
[ -c /dev/fuse ] && [ -r /dev/fuse ] && [ -w /dev/fuse ] || skip "/dev/fuse is not usable"

start() {
    "$vmcore" vmfs mount "$@" vol mnt >mount.log 2>&1 &
    mounted=$!
    for _ in $(seq 600); do
        mountpoint -q mnt && return
        kill -0 $mounted 2>/dev/null || break
        sleep 0.1
    done
    cat mount.log
    mounted=
    grep -q -i -e 'fuse' mount.log && skip "FUSE file systems cannot be mounted here"
    exit 1
}
stop() {
    umount mnt || fusermount3 -u mnt
    wait $mounted || { cat mount.log; fail "the mount's end"; }
    mounted=
}
clean() {
    "$vmcore" vmfs fsck vol >fsck.out || { cat fsck.out; fail "fsck"; }
    grep -q ' 0 lost, .*; 0 errors' fsck.out || { cat fsck.out; fail "fsck found something"; }
}
# Everything of a tree: types, modes, sizes, times, targets of links; and the contents.
listing() { (cd "$1" && find . -mindepth 1 \( -type d -printf '%y %m %p\n' -o -type l -printf '%y %l %p\n' -o -printf '%y %m %s %Ts %p\n' \) | sort); }
sums() { (cd "$1" && find . -type f ! -name "*.sf" -print0 | sort -z | xargs -0 sha256sum); }

# Names of all lengths, deep folders, files of every layout, links, an empty one, old times.
python3 - <<'PY'
import os, random
r = random.Random(5)
os.mkdir("tree")
folders = ["tree"]
for i in range(60):
    f = r.choice(folders[-40:]) + "/" + "d%d" % i + "x" * r.choice([0, 3, 40])
    os.mkdir(f)
    folders.append(f)
for i in range(700):
    name = r.choice(folders) + "/" + "f%d" % i + r.choice(["", ".txt", "-" * 100, "\u00e4\u00f6"])
    if i % 50 == 0:
        os.symlink("../" * r.randrange(3) + "t" * r.choice([1, 60, 900]), name)
        continue
    size = r.choice([0, 1, 500, 1024, 1025, 8191, 8192, 8193, 20000])
    if i % 100 == 1:
        size = r.choice([1 << 20, (1 << 20) + 1, 2500000])
    with open(name, "wb") as f:
        f.write(b"\0\0\0\0"[:size] + r.randbytes(max(size - 4, 0)))  # fsck.vmfs takes data for addresses
    os.chmod(name, r.choice([0o600, 0o644, 0o755, 0o444]))
    os.utime(name, (10**9 + i, 10**9 + 1000 * i))
PY
"$vmcore" vmfs mkfs -q --whole --size 1G --files 3000 vol
"$vmcore" vmfs fsck vol >fsck.out
empty=$(cut -d, -f1-3 fsck.out)
start
tar -C tree -cf - . | tar -C mnt -xpf - --no-same-owner 2>tar.log || { head -20 tar.log; fail "tar"; }
listing tree >want
sums tree >want.sums
same() { # WHERE FOLDER
    diff want <(listing "$2" | grep -v ' \./\.[a-z0-9]*\.sf$\| \./filler') >diffs || { head -20 diffs; fail "$1: names, modes, sizes or times"; }
    diff want.sums <(sums "$2" | grep -v ' \./\.[a-z0-9]*\.sf$\| \./filler') >diffs || { head -20 diffs; fail "$1: contents"; }
}
same "mounted" mnt
stop
clean
start
same "mounted again" mnt
echo "ok: $(wc -l <want) files and folders"

# Until nothing fits: large files, then small ones.
mkdir mnt/filler
head -c 30M /dev/urandom >large
for i in $(seq 1000); do
    cp large mnt/filler/large$i 2>cp.out || break
done
grep -q 'No space left' cp.out || { cat cp.out; fail "no end of space"; }
for size in 1000000 5000; do
    head -c $size large >small
    for i in $(seq 700); do
        cp small mnt/filler/$size-$i 2>cp.out || break
    done
    grep -q 'No space left' cp.out || { cat cp.out; fail "no end of space for files of $size bytes"; }
done
same "full" mnt
cmp large mnt/filler/large1 || fail "a large file"
stop
clean
echo "ok: full, $(tail -1 fsck.out)"

# Only read: the same is there, and nothing changes.
sha256sum <vol >sum
start --read-only
same "read-only" mnt
touch mnt/new 2>/dev/null && fail "it can be written"
rm -r mnt/filler 2>/dev/null && fail "it can be removed from"
stop
sha256sum <vol | cmp - sum || fail "a read-only mount wrote to the volume"
echo "ok: read-only"

# Another reader sees the same.
if command -v vmfs-fuse >/dev/null && mkdir theirs && vmfs-fuse vol theirs >theirs.log 2>&1; then
    trap 'umount "$dir/theirs" || true; cleanup' EXIT
    # It shows no times before they are asked for, and the sizes of links as they are.
    diff want.sums <(sums theirs | grep -v ' \./\.[a-z0-9]*\.sf$\| \./filler') >diffs || { head -20 diffs; fail "vmfs-fuse: contents"; }
    diff want <(listing theirs | grep -v ' \./\.[a-z0-9]*\.sf$\| \./filler') >diffs || { head -20 diffs; fail "vmfs-fuse: names, modes, sizes or times"; }
    for f in $(ls theirs/filler | sed -n '1~7p'); do
        case $f in large*) cmp large "theirs/filler/$f" || cmp -n "$(stat -c %s theirs/filler/$f)" large "theirs/filler/$f" ;;
            *) cmp -n "$(stat -c %s theirs/filler/$f)" large "theirs/filler/$f" ;; esac || fail "vmfs-fuse: $f"
    done
    umount theirs
    trap cleanup EXIT
    [ "$(debugvmfs vol check_vol_bitmaps | sed -n 's/Total errors: //p')" = 0 ] || fail "debugvmfs: bitmaps"
    echo "ok: vmfs-tools agree"
else
    echo "SKIPPED: vmfs-fuse is not usable here"
fi

# Room again.
start
rm -r mnt/filler
mkdir mnt/filler
cp large mnt/filler/large
cmp large mnt/filler/large || fail "after the volume was full"
same "after it was full" mnt
rm -r mnt/*
stop
clean
[ "$(cut -d, -f1-3 fsck.out)" = "$empty" ] || { cat fsck.out; fail "not as empty as before: $empty"; }
echo "ok: emptied"

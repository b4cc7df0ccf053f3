#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# What programs rely on in a file system, on mounted volumes; some of it between two hosts that have
# the same volume mounted. Usage: fuse_rules.sh VMCORE
set -euo pipefail
vmcore=$1
dir=$(mktemp -d)
declare -A mounted
cleanup() {
    for m in "${!mounted[@]}"; do
        umount "$dir/$m" 2>/dev/null || fusermount3 -u "$dir/$m" 2>/dev/null || true
        kill "${mounted[$m]}" 2>/dev/null || true
    done
    wait
    rm -rf --one-file-system "$dir"
}
trap cleanup EXIT
cd "$dir"
mkdir a b
skip() { echo "SKIPPED: $*"; exit 77; }
fail() { echo "FAILED: $*"; exit 1; }
[ -c /dev/fuse ] && [ -r /dev/fuse ] && [ -w /dev/fuse ] || skip "/dev/fuse is not usable"

start() { # FOLDER [COMMAND...]
    local m=$1
    shift
    "$@" "$vmcore" vmfs mount vol "$m" >"$m.log" 2>&1 &
    mounted[$m]=$!
    for _ in $(seq 600); do
        mountpoint -q "$m" && return
        kill -0 "${mounted[$m]}" 2>/dev/null || break
        sleep 0.1
    done
    cat "$m.log"
    unset "mounted[$m]"
    grep -q -i -e 'fuse' "$m.log" && skip "FUSE file systems cannot be mounted here"
    exit 1
}
stop() { # FOLDER
    umount "$1" || fusermount3 -u "$1"
    wait "${mounted[$1]}" || { cat "$1.log"; fail "the mount's end"; }
    unset "mounted[$1]"
}
clean() {
    "$vmcore" vmfs fsck vol >fsck.out || { cat fsck.out; fail "fsck"; }
    grep -q ' 0 lost, .*; 0 errors' fsck.out || { cat fsck.out; fail "fsck found something"; }
}

"$vmcore" vmfs mkfs -q --size 1G vol
start a

# Entries of a directory have the numbers and types of their files.
mkdir a/d
echo 1 >a/f
ln -s f a/l
python3 - <<'PY' || fail "numbers or types of entries"
import os
for e in os.scandir("a"):
    s = os.lstat(e.path)
    assert e.inode() == s.st_ino, (e.name, e.inode(), s.st_ino)
    assert e.is_dir(follow_symlinks=False) == os.path.isdir(e.path) or e.is_symlink(), e.name
PY
echo "ok: entries"

# Times that the format has no number for become the nearest one that it has.
python3 - <<'PY' || fail "times"
import os
for given, kept in (-5, 0), (1 << 33, (1 << 32) - 1), (12345, 12345):
    os.utime("a/f", (given, given))
    s = os.stat("a/f")
    assert (s.st_atime, s.st_mtime) == (kept, kept), (given, s)
PY
echo "ok: times"

# Who appends waits until another host has closed the file, and writes behind what that has written.
printf 'old\n' >a/log
start b
exec 3>>b/log
cat a/log >/dev/null
printf 'from a\n' 3>&- >>a/log &
appends=$!
sleep 0.2
printf 'from b, which is longer\n' >&3
exec 3>&-
wait $appends || fail "waiting to append"
diff - a/log <<'END' || fail "appending behind another host"
old
from b, which is longer
from a
END
echo "ok: appending"

# Who creates a file that another host creates meanwhile opens it, but for O_EXCL.
cat >race.py <<'PY'
import errno, os, sys
root, rounds = sys.argv[1], 150
wrong = 0
for i in range(rounds):
    try:
        os.close(os.open("%s/race%d" % (root, i), os.O_CREAT | os.O_RDWR, 0o600))
    except FileExistsError:
        wrong += 1
    except OSError as e:
        assert e.errno == errno.EBUSY, e # it is open there
print("%s: %d of %d opens without O_EXCL said that the file exists" % (root, wrong, rounds))
sys.exit(wrong != 0)
PY
python3 race.py a &
other=$!
python3 race.py b || fail "creating what another host creates"
wait $other || fail "creating what another host creates"
stop b
echo "ok: creating"

# Files that are removed while they are open are gone with the mount, even if it ends before them.
python3 - "${mounted[a]}" <<'PY' &
import os, signal, sys
f = open("a/open", "wb")
f.write(b"x" * 3000000)
f.flush()
os.unlink("a/open")
os.kill(int(sys.argv[1]), signal.SIGTERM)
try:
    while os.path.ismount("a"):
        pass
except OSError:
    pass
PY
holder=$!
wait "${mounted[a]}" || true # a signal ended it
unset "mounted[a]"
wait $holder || true # what it wrote to is gone
"$vmcore" vmfs ls vol / >names
grep -q hidden names && { cat names; fail "a removed file is still there"; }
clean
echo "ok: removed while open"

# fsync of a directory: its names are on the disk, or the caller is told that they are not.
if command -v strace >/dev/null && strace -o /dev/null true 2>/dev/null; then
    start a strace -f -q -o calls -e trace=fdatasync,fsync,io_uring_enter
    mkdir a/new
    before=$(grep -c . calls || true)
    python3 -c 'import os; f = os.open("a/new", os.O_RDONLY); os.fsync(f)'
    [ "$(grep -c . calls || true)" -gt "$before" ] || fail "fsync of a directory does not reach the disk"
    stop a
    clean
    echo "ok: fsync of a directory"
else
    echo "SKIPPED: there is no strace to see flushes with"
fi

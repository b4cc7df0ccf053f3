#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Copies onto a volume, on it and off it that fail: what was there stays, nothing half is left.
# Usage: copy.sh VMCORE
set -euo pipefail
vmcore=$1
dir=$(mktemp -d)
mounted=
trap '[ -z "$mounted" ] || kill -9 $mounted 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir"
fail() { echo "FAILED: $*"; exit 1; }
refused() { # PATTERN COMMAND...: fails, and says why
    local pattern=$1
    shift
    "$@" >out 2>&1 && { cat out; fail "should have failed: $*"; }
    grep -q "$pattern" out || { cat out; fail "no '$pattern' from: $*"; }
}
listed() { [ "$(echo $("$vmcore" vmfs ls --json vol "$1" | sed -n 's/.*"name": *"\(.*\)".*/\1/p' | grep -v '^\.' | sort))" = "$2" ]; }
hidden() { "$vmcore" vmfs ls --json vol "$1" | grep -q '\.vmcore-'; }
clean() {
    "$vmcore" vmfs fsck vol >fsck.out || { cat fsck.out; fail "fsck"; }
    grep -q ' 0 lost, .*; 0 errors' fsck.out || { cat fsck.out; fail "fsck found something"; }
}

"$vmcore" vmfs mkfs -q --size 300M vol
"$vmcore" vmfs mkdir vol /d
head -c 20M /dev/urandom >first
head -c 9M /dev/urandom >second
head -c 300M /dev/urandom >large
"$vmcore" vmfs import -q vol first /d/file
"$vmcore" vmfs import -q vol second /d/other

# A name that is taken, a volume that is full.
refused 'exists' "$vmcore" vmfs import -q vol second /d/file
refused 'exists' "$vmcore" vmfs cp -q vol /d/other /d/file
refused 'is a directory' "$vmcore" vmfs import -q -f vol second /d
refused 'No space\|no space\|no free\|full' "$vmcore" vmfs import -q -f vol large /d/file
refused 'No space\|no space\|no free\|full' "$vmcore" vmfs import -q vol large /d/third
cmp first <("$vmcore" vmfs cat vol /d/file) || fail "an import that failed changed the file that it was to replace"
listed /d 'file other' || { "$vmcore" vmfs ls vol /d; fail "something was left behind"; }
"$vmcore" vmfs import -q vol large /d/fill 2>/dev/null && fail "300 MiB fit"
head -c 190M large >most
"$vmcore" vmfs import -q vol most /most
refused 'No space\|no space\|no free\|full' "$vmcore" vmfs cp -q -f vol /most /d/file
cmp first <("$vmcore" vmfs cat vol /d/file) || fail "a copy that failed changed the file that it was to replace"
"$vmcore" vmfs rm vol /most
hidden /d && fail "something was left behind"
clean
echo "ok: copies that fail leave everything as it was"

# A name so long that no other fits beside it.
long=$(printf 'n%.0s' $(seq 252))
"$vmcore" vmfs export -q vol /d/other "$long"
cmp second "$long" || fail "export to a long name"
refused 'exists' "$vmcore" vmfs export -q vol /d/file "$long"
"$vmcore" vmfs export -q -f vol /d/file "$long"
cmp first "$long" || fail "export -f to a long name"
rm "$long"

# What is replaced, is.
"$vmcore" vmfs import -q -f vol second /d/file
cmp second <("$vmcore" vmfs cat vol /d/file) || fail "import -f"
"$vmcore" vmfs import -q -f vol first /d/other
"$vmcore" vmfs cp -q -f vol /d/other /d/file
cmp first <("$vmcore" vmfs cat vol /d/file) || fail "cp -f"
"$vmcore" vmfs cp -q -f vol /d/file /d/file
cmp first <("$vmcore" vmfs cat vol /d/file) || fail "cp -f onto itself"
listed /d 'file other' && ! hidden /d || fail "something was left behind"
clean
echo "ok: replaced"

# Off the volume.
mkdir exports
refused 'exports is a directory' "$vmcore" vmfs export -q vol /d/file exports
refused 'exports is a directory' "$vmcore" vmfs export -q -f -O qcow2 vol /d/file exports
limited() { (trap '' XFSZ; ulimit -f 409600; "$@"); } # 400 MiB: enough for the volume
"$vmcore" disk import -q first vmfs:vol:/disk.vmdk
"$vmcore" disk grow vmfs:vol:/disk.vmdk 1G
for command in "vmfs export -q vol /disk-flat.vmdk" "disk export -q vmfs:vol:/disk.vmdk"; do
    rm -f exports/*
    refused 'large' limited "$vmcore" $command exports/new
    [ -z "$(ls -A exports)" ] || { ls -la exports; fail "left behind by: $command"; }
    echo precious >exports/old
    refused 'exists' "$vmcore" $command exports/old
    refused 'large' limited "$vmcore" ${command/-q/-q -f} exports/old
    refused 'convert\|format' "$vmcore" ${command/-q/-q -f -O no-such-format} exports/old
    [ "$(cat exports/old)" = precious ] && [ "$(ls -A exports)" = old ] || fail "damaged by: $command"
    chmod 640 exports/old
    ln -s old exports/link
    "$vmcore" ${command/-q/-q -f} exports/link
    [ "$(stat -c %s exports/old)" = 1073741824 ] && cmp -n 20971520 first exports/old || fail "not exported: $command"
    [ -L exports/link ] && [ "$(stat -c %a exports/old)" = 640 ] || fail "link or mode: $command"
    (umask 027; "$vmcore" $command exports/new)
    [ "$(stat -c %a exports/new)" = 640 ] || fail "mode of a new file: $command"
done
echo "ok: exports that fail leave nothing"

# What a command is writing, and what one that was killed has left: the next one removes it.
catch() { # SIGNAL LEASE: for a command that has just made its file
    for _ in $(seq 100); do
        "$vmcore" vmfs rm vol /d/caught 2>/dev/null || true
        "$vmcore" vmfs import -q --lease "$2" vol much /d/caught &
        mounted=$!
        while kill -0 $mounted 2>/dev/null; do
            hidden /d && break
        done
        kill -"$1" $mounted 2>/dev/null && hidden /d && return
        wait $mounted || true
    done
    fail "never caught one"
}
head -c 100M large >much
catch STOP 30
"$vmcore" vmfs fsck vol >out || true # it may be in the middle of a change
kill -CONT $mounted
grep -q '^/d/\.vmcore-.*being written' out || { cat out; fail "fsck takes a command that lives for dead"; }
wait $mounted || fail "the command that was stopped"
mounted=
cmp much <("$vmcore" vmfs cat vol /d/caught) || fail "what it wrote"
hidden /d && fail "something was left behind"
catch KILL 2
wait $mounted 2>/dev/null || true
mounted=
"$vmcore" vmfs fsck vol | grep -q '^/d/\.vmcore-[0-9a-f]*: left by a command that was killed' || fail "fsck does not name it"
"$vmcore" vmfs fsck --json vol | tr -d ' \n' | grep -q '"left_over":\["/d/\.vmcore-[0-9a-f]*"\]' || fail "fsck --json"
left=/d/$("$vmcore" vmfs ls --json vol /d | sed -n 's/.*"name": *"\(\.vmcore-.*\)".*/\1/p')
"$vmcore" vmfs truncate vol "$left" 1M 2>/dev/null # needs its lock: finds out that it is over
"$vmcore" vmfs import vol second /d/beside 2>out || { cat out; fail "import"; }
grep -q 'removed /d/\.vmcore-.*, left by a command that was killed' out || { cat out; fail "no word of it"; }
hidden /d && fail "it is still there"
"$vmcore" vmfs rm vol /d/beside
clean
echo "ok: left by a command that was killed"

# Who interrupts a command finds nothing of it, and nobody waits for its lease.
interrupted() { # SIGNAL CONDITION COMMAND...: as soon as that is so
    local signal=$1 condition=$2 rc
    shift 2
    for _ in $(seq 100); do
        rm -rf exports/* tmp
        mkdir tmp
        "$vmcore" vmfs rm vol /d/caught 2>/dev/null || true
        TMPDIR=$PWD/tmp env --default-signal=INT "$@" >out 2>&1 &
        mounted=$!
        while kill -0 $mounted 2>/dev/null; do
            eval "$condition" && break
        done
        kill -"$signal" $mounted 2>/dev/null || true
        rc=0
        wait $mounted || rc=$?
        mounted=
        [ $rc = 0 ] && continue
        [ $rc = $((128 + $(kill -l "$signal"))) ] && grep -q ': interrupted$' out || { cat out; fail "status $rc: $*"; }
        [ -z "$(ls -A exports)$(ls -A tmp)" ] || { ls -lA exports tmp; fail "left behind by: $*"; }
        return
    done
    fail "never in time: $*"
}
"$vmcore" vmfs import -q vol much /d/much
interrupted INT 'compgen -G exports/new.\* >/dev/null' "$vmcore" vmfs export -q vol /d/much exports/new
interrupted TERM 'compgen -G exports/new.\* >/dev/null' "$vmcore" disk export -q -O raw vmfs:vol:/disk.vmdk exports/new
if command -v qemu-img >/dev/null; then
    interrupted INT '[ -n "$(ls tmp)" ]' "$vmcore" vmfs export -q -O qcow2 vol /d/much exports/new
    qemu-img convert -O qcow2 much much.qcow2
    interrupted HUP '[ -n "$(ls tmp)" ]' "$vmcore" vmfs import -q -O qcow2 vol much.qcow2 /d/caught
    rm much.qcow2
fi
# A second one, of whatever kind, ends a command that cannot give up; its converter pays no heed.
mkdir stubborn
printf '%s\n' '#!/bin/sh' "trap '' TERM" 'echo $$ >converter' 'exec sleep 60' >stubborn/qemu-img
chmod +x stubborn/qemu-img
PATH=$PWD/stubborn:$PATH env --default-signal=INT "$vmcore" vmfs export -q -O qcow2 vol /d/much exports/new 2>out &
mounted=$!
for _ in $(seq 300); do
    [ -s converter ] && break
    sleep 0.1
done
kill -INT $mounted
sleep 1
kill -0 $mounted || fail "the first signal ended it"
kill -TERM $mounted
rc=0
wait $mounted || rc=$?
mounted=
kill -0 "$(cat converter)" || fail "the second signal did not end it"
kill -KILL "$(cat converter)"
[ $rc -gt 128 ] || { cat out; fail "status $rc after two signals"; }
rm -rf stubborn converter exports/*
"$vmcore" vmfs rm vol /d/much
interrupted INT 'hidden /d' "$vmcore" vmfs import -q vol much /d/caught
hidden /d && fail "an import that was interrupted left something"
"$vmcore" vmfs info --json vol | tr -d ' \n' | grep -q '"hosts":\[\]' || fail "the session of an import that was interrupted"
clean
echo "ok: interrupted"

# On a damaged volume two directories are the root once more: there is no end of paths, but of looking.
"$vmcore" vmfs mkfs -q --size 300M loops
"$vmcore" vmfs mkdir loops /one
"$vmcore" vmfs mkdir loops /two
python3 - <<'PY'
f = open("loops", "r+b")
d = f.read()
for name in b"one", b"two":
    at = d.find(name + bytes(128 - len(name)))
    while at > 0:
        if d[at - 12:at - 8] == b"\2\0\0\0":
            f.seek(at - 8)
            f.write(b"\4\0\0\0\1\0\0\0")  # descriptor, generation
        at = d.find(name + bytes(128 - len(name)), at + 1)
PY
"$vmcore" vmfs ls loops /two/one/two >out || fail "the directories are not in themselves"
timeout 60 "$vmcore" vmfs fsck loops >out && fail "fsck finds nothing"
grep -q ' [1-9][0-9]* errors, 0 repaired' out || fail "fsck of directories in themselves"
timeout 60 "$vmcore" vmfs tree loops >out 2>err && fail "tree finds nothing"
grep -q '/one: a directory that is elsewhere too' err || fail "tree of directories in themselves"
rm loops
echo "ok: directories in themselves"

# A descriptor is not a disk.
if command -v qemu-img >/dev/null; then
    qemu-img convert -f raw -O vmdk -o subformat=twoGbMaxExtentFlat first split.vmdk
    refused 'O vmdk' "$vmcore" disk import -q split.vmdk vmfs:vol:/split.vmdk
    "$vmcore" disk import -q -O vmdk split.vmdk vmfs:vol:/split.vmdk
    cmp first <("$vmcore" vmfs cat vol /split-flat.vmdk) || fail "a disk in several files"
    "$vmcore" vmfs import vol split.vmdk /descriptor 2>out
    grep -q 'other files' out || { cat out; fail "no word of a descriptor's files"; }
    cmp split.vmdk <("$vmcore" vmfs cat vol /descriptor) || fail "a descriptor as a file"
    echo "ok: descriptors"
fi

# A host that did not unmount: who waits says for whom, and for how long.
"$vmcore" vmfs truncate vol /busy 1M
"$vmcore" vmfs nbd --lease 2 vol /busy socket >nbd.log 2>&1 &
mounted=$!
for _ in $(seq 300); do
    [ -S socket ] && break
    kill -0 $mounted 2>/dev/null || { cat nbd.log; fail "nbd"; }
    sleep 0.1
done
pid=$mounted
kill -9 $mounted
wait $mounted 2>/dev/null || true
mounted=
"$vmcore" vmfs rm --exclusive --lease 2 vol /busy 2>out || { cat out; fail "after a killed host"; }
grep -q "pid $pid (heartbeat slot [0-9]*) is silent and did not unmount: waiting up to [0-9]* s more" out || { cat out; fail "a silent wait"; }
clean
echo "ok: $(grep 'did not unmount' out)"

# A volume that cannot be made leaves no files behind, and those of others alone.
echo precious >theirs
refused 'theirs: File exists (--force' "$vmcore" vmfs mkfs -q --size 1G ours,theirs,rest
[ ! -e ours ] && [ ! -e rest ] || fail "files of a volume that was not made"
[ "$(cat theirs)" = precious ] || fail "a file was overwritten"
"$vmcore" vmfs mkfs -q --size 600M keep
cp keep kept
same_volume() { [ "$(stat -c %s keep)" = "$(stat -c %s kept)" ] && cmp -n 20000000 keep kept; }
long=$(printf 'n%.0s' $(seq 200))
for bad in "--size 100M" "--size 600M --block 2M" "--size 600M --files 4000000" "--size 600M -L $long" \
    "--size 600M -V 6" "--size 17T"; do
    refused '' "$vmcore" vmfs mkfs -q --force $bad keep
    same_volume || fail "changed by a volume that was not made: $bad"
    [ ! -e ours ] || fail "files of a volume that was not made: $bad"
done
ln -s keep same
mkdir folder
refused 'given twice' "$vmcore" vmfs mkfs -q --force keep,./same
for bad in keep,folder keep,no/such/folder/file keep,/dev/null keep,./same; do
    refused '' "$vmcore" vmfs mkfs -q --force --size 700M "$bad"
    same_volume || fail "changed by a volume that was not made: $bad"
done
rm keep kept same
echo "ok: mkfs that fails"

# Directories that are there are fine with -p; files are not, nor what no name can be.
"$vmcore" vmfs mkdir -p vol /there/below
"$vmcore" vmfs mkdir -p vol /there/below
"$vmcore" vmfs truncate vol /there/file 10
refused 'exists' "$vmcore" vmfs mkdir -p vol /there/file
refused '/there/file' "$vmcore" vmfs mkdir -p vol /there/file/below
refused 'begin with /' "$vmcore" vmfs mkdir -p vol ''
"$vmcore" vmfs mkdir vol "/there$(printf '/%.0s' $(seq 5000))far"
listed /there 'below far file' || { "$vmcore" vmfs ls vol /there; fail "a long way to write a name"; }
clean
echo "ok: mkdir -p"

# What does not fit a number is not another number.
refused 'too large' "$vmcore" vmfs mkfs -q --size 600M -V 3 --block 4G new
refused 'too large' "$vmcore" vmfs mkfs -q --size 600M --files 4294967296 new
refused 'too large' "$vmcore" vmfs mkfs -q --size 15360000T new
[ ! -e new ] || fail "a file of a volume that was not made"
echo "ok: numbers that are too large"

# Names are any bytes: a person's terminal and a script's JSON get what they can take.
"$vmcore" vmfs mkdir vol /names
"$vmcore" vmfs truncate vol $'/names/e\e[31mf' 10
"$vmcore" vmfs truncate vol $'/names/gr\xfc\xdf' 10
"$vmcore" vmfs truncate vol $'/names/c\x9b31m' 10
"$vmcore" vmfs ls vol /names | grep -q $'e\e\[31mf' || fail "a pipe gets the bytes"
"$vmcore" vmfs ls --json vol /names >out || fail "ls --json"
grep -q '"name_hex": *"6772fcdf"' out || { cat out; fail "bytes of a name in JSON"; }
grep -q '"name": *"e\\u001b\[31mf"' out || { cat out; fail "control characters in JSON"; }
iconv -f UTF-8 -t UTF-8 out >/dev/null || { cat out; fail "JSON that is no UTF-8"; }
"$vmcore" vmfs cat vol $'/names/e\e[31mg' 2>out && fail "there is no such file"
grep -q $'\e' out && fail "a message to the terminal"
grep -q 'e?\[31mg' out || { cat out; fail "the message"; }
if command -v script >/dev/null; then
    script -qec "'$vmcore' vmfs ls vol /names; '$vmcore' vmfs tree vol" /dev/null >out </dev/null
    grep -q $'\e' out && fail "names to the terminal"
    grep -q 'e?\[31mf' out || { cat out; fail "names on a terminal"; }
    grep -qa 'c?31m' out || { cat out; fail "what some terminals obey"; }
fi
echo "ok: names of any bytes"

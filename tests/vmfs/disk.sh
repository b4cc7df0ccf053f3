#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# "vmcore disk" as a user meets it, on a volume and in a folder; qemu-img reads what it makes.
set -euo pipefail
vmcore=$1
command -v qemu-img >/dev/null || { echo "qemu-img is not installed"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
fail() { echo "FAILED: $*"; exit 1; }
refused() { # PATTERN COMMAND...
    local pattern=$1
    shift
    if "$@" >out 2>&1; then fail "accepted: $*"; fi
    grep -q -e "$pattern" out || { cat out; fail "$*: no '$pattern'"; }
}
blocks() { "$vmcore" vmfs stat --json vol "$1" | sed -n 's/.*"blocks": *\([0-9]*\).*/\1/p'; }
used() { "$vmcore" vmfs df --json vol | python3 -c 'import json,sys; b=json.load(sys.stdin)["blocks"]; print(b["total"]-b["free"])'; }
# Random pieces in a sparse image of 40 MiB
image() { # FILE SEED
    python3 - "$1" "$2" <<'PY'
import random, sys
r = random.Random(int(sys.argv[2]))
with open(sys.argv[1], "ab") as f:
    f.truncate(40 << 20)
with open(sys.argv[1], "r+b") as f:
    for _ in range(60):
        f.seek(r.randrange(80000) * 512)
        f.write(r.randbytes(512 * r.randrange(1, 200)))
    f.truncate(40 << 20)
PY
}
# Write what differs between two images into a disk, as qemu-io would for a guest.
overwrite() { # DISK FILE: through NBD-less means: import is for new disks, so clone over it
    "$vmcore" disk export -q -f "$1" now
    cmp -s now "$2" || fail "$1 is not $2"
}

"$vmcore" vmfs mkfs -q --size 3G vol
"$vmcore" vmfs mkdir -p vol /a/b
for place in vmfs:vol:/a/b folder; do
    mkdir -p folder
    # kinds
    "$vmcore" disk create $place/thin.vmdk 64M
    "$vmcore" disk create --kind lazy $place/lazy.vmdk 64M
    "$vmcore" disk create --kind eager $place/eager.vmdk 64M
    refused 'exist' "$vmcore" disk create $place/thin.vmdk 64M
    refused 'ends in .vmdk' "$vmcore" disk create $place/thin.img 64M
    refused 'no size' "$vmcore" disk create $place/x.vmdk lots
    "$vmcore" disk grow $place/thin.vmdk 1G
    "$vmcore" disk grow $place/lazy.vmdk 96M
    refused 'cannot get' "$vmcore" disk grow $place/thin.vmdk 64M
    "$vmcore" disk info --json $place/thin.vmdk | python3 -c '
import json, sys
d = json.load(sys.stdin)
assert d["bytes"] == 1 << 30 and d["chain"][0]["thin"] and len(d["chain"]) == 1, d'
    # contents, in and out, raw and qcow2
    rm -f image.raw image2.raw
    image image.raw 1
    "$vmcore" disk import -q image.raw $place/base.vmdk
    overwrite $place/base.vmdk image.raw
    qemu-img convert -O qcow2 image.raw image.qcow2
    "$vmcore" disk import -q -O qcow2 image.qcow2 $place/from-qcow2.vmdk
    overwrite $place/from-qcow2.vmdk image.raw
    "$vmcore" disk export -q -f -O qcow2 $place/base.vmdk out.qcow2
    qemu-img compare -q out.qcow2 image.raw || fail "export to qcow2"
    # chains of both formats
    for log in cowd sesparse; do
        "$vmcore" disk snapshot --log $log $place/base.vmdk base-$log.vmdk
        overwrite $place/base-$log.vmdk image.raw
        "$vmcore" disk info $place/base-$log.vmdk | grep -q $log
        "$vmcore" disk rm $place/base-$log.vmdk
    done
    for kind in thin lazy eager; do
        "$vmcore" disk clone -q --kind $kind $place/base.vmdk $place/clone-$kind.vmdk
        overwrite $place/clone-$kind.vmdk image.raw
    done
    "$vmcore" disk rm $place/base.vmdk
    refused 'No such\|not found\|no entry\|not exist\|does not\|no ' "$vmcore" disk info $place/base.vmdk
    echo "ok: $place"
done
[ "$(blocks /a/b/lazy-flat.vmdk)" = 96 ] || fail "a lazy disk of 96 MiB has $(blocks /a/b/lazy-flat.vmdk) blocks"
[ "$(blocks /a/b/eager-flat.vmdk)" = 64 ] || fail "eager"
[ "$(blocks /a/b/thin-flat.vmdk)" = 0 ] || fail "thin"

# What would be of no use, or of another size than was meant.
refused 'a name with a folder' "$vmcore" disk snapshot vmfs:vol:/a/b/thin.vmdk /b.vmdk
refused 'is no size' "$vmcore" disk create vmfs:vol:/a/b/large.vmdk 16777217T

# A snapshot whose parent is in another folder, as its descriptor says; a folder of the host is not left.
"$vmcore" vmfs mkdir vol /base
"$vmcore" vmfs mkdir vol /linked
"$vmcore" disk import -q image.raw vmfs:vol:/base/base.vmdk
"$vmcore" disk snapshot vmfs:vol:/base/base.vmdk linked.vmdk
for f in linked.vmdk linked-delta.vmdk; do "$vmcore" vmfs mv vol /base/$f /linked/$f; done
refused 'base.vmdk' "$vmcore" disk info vmfs:vol:/linked/linked.vmdk
"$vmcore" vmfs cat vol /linked/linked.vmdk >linked.txt
for hint in ../base/base.vmdk /vmfs/volumes/any/base/base.vmdk; do
    sed "s,^parentFileNameHint=.*,parentFileNameHint=\"$hint\"," linked.txt >linked.vmdk
    "$vmcore" vmfs import -q -f vol linked.vmdk /linked/linked.vmdk
    overwrite vmfs:vol:/linked/linked.vmdk image.raw
    refused 'another folder' "$vmcore" disk commit -q vmfs:vol:/linked/linked.vmdk
done
mkdir -p outside folder/inside
"$vmcore" disk import -q image.raw outside/base.vmdk
"$vmcore" disk snapshot outside/base.vmdk linked.vmdk
mv outside/linked* folder/inside
sed -i 's,^parentFileNameHint=.*,parentFileNameHint="../../outside/base.vmdk",' folder/inside/linked.vmdk
refused 'base.vmdk' "$vmcore" disk info folder/inside/linked.vmdk
echo "ok: a parent in another folder"

# qemu-img reads what a guest would write: chains in a folder, by an own writer of the format.
rm -rf folder && mkdir folder
cp image.raw image2.raw
"$vmcore" disk import -q image.raw folder/base.vmdk
qemu-img check -q folder/base.vmdk
qemu-img compare -q -f vmdk -F raw folder/base.vmdk image.raw || fail "flat"
image image2.raw 2
for log in cowd sesparse; do
    "$vmcore" disk snapshot --log $log folder/base.vmdk top-$log.vmdk
    "$vmcore" disk write -q image2.raw folder/top-$log.vmdk
    overwrite folder/top-$log.vmdk image2.raw
    qemu-img compare -q -f vmdk -F raw folder/top-$log.vmdk image2.raw || fail "qemu-img: $log"
    "$vmcore" disk rm folder/top-$log.vmdk
    echo "ok: qemu-img reads $log"
done

# Compressed: the same contents in less space; what is written comes back plain; foreign readers refuse.
python3 - <<'PY'
import random
r = random.Random(9)
words = [r.randbytes(6).hex().encode() for _ in range(2000)]
with open("text.raw", "wb") as f:
    while f.tell() < 12 << 20:
        f.write(b" ".join(r.choice(words) for _ in range(5000)))
    f.truncate(12 << 20)
    f.write(r.randbytes(3 << 20))
    f.truncate(40 << 20)
PY
"$vmcore" disk import -q text.raw vmfs:vol:/a/cold.vmdk
before=$(used)
"$vmcore" disk compress -q vmfs:vol:/a/cold.vmdk
[ "$(used)" -lt $((before - 3)) ] || fail "compressed: $(used) blocks, plain: $before"
"$vmcore" disk info vmfs:vol:/a/cold.vmdk | grep -q packed || fail "no packed extent"
overwrite vmfs:vol:/a/cold.vmdk text.raw
"$vmcore" disk check -q vmfs:vol:/a/cold.vmdk | grep -q ': 0 damaged'
cp text.raw text2.raw
head -c 300000 /dev/urandom | dd of=text2.raw bs=4096 seek=777 conv=notrunc status=none
dd if=/dev/zero of=text2.raw bs=64K seek=40 count=3 conv=notrunc status=none
"$vmcore" disk write -q text2.raw vmfs:vol:/a/cold.vmdk
overwrite vmfs:vol:/a/cold.vmdk text2.raw
"$vmcore" disk compress -q vmfs:vol:/a/cold.vmdk
overwrite vmfs:vol:/a/cold.vmdk text2.raw
"$vmcore" disk expand -q vmfs:vol:/a/cold.vmdk
overwrite vmfs:vol:/a/cold.vmdk text2.raw
[ "$("$vmcore" vmfs ls vol /a | grep -c cold)" = 2 ] || fail "files are left over"
refused 'not compressed' "$vmcore" disk expand vmfs:vol:/a/cold.vmdk
"$vmcore" disk rm vmfs:vol:/a/cold.vmdk
# Damage is found, and read as an error, not as contents.
"$vmcore" disk import -q text.raw folder/cold.vmdk
"$vmcore" disk compress -q folder/cold.vmdk
refused 'nsupported\|nknown\|vmcorePacked' qemu-img info -f vmdk folder/cold-cold.vmdk
"$vmcore" disk check -q folder/cold.vmdk | grep -q ': 0 damaged'
printf 'XX' | dd of=folder/cold-cold-packed.vmdk bs=1 seek=300000 conv=notrunc status=none
"$vmcore" disk check -q folder/cold.vmdk >out 2>&1 && fail "damage was not found"
grep -q ': 1 damaged' out || { cat out; fail "damage"; }
refused 'malformed\|damaged' "$vmcore" disk export -q -f folder/cold.vmdk now
"$vmcore" disk rm folder/cold.vmdk
[ -z "$(ls folder | grep cold)" ] || fail "files of a removed disk are left over"
echo "ok: compressed disks"

# An export that fails says so, with the status of an error; a descriptor says nothing to a terminal.
"$vmcore" disk snapshot --log cowd folder/base.vmdk hurt.vmdk
"$vmcore" disk write -q image2.raw folder/hurt.vmdk
printf '\xff\xff\xff\x7f' | dd of=folder/hurt-delta.vmdk bs=1 seek=$((5 * 512)) conv=notrunc status=none
code=0
"$vmcore" disk export -q -f folder/hurt.vmdk now 2>out || code=$?
grep -q 'disk export: folder/hurt.vmdk at offset [0-9]*: malformed' out && [ $code = 4 ] || { cat out; fail "status $code"; }
"$vmcore" disk rm folder/hurt.vmdk
"$vmcore" disk create folder/bell.vmdk 1M
sed 's/bell-flat/b\x07\x9bll-flat/' folder/bell.vmdk >folder/said.vmdk
mv folder/bell-flat.vmdk $'folder/b\x07\x9bll-flat.vmdk'
"$vmcore" disk info folder/said.vmdk >out
grep -qa 'b??ll-flat' out || { cat -v out; fail "a name on a terminal"; }
refused 'Is a directory' "$vmcore" disk import -q folder folder/new.vmdk
refused 'Is a directory' "$vmcore" disk write -q folder folder/said.vmdk
refused 'quote' "$vmcore" disk create 'folder/a"b.vmdk' 1M
refused 'control' "$vmcore" disk snapshot folder/base.vmdk $'a\nb.vmdk'
# Zeros over what is zeros take no space, whatever the format of the log; over what is not, they are read.
truncate -s 40M zeros.raw
for log in cowd sesparse; do
    "$vmcore" disk create folder/thin.vmdk 40M
    "$vmcore" disk snapshot --log $log folder/thin.vmdk thin-top.vmdk
    "$vmcore" disk write -q zeros.raw folder/thin-top.vmdk
    mib=$(du -cm folder/thin-top-* | tail -1 | cut -f1)
    [ "$mib" -lt 10 ] || fail "$log: zeros take $mib MiB"
    "$vmcore" disk write -q image.raw folder/thin-top.vmdk
    "$vmcore" disk write -q zeros.raw folder/thin-top.vmdk
    overwrite folder/thin-top.vmdk zeros.raw
    "$vmcore" disk rm folder/thin-top.vmdk
    "$vmcore" disk rm folder/thin.vmdk
done
mkfifo folder/pipe.vmdk # nor is one that waits: snapshots look at all descriptors
refused 'Invalid argument' timeout 60 "$vmcore" disk info folder/pipe.vmdk
timeout 60 "$vmcore" disk snapshot folder/base.vmdk beside.vmdk || fail "a pipe beside a disk"
"$vmcore" disk rm folder/beside.vmdk
rm folder/pipe.vmdk
qemu-img convert -O qcow2 image2.raw image2.qcow2
"$vmcore" disk clone -q folder/base.vmdk folder/over.vmdk
refused 'qcow2 image' "$vmcore" disk write -q image2.qcow2 folder/over.vmdk
overwrite folder/over.vmdk image.raw
"$vmcore" disk write -q -O qcow2 image2.qcow2 folder/over.vmdk
overwrite folder/over.vmdk image2.raw
"$vmcore" disk export -q -f folder/base.vmdk /dev/null
"$vmcore" vmfs export -q -f vol /a/b/lazy-flat.vmdk /dev/null
refused 'No space' "$vmcore" disk export -q -f folder/base.vmdk /dev/full
echo "ok: exports"

# A raw device mapping: the disk is the device, the mapping on the volume is what is locked.
truncate -s 16M device
"$vmcore" disk rdm vmfs:vol:/a/b/raw.vmdk device
"$vmcore" disk info vmfs:vol:/a/b/raw.vmdk | grep -q 'rdm.*device'
"$vmcore" disk rdm --physical vmfs:vol:/a/b/raw2.vmdk device
dd if=/dev/urandom of=device bs=1M count=16 conv=notrunc status=none
"$vmcore" disk export -q --rdm device vmfs:vol:/a/b/raw.vmdk mapped.raw
cmp device mapped.raw
refused "maps the raw device $PWD/device" "$vmcore" disk export -q -f vmfs:vol:/a/b/raw.vmdk mapped.raw
refused 'not been allowed' "$vmcore" disk export -q -f --rdm vol vmfs:vol:/a/b/raw.vmdk mapped.raw
refused 'not been allowed' "$vmcore" run --engine soft --kernel device --disk vmfs:vol:/a/b/raw.vmdk
mkdir mapping
printf '%s\n' '# Disk DescriptorFile' 'version=1' 'CID=12345678' 'parentCID=ffffffff' \
    'createType="vmfsRawDeviceMap"' 'RW 2048 VMFSRDM "raw-rdm.vmdk"' \
    "ddb.vmcore.rawDevice = \"$PWD/device\"" >mapping/raw.vmdk
truncate -s 1M mapping/raw-rdm.vmdk
refused 'not been allowed' "$vmcore" disk export -q -f mapping/raw.vmdk mapped.raw
ln -s "$PWD/device" link
"$vmcore" disk export -q -f --rdm link mapping/raw.vmdk mapped.raw
cmp -n 1048576 device mapped.raw
refused 'no snapshots' "$vmcore" disk snapshot --rdm device vmfs:vol:/a/b/raw2.vmdk s.vmdk
refused 'no contents' "$vmcore" vmfs cat vol /a/b/raw-rdm.vmdk
"$vmcore" vmfs stat vol /a/b/raw-rdm.vmdk | grep -q rdm
"$vmcore" disk rm vmfs:vol:/a/b/raw.vmdk
"$vmcore" disk rm vmfs:vol:/a/b/raw2.vmdk
echo "ok: raw device mapping"
"$vmcore" vmfs fsck vol | tee out
grep -q ' 0 lost, .*; 0 errors' out

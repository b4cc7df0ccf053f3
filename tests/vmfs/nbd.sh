#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# "vmcore vmfs nbd" with qemu-img as its client. Usage: nbd.sh VMCORE NO_NOREPLACE
set -euo pipefail
vmcore=$1 no_noreplace=$2
if ! command -v qemu-img >/dev/null; then
    echo "SKIPPED, no qemu-img"
    exit 77
fi
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; rm -rf "$dir"' EXIT
fail() {
    echo "FAILED: $1"
    cat "$dir"/*.log 2>/dev/null | head -20
    exit 1
}
uri="nbd+unix:///?socket=$dir/socket"
serves() { # once there is a socket, somebody listens
    for _ in $(seq 3000); do
        [ -S "$dir/socket" ] && break
        kill -0 "$server" 2>/dev/null || fail "the server ended"
        sleep 0.1
    done
    timeout 300 qemu-img info -f raw "$uri" >"$dir/info" 2>&1 || { cat "$dir/info"; fail "nobody serves"; }
}
"$vmcore" vmfs mkfs --quiet --size 1G "$dir/vol" >/dev/null
head -c 8M /dev/urandom >"$dir/first"
head -c 3M /dev/urandom >"$dir/second"
truncate -s 8M "$dir/second" # zeros: what the client asks to be zeroed
"$vmcore" vmfs import --quiet --exclusive "$dir/vol" "$dir/first" /raw

# A file that is in the way is somebody's.
echo precious >"$dir/file"
if "$vmcore" vmfs nbd --exclusive "$dir/vol" /raw "$dir/file" 2>"$dir/refused.log"; then
    fail "a file was taken for a socket"
fi
[ "$(cat "$dir/file")" = precious ] || fail "a file was replaced by a socket"
if "$no_noreplace" "$vmcore" vmfs nbd --exclusive "$dir/vol" /raw "$dir/file" 2>"$dir/refused.log"; then
    fail "a file was taken for a socket"
fi
[ "$(cat "$dir/file")" = precious ] || fail "a file was replaced by a socket"
grep -q 'File exists' "$dir/refused.log" || fail "it does not say why"
[ "$(ls "$dir" | grep -c '^file')" = 1 ] || fail "a socket is left"
echo "ok: a file in the way is left alone"

"$no_noreplace" "$vmcore" vmfs nbd --exclusive "$dir/vol" /raw "$dir/socket" 2>"$dir/server.log" &
server=$!
serves
[ "$(ls "$dir" | grep -c '^socket')" = 1 ] || fail "the socket has two names"
kill -TERM "$server"
wait "$server" || fail "the server's end"
server=
echo "ok: a socket where files are not renamed with flags"

"$vmcore" vmfs nbd --exclusive "$dir/vol" /raw "$dir/socket" 2>"$dir/server.log" &
server=$!
serves
timeout 300 qemu-img convert -f raw -O raw "$uri" "$dir/read"
cmp "$dir/first" "$dir/read" || fail "read something else"
echo "ok: reads"
timeout 300 qemu-img convert -n -f raw -O raw "$dir/second" "$uri"
timeout 300 qemu-img compare -q -f raw -F raw "$dir/second" "$uri" || fail "wrote something else"
echo "ok: writes and zeroes"
if command -v qemu-io >/dev/null; then
    blocks() { "$vmcore" vmfs stat --json --exclusive "$dir/vol" /raw | sed -n 's/.*"blocks": *\([0-9]*\).*/\1/p'; }
    zero() { # OPTION...: 1.5 to 6.5 MiB, of which 3 MiB have data
        timeout 300 qemu-img convert -n -f raw -O raw "$dir/first" "$uri"
        timeout 300 qemu-io -f raw -c "discard 4M 1M" -c "write -z $* 1536k 5M" -c flush "$uri" >"$dir/io" ||
            { cat "$dir/io"; fail "qemu-io"; }
        cp "$dir/first" "$dir/zeroed"
        dd if=/dev/zero of="$dir/zeroed" bs=512k seek=3 count=10 conv=notrunc status=none
        timeout 300 qemu-img compare -q -f raw -F raw "$dir/zeroed" "$uri" || fail "zeroed something else"
    }
    zero
    [ "$(blocks)" = 8 ] || fail "zeros without holes leave $(blocks) of 8 blocks"
    zero -u
    [ "$(blocks)" = 4 ] || fail "zeros with holes leave $(blocks) of 4 blocks"
    timeout 300 qemu-img convert -n -f raw -O raw "$dir/second" "$uri"
    echo "ok: zeros keep their space, if the client says so"

    # One client stays; what it flushed, another sees.
    mkfifo "$dir/orders"
    timeout 300 qemu-io -f raw "$uri" <"$dir/orders" >"$dir/io" 2>&1 &
    stays=$!
    exec 4>"$dir/orders"
    echo "write -P 0x5a 1M 64k" >&4
    echo "flush" >&4
    for _ in $(seq 3000); do
        grep -q wrote "$dir/io" && break
        sleep 0.1
    done
    timeout 300 qemu-io -f raw -c "read -P 0x5a 1M 64k" -c "write -P 0xa5 1M 64k" -c flush "$uri" >"$dir/io2" ||
        { cat "$dir/io2"; fail "a second client"; }
    grep -q "Pattern verification failed" "$dir/io2" && fail "the second client sees something else"
    echo "read -P 0xa5 1M 64k" >&4
    echo "quit" >&4
    exec 4>&-
    wait $stays || { cat "$dir/io"; fail "the client that stays"; }
    grep -q "Pattern verification failed" "$dir/io" && fail "the first client sees something else"
    timeout 300 qemu-img convert -n -f raw -O raw "$dir/second" "$uri"
    echo "ok: several clients"
else
    echo "SKIPPED: no qemu-io"
fi
kill -TERM "$server"
wait "$server" || fail "the server's end"
server=
[ ! -e "$dir/socket" ] || fail "the socket was left behind"
[ ! -s "$dir/server.log" ] || fail "the server complained"
"$vmcore" vmfs export --quiet --exclusive "$dir/vol" /raw "$dir/out"
cmp "$dir/second" "$dir/out" || fail "the volume holds something else"
"$vmcore" vmfs fsck --exclusive "$dir/vol" >"$dir/fsck.log" || fail "fsck"
echo "ok: it is on the volume, and the socket is gone"

# A descriptor stands for a disk: here one of two files, of which only the second is written.
"$vmcore" disk create --exclusive "vmfs:$dir/vol:/base.vmdk" 8M
"$vmcore" disk snapshot --exclusive "vmfs:$dir/vol:/base.vmdk" top.vmdk
"$vmcore" vmfs nbd --exclusive "$dir/vol" /top.vmdk "$dir/socket" 2>"$dir/server.log" &
server=$!
serves
grep -q '8388608 bytes' "$dir/info" || { cat "$dir/info"; fail "the disk's size"; }
timeout 300 qemu-img convert -n -f raw -O raw "$dir/second" "$uri"
timeout 300 qemu-img compare -q -f raw -F raw "$dir/second" "$uri" || fail "wrote something else"
kill -TERM "$server"
wait "$server" || fail "the server's end"
server=
[ ! -s "$dir/server.log" ] || fail "the server complained"
"$vmcore" disk export --exclusive -q "vmfs:$dir/vol:/top.vmdk" "$dir/top"
cmp "$dir/second" "$dir/top" || fail "the disk holds something else"
"$vmcore" disk export --exclusive -q "vmfs:$dir/vol:/base.vmdk" "$dir/base"
cmp "$dir/base" <(head -c 8M /dev/zero) || fail "the disk below was written to"
"$vmcore" vmfs fsck --exclusive "$dir/vol" >"$dir/fsck.log" || fail "fsck"
echo "ok: a disk of several files"

# What a guest writes to its disk makes that no descriptor of other files.
truncate -s 8M "$dir/guests"
"$vmcore" vmfs cat --exclusive "$dir/vol" /base.vmdk | dd of="$dir/guests" conv=notrunc status=none
"$vmcore" vmfs import --quiet --exclusive "$dir/vol" "$dir/guests" /guests
"$vmcore" vmfs nbd --exclusive "$dir/vol" /guests "$dir/socket" 2>"$dir/server.log" &
server=$!
serves
timeout 300 qemu-img compare -q -f raw -F raw "$dir/guests" "$uri" || fail "read something else"
kill -TERM "$server"
wait "$server" || fail "the server's end"
server=
echo "ok: a disk that begins like a descriptor"

# A client that asks more and more does not keep the server from its end.
cat >"$dir/flood.py" <<'PY'
import socket, struct, sys, threading
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
def get(n):
    while n > 0:
        n -= len(s.recv(n)) or sys.exit("the connection is over")
def drop():
    while s.recv(65536):
        pass
get(18)
s.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, 0)) # any export
get(10)
threading.Thread(target=drop, daemon=True).start()
flushes = struct.pack(">IHHQQI", 0x25609513, 0, 3, 0, 0, 0) * 100
print("floods", flush=True)
try:
    while True:
        s.sendall(flushes)
except OSError:
    pass
PY
"$vmcore" vmfs nbd --exclusive "$dir/vol" /raw "$dir/socket" 2>"$dir/server.log" &
server=$!
serves
timeout 300 python3 "$dir/flood.py" "$dir/socket" >"$dir/flood" &
client=$!
for _ in $(seq 3000); do
    grep -q floods "$dir/flood" && break
    kill -0 $client || fail "the client ended"
    sleep 0.1
done
sleep 0.5
kill -TERM "$server"
for _ in $(seq 600); do
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
done
kill -0 "$server" 2>/dev/null && fail "a client keeps the server from its end"
wait "$server" || fail "the server's end"
server=
wait $client || fail "the client"
echo "ok: ends under a flood of requests"

# Descriptors run out: the next client waits until another has left, and the server sleeps.
"$vmcore" vmfs nbd --exclusive "$dir/vol" /raw "$dir/socket" 2>"$dir/server.log" &
server=$!
serves
for _ in $(seq 100); do # the last client's descriptor is closed soon
    used=$(ls /proc/$server/fd | wc -l)
    sleep 0.05
    [ "$used" = "$(ls /proc/$server/fd | wc -l)" ] && break
done
limit=0
while [ -L /proc/$server/fd/$limit ]; do # one number is free
    limit=$((limit + 1))
done
prlimit --pid "$server" --nofile=$((limit + 1))
cat >"$dir/crowd.py" <<'PY'
import os, socket, sys
clients = []
for i in range(3):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    clients.append(s)
clients[0].recv(18)
def seconds(): # of the processor
    f = open(f"/proc/{sys.argv[2]}/stat").read().rsplit(")")[1].split()
    return (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK")
before = seconds()
clients[1].settimeout(5)
try:
    clients[1].recv(18)
    sys.exit("the second client is served")
except TimeoutError:
    pass
if seconds() - before > 2.5:
    sys.exit("the server does not sleep")
for i in range(2): # each gets the place of the one before
    clients[i].close()
    clients[i + 1].settimeout(60)
    clients[i + 1].recv(18)
PY
timeout 300 python3 "$dir/crowd.py" "$dir/socket" "$server" || fail "descriptors run out"
kill -TERM "$server"
wait "$server" || fail "the server's end"
server=
echo "ok: descriptors run out"

# Read-only: asked for, on a file that cannot be written either; and where the volume cannot be written.
serve_read_only() { # OPTION...
    "$vmcore" vmfs nbd "$@" "$dir/vol" /raw "$dir/socket" 2>"$dir/server.log" &
    server=$!
    serves
    timeout 300 qemu-img compare -q -f raw -F raw "$dir/out" "$uri" || fail "read something else"
    timeout 300 qemu-img convert -n -f raw -O raw "$dir/first" "$uri" 2>/dev/null && fail "it can be written"
    kill -TERM "$server"
    wait "$server" || fail "the server's end"
    server=
}
sum=$(sha256sum <"$dir/vol")
serve_read_only --read-only
[ ! -s "$dir/server.log" ] || fail "the server complained"
[ "$sum" = "$(sha256sum <"$dir/vol")" ] || fail "the volume was written to"
# The file system's LVM UUID is not that of the extent: a copy.
printf '\x5a' | dd of="$dir/vol" bs=1 seek=$((0x100000 + 0x1100000 + 0x2000b1)) conv=notrunc status=none
sum=$(sha256sum <"$dir/vol")
serve_read_only
grep -q 'mounted read-only: .*UUID' "$dir/server.log" || fail "no word of it"
[ "$sum" = "$(sha256sum <"$dir/vol")" ] || fail "the volume was written to"
"$vmcore" vmfs mkdir "$dir/vol" /new 2>/dev/null && fail "it was written to"
echo "ok: read-only"

#!/bin/busybox sh
# SPDX-License-Identifier: BSD-2-Clause
# First process of the guest of scsi.sh. /dev/disk/a and b are two paths to one disk of LIO: two
# SCSI devices with page caches of their own, as two computers have them.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
dmesg -n 1
mount -t tmpfs -o size=90% tmpfs /tmp
cd /tmp || exit 1

finish() { poweroff -f; sleep 100; }
fail() {
    echo "FAILED: $*"
    dmesg | tail -40
    finish
}
ok() { echo "ok: $*"; }

for m in $(cat /lib/modules/order); do
    case $m in
    scsi_debug.ko) ;;
    *) insmod "/lib/modules/$m" || fail "cannot load $m" ;;
    esac
done
mount -t configfs configfs /sys/kernel/config
mount -t tracefs tracefs /sys/kernel/tracing || fail "no tracing"
target=/sys/kernel/config/target
trace=/sys/kernel/tracing

# target NAME MIB BLOCK-SIZE: a disk with two paths, /dev/NAMEa and /dev/NAMEb
n=0
target() {
    local core=$target/core/fileio_$n/$1 before path
    truncate -s "$2M" "/tmp/$1.image"
    mkdir -p "$core"
    echo "fd_dev_name=/tmp/$1.image,fd_dev_size=$(($2 << 20))" >"$core/control"
    echo 1 >"$core/enable" || fail "LIO does not take $1"
    echo "$3" >"$core/attrib/block_size" || fail "LIO takes no sectors of $3"
    for path in a b; do
        n=$((n + 1))
        local tpg
        tpg=$target/loopback/naa.60014050000000$(printf %02x $n)/tpgt_1
        mkdir -p "$tpg"
        echo "naa.60014060000000$(printf %02x $n)" >"$tpg/nexus"
        before=$(ls /sys/block)
        mkdir -p "$tpg/lun/lun_0"
        ln -s "$core" "$tpg/lun/lun_0/disk"
        for _ in $(seq 100); do
            for d in /sys/block/sd*; do
                case " $(echo $before) " in
                *" ${d##*/} "*) ;;
                *) [ -b "/dev/${d##*/}" ] && ln -sf "/dev/${d##*/}" "/dev/$1$path" ;;
                esac
            done
            [ -e "/dev/$1$path" ] && break
            usleep 50000
        done
        [ -e "/dev/$1$path" ] || fail "no path $path to the disk $1"
    done
}
# commands OPCODE: how many of them the kernel has sent since the trace began
watch_commands() {
    echo 0 >$trace/tracing_on
    echo >$trace/trace
    echo 8192 >$trace/buffer_size_kb
    echo 1 >$trace/events/scsi/scsi_dispatch_cmd_start/enable
    echo 1 >$trace/events/scsi/scsi_dispatch_cmd_done/enable
    echo 1 >$trace/tracing_on
}
commands() { grep -c "cmd_start.*raw=$1 " $trace/trace; }
fsck() {
    vmcore vmfs fsck "$1" >fsck.out 2>&1 || { cat fsck.out; fail "fsck of $1"; }
    grep -q ' 0 lost, .*; 0 errors' fsck.out || { cat fsck.out; fail "fsck of $1 found something"; }
}
# refused WORDS COMMAND...
refused() {
    local words=$1
    shift
    if timeout 120 "$@" >refused.out 2>&1; then
        cat refused.out
        fail "not refused: $*"
    fi
    grep -q "$words" refused.out || { cat refused.out; fail "no word of \"$words\" from $*"; }
}

# ---- hosts that are given up are shut out of the disk (persistent reservations)
# host NAME DEVICE OPTION...: one that obeys what is written to NAME.in
host() {
    local name=$1
    shift
    rm -f $name.in $name.out
    mkfifo $name.in
    scsi_host "$@" <$name.in >$name.out 2>$name.err &
    eval "pid_$name=$!"
    eval "exec $(hand $name)>$name.in"
    answer $name 1 120
}
hand() { case $1 in a) echo 6 ;; b) echo 7 ;; c) echo 8 ;; esac; }
tell() {
    local name=$1
    shift
    echo "$*" >&"$(hand $name)"
}
# answer NAME LINE SECONDS: the line, once it is there
answer() {
    local i=0
    while [ $i -lt $(($3 * 10)) ]; do
        sed -n "$2p" $1.out | grep . && return
        usleep 100000
        i=$((i + 1))
    done
    echo "nothing from $1 in $3 seconds"
}
# expect WORDS NAME LINE SECONDS
expect() {
    local got
    got=$(answer $2 $3 $4)
    case $got in
    "$1"*) ;;
    *) cat $2.err; stacks $2; fail "host $2 answers \"$got\", not \"$1\"" ;;
    esac
}
stacks() {
    local t
    for t in /proc/$(eval echo "\$pid_$1")/task/*; do
        echo "$t: $(sed -n 's/^State:\t*//p' $t/status)"
        cat $t/stack
    done
}
number_of() { cat /sys/block/"$(basename "$(readlink -f $1)")"/dev; }

# A host's write hangs in its kernel (throttled to nothing there), and the host stalls. Another one
# takes over and writes; then the first one's kernel goes on. What stands there in the end?
# late_write plain|reserve: sets $late
late_write() {
    host a /dev/fenceda $1
    expect "ok mounted" a 1 1
    tell a open
    expect ok a 2 60
    tell a write a
    expect ok a 3 60
    mkdir -p /tmp/cgroup/a
    echo $pid_a >/tmp/cgroup/a/cgroup.procs || fail "no group of processes"
    echo "$(number_of /dev/fenceda) wbps=2" >/tmp/cgroup/a/io.max || fail "no throttle"
    tell a write A
    sleep 1
    [ "$(answer a 4 1)" = "nothing from a in 1 seconds" ] || fail "the write did not hang"
    kill -STOP $pid_a
    host b /dev/fencedb $1
    expect "ok mounted" b 1 1
    tell b open
    expect ok b 2 120
    tell b write B
    expect ok b 3 60
    grep -q 'recovered the session' b.err || { cat b.err; fail "nothing was recovered"; }
    [ -d /proc/$pid_a ] || fail "the stalled host is gone with its request"
    if [ $1 = reserve ]; then # its path is not given to anybody before that has ended
        refused 'requests have not ended' scsi_host /dev/fenceda reserve
    fi
    echo "$(number_of /dev/fenceda) wbps=max" >/tmp/cgroup/a/io.max
    for _ in $(seq 600); do
        kill -0 $pid_a 2>/dev/null || break
        usleep 100000
    done
    kill -0 $pid_a 2>/dev/null && fail "the stalled host does not end"
    tell b read
    late=$(answer b 4 60)
    tell b end
    expect "ok unmounted" b 5 60
    exec 6>&- 7>&-
    fsck /dev/fencedb
}

reservations() {
    target fenced 600 512
    mkdir -p /tmp/cgroup
    mount -t cgroup2 cgroup2 /tmp/cgroup && echo +io >/tmp/cgroup/cgroup.subtree_control ||
        fail "no groups of processes with I/O limits"
    vmcore vmfs mkfs -q -L fenced /dev/fenceda || fail mkfs
    late_write plain
    [ "$late" = "ok A" ] || fail "without reservations the late write should land: $late"
    ok "without reservations a write that hung for longer than the lease lands (as documented)"
    late_write reserve
    [ "$late" = "ok B" ] || fail "the late write landed: $late"
    ok "with reservations it does not"

    # The disk is nobody's again.
    vmcore vmfs mkdir /dev/fenceda /plain || fail "reserved still"

    # Who is not registered, or cannot be.
    host a /dev/fenceda reserve
    expect "ok mounted" a 1 1
    refused 'reserved by another host' vmcore vmfs mkdir /dev/fencedb /no
    refused 'another process of this computer' vmcore vmfs mkdir --reserve /dev/fenceda /no
    vmcore vmfs mkdir --reserve /dev/fencedb /yes || fail "a second host"
    vmcore vmfs info --json /dev/fencedb | grep -q '"reserves": *true' || fail "info"
    vmcore vmfs ls /dev/fencedb / | grep -q yes || fail "readers are kept out"

    # One that is stopped, without a watchdog, and wakes up when it has been shut out.
    host b /dev/fencedb reserve unwatched
    expect "ok mounted" b 1 1
    tell b open
    expect ok b 2 60
    kill -STOP $pid_b
    tell a open
    expect ok a 2 120
    tell a write A
    expect ok a 3 60
    kill -CONT $pid_b
    tell b write B
    expect VMC_E b 3 60
    usleep 3000000
    tell b write B
    expect VMC_EFENCED b 4 60
    tell a read
    expect "ok A" a 4 60
    exec 7>&-
    wait $pid_b
    cat b.err

    # A crash, and a restart by the same path.
    kill -KILL $pid_a
    wait $pid_a
    exec 6>&-
    host c /dev/fenceda reserve
    expect "ok mounted" c 1 1
    tell c open
    expect ok c 2 120
    tell c read
    expect "ok A" c 3 60
    # A host that is not registered keeps others from reserving the disk below it.
    tell c end
    expect "ok unmounted" c 4 60
    exec 8>&-
    host a /dev/fenceda plain
    expect "ok mounted" a 1 1
    refused 'has not registered' vmcore vmfs mkdir --reserve /dev/fencedb /no
    tell a end
    expect "ok unmounted" a 2 60
    exec 6>&-
    fsck /dev/fenceda
    [ "$(scsi_command keys /dev/fenceda)" = "" ] || fail "keys are left: $(scsi_command keys /dev/fenceda)"
    ok "registrations"
    truncate -s 0 fenced.image
}

part=$(sed -n 's/.*part=\([a-z]*\).*/\1/p' /proc/cmdline)
reservations
if [ "$part" = reservations ]; then
    echo "all passed"
    finish
fi

target shared 600 512
A=/dev/shareda B=/dev/sharedb
seconds=$(sed -n 's/.*seconds=\([0-9]*\).*/\1/p' /proc/cmdline)

# ---- the command itself
scsi_command count $A 10 1000 >count.a 2>&1 &
first=$!
scsi_command count $B 10 1000 >count.b 2>&1 || { cat count.b; fail "counting by b"; }
wait $first || { cat count.a; fail "counting by a"; }
number=$(dd if=$B bs=512 skip=10 count=1 iflag=direct 2>/dev/null | hexdump -n 4 -e '1/4 "%d"')
[ "$number" = 2000 ] || fail "counted to $number, not 2000"
cat count.a count.b
grep -q 'missed [1-9]' count.a count.b || fail "the two never met"
ok "compare-and-write of two paths: 2000 of 2000"

# ---- a volume
watch_commands
refused 'not empty' vmcore vmfs mkfs -q -L shared $A # the numbers
vmcore vmfs mkfs -q --force -L shared $A || fail mkfs
vmcore vmfs mkdir -p $A /x/y || fail mkdir
head -c 3000000 /dev/urandom >data
vmcore vmfs import -q $A data /x/y/data || fail import
vmcore vmfs info $B | grep -q 'by SCSI COMPARE AND WRITE' || fail "info"
vmcore vmfs info --json $B | grep -q '"locks_by": *"scsi-compare-and-write"' || fail "info --json"
vmcore vmfs cat $B /x/y/data | cmp - data || fail "the other path shows other contents"
[ "$(commands 89)" -gt 20 ] || fail "$(commands 89) COMPARE AND WRITE"
[ "$(commands '\(16\|17\|5f\)')" = 0 ] || fail "reservations were used"
ok "$(commands 89) COMPARE AND WRITE commands"
echo 0 >$trace/tracing_on
fsck $B

# ---- four hosts, two on each path, killed one after the other
processes $A "$seconds" 1 $B 10 >processes.out 2>&1 || { cat processes.out; fail "four hosts on one disk"; }
grep -v recovered processes.out | tail -2
fsck $A
ok "four hosts"

# ---- a disk that somebody has reserved
target reserved 600 512
A=/dev/reserveda B=/dev/reservedb
vmcore vmfs mkfs -q -L reserved $A || fail mkfs
scsi_command register $B 2 && scsi_command reserve $B 2 || fail "no reservation"
refused 'reserved by another host' vmcore vmfs mkdir $A /a
vmcore vmfs mkdir $B /b || fail "the owner of the reservation is refused"
vmcore vmfs ls $A / | grep -q b || fail "a reservation for writing keeps readers out"
scsi_command clear $B 2 || fail "the reservation stays"
vmcore vmfs mkdir $A /c || fail "after the reservation"
fsck $B
ok "a reservation"

# ---- unit attention: who loses his registration is told so, whatever he asks next. By one path: after
# it, LIO (of Linux 6.1) no longer keeps such commands of two paths apart.
target told 600 512
A=/dev/tolda B=/dev/toldb
watch_commands
scsi_command count $A 10 3000 >count.a 2>&1 &
job=$!
while kill -0 $job 2>/dev/null; do
    scsi_command register $A 1 2>/dev/null && scsi_command register $B 2 2>/dev/null &&
        scsi_command clear $B 2 2>/dev/null
done
wait $job || { cat count.a; fail "unit attention"; }
cat count.a
checks=$(grep -c 'cmd_done.*cmnd=(0x89.*CHECK_CONDITION' $trace/trace)
[ "$checks" -gt 0 ] || fail "no command met unit attention"
number=$(dd if=$A bs=512 skip=10 count=1 iflag=direct 2>/dev/null | hexdump -n 4 -e '1/4 "%d"')
[ "$number" = 3000 ] || fail "counted to $number, not 3000"
ok "$checks times unit attention"
scsi_command count $A 11 1000 >count.a 2>&1 &
job=$!
scsi_command count $B 11 1000 >count.b 2>&1
wait $job
number=$(dd if=$A bs=512 skip=11 count=1 iflag=direct 2>/dev/null | hexdump -n 4 -e '1/4 "%d"')
echo "note: this target counts $number of 2000 afterwards"

# ---- a target without the command, and the slow way in its place
target slow 600 512
A=/dev/slowa B=/dev/slowb
vmcore vmfs mkfs -q -L slow $A || fail mkfs
echo 0 >"$(echo $target/core/fileio_*/slow/attrib/emulate_caw)" || fail "no such attribute"
watch_commands
vmcore vmfs mkdir $A /slow >slow.out 2>&1 || { cat slow.out; fail "without compare-and-write"; }
grep -q 'no SCSI COMPARE AND WRITE' slow.out || { cat slow.out; fail "no word of it"; }
vmcore vmfs info $A | grep -q 'by turns' || fail "info without the command"
[ "$(commands 89)" = 0 ] || fail "a command that the disk does not offer"
vmcore vmfs ls $B / | grep -q slow || fail "not seen by the other path"
fsck $B
ok "a target that does not offer the command"

# ---- sectors of 4 KiB: read, but not written to
target big 1300 4096
refused '512-byte sectors' vmcore vmfs mkfs -q -L big /dev/biga
vmcore vmfs mkfs -q -V 6 --experimental --size 1100M -L big big.vol || fail "mkfs of VMFS6"
vmcore vmfs import -q --experimental big.vol data /data || fail "import to VMFS6"
dd if=big.vol of=/dev/biga bs=1M conv=notrunc 2>/dev/null
vmcore vmfs cat /dev/bigb /data | cmp - data || fail "other contents from sectors of 4 KiB"
refused '512-byte sectors' vmcore vmfs mkdir --experimental /dev/biga /dir
rm big.vol
truncate -s 0 big.image shared.image reserved.image told.image slow.image # memory
ok "sectors of 4 KiB"

# ---- another kind of disk: it does not offer the command; then some sectors go bad (a heartbeat slot's)
insmod /lib/modules/scsi_debug.ko dev_size_mb=320 delay=0 medium_error_start=43008 medium_error_count=8 ||
    fail "scsi_debug"
for _ in $(seq 100); do
    found=$(grep -l scsi_debug /sys/block/sd*/device/model 2>/dev/null | head -1)
    [ -n "$found" ] && break
    usleep 50000
done
disk=${found#/sys/block/}
disk=/dev/${disk%%/*}
usleep 500000
[ -b "$disk" ] || fail "no disk of scsi_debug"
head -c 3000000 /dev/urandom >data
vmcore vmfs mkfs -q -L debug "$disk" || fail "mkfs on $disk"
vmcore vmfs import "$disk" data /data >debug.out 2>&1 || { cat debug.out; fail import; }
grep -q 'no SCSI COMPARE AND WRITE' debug.out || { cat debug.out; fail "a command that scsi_debug does not offer"; }
vmcore vmfs cat "$disk" /data | cmp - data || fail "other contents"
fsck "$disk"
echo 2 >/sys/bus/pseudo/drivers/scsi_debug/opts
refused 'read of .* failed' vmcore vmfs mkdir "$disk" /bad
cat refused.out
echo 0 >/sys/bus/pseudo/drivers/scsi_debug/opts
fsck "$disk"
ok "a disk with bad sectors"

echo "all passed"
finish

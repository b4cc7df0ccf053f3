#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# What cannot be started says why, crashes are contained, and the other guests run on; a mistake in the
# configuration is told with its line. With one processor.
# Usage: trouble.sh BUILD MACHINE SECONDS
# shellcheck source=tests/baremetal/lib.sh
. "$(dirname "$0")/lib.sh"
m=$1 seconds=$2
need_machine "$m"
dir=$build/tests/baremetal/trouble-$m
mkdir -p "$dir"
tiny=$build/bin/tiny_guest
tail -c 100000 "$build/bin/baremetal" >"$dir/junk"
cat >"$dir/vmcore.conf" <<'CONF'
hypervisor { status = 0; when_done = poweroff; run = "wait 3000; list; kill wide; kill fine" }
guest missing { kernel = nowhere; mem = 4M }
guest huge    { kernel = tiny; mem = 3G }
guest wide    { kernel = tiny; cmdline = idle; cpus = 4; mem = 4M }
guest fine    { kernel = tiny; cmdline = idle; mem = 4M }
guest junk    { kernel = junk; mem = 4M }
guest nodisk  { kernel = tiny; disk = nvme7; mem = 4M }
guest model   { kernel = tiny; cpu = nosuch; mem = 4M }
guest sign    { kernel = tiny; cpu = "default,avx2"; mem = 4M }
guest feature { kernel = tiny; cpu = "default,-nosuch"; mem = 4M }
guest crash   { kernel = tiny; cmdline = crash; mem = 4M }
guest loop    { kernel = tiny; cmdline = crash; mem = 4M; on_crash = restart }
CONF
log=$dir/log.txt
machine "$log" "$seconds" --machine "$m" --mem 160 --module "$dir/vmcore.conf=vmcore.conf" \
    --module "$tiny=tiny" --module "$dir/junk=junk"
said() { want "$log" "^\[vmcore\] $1"; }
said "libvmcore .* 1 processors, 159 MiB of memory"
said "missing: there is no module 'nowhere'"
said "huge: no 3072 MiB of memory in one piece \([0-9]+ MiB are free\)"
said "junk: boot: the image is neither a Linux kernel nor ELF nor Multiboot"
said "nodisk: there is no disk and no module 'nvme7'"
said "model: CPU model: there is no CPU model \"nosuch\" \(there are: default "
said "sign: CPU model: 'avx2' is neither \+avx2 nor -avx2"
said "feature: CPU model: there is no CPU feature \"nosuch\""
said "crash: vCPU 0 at [0-9a-f]+:[0-9a-f]+, stack "
said "crash: RAX, [^:]*:( [0-9a-f]+){4}$"
said "crash: stack:( [0-9a-f]+){4}$"
said "crash: ended: crashed: triple fault"
said "loop: reset"
said "loop: ended: reset more than ten times in a minute"
said "3 wide +running  4 vCPUs"
said "4 fine +running  1 vCPUs"
for g in missing huge wide fine junk nodisk model sign feature crash loop; do
    said "$g: [0-9]+ pages returned, 0 leaked"
done
said "every guest has ended, switching off"
forbid "$log" PANIC

echo "hypervisor { when_done = poweroff }
guest a { kernel = tiny; colour = blue }" >"$dir/mistake.conf"
log=$dir/mistake.txt
machine "$log" "$seconds" --machine "$m" --mem 64 --module "$dir/mistake.conf=vmcore.conf" \
    --module "$tiny=tiny"
said "vmcore.conf:2: a guest has no setting 'colour'"
said "every guest has ended, switching off"
forbid "$log" PANIC
verdict

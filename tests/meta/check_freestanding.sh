#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Build lib/ freestanding, link it into one object, and fail on any undefined symbol that is not in
# allowed_undefined.txt and on any writable data.
set -eu
root=$1
out=$2
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
cat >"$out/Makefile" <<'MK'
SRC := $(shell find $(ROOT)/lib -name '*.c' -o -name '*.S' | sort)
OBJ := $(patsubst $(ROOT)/%,%.o,$(SRC))
all.o: $(OBJ)
	ld -r -o $@ $(OBJ)
$(OBJ): %.o: $(ROOT)/%
	@mkdir -p $(dir $@)
	gcc -std=gnu17 -O2 -ffreestanding -fno-stack-protector -mno-red-zone -fno-pic -nostdlib \
	  $(if $(filter lib/base/% lib/mmu/% lib/cpu/% lib/irq/% lib/bus/% lib/dev/% lib/virtio/% lib/vm/% lib/pc/%,$@),-mgeneral-regs-only) \
	  -fno-strict-aliasing -I$(ROOT)/include -I$(ROOT)/lib -MMD -MP -c $< -o $@
-include $(OBJ:.o=.d)
MK
make -s -j2 -C "$out" ROOT="$root" all.o
nm -u "$out/all.o" | awk '{print $2}' | sort -u >"$out/undefined.txt"
grep -v '^#' "$here/allowed_undefined.txt" | awk 'NF {print $1}' | sort -u >"$out/allowed.txt"
bad=$(comm -23 "$out/undefined.txt" "$out/allowed.txt")
if [ -n "$bad" ]; then
    echo "undefined symbols that are not on the list:"
    for s in $bad; do
        echo "  $s  ($(grep -rl --include='*.o' "$s" "$out/lib" | head -3 | tr '\n' ' '))"
    done
    exit 1
fi
data=$(nm "$out/all.o" | awk '$2 ~ /^[bBdDcC]$/ {print $3}')
if [ -n "$data" ]; then
    echo "writable data in lib/:"
    echo "$data"
    exit 1
fi
echo "undefined symbols, all allowed: $(tr '\n' ' ' <"$out/undefined.txt")"

#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Build lib/ freestanding, link it into one object, and into another one with each x_small.c in the
# place of x.c, and fail on any undefined symbol that is not in allowed_undefined.txt and on any
# writable data. Modules that run while a guest's vector registers are live in the host's may not even
# use the platform's mem* functions, which could overwrite them.
# Usage: check_freestanding.sh SOURCE OUT-DIRECTORY GENERAL-REGS-MODULE...
set -eu
root=$1
out=$2
shift 2
general="$*"
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
cat >"$out/Makefile" <<'MK'
SRC := $(shell find $(ROOT)/lib -name '*.c' -o -name '*.S' | sort)
OBJ := $(patsubst $(ROOT)/%,%.o,$(SRC))
SMALL := $(filter %_small.c.o,$(OBJ))
.PHONY: all
all: all.o small.o
all.o: $(filter-out $(SMALL),$(OBJ))
	ld -r -o $@ $^
small.o: $(filter-out $(SMALL:_small.c.o=.c.o),$(OBJ))
	ld -r -o $@ $^
$(OBJ): %.o: $(ROOT)/%
	@mkdir -p $(dir $@)
	gcc -std=gnu17 -O2 -ffreestanding -fno-stack-protector -mno-red-zone -fno-pic -nostdlib \
	  $(if $(filter $(GENERAL:%=lib/%/%),$@),-mgeneral-regs-only -DVMC_GENERAL_REGS) \
	  -fno-strict-aliasing -I$(ROOT)/include -I$(ROOT)/lib -MMD -MP -c $< -o $@
-include $(OBJ:.o=.d)
MK
make -s -j2 -C "$out" ROOT="$root" GENERAL="$general" all
nm -u "$out/all.o" "$out/small.o" | awk 'NF == 2 {print $2}' | sort -u >"$out/undefined.txt"
grep -v '^#' "$here/allowed_undefined.txt" | awk 'NF {print $1}' | sort -u >"$out/allowed.txt"
bad=$(comm -23 "$out/undefined.txt" "$out/allowed.txt")
if [ -n "$bad" ]; then
    echo "undefined symbols that are not on the list:"
    for s in $bad; do
        echo "  $s  ($(grep -rl --include='*.o' "$s" "$out/lib" | head -3 | tr '\n' ' '))"
    done
    exit 1
fi
for m in $general; do
    for o in $(find "$out/lib/$m" -name '*.o'); do
        if nm -u "$o" | grep -q -w -E 'mem(cpy|move|set|cmp)'; then
            echo "$o uses libc's memory functions: it does not see base_int.h's names for them"
            exit 1
        fi
    done
done
data=$(nm "$out/all.o" "$out/small.o" | awk '$2 ~ /^[bBdDcC]$/ {print $3}')
if [ -n "$data" ]; then
    echo "writable data in lib/:"
    echo "$data"
    exit 1
fi
echo "undefined symbols, all allowed: $(tr '\n' ' ' <"$out/undefined.txt")"

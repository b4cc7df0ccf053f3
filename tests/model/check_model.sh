#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# usage: check_model.sh SPIN CC MODEL.pml FOLDER: explore every state; safety, deadlock, then each
# ltl property with weak fairness. A property that must fail (name bad_*) has to fail.
set -euo pipefail
spin=$1 cc=$2 model=$3 dir=$4
if [ -z "$spin" ] || [ ! -x "$spin" ]; then
  case ",${VMC_TEST_REQUIRE:-}," in *,spin,*) echo "spin is missing"; exit 1 ;; esac
  echo "spin is missing: skipped"
  exit 77
fi
mkdir -p "$dir"
cd "$dir"
"$spin" -a "$model" >/dev/null
"$cc" -O2 -w -DSAFETY -DNOCLAIM -o pan_safety pan.c
./pan_safety -m200000 | tee safety.txt
grep -q "errors: 0" safety.txt
"$cc" -O2 -w -DNFAIR=4 -o pan_live pan.c
for p in $(sed -n 's/^ltl \([a-z_]*\).*/\1/p' "$model"); do
  ./pan_live -a -f -m200000 -N "$p" > "$p.txt"
  if [[ $p == bad_* ]]; then
    grep -q "errors: 1" "$p.txt" || { echo "$p holds, but must not"; exit 1; }
  else
    grep -q "errors: 0" "$p.txt" || { cat "$p.txt"; echo "$p fails"; exit 1; }
  fi
  echo "$p: as expected"
done

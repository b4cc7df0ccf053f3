#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Run a test kernel in the standard machine. Usage: machine_test.sh VMCORE ROM [OPTION...]
vmcore=$1 rom=$2
shift 2
"$vmcore" run --engine=soft --cpu=max --cpus=2 --mem=64 --serial=none --debugcon=stdio \
    --exit-port=0xf4 --firmware="$rom" "$@" </dev/null
test $? = 1 # the kernel wrote 0

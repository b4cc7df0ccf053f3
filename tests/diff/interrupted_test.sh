#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# interrupted_test.sh DIFF_RUN VECTOR: the host's other tasks must make no difference. Several replay
# a vector at once on one CPU: each is taken off it some hundred times between its instructions.
set -eu
run=$1 vec=$2
cpu=$(taskset -cp $$ | sed 's/.*: *//; s/[-,].*//')
pids=
for i in 1 2 3; do
    taskset -c "$cpu" "$run" -z -r "$vec" -n 5000 &
    pids="$pids $!"
done
rc=0
for p in $pids; do
    wait "$p" || rc=$?
done
exit $rc

#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# What a benchmark guest holds in memory: a compiler, and what it made of programs that depend on the
# guest's seed.
seed=$1
cd /tmp || exit 1
i=0
while [ $i -lt 4 ]; do
    {
        echo '#include <stdio.h>'
        j=0
        while [ $j -lt 60 ]; do
            k=$(((seed * 7919 + i * 104729 + j * 31) % 65521))
            echo "static int f$j(int x) { for (int i = 0; i < $k; i++) x = x * $k + i % 7; return x; }"
            j=$((j + 1))
        done
        echo 'int main(int argc, char **argv) { (void)argv; int s = argc;'
        j=0
        while [ $j -lt 60 ]; do
            echo "s ^= f$j(s);"
            j=$((j + 1))
        done
        printf '%s\n' 'return s; }'
    } >p$i.c
    gcc -O2 -g -o p$i p$i.c || exit 1
    i=$((i + 1))
done
touch /tmp/ready
exec sleep 3600

#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Four processes on one volume while one after the other is killed; VMC_VMFS_SECONDS sets how long.
set -euo pipefail
vmcore=$1 processes=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$vmcore" vmfs mkfs -q --size 4G "$dir/vol"
"$processes" "$dir/vol" "${VMC_VMFS_SECONDS:-20}"
"$vmcore" vmfs fsck "$dir/vol" | tee "$dir/fsck"
grep -q ' 0 lost, .*; 0 errors' "$dir/fsck"

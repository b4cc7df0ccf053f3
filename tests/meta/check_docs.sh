#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# The reference is made without a warning. Usage: check_docs.sh DOXYFILE    77: no doxygen
set -euo pipefail
command -v doxygen >/dev/null || {
    echo "SKIPPED, no doxygen"
    exit 77
}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
{
    cat "$1"
    printf 'OUTPUT_DIRECTORY = %s\nGENERATE_HTML = NO\nGENERATE_XML = YES\nHAVE_DOT = NO\n' "$dir"
} >"$dir/Doxyfile"
doxygen "$dir/Doxyfile" >/dev/null 2>"$dir/log"
[ -s "$dir/xml/vm_8h.xml" ] || { echo "the reference is empty"; exit 1; }
[ ! -s "$dir/log" ] || { head -20 "$dir/log"; exit 1; }
echo "ok: no warnings"

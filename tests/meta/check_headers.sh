#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Every public header compiles alone as C11, C17 and C++17, with gcc and (where installed) clang.
set -u
root=$1
failed=0
count=0
for h in "$root"/include/vmcore/*.h; do
    name=vmcore/$(basename "$h")
    for cc in "gcc -xc -std=c11" "gcc -xc -std=c17" "g++ -xc++ -std=c++17" \
              "clang -xc -std=c11" "clang++ -xc++ -std=c++17"; do
        command -v "${cc%% *}" >/dev/null || continue
        count=$((count + 1))
        # shellcheck disable=SC2086
        if ! printf '#include <%s>\nextern int dummy;\n' "$name" |
            $cc -Wall -Wextra -Wpedantic -Werror -I"$root/include" -fsyntax-only -; then
            echo "FAILED: $cc $name"
            failed=1
        fi
    done
done
echo "$count compilations"
exit $failed

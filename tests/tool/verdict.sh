# SPDX-License-Identifier: BSD-2-Clause
# What tests of the command share. They set $dir, and end with "exit $failed".
failed=0

verdict() { # NAME CONDITION...
    local name=$1
    shift
    if "$@"; then
        echo "ok: $name"
    else
        echo "FAILED: $name; what was said:"
        head -5 "$dir/out" "$dir/host.out" 2>/dev/null
        failed=1
    fi
}

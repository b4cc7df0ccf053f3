#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Install into a staging folder, then build and run the example against it in four ways.
set -euo pipefail
src=$1
build=$2
work=$build/install-test
rm -rf "$work"
mkdir -p "$work"
cmake --install "$build" --prefix "$work/prefix" >"$work/install.log"

prefix=$work/prefix
for f in bin/vmcore share/doc/vmcore/README.md share/doc/vmcore/docs/embedding.md share/man/man1/vmcore.1 share/man/man5/vmcore-host.5 share/bash-completion/completions/vmcore; do
    [ -e "$prefix/$f" ] || { echo "not installed: $f"; exit 1; }
done
[ "$(wc -l <"$src/examples/hello-vmm/hello_vmm.c")" -lt 150 ] || { echo "hello-vmm has grown"; exit 1; }

san=$(sed -n 's/^VMC_SANITIZE:STRING=//p' "$build/CMakeCache.txt")
cc=$(sed -n 's/^CMAKE_C_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt")
flags=${san:+-fsanitize=$san}

expect() {
    # Two VMs run at the same time; each must get its line out whole.
    [ "$(grep -c '^Hello from a guest on the [a-z]* engine$' "$1")" = 2 ] &&
        grep -q "^Hello from a guest on the soft engine" "$1" || { echo "$2: wrong output"; cat "$1"; exit 1; }
    echo "ok: $2"
}

# 1. find_package
cmake -S "$src/examples/hello-vmm" -B "$work/hello" -DCMAKE_PREFIX_PATH="$prefix" \
    -DCMAKE_C_COMPILER="$cc" -DCMAKE_C_FLAGS="$flags" >"$work/cmake.log"
cmake --build "$work/hello" >>"$work/cmake.log" || { cat "$work/cmake.log"; exit 1; }
timeout 60 "$work/hello/hello-vmm" >"$work/out1"
expect "$work/out1" "find_package, static"

cmake -S "$src/examples/own-loop" -B "$work/own-loop" -DCMAKE_PREFIX_PATH="$prefix" \
    -DCMAKE_C_COMPILER="$cc" -DCMAKE_C_FLAGS="$flags" >"$work/cmake.log"
cmake --build "$work/own-loop" >>"$work/cmake.log" || { cat "$work/cmake.log"; exit 1; }
timeout 600 "$work/own-loop/own-loop" >"$work/own-loop.out" ||
    { echo "own-loop failed:"; cat "$work/own-loop.out"; exit 1; }
echo "ok: the scheduler in a loop of its own"

# 2. and 3. pkg-config, shared and static; moved, to prove that it is relocatable
mv "$prefix" "$work/moved"
libdir=$(dirname "$(find "$work/moved" -name vmcore.pc)")
export PKG_CONFIG_PATH=$libdir
hello=$src/examples/hello-vmm/hello_vmm.c
# shellcheck disable=SC2046
$cc $flags "$hello" -o "$work/hello-shared" $(pkg-config --cflags --libs vmcore-host)
LD_LIBRARY_PATH=$libdir/.. timeout 60 "$work/hello-shared" >"$work/out2"
expect "$work/out2" "pkg-config, shared"

# 4. a C++ consumer of every public header
printf '#include <vmcore/vmcore.h>\n#include <vmcore/host.h>\nint main() { vmc_platform pf; vmc_error e; return vmc_host_platform_init(\&pf, nullptr, \&e); }\n' \
    >"$work/consumer.cpp"
sed -i 's/\\&/\&/g' "$work/consumer.cpp"
if [ -z "$san" ]; then
    # shellcheck disable=SC2046
    g++ -std=c++17 "$work/consumer.cpp" -o "$work/consumer" \
        $(pkg-config --cflags --libs vmcore-host)
    LD_LIBRARY_PATH=$libdir/.. timeout 60 "$work/consumer"
    echo "ok: C++"
fi

# Only the public API is exported.
bad=$(nm -D --defined-only "$libdir/../libvmcore.so" | awk '{print $3}' | grep -v '^vmc_' |
    grep -v '^VMCORE_' | grep -v -E '^__(asan|ubsan|sanitizer|lsan|tsan|odr)' || true)
[ -z "$bad" ] || [ -n "$san" ] || { echo "exported but not public: $bad"; exit 1; }
echo "ok: exports"

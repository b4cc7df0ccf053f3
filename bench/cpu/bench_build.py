# SPDX-License-Identifier: BSD-2-Clause
"""Building what bench/cpu/run measures: payloads, the kernel of single operations, an initrd."""
import os
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
GUEST = os.path.join(HERE, "guest")
TOP = os.path.dirname(os.path.dirname(HERE))

KERNEL_FLAGS = ("-O2 -ffreestanding -fno-pic -no-pie -mno-red-zone -mgeneral-regs-only "
                "-fno-stack-protector -fcf-protection=none -nostdlib -static "
                "-Wl,--build-id=none,-z,max-page-size=4096").split()


def newer(out, sources):
    return os.path.exists(out) and all(os.path.getmtime(s) <= os.path.getmtime(out)
                                       for s in sources)


def sources(*names):
    return [os.path.join(GUEST, n) for n in names]


def cpio_entry(name, mode, data=b"", rdev=(0, 0)):
    """One file of a "newc" archive."""
    head = "070701" + "".join("%08x" % v for v in (
        0, mode, 0, 0, 1, 0, len(data), 0, 0, rdev[0], rdev[1], len(name) + 1, 0))
    out = head.encode() + name.encode() + b"\0"
    out += b"\0" * (-len(out) % 4) + data
    return out + b"\0" * (-len(data) % 4)


def make_initrd(payload, large, out):
    def data(path):
        with open(path, "rb") as f:
            return f.read()

    with open(out, "wb") as f:
        f.write(cpio_entry("dev", 0o40755) + cpio_entry("proc", 0o40755) +
                cpio_entry("dev/console", 0o20600, rdev=(5, 1)) +
                cpio_entry("init", 0o100755, data(payload)) +
                cpio_entry("large", 0o100755, data(large)) + cpio_entry("TRAILER!!!", 0))


LARGE_FUNCTIONS = 3000
LARGE_ROUNDS = 15
LARGE_HEAD = """#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#define FN static __attribute__((noinline)) uint64_t
static uint64_t data[1024];
static const char *const names[] = {"alpha", "beta", "gamma_delta", "epsilon-zeta-eta-theta"};
"""


def large_function(i):
    """One of four kinds: a short loop over data; a branch and a call; strings; memory."""
    kind = i % 4
    if kind == 0:
        return """FN f%d(uint64_t x)
{
    for (unsigned k = 0; k < %d; k++)
        x += data[(x + k * %d) & 1023] ^ (x >> %d);
    data[%d] = x;
    return x;
}
""" % (i, 2 + i % 7, 1 + i % 13, 1 + i % 31, i % 1024)
    if kind == 1:
        return """FN f%d(uint64_t x)
{
    if ((x & %d) == 0)
        return f%d(x + %d) * 3;
    data[%d]++;
    return f%d(x ^ %d) + 1;
}
""" % (i, 1 << i % 5, i - 1, i, i % 1024, max(i - 101, 0) // 4 * 4, i * 7)
    if kind == 2:
        return """FN f%d(uint64_t x)
{
    char b[64];
    const char *s = names[x & 3];
    size_t n = strlen(s);
    memcpy(b + (x & 15), s, n + 1);
    return x * %d + (uint64_t)b[(x & 15) + n / 2] + (strcmp(s, names[%d]) == 0);
}
""" % (i, 2 * i + 1, i % 4)
    return """FN f%d(uint64_t x)
{
    uint64_t *p = malloc(%d);
    if (p == NULL)
        return 0;
    *p = data[x & 1023] + f%d(x + 1);
    x += *p;
    free(p);
    return x;
}
""" % (i, 16 + i % 200, i - 3)


def make_large(out):
    """A program with much code, which runs for milliseconds. It is position-independent."""
    text = LARGE_HEAD + "".join(large_function(i) for i in range(LARGE_FUNCTIONS))
    text += "typedef uint64_t fn(uint64_t);\nstatic fn *const all[] = {%s};\n" % ", ".join(
        "f%d" % i for i in range(LARGE_FUNCTIONS))
    text += """int main(void)
{
    uint64_t x = 1;

    for (unsigned r = 0; r < %d; r++)
        for (unsigned i = 0; i < %d; i++)
            x = all[i](x);
    return x == 0 ? 1 : 7;
}
""" % (LARGE_ROUNDS, LARGE_FUNCTIONS)
    with open(out + ".c", "w") as f:
        f.write(text)
    subprocess.run(["gcc", "-O1", "-fPIE", "-static-pie", "-Wall", "-Wextra", "-Werror", "-o", out,
                    out + ".c"], check=True)


def build(o):
    """Make everything that is not there yet; returns a dictionary of paths."""
    folder = os.path.join(o.build, "bench", "cpu")
    os.makedirs(folder, exist_ok=True)
    f = {"payload": os.path.join(folder, "payload"), "large": os.path.join(folder, "large"),
         "ops": os.path.join(folder, "ops.elf"),
         "initrd": os.path.join(folder, "initrd"),
         "vmcore": os.path.join(o.build, "bin", "vmcore"),
         "kernel": o.kernel or os.path.join(o.build, "guest", "vmlinuz")}
    work = sources("main.c", "work_int.c", "work_fp.c", "work_mem.c", "work_sys.c")
    if not newer(f["payload"], work + sources("work.h")):
        subprocess.run(["gcc", "-O2", "-fno-math-errno", "-static", "-Wall", "-Wextra", "-Werror",
                        "-o", f["payload"]] + work + ["-lz", "-lpthread"], check=True)
    if not newer(f["large"], [__file__]):
        make_large(f["large"])
    if not newer(f["initrd"], [f["payload"], f["large"], __file__]):
        make_initrd(f["payload"], f["large"], f["initrd"])
    kernel = sources("ops_boot.S", "ops.c")
    if not newer(f["ops"], kernel + sources("ops.ld")):
        subprocess.run(["gcc"] + KERNEL_FLAGS + ["-T", sources("ops.ld")[0], "-o",
                                                 f["ops"] + "64"] + kernel, check=True)
        subprocess.run(["objcopy", "-O", "elf32-i386", f["ops"] + "64", f["ops"]], check=True)
    if not os.path.exists(f["kernel"]):
        subprocess.run([os.path.join(TOP, "scripts", "fetch-guest"),
                        os.path.dirname(f["kernel"])], check=True)
    if not os.path.exists(f["vmcore"]):
        raise SystemExit("bench: no %s: build first, or give --build" % f["vmcore"])
    return f


def payloads(files):
    """[(group, name)]"""
    out = subprocess.run([files["payload"], "list"], check=True, capture_output=True, text=True)
    return [tuple(line.split()) for line in out.stdout.splitlines()]

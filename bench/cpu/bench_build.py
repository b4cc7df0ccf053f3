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


def make_initrd(payload, out):
    with open(payload, "rb") as f:
        data = f.read()
    with open(out, "wb") as f:
        f.write(cpio_entry("dev", 0o40755) + cpio_entry("proc", 0o40755) +
                cpio_entry("dev/console", 0o20600, rdev=(5, 1)) +
                cpio_entry("init", 0o100755, data) + cpio_entry("TRAILER!!!", 0))


def build(o):
    """Make everything that is not there yet; returns a dictionary of paths."""
    folder = os.path.join(o.build, "bench", "cpu")
    os.makedirs(folder, exist_ok=True)
    f = {"payload": os.path.join(folder, "payload"), "ops": os.path.join(folder, "ops.elf"),
         "initrd": os.path.join(folder, "initrd"),
         "vmcore": os.path.join(o.build, "bin", "vmcore"),
         "kernel": o.kernel or os.path.join(o.build, "guest", "vmlinuz")}
    work = sources("main.c", "work_int.c", "work_fp.c", "work_mem.c", "work_sys.c")
    if not newer(f["payload"], work + sources("work.h")):
        subprocess.run(["gcc", "-O2", "-fno-math-errno", "-static", "-Wall", "-Wextra", "-Werror",
                        "-o", f["payload"]] + work + ["-lz", "-lpthread"], check=True)
    if not newer(f["initrd"], [f["payload"], __file__]):
        make_initrd(f["payload"], f["initrd"])
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

# SPDX-License-Identifier: BSD-2-Clause
"""A process that does work on request, and what processor time that took."""
import ctypes
import os
import select
import subprocess
import time

OPS = ["syscall", "page_fault", "interrupt", "user_int", "ipi", "in", "out", "cr8", "cr3",
       "cr3_touch", "invlpg", "call_ret", "cpuid", "cli_sti", "pushf_popf", "rdmsr", "wrmsr",
       "rdtsc", "swapgs", "iret", "fxsave"]
TIMEOUT = 180
CMDLINE = "console=ttyS0 quiet panic=-1 cryptomgr.notests"

libc = ctypes.CDLL(None, use_errno=True)


def tsc_hz():
    """The unit of "cycles": of the host's time-stamp counter."""
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("bogomips"):
                return float(line.split(":")[1]) * 1e6 / 2
    raise SystemExit("bench: the clock rate of this processor is unknown")


class Process:
    """Talks over pipes to payload or kernel; see guest/main.c for the protocol."""

    def __init__(self, name, argv):
        self.name = name
        self.counts = {}
        self.buf = b""
        self.p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE)
        clock = ctypes.c_int()
        if libc.clock_getcpuclockid(self.p.pid, ctypes.byref(clock)) != 0:
            raise SystemExit("bench: no processor clock of %s" % name)
        self.clock = clock.value
        self.answer(b"@ready")
        self.boot_s = self.cpu()

    def cpu(self):
        """Processor time so far, read when it stands still: what the thread that runs has used since
        the last tick of the host's scheduler, up to 10 ms, is not in it yet."""
        last = time.clock_gettime(self.clock)
        for _ in range(100):
            time.sleep(0.002)
            now = time.clock_gettime(self.clock)
            if now - last < 2e-5:
                return now
            last = now
        return last

    def answer(self, want):
        end = time.monotonic() + TIMEOUT
        while True:
            while b"\n" in self.buf:
                line, self.buf = self.buf.split(b"\n", 1)
                at = line.find(b"@")
                line = line[at:].strip() if at >= 0 else b""
                if line.startswith(b"@error"):
                    raise SystemExit("bench: %s refused a command" % self.name)
                if line.startswith(want):
                    return line.decode().split()
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.p.stdout], [], [], left)[0]:
                raise SystemExit("bench: no answer from %s in %d s; last: %r" %
                                 (self.name, TIMEOUT, self.buf[-200:]))
            data = os.read(self.p.stdout.fileno(), 4096)
            if not data:
                raise SystemExit("bench: %s ended: %s" %
                                 (self.name, self.p.stderr.read().decode(errors="replace")))
            self.buf += data

    def run(self, work, count):
        """(seconds of processor time, checksum)"""
        before = self.cpu()
        self.p.stdin.write(b"%s %d\n" % (work.encode(), count))
        self.p.stdin.flush()
        words = self.answer(b"@done " + work.encode() + b" ")
        used = self.cpu() - before
        if self.name == "native":
            used = int(words[3]) / 1e6
        return used, words[2]

    def calibrate(self, work, seconds, count=1):
        """How many units take that long, when they are warm. None: this processor cannot.

        The first runs read pages in, are interpreted and translated: a unit of 0.2 ms may take 10.
        So the time must hold when the same is asked for again.
        """
        warm = False
        while True:
            t, what = self.run(work, count)
            if what == "unsupported":
                return None
            if t < seconds / 4:
                warm = False
                count = int(count * min(16, max(2, seconds / max(t, 1e-4))))
            elif warm:
                return max(1, int(count * seconds / t))
            else:
                warm = True

    def stop(self):
        self.p.kill()
        self.p.wait()
        self.p.stdin.close()
        self.p.stdout.close()
        self.p.stderr.close()


def qemu(model, rest):
    return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", model, "-m", "256", "-display", "none",
            "-monitor", "none", "-serial", "stdio", "-no-reboot", "-net", "none"] + rest


def vmcore(files, name, rest):
    argv = [files["vmcore"], "run", "--engine", "soft", "--mem", "256M", "--serial", "stdio"]
    if name == "interp":
        argv.append("--no-translate")
    if ":" in name:
        argv += ["--cpu", name.split(":", 1)[1]]
    return argv + rest


def start(name, files):
    if name == "native":
        return Process(name, ["taskset", "-c", str(min(os.sched_getaffinity(0))),
                              files["payload"]])
    if name in ("tcg", "qemu64"):
        return Process(name, qemu("max" if name == "tcg" else name,
                                  ["-kernel", files["kernel"], "-initrd", files["initrd"],
                                   "-append", CMDLINE]))
    return Process(name, vmcore(files, name, ["--kernel", files["kernel"], "--initrd",
                                              files["initrd"], "--cmdline", CMDLINE]))


def start_ops(name, files):
    if name == "tcg":
        return Process(name, qemu("max", ["-kernel", files["ops"]]))
    return Process(name, vmcore(files, name, ["--kernel", files["ops"]]))

# SPDX-License-Identifier: BSD-2-Clause
"""Tables, the chart and the result lines of bench/cpu/run."""
import math
from statistics import median

# What TCG needs for these, in host cycles, is the mark to be at or below.
RESULT_OPS = ["syscall", "page_fault", "interrupt", "in", "out", "cr8", "cr3", "invlpg",
              "call_ret", "cpuid"]
COLOURS = {"vmcore": "#1b6ca8", "tcg": "#d1495b", "qemu64": "#edae49", "interp": "#888888"}


def geomean(values):
    return math.exp(sum(math.log(v) for v in values) / len(values)) if values else float("nan")


def spread(values):
    """Half the range between the extremes, in per cent of the median."""
    return 50 * (max(values) - min(values)) / median(values)


def seconds(t):
    for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if t * scale >= 1:
            return "%.3g %s" % (t * scale, unit)
    return "%.3g ns" % (t * 1e9)


def ratio(r, a, b):
    return median(r[a]) / median(r[b]) if a in r and b in r else None


def cell(v):
    return "%8.2f" % v if v is not None else "%8s" % "-"


def table(results, names):
    """Times of one unit of work, and ratios. "+-": half the range, in per cent."""
    if not results:
        return
    others = [n for n in names if n != "native"]
    head = "%-5s %-12s" % ("", "payload")
    for n in names:
        head += " %10s  +-%%" % n[-10:]
    for n in others:
        head += "  %s/native" % n[-10:]
    print(head + "  tcg/vmcore")
    for (group, name), r in results.items():
        line = "%-5s %-12s" % (group, name)
        for n in names:
            line += " %10s %4.0f" % (seconds(median(r[n])), spread(r[n])) if n in r else " " * 16
        for n in others:
            line += " " * (len(n[-10:]) + 1) + cell(ratio(r, n, "native"))
        print(line + "    " + cell(ratio(r, "tcg", "vmcore")))
    for group in sorted({g for g, _ in results}):
        line = "%-5s %-12s" % (group, "geomean") + " " * (16 * len(names))
        rows = [r for (g, _), r in results.items() if g == group]
        for a, b, pad in [(n, "native", len(n[-10:]) + 1) for n in others] + [
                ("tcg", "vmcore", 4)]:
            v = [ratio(r, a, b) for r in rows]
            v = [x for x in v if x is not None]
            line += " " * pad + cell(geomean(v) if v else None)
        print(line)


def ops_table(ops):
    names = sorted({n for r in ops.values() for n in r}, key=lambda n: (n == "tcg", n))
    print("\n%-12s" % "operation" + "".join(" %14s  +-%%" % n[-14:] for n in names) +
          "   (host cycles)  tcg/vmcore")
    for op, r in ops.items():
        line = "%-12s" % op
        for n in names:
            line += " %14.1f %4.0f" % (median(r[n]), spread(r[n])) if n in r else " " * 20
        print(line + " " * 17 + cell(ratio(r, "tcg", "vmcore")))
    print()


def result_lines(results, ops):
    def line(name, value, unit):
        print("result cpu.%s %.3g %s" % (name, value, unit))

    def ratios(groups, a, b):
        v = [ratio(r, a, b) for (g, _), r in results.items() if g in groups]
        return [x for x in v if x is not None]

    for op in RESULT_OPS:
        for n, suffix in (("vmcore", ""), ("tcg", "_tcg")):
            if n in ops.get(op, {}):
                line("op_%s%s_cycles" % (op, suffix), median(ops[op][n]), "cycles")
    every = ("int", "fp", "mem", "sys", "boot")
    for n, suffix in (("tcg", "tcg"), ("qemu64", "tcg_qemu64")):
        if ratios(every, n, "vmcore"):
            line("geomean_vs_" + suffix, geomean(ratios(every, n, "vmcore")), "x")
            line("worst_vs_" + suffix, min(ratios(every, n, "vmcore")), "x")
    for name, groups in (("user_int", ("int",)), ("user_fp", ("fp",)), ("memory", ("mem",)),
                         ("system", ("sys",))):
        if ratios(groups, "vmcore", "native"):
            line(name + "_vs_native", geomean(ratios(groups, "vmcore", "native")), "x")
    if ratios(("boot",), "tcg", "vmcore"):
        line("boot_vs_tcg", geomean(ratios(("boot",), "tcg", "vmcore")), "x")


def chart(results, names, path):
    """Bars on a logarithmic scale: times native; boot relative to the fastest."""
    bars = [n for n in names if n != "native"]
    left, width, high, gap = 110, 620, 9, 8
    rows = list(results.items())
    height = 50 + len(rows) * (len(bars) * high + gap) + 30
    top = 200.0

    def x(v):
        return left + width * math.log(max(min(v, top), 0.5) / 0.5) / math.log(top / 0.5)

    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
           'font-family="sans-serif" font-size="11">' % (left + width + 60, height),
           '<rect width="100%" height="100%" fill="white"/>',
           '<text x="10" y="18" font-size="14">Processor time relative to native '
           '(boot: to the fastest), lower is better</text>']
    for i, n in enumerate(bars):
        out.append('<rect x="%d" y="26" width="10" height="10" fill="%s"/><text x="%d" y="35">%s'
                   '</text>' % (left + 110 * i, COLOURS.get(n, "#60a060"), left + 110 * i + 14, n))
    for tick in (0.5, 1, 2, 5, 10, 20, 50, 100, 200):
        out.append('<line x1="%.1f" x2="%.1f" y1="44" y2="%d" stroke="%s"/><text x="%.1f" y="%d" '
                   'text-anchor="middle">%g</text>' %
                   (x(tick), x(tick), height - 24, "#333" if tick == 1 else "#ddd", x(tick),
                    height - 10, tick))
    y = 50
    for (group, name), r in rows:
        base = median(r["native"]) if "native" in r else min(median(v) for v in r.values())
        out.append('<text x="%d" y="%d" text-anchor="end">%s</text>' %
                   (left - 6, y + len(bars) * high / 2 + 4, name))
        for n in bars:
            if n in r:
                v = median(r[n]) / base
                out.append('<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>'
                           '<text x="%.1f" y="%d" font-size="8">%.2g</text>' %
                           (min(x(1), x(v)), y, abs(x(v) - x(1)), high - 1,
                            COLOURS.get(n, "#60a060"), max(x(v), x(1)) + 3, y + high - 2, v))
            y += high
        y += gap
    out.append("</svg>")
    with open(path, "w") as f:
        f.write("\n".join(out) + "\n")

#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Check that each FILE is what viewers of Chrome trace events read, and shows somebody running."""
import json
import sys

ROUNDED = 0.002  # us

for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as f:
        events = json.load(f)["traceEvents"]
    running = 0
    ends = {}  # by track: of its last slice
    last = {}  # by track: its last instant
    for e in events:
        assert e["ph"] in "XiM", f"{path}: unknown phase: {e}"
        assert isinstance(e["name"], str) and isinstance(e["pid"], int), f"{path}: {e}"
        if e["ph"] == "M":
            assert isinstance(e["args"]["name"], str), f"{path}: {e}"
            continue
        assert e["ts"] >= 0 and isinstance(e["tid"], int), f"{path}: {e}"
        if e["ph"] == "X":
            assert e["dur"] >= 0, f"{path}: {e}"
            # slices of one track follow each other: viewers cannot nest those that only overlap
            assert e["ts"] >= ends.get(e["tid"], 0) - ROUNDED, f"{path}: overlaps: {e}"
            ends[e["tid"]] = e["ts"] + e["dur"]
            running += 1
        else:
            assert e["s"] == "t" and e["ts"] >= last.get(e["tid"], 0), f"{path}: {e}"
            last[e["tid"]] = e["ts"]
    assert running > 0, f"{path}: nobody runs"
    print(f"{path}: {len(events)} events")

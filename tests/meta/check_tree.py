#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Rules of the tree that a script can see: licence lines, unique basenames, size of files, and that each
public function has a comment of its own."""
import pathlib
import subprocess
import sys

HARD_LINES = 1500
SOURCE = {".c", ".h", ".S"}


def tracked(root):
    out = subprocess.run(["git", "-C", root, "ls-files", "-co", "--exclude-standard"],
                         capture_output=True, text=True, check=False)
    if out.returncode != 0:
        return [p.relative_to(root) for p in pathlib.Path(root).rglob("*")
                if p.is_file() and "build" not in p.parts]
    return [pathlib.Path(line) for line in out.stdout.splitlines()]


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    errors = []
    names = {}
    count = 0
    for rel in tracked(str(root)):
        path = root / rel
        if rel.suffix not in SOURCE or not path.exists():
            continue
        count += 1
        lines = path.read_text(errors="replace").splitlines()
        if not any("SPDX-License-Identifier: BSD-2-Clause" in line for line in lines[:3]):
            errors.append(f"{rel}: no SPDX line in the first three lines")
        if len(lines) > HARD_LINES:
            errors.append(f"{rel}: {len(lines)} lines, at most {HARD_LINES}")
        if rel.parts[0] == "include":
            for n, line in enumerate(lines[1:], 2):
                if line.startswith("VMC_API") and not lines[n - 2].rstrip().endswith("*/"):
                    errors.append(f"{rel}:{n}: a public function without a comment")
        if rel.parts[0] == "lib":
            if rel.name in names:
                errors.append(f"{rel}: the name is taken by {names[rel.name]}")
            names[rel.name] = rel
    for e in errors:
        print(e)
    print(f"{count} files checked, {len(errors)} errors")
    return 1 if errors or count == 0 else 0


sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Fail when a file includes what its floor does not allow (docs/architecture.md, "Floors")."""
import pathlib
import re
import sys

FREESTANDING = {"stddef.h", "stdint.h", "stdbool.h", "stdarg.h", "limits.h", "stdatomic.h",
                "stdalign.h", "cpuid.h", "immintrin.h"}
FUNNELS = {  # foreign header -> the only files that may include it
    "capstone/": ("lib/cpu/decode/dec_capstone.c",),
    "zstd": ("lib/pack/pack_zstd.c",),
    "xxhash.h": ("lib/base/hash_xxh.c", "lib/pack/pack_hash.c", "lib/pack/pack_hash_avx2.c"),
}
MODULES = {  # module -> modules whose internal headers it may include
    "base": set(),
    "pack": {"base"},
    "sched": {"base"},
    "balloon": {"base"},
    "pages": {"base", "pack"},
    "sharing": {"base", "pack", "pages"},
    "vmfs": {"base"},
    "disk": {"base", "pack"},
    "mmu": {"base", "pages"},
    "cpu": {"base", "mmu"},
    "irq": {"base"},
    "bus": {"base"},
    "dev": {"base", "mmu", "irq", "bus"},
    "virtio": {"base", "mmu", "irq", "bus"},
    "boot": {"base", "mmu"},
    "gdb": {"base", "mmu"},
    "vm": {"base", "pack", "sched", "balloon", "pages", "sharing", "mmu", "cpu", "irq", "bus", "dev",
           "virtio", "boot"},
    "pc": {"base", "mmu", "cpu", "irq", "bus", "dev", "virtio", "boot", "vm"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def foreign_owners(name):
    for prefix, owners in FUNNELS.items():
        if name.startswith(prefix):
            return owners
    return ()


def check_lib(root, path, errors):
    module = path.relative_to(root / "lib").parts[0]
    rel = path.relative_to(root).as_posix()
    if module not in MODULES:
        errors.append(f"{rel}: module '{module}' is not in the table of check_floors.py")
        return
    for kind, name in INCLUDE.findall(path.read_text()):
        if kind == "<":
            if name.startswith("vmcore/") or name in FREESTANDING:
                continue
            if rel in foreign_owners(name):
                continue
            errors.append(f"{rel}: includes <{name}>, not allowed in lib/")
            continue
        if "/" not in name:
            if (path.parent / name).exists():
                continue
            errors.append(f'{rel}: includes "{name}", which names no module')
            continue
        target = name.split("/")[0]
        if target != module and target not in MODULES[module]:
            errors.append(f'{rel}: module {module} includes "{name}" of a module it may not use')
        if target != module and name.endswith("_priv.h"):
            errors.append(f'{rel}: includes the private header "{name}" of another module')


def check_outside(root, folder, errors):
    """The command and the examples see only public headers."""
    for path in (root / folder).rglob("*.[ch]"):
        for kind, name in INCLUDE.findall(path.read_text()):
            if kind == '"' and not (path.parent / name).exists():
                errors.append(f'{path.relative_to(root)}: includes "{name}", not its own file')
            if kind == "<" and name.split("/")[0] in MODULES and "/" in name:
                errors.append(f"{path.relative_to(root)}: includes <{name}> from lib/")


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    errors = []
    files = [p for p in sorted((root / "lib").rglob("*")) if p.suffix in (".c", ".h", ".S")]
    for path in files:
        check_lib(root, path, errors)
    page = (root / "docs/architecture.md").read_text()
    rows = {m for row in re.findall(r"^\| F\d \| ([^|]*)\|", page, re.M)
            for m in re.findall(r"`([^`]+)`", row)}
    for module in sorted({p.relative_to(root / "lib").parts[0] for p in files} - rows):
        errors.append(f"lib/{module}: not in the table of docs/architecture.md")
    for path in sorted((root / "include").rglob("*.h")):
        for kind, name in INCLUDE.findall(path.read_text()):
            if kind == '"' or not (name.startswith("vmcore/") or name in FREESTANDING):
                errors.append(f"{path.relative_to(root)}: includes {name}: public headers include "
                              "only public headers")
    for folder in ("tools", "examples"):
        if (root / folder).exists():
            check_outside(root, folder, errors)
    for e in errors:
        print(e)
    print(f"{len(files)} files of lib/ checked, {len(errors)} errors")
    return 1 if errors or not files else 0


sys.exit(main())

#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""What a benchmark guest holds in memory: a database and objects that depend on its seed."""
import random
import sqlite3
import sys
import time

rng = random.Random(int(sys.argv[1]))
words = ["".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 9)))
         for _ in range(3000)]
db = sqlite3.connect(":memory:")
db.execute("create table t (id integer primary key, name text, note text, value real)")
for i in range(12000):
    db.execute("insert into t values (?, ?, ?, ?)",
               (i, rng.choice(words), " ".join(rng.choices(words, k=12)), rng.random()))
db.execute("create index n on t (name)")
keep = [{"id": i, "name": rng.choice(words), "list": [rng.random() for _ in range(8)]}
        for i in range(20000)]
blob = rng.randbytes(2 << 20)  # and something that does not compress
open("/tmp/ready", "w").close()
while True:
    time.sleep(3600)

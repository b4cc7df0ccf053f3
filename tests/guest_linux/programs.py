# SPDX-License-Identifier: BSD-2-Clause
# Computes things of many kinds and prints checksums, the same on every correct processor.
import binascii, collections, decimal, fractions, functools, hashlib, itertools, json, math, random
import re, statistics, struct, sys, zlib


def show(name, value):
    print(name, hashlib.sha256(repr(value).encode()).hexdigest()[:24])


sys.set_int_max_str_digits(0)
r = random.Random(20260101)
blob = bytes(r.getrandbits(8) for _ in range(300000))
for h in ("md5", "sha1", "sha256", "sha512", "sha3_256", "blake2b", "blake2s"):
    show(h, hashlib.new(h, blob).hexdigest())
show("crc32", zlib.crc32(blob))
z = zlib.compress(blob[:100000] + bytes(100000), 9)
show("zlib", (len(z), zlib.adler32(z), zlib.decompress(z) == blob[:100000] + bytes(100000)))
show("bignum", (pow(3, 20011, 10**400), math.factorial(2000) // 7**300, math.isqrt(10**301)))
functions = (math.sin, math.cos, math.tan, math.exp, math.log, math.sqrt, math.atan, math.erf,
             math.gamma)
show("float", [f(x / 70 + 0.1) for x in range(2000) for f in functions])
show("denormal", [5e-324 * x for x in range(100)] + [1e308 * 10, -1e308 * 10, 0.0 * -1])
show("fsum", math.fsum(r.uniform(-1e9, 1e9) for _ in range(20000)))
decimal.getcontext().prec = 120
show("decimal", [decimal.Decimal(x).sqrt() / 7 for x in range(2, 300)])
show("fraction", sum(fractions.Fraction(1, x) for x in range(1, 300)))
show("struct", [struct.unpack("<d", struct.pack("<Q", r.getrandbits(62)))[0] for _ in range(5000)])
show("half", [struct.pack("<e", x / 13) for x in range(-3000, 3000)])
words = re.findall(r"[a-f]+", binascii.hexlify(blob[:50000]).decode())
show("regex", collections.Counter(words).most_common(200))
show("json", json.loads(json.dumps([[x, str(x), x / 3] for x in range(5000)])))
show("sort", sorted(words, key=lambda w: (len(w), w[::-1]))[:2000])
show("stat", (statistics.stdev(blob), statistics.median(blob)))
show("perm", sum(functools.reduce(lambda a, b: a * 31 + b, p) for p in itertools.permutations(range(7))))

#!/usr/bin/python3
"""Writes fuzz/corpus/package from the newest golden package: it whole, each section by itself, a double, an unknown one.

After the state's tables have changed: rm fuzz/corpus/package/*, then this.
"""
import hashlib
import struct
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RAW, FIXED, SECTIONS = b"\0", b"\1", b"\2"  # fuzz_package.c


def sections(package):
    at = 48
    while at < len(package):
        length, name, instance = struct.unpack_from("<I10xBB", package, at)
        end = at + 16 + name + instance + length
        yield package[at:end]
        at = end


golden = sorted((ROOT / "tests/golden").glob("package-v*.husk"))[-1].read_bytes()
parts = list(sections(golden))
unknown = bytearray(parts[1])
unknown[16] ^= 1
optional = bytearray(unknown)
optional[12] = 1
seeds = [RAW + golden, FIXED + golden, SECTIONS + parts[1] * 2, SECTIONS + unknown, SECTIONS + optional, *(SECTIONS + p for p in parts)]
out = ROOT / "fuzz/corpus/package"
out.mkdir(exist_ok=True)
for seed in seeds:
    (out / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
print(f"{len(seeds)} seeds")

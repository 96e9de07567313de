#!/usr/bin/python3
"""Writes fuzz/corpus/stream_dest and stream_source: moves that go well up to each point, and some that do not.

After the operations of fuzz_stream_*.c have changed: rm fuzz/corpus/stream_*/*, then this.
"""
import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
POSTCOPY, VERIFY = 1, 2
FRAME, BYTES, GOOD, NEXT, WAIT, CLOSE, AGAIN, EDITED = range(8)  # fuzz_stream_dest.c
STEPS = 13
TYPES = dict(PAGES=6, SYNC=7, MISSING=9, PACKAGE=10, COMMIT=12, RESUME=19, ABORT=20, DIGESTS=21)


def frame(channel, kind, body=b""):
    return bytes([FRAME, channel, kind, len(body)]) + body


def write(name, seeds):
    out = ROOT / "fuzz/corpus" / name
    out.mkdir(exist_ok=True)
    for seed in seeds:
        (out / hashlib.sha1(seed).hexdigest()).write_bytes(bytes(seed))
    print(f"{name}: {len(seeds)} seeds")


zero_pages = bytes([0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0x80, 2, 0, 0, 0x80])
bits = bytes([0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0])
dest = [bytes([flags, STEPS]) for flags in (0, POSTCOPY, VERIFY, POSTCOPY | VERIFY)]
dest += [bytes([POSTCOPY, good, AGAIN]) + frame(0, kind) for good, kind in ((3, 0), (7, 0), (8, 12), (9, 19), (10, 19), (12, 23))]
dest += [bytes([POSTCOPY, 4]) + frame(1, TYPES["PAGES"], zero_pages) + frame(0, TYPES["MISSING"], bits)]
dest += [bytes([POSTCOPY, 9]) + frame(3, TYPES["PAGES"], zero_pages) + frame(0, TYPES["DIGESTS"], bytes(20))]
dest += [bytes([POSTCOPY, step, EDITED, step, 2, 5, 0, 7, 40, 0, 9]) for step in (3, 4, 6, 7)]
dest += [bytes([0, 0, BYTES, 0, 5]) + b"GET /", bytes([0, 4]) + frame(0, TYPES["ABORT"], b"\x01\0\0\0no"), bytes([POSTCOPY, 9, CLOSE, 0, WAIT, 3])]
DISK, DISKS = 128, 25
disk_zero = bytes([0, 0x80, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0x80, 9, 0, 0, 0x80])
dest += [bytes([flags | DISK, STEPS]) for flags in (0, POSTCOPY, VERIFY)]
dest += [bytes([DISK, 4]) + frame(1, TYPES["PAGES"], disk_zero), bytes([DISK, 9]) + frame(1, TYPES["PAGES"], disk_zero)]
dest += [bytes([DISK, step, EDITED, step, 2, 5, 0, 7, 40, 0, 9]) for step in (3, 4)]
dest += [bytes([0, 3]) + frame(0, DISKS, bytes([1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 100]) + bytes(71))]
write("stream_dest", dest)

PRECOPY, HYBRID, BULK2, VERIFY_FLAG, ZIP, COPY = 0, 1, 4, 8, 16, 32  # fuzz_stream_source.c
ANSWERS = 7


def answer(channel, kind, body=b""):
    return bytes([channel, kind, len(body)]) + body


request = bytes([0, 0, 2, 0, 0, 0x14, 0, 0, 1, 0, 0, 0])
missing = bytes([0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0]) + bytes(8)
source = [bytes([mode, good]) for mode in range(3) for good in (1, 3, 5)]
source += [bytes([flags, ANSWERS]) for flags in (0, 1, VERIFY_FLAG, VERIFY_FLAG + BULK2 + ZIP)]
source += [bytes([2, 4]) + answer(3, 14, request), bytes([2, 5]) + answer(3, 14, request), bytes([0, 1]) + answer(0, 3, b"\x05\0\0\0no")]
source += [bytes([1, 5, 255]) + answer(0, 9, missing) + answer(0, 8, bytes([1] + [0] * 7)) + answer(0, 16, bytes(8))]
source += [bytes([1, 0, 0, 255, 4]) + b"HTTP"]
source += [bytes([COPY + mode, good]) for mode, good in ((0, 7), (1, 7), (2, 5))]
write("stream_source", source)

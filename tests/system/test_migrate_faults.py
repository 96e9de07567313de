"""What a migration leaves when something fails: each fault at the very frame that begins a phase (migrate_relay.py), real guests, under tcg.

A cell of TABLE says what comes of the fault (row) in the phase (column). Always exactly one guest runs at the end, or none where the husk that had
it was killed, and then the other side says so. WORDS is what both sides have to say.

  stays      it runs on at the source; the destination has ended, and never ran it
  moved      it runs at the destination; the source has ended, or was killed
  recovered  both sides were paused; after a recovery it runs at the destination, without a gap and with the source's memory
  back       paused, the destination is dead: a recovery says so; taken back, it runs at the source as it was at the hand-over
  dies       the source was killed while it had the VM: the destination does not run it
  over       the source was killed, and the destination has all but its word: the user has the VM run there
  waits      it runs on at the source; the destination has all, does not know, and waits until it is told to give up
  stranded   the source was killed with memory that the destination has not: it is paused there, and can be ended
  a) b) c)   there is no such case: REASONS

CI takes every third cell, of each row and column; `tools/test --long migrate -k fault` all.
"""
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from local_guest import local_guest  # noqa: F401
from migrate_relay import Frame, Last, Relay, framed, name_of, package_with
from migrate_vm import Movers, outcome, status_of, until
from snapshot_vm import SUMS, TICKS

# Mode, phases of the source, and the frame at whose passing the fault comes: it begins the phase, or is the first that only this phase has.
PHASES = {
    "setup": ("Precopy", "setup", Frame("OFFER")),
    "precopy": ("Precopy", "precopy", Frame("PAGES", nth=2)),
    "round": ("Hybrid", "precopy", Frame("PAGES", nth=2)),         # the one round that precedes a postcopy
    "handover": ("Precopy", "handover", Frame("PACKAGE")),
    "package": ("Postcopy", "handover", Frame("PACKAGE")),         # with most pages missing
    "loaded": ("Precopy", "handover", Frame("LOADED")),            # the destination has all, and waits for COMMIT
    "commit": ("Precopy", "handover", Frame("COMMIT")),            # the destination has not heard it
    "running": ("Postcopy", "handover", Frame("RUNNING")),         # the source has not heard it
    "postcopy": ("Postcopy", "handover postcopy", Frame("PAGES", after="RUNNING", role="bulk")),
    "rest": ("Hybrid", "handover postcopy", Frame("PAGES", after="COMMIT", role="bulk")),
}
TABLE = """
                setup     precopy   round     handover  package   loaded    commit    running   postcopy  rest
source-killed   dies      dies      dies      dies      dies      over      moved     stranded  stranded  stranded
dest-killed     stays     stays     stays     stays     stays     stays     back      back      back      back
cut             stays     stays     stays     stays     stays     waits     recovered recovered recovered recovered
stalled         stays     stays     stays     stays     stays     waits     recovered recovered recovered recovered
corrupt         stays     stays     stays     stays     stays     stays     recovered recovered recovered recovered
short           stays     stays     stays     stays     stays     stays     a)        recovered recovered recovered
oversize        stays     stays     stays     stays     stays     stays     recovered recovered recovered recovered
device-load     stays     b)        b)        stays     stays     c)        c)        c)        c)        c)
disk-full       moved     moved     moved     moved     moved     moved     moved     moved     moved     moved
cancel          stays     stays     stays     stays     stays     stays     moved     moved     moved     moved
dest-cancel     stays     stays     stays     stays     stays     back      back      moved     moved     moved
"""
REASONS = {
    "a)": "COMMIT has no body that could be short",
    "b)": "devices are made in SETUP and loaded when the package is there; nothing of them happens between",
    "c)": "LOADED says that all devices are loaded",
}
LOST = "connection is lost: (Connection reset by peer|the peer has closed it|Broken pipe|the source does not take requests for pages)"
# What the source says, and the destination (its log, too). FRAME: the one at which it happens.
WORDS = {
    "source-killed": ("", f"source.*{LOST}"),
    "dest-killed": (LOST, ""),
    "cut": (LOST, f"source.*{LOST}"),
    "stalled": ("(silent|not answered) for [26]000 ms", "source(:.* peer)? has (been silent|offered nothing) for 2000 ms"),
    "corrupt": (r"frame FRAME: its body is damaged \(CRC\)",) * 2,
    "short": (r"frame FRAME(:.* bytes| of \d+ bytes)",) * 2,
    "oversize": (r"frame FRAME announces \d+ bytes, and at most \d+ are taken",) * 2,
    "device-load": ("the destination says: .*/disk", "/disk"),
    "disk-full": ("", ""),
    "cancel": ("cancelled|too late", "the source has cancelled the migration|as a whole"),
    "dest-cancel": ("destination says: .*told to give up|completed", "told to give up|runs here already"),
}
PATIENCE_MS = 2000
NR_HUGE_PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
WRITES = """(n=0; while true; do n=$((n+1)); dd if=/tmp/ram of=/tmp/w bs=64k count=8 conv=notrunc 2>/dev/null; if dd if=/dev/zero of=/dev/vda bs=4k seek=$n count=1 conv=notrunc,fsync 2>/dev/null; then echo wrote $n
 else echo write failed; fi; sleep 0.1; done) &
"""


def cells():
    cells = []
    head, *rows = [line.split() for line in TABLE.strip().splitlines()]
    assert head == list(PHASES)
    step = 1 if os.environ.get("HUSK_LONG") else 3
    for row, (fault, *outcomes) in enumerate(rows):
        assert len(outcomes) == len(head), fault
        for column, (phase, expected) in enumerate(zip(head, outcomes)):
            assert expected in REASONS or expected in OUTCOMES, (fault, phase)
            if expected in OUTCOMES and (row + column + 1) % step == 0:
                cells.append(pytest.param(fault, phase, expected, id=f"{fault}-{phase}-{expected}"))
    return cells


@pytest.fixture(scope="module")
def base(local_guest, tmp_path_factory):  # noqa: F811
    """A guest that was snapshotted at work: each cell begins with it. Its disk is on a small file system."""
    folder = tmp_path_factory.mktemp("base")
    disks = folder / "disks"
    disks.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "disks", disks], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system that could be full: {mounted.stderr.strip()}")
    made = Movers(folder)
    disk = disks / "disk"
    subprocess.run(["truncate", "-s", "64M", disk], check=True)
    try:
        vm = made.booted(SUMS.format(mib=8) + WRITES + TICKS, memory=128,
                         more=[("/drives/d", {"drive_id": "d", "path_on_host": str(disk), "is_root_device": False})])
        vm.wait_console("sum good", 120)
        vm.wait_console("wrote", 120)
        vm.snapshot(folder / "snapshot")
        vm.stop()
        yield SimpleNamespace(snapshot=folder / "snapshot", disk=disk, filler=disks / "filler")
    finally:
        made.stop()
        subprocess.run(["umount", disks], check=True)


def log_of(side):
    return "\n".join(line for line in side.log().splitlines() + (side.folder / "stderr").read_text().splitlines() if "fc_api" not in line)


class Cell:
    """A source, a destination, and the relay between them."""

    def __init__(self, base, tmp_path):
        self.base, self.movers, self.relay, self.answer = base, Movers(tmp_path), None, None
        subprocess.run(f"rm -f {base.filler}; truncate -s 0 {base.disk}; truncate -s 64M {base.disk}", shell=True, check=True)
        self.src = self.movers.restored(base.snapshot)
        self.src.wait_ticks(1)

    def begin(self, mode, frame, fault=None, **receive):
        self.dst = self.movers.waiting("tcp:127.0.0.1:0", timeout_ms=PATIENCE_MS, **receive)
        self.relay = Relay(self.dst.address)
        if fault:
            self.relay.trap(frame, lambda *parts: self.spring(fault, *parts))
        self.src.put("/migration", action="Start", address=self.relay.address, mode=mode, timeout_ms=PATIENCE_MS, verify=True)

    def close(self):
        self.movers.stop()
        if self.relay:
            self.relay.close()

    # ---- faults ----

    def spring(self, fault, header, rest):
        """What the relay does with the frame."""
        self.at = status_of(self.src)["phase"]
        changes = {"cut": self.relay.cut, "stalled": self.relay.stall, "corrupt": Relay.corrupt, "short": Relay.short, "oversize": Relay.oversize,
                   "device-load": self.other_disk}
        if fault in changes:
            return changes[fault](header, rest)
        {"source-killed": self.src.stop, "dest-killed": self.dst.stop, "disk-full": self.fill, "cancel": lambda: self.cancel(self.src),
         "dest-cancel": lambda: self.cancel(self.dst)}[fault]()
        if (fault, name_of(header)) in (("dest-killed", "LOADED"), ("source-killed", "OFFER"), ("source-killed", "PAGES"), ("source-killed", "PACKAGE")):
            return Last(header + rest[:len(rest) // 2])  # it died while it sent this
        return header + rest

    def cancel(self, side):
        self.answer = side.ask("PUT", "/migration", {"action": "Cancel"}).json

    def fill(self):
        with open(self.base.filler, "wb", buffering=0) as f:
            try:
                while f.write(bytes(4096)):
                    pass
            except OSError:
                pass

    @staticmethod
    def other_disk(header, rest):
        """The guest believes in a disk of another size than the destination has."""
        def change(name, payload):
            return payload[:8] + bytes([payload[8] ^ 8]) + payload[9:] if name == b"blk" else payload

        return framed(header, package_with(rest[:-4], change))

    # ---- outcomes ----

    def beats(self, side):
        """The guest's heart, and its memory: sums that were begun after this."""
        side.wait_ticks(timeout=60)
        sums = side.console().count("sum good")
        side.wait_for(lambda: side.console().count("sum good") >= sums + 2, "two more sums", 60)
        assert "sum bad" not in side.console() and "backwards" not in side.console()
        assert side.get("/")["state"] == "Running"

    def goes_on_there(self):
        self.dst.wait_ticks(timeout=60)
        last, first = self.src.ticks()[-1], self.dst.ticks()[0]
        assert first[0] in (last[0] + 1, last[0] + 2) and last[1] <= first[1], (last, first)
        self.beats(self.dst)

    def never_ran_there(self):
        assert "tick" not in self.dst.console()
        if self.dst.process.poll() is None and not status_of(self.dst)["phase"] in ("none", "listen", "failed", "cancelled"):
            self.dst.process.wait(20)
        return log_of(self.dst)

    def stays(self):
        status = outcome(self.src)
        assert status["phase"] in ("failed", "cancelled"), status
        self.beats(self.src)
        return status["error"], self.never_ran_there()

    def dies(self):
        self.src.process.wait(20)
        self.dst.wait_for(lambda: "the source" in self.dst.log() and ("failed" in self.dst.log() or "turned away" in self.dst.log()), "its log")
        return "", self.never_ran_there()

    def over(self):
        self.src.process.wait(20)
        status = until(self.dst, "paused")
        assert status["remaining_bytes"] == 0, status
        self.dst.put("/migration", action="TakeOver")
        assert until(self.dst, "completed")["recoveries"] == 0
        self.goes_on_there()
        assert "take-over" in self.dst.log()
        return "", status["error"]

    def waits(self):
        status = outcome(self.src)
        assert status["phase"] == "failed", status
        self.beats(self.src)
        there = until(self.dst, "paused")
        assert "tick" not in self.dst.console() and self.dst.get("/")["state"] == "Paused"
        self.dst.put("/migration", action="Cancel")
        self.dst.process.wait(20)
        return status["error"], there["error"]

    def disk_is_good_again(self):
        """The guest has heard of it, and nothing else came of it."""
        self.dst.wait_for(lambda: "write failed" in self.src.console() + self.dst.console(), "an error of the disk")
        self.base.filler.unlink()
        seen = self.dst.console().count("wrote")
        self.dst.wait_for(lambda: self.dst.console().count("wrote") > seen, "a good write")

    def moved(self):
        if self.src.process.poll() != -9:
            status = outcome(self.src)
            assert status["phase"] == "completed" and status["different_pages"] == 0 and status["verified_pages"], status
        self.src.process.wait(20)
        self.goes_on_there()
        return log_of(self.src), log_of(self.dst)

    def recovered(self):
        src, dst = outcome(self.src), until(self.dst, "paused")
        assert src["phase"] == "paused" and self.src.get("/")["state"] == "Paused", src
        self.src.put("/migration", action="Recover")
        status = outcome(self.src)
        assert status["phase"] == "completed" and status["different_pages"] == 0 and status["verified_pages"], (status, self.dst.tail())
        assert status["recoveries"] == 1 and self.src.end() == 0
        self.goes_on_there()
        return src["error"], dst["error"]

    def back(self):
        status = outcome(self.src)
        assert status["phase"] == "paused" and "take-back" in status["error"], status
        ticks = len(self.src.ticks())
        self.src.put("/migration", action="Recover")
        again = outcome(self.src)
        assert again["phase"] == "paused", again
        assert len(self.src.ticks()) == ticks and self.src.get("/")["state"] == "Paused"
        self.src.put("/migration", action="TakeBack")
        self.beats(self.src)
        return status["error"], log_of(self.dst)

    def stranded(self):
        status = until(self.dst, "paused")
        assert status["remaining_bytes"] > 0, status
        self.dst.process.terminate()
        self.dst.process.wait(20)
        return "", status["error"]


OUTCOMES = ("stays", "over", "waits", "moved", "recovered", "back", "dies", "stranded")


@pytest.fixture
def cell(base, tmp_path):
    made = Cell(base, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("fault, phase, expected", cells())
def test_fault(cell, fault, phase, expected):
    mode, phases, frame = PHASES[phase]
    if fault == "device-load" and phase == "setup":
        cell.begin(mode, frame, drive_overrides=[{"drive_id": "d", "path_on_host": "/nonexistent/disk"}])
    else:
        cell.begin(mode, frame, fault)
        assert cell.relay.sprung.wait(60), (cell.src.tail(), cell.dst.tail())
        assert not cell.relay.error and cell.at in phases.split()
    said = [f"{text}\n{cell.answer}" for text in getattr(cell, expected)()]
    for side, words, text in zip(("source", "destination"), WORDS[fault], said):
        assert re.search(words.replace("FRAME", frame.name), text), f"the {side} does not say {words}: {text[-3000:]}"
    if fault == "disk-full":
        assert "No space left on device" in "".join(said)
        cell.disk_is_good_again()


@pytest.fixture
def pages_for_one():
    """The host has pages of 2 MiB for one guest of 128 MiB, no more."""
    before = NR_HUGE_PAGES.read_text()
    if int(NR_HUGE_PAGES.with_name("free_hugepages").read_text()):
        pytest.skip("somebody else may use pages of 2 MiB here")
    if os.access(NR_HUGE_PAGES, os.W_OK):
        NR_HUGE_PAGES.write_text(str(int(before) + 64))
    if int(NR_HUGE_PAGES.with_name("free_hugepages").read_text()) < 64:
        NR_HUGE_PAGES.write_text(before)
        pytest.skip("no pages of 2 MiB: sysctl vm.nr_hugepages=64")
    yield
    NR_HUGE_PAGES.write_text(before)


def test_a_host_without_memory_for_the_guest_says_so_before_anything_moves(local_guest, pages_for_one, tmp_path):  # noqa: F811
    movers = Movers(tmp_path)
    try:
        src = movers.new()
        src.put("/machine-config", vcpu_count=1, mem_size_mib=128, huge_pages="2M")
        src.put("/boot-source", **src.boot_source(TICKS))
        src.put("/actions", action_type="InstanceStart")
        src.wait_ticks()
        dst = movers.waiting("tcp:127.0.0.1:0")
        status = movers.move(src, dst)
        assert status["phase"] == "failed" and status["pages"] == 0 and "the destination says" in status["error"], status
        assert "2 MiB" in status["error"] or "huge" in status["error"], status
        src.wait_ticks()
        assert status["error"].removeprefix("the destination says: ") in dst.log()
    finally:
        movers.stop()

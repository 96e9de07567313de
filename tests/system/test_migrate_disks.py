"""Block migration: a real guest moves to another husk, and the contents of its disk with it, into a file of the destination's own. Under tcg."""
import hashlib
import os
import re
import subprocess

import pytest

from local_guest import local_guest  # noqa: F401
from migrate_relay import Frame, Relay, framed
from migrate_vm import movers, outcome, status_of, until  # noqa: F401
from snapshot_vm import TICKS, husk

MIB = 1 << 20
DISK_MIB = 64
# Writes 16 KiB blocks all over its disk's first 16 MiB, zeroes and discards among them, and keeps the sum of each. After every 100 it reads all of
# them back from the disk: `disk good N` or `disk bad`.
WRITER = """mkdir -p /tmp/m
(k=0; while true; do
  k=$((k+1)); b=$((k*37 % 1024))
  if [ $((k % 7)) = 0 ]; then head -c 16384 /dev/zero >/tmp/b; else yes "block $b seed $k" | head -c 16384 >/tmp/b; fi
  dd if=/tmp/b of=/dev/vda bs=16384 seek=$b conv=notrunc,fsync 2>/dev/null || echo write failed
  s=$(sha256sum </tmp/b); echo "$s" >/tmp/m/$b
  if [ $((k % 100)) = 0 ]; then
    echo 3 >/proc/sys/vm/drop_caches; n=0; bad=0
    for f in /tmp/m/*; do
      n=$((n+1)); s=$(dd if=/dev/vda bs=16384 skip=${f##*/} count=1 2>/dev/null | sha256sum)
      [ "$s" = "$(cat $f)" ] || bad=$((bad+1))
    done
    [ $bad = 0 ] && echo disk good $n || echo disk bad $bad
  fi
 done) &
""" + TICKS


def fill(path):
    """Some data, some holes."""
    with open(path, "wb") as f:
        f.truncate(DISK_MIB * MIB)
        for at in range(20, DISK_MIB, 3):
            f.seek(at * MIB + 4096)
            f.write(os.urandom(700_000))


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def drive(path, **more):
    return ("/drives/d", {"drive_id": "d", "path_on_host": str(path), "is_root_device": False, **more})


def to(path):
    return {"drive_overrides": [{"drive_id": "d", "path_on_host": str(path)}]}


@pytest.fixture
def disks(tmp_path):
    fill(tmp_path / "src")
    (tmp_path / "pmem").write_bytes(bytes(2 * MIB))
    return tmp_path / "src", tmp_path / "dst"


def writing(movers, disk, **more):  # noqa: F811
    vm = movers.booted(WRITER, memory=160, more=[drive(disk, **more)])
    vm.wait_console("disk good", 120)
    return vm


def checks(vm, more=2):
    """The guest's own word for all that it wrote."""
    vm.wait_ticks(timeout=120)
    seen = vm.console().count("disk good")
    vm.wait_for(lambda: vm.console().count("disk good") >= seen + more or "disk bad" in vm.console(), "the guest's own check", 240)
    assert "disk bad" not in vm.console() and "write failed" not in vm.console(), vm.console()[-2000:]


class Watched:
    """A way to the destination that looks, at LOADED, whether both disks are the same: the source's is as the guest left it at the hand-over."""

    def __init__(self, dst, disks):
        self.relay, self.disks, self.same = Relay(dst.address), disks, None
        self.relay.trap(Frame("LOADED"), self.look)
        self.address = self.relay.address

    def look(self, header, rest):
        self.same = [digest(path) for path in self.disks]
        return header + rest


@pytest.mark.parametrize("engine", ["Sync", "Async"])
@pytest.mark.parametrize("mode", ["Precopy", "Postcopy", "Hybrid"])
def test_the_disk_comes_along_while_the_guest_writes_to_it(movers, disks, mode, engine):  # noqa: F811
    src = writing(movers, disks[0], io_engine=engine, cache_type="Writeback" if engine == "Sync" else "Unsafe")
    dst = movers.waiting("tcp:127.0.0.1:0", **to(disks[1]))
    way = Watched(dst, disks)
    status = movers.moved(src, way, mode=mode, channels=2, verify=True, compress=mode == "Hybrid", copy_disks=True)
    assert way.same and way.same[0] == way.same[1], way.same
    assert status["disk_bytes"] == DISK_MIB * MIB and status["disk_remaining_bytes"] == 0 and status["verified_pages"] > DISK_MIB * 256, status
    there = until(dst, "completed")
    assert there["disk_bytes"] == DISK_MIB * MIB and there["disk_remaining_bytes"] == 0 and there["different_pages"] == 0, there
    assert os.stat(disks[1]).st_blocks <= os.stat(disks[0]).st_blocks * 1.2 + 4096, "holes did not stay holes"
    checks(dst)
    assert digest(disks[0]) == way.same[0], "the source's file has changed"
    way.relay.close()


def test_a_file_with_other_contents_is_overwritten_and_one_of_another_size_refused(movers, disks):  # noqa: F811
    with open(disks[1], "wb") as f:
        f.write(os.urandom(DISK_MIB * MIB - 512))
    src = writing(movers, disks[0])
    for size in (-512, 512):
        os.truncate(disks[1], DISK_MIB * MIB + size)
        status = movers.move(src, movers.waiting("tcp:127.0.0.1:0", **to(disks[1])), copy_disks=True)
        assert status["phase"] == "failed" and f"{DISK_MIB * MIB + size} bytes" in status["error"] and str(disks[1]) in status["error"], status
        assert os.stat(disks[1]).st_size == DISK_MIB * MIB + size
    with open(disks[1], "wb") as f:
        f.write(os.urandom(DISK_MIB * MIB))
    dst = movers.waiting("tcp:127.0.0.1:0", **to(disks[1]))
    way = Watched(dst, disks)
    movers.moved(src, way, copy_disks=True)
    assert way.same[0] == way.same[1]
    checks(dst, 1)
    way.relay.close()


def test_what_cannot_be_copied_is_refused_by_name(movers, disks):  # noqa: F811
    src = writing(movers, disks[0])
    dst = movers.waiting(**to(disks[1]))
    fault = src.refused("PUT", "/migration", {"action": "Start", "address": dst.address, "mode": "Local", "copy_disks": True})
    assert "mode local" in fault, fault
    # The same file, which both see.
    status = movers.move(src, movers.waiting(**to(disks[0])), copy_disks=True)
    assert status["phase"] == "failed" and "in use" in status["error"] and str(disks[0]) in status["error"], status
    status = movers.move(src, movers.waiting(**to(disks[1].parent)), copy_disks=True)
    assert status["phase"] == "failed" and str(disks[1].parent) in status["error"], status
    # A husk that is older: its WELCOME does not say that it knows of disks.
    relay = Relay(movers.waiting("tcp:127.0.0.1:0", **to(disks[1])).address)
    relay.trap(Frame("WELCOME"), lambda header, rest: framed(header, rest[:1] + bytes(1) + rest[2:-4]))
    src.put("/migration", action="Start", address=relay.address, copy_disks=True)
    status = outcome(src)
    assert status["phase"] == "failed" and "older" in status["error"] and "copy_disks" in status["error"], status
    relay.close()
    assert not disks[1].exists()
    checks(src, 1)


def test_pmem_that_the_guest_writes_is_refused(movers, disks):  # noqa: F811
    src = movers.booted(TICKS, more=[drive(disks[0]), ("/pmem/p", {"id": "p", "path_on_host": str(disks[0].with_name("pmem"))})])
    fault = src.refused("PUT", "/migration", {"action": "Start", "address": "unix:/nowhere", "copy_disks": True})
    assert 'pmem device "p" cannot be copied' in fault, fault


@pytest.fixture
def small(tmp_path):
    """A file system that is full soon."""
    where = tmp_path / "small"
    where.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6M", "small", where], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system that could be full: {mounted.stderr.strip()}")
    yield where
    subprocess.run(["umount", where], check=True)


def test_no_space_cancel_and_a_cut_leave_the_source_running(movers, disks, small):  # noqa: F811
    src = writing(movers, disks[0])
    full = small / "disk"
    dst = movers.waiting("tcp:127.0.0.1:0", **to(full))
    status = movers.move(src, dst, copy_disks=True)
    assert status["phase"] == "failed" and "No space left on device" in status["error"] and str(full) in status["error"], status
    dst.wait_for(lambda: "is removed" in dst.log(), "the word of the destination")
    assert str(full) in dst.log() and not full.exists(), dst.log()[-2000:]
    checks(src, 1)

    dst = movers.waiting("tcp:127.0.0.1:0", **to(disks[1]))
    src.put("/migration", action="Start", address=dst.address, copy_disks=True, max_bandwidth=8 * MIB)
    src.wait_for(lambda: 0 < status_of(src)["disk_remaining_bytes"] < DISK_MIB * MIB, "disk pages")
    src.put("/migration", action="Cancel")
    assert outcome(src)["phase"] == "cancelled"
    dst.wait_for(lambda: "is removed" in dst.log(), "the word of the destination")
    assert not disks[1].exists()

    # A file that was there before stays, and is declared worthless.
    disks[1].write_bytes(b"x" * (DISK_MIB * MIB))
    dst = movers.waiting("tcp:127.0.0.1:0", **to(disks[1]))
    relay = Relay(dst.address)
    relay.trap(Frame("SYNCED", nth=2), relay.cut)
    src.put("/migration", action="Start", address=relay.address, copy_disks=True, mode="Postcopy")
    assert outcome(src)["phase"] == "failed"
    dst.wait_for(lambda: "is worthless" in dst.log(), "the word of the destination")
    assert disks[1].exists()
    relay.close()
    checks(src, 1)

    dst = movers.waiting("tcp:127.0.0.1:0", **to(disks[1]))
    movers.moved(src, dst, copy_disks=True, verify=True)
    checks(dst, 1)


@pytest.mark.parametrize("at", [Frame("COMMIT"), Frame("PAGES", after="RUNNING", role="bulk")], ids=["commit", "postcopy"])
def test_a_cut_after_commit_is_recovered(movers, disks, at):  # noqa: F811
    src = writing(movers, disks[0])
    dst = movers.waiting("tcp:127.0.0.1:0", **to(disks[1]))
    relay = Relay(dst.address)
    relay.trap(at, relay.cut)
    src.put("/migration", action="Start", address=relay.address, copy_disks=True, mode="Postcopy", verify=True)
    assert outcome(src)["phase"] == "paused"
    until(dst, "paused")
    src.put("/migration", action="Recover")
    status = outcome(src)
    assert status["phase"] == "completed" and status["different_pages"] == 0 and status["verified_pages"] > DISK_MIB * 256, (status, dst.tail())
    checks(dst)
    relay.close()


def test_the_command_line_copies_disks(movers, disks):  # noqa: F811
    src = writing(movers, disks[0])
    dst = movers.waiting(**to(disks[1]))
    done = husk("migrate", src.sock, dst.address, "--copy-disks", timeout=180)
    assert done.returncode == 0, done.stderr
    assert re.search(r"completed: .* MiB sent", done.stdout), done.stdout
    checks(dst, 1)
    assert dst.get("/drives/d")["path_on_host"] == str(disks[1])


def test_a_guest_that_writes_to_its_disk_faster_than_it_goes(movers, disks):  # noqa: F811
    script = "head -c 12582912 /dev/urandom >/tmp/p\n(while true; do dd if=/tmp/p of=/dev/vda bs=1M conv=notrunc,fsync 2>/dev/null; echo wrote; done) &\n"
    src = movers.booted(script + TICKS, memory=160, more=[drive(disks[0])])
    src.wait_console("wrote", 120)
    how = dict(mode="Postcopy", copy_disks=True, max_bandwidth=16 * MIB)
    status = movers.move(src, movers.waiting("tcp:127.0.0.1:0", **to(disks[1])), on_stall="Cancel", **how)
    assert status["phase"] == "failed" and "writes faster" in status["error"] and status["expected_downtime_us"] > 300_000, status
    src.wait_ticks()
    # Also where memory may come later: a disk cannot.
    dst = movers.waiting("tcp:127.0.0.1:0", **to(disks[1]))
    way = Watched(dst, disks)
    status = movers.moved(src, way, on_stall="Postcopy", max_downtime_ms=500, **how)
    assert status["throttle_percent"] > 0 and status["downtime"]["last_ram_us"] < 10e6, status
    assert way.same[0] == way.same[1]
    dst.wait_ticks(timeout=120)
    way.relay.close()

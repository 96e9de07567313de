"""The pages that a restored VM touches first: written down by one restore, read ahead by another."""
import os
import time

import pytest

from local_guest import local_guest  # noqa: F401
from snapshot_vm import Machines

MIB = 64
TRIES = int(os.environ.get("HUSK_TRIES", 1))
# A file in memory that is read over and over; each pass is a line.
PASSES = f"""dd if=/dev/urandom of=/tmp/ram bs=1M count={MIB} 2>/dev/null
n=0; while true; do dd if=/tmp/ram of=/dev/null bs=64k 2>/dev/null; n=$((n+1)); echo pass $n; sleep 0.2; done
"""


@pytest.fixture
def machines(local_guest, tmp_path):  # noqa: F811
    made = Machines(tmp_path)
    yield made
    made.stop()


def drop_cache(path):
    with open(path, "rb") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds_to_first_pass(machines, folder, **more):
    drop_cache(folder / "memory")
    start = time.monotonic()
    vm = machines.restored(folder, **more)
    vm.wait_for(lambda: "pass " in vm.console(), "a pass over its memory", 60)
    took = time.monotonic() - start
    return vm, took


def test_a_recorded_working_set_is_read_ahead(machines, tmp_path):
    snap, wset = tmp_path / "snap", tmp_path / "working-set"
    vm = machines.booted(PASSES, memory=192)
    vm.wait_console("pass 3", 90)
    vm.snapshot(snap)
    vm.stop()

    vm, _ = seconds_to_first_pass(machines, snap, working_set={"path": str(wset), "mode": "Record"})
    vm.wait_for(lambda: wset.stat().st_size > 0, "the list", 60)
    vm.wait_for(lambda: "working set" in vm.log(), "its log line", 10)
    vm.stop()
    ranges = memoryview(wset.read_bytes()[40:]).cast("I")
    pages = sum(ranges[1::2])
    assert MIB * 256 <= pages < 160 * 256, f"{pages} pages"
    assert pages / (len(ranges) // 2) > 16, "short ranges"

    def best(**more):
        times = []
        for _ in range(TRIES):
            vm, took = seconds_to_first_pass(machines, snap, **more)
            vm.stop()  # what is mapped stays in the page cache
            times.append(took)
        return min(times)
    lazy, ahead = best(), best(working_set={"path": str(wset), "mode": "Prefetch"})
    print(f"first pass: {lazy:.2f} s, with its working set read ahead {ahead:.2f} s")

    # Of another snapshot it is of no use.
    vm = machines.booted(PASSES, memory=192)
    vm.wait_console("pass 1", 90)
    vm.snapshot(tmp_path / "other")
    vm.stop()
    fresh = machines.new()
    fault = fresh.refused("PUT", "/snapshot/load", {
        "snapshot_path": str(tmp_path / "other" / "state"), "working_set": {"path": str(wset), "mode": "Prefetch"},
        "mem_backend": {"backend_type": "File", "backend_path": str(tmp_path / "other" / "memory")}})
    assert "another snapshot" in fault

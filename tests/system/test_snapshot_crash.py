"""husk dies while it writes a snapshot over another one: one of the two loads. Five random moments; fifty with HUSK_LONG, and each file operation."""
import os
import random
import shutil
import subprocess
import threading
import time

import pytest

from local_guest import local_guest  # noqa: F401
from snapshot_vm import TICKS, Machines, husk

ROUNDS = 50 if os.environ.get("HUSK_LONG") else 5


@pytest.fixture
def machines(local_guest, tmp_path):  # noqa: F811
    made = Machines(tmp_path)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def start(local_guest, tmp_path_factory):  # noqa: F811
    """A VM that all rounds begin from."""
    folder = tmp_path_factory.mktemp("start") / "snap"
    machines = Machines(folder.parent)
    vm = machines.booted(TICKS)
    vm.wait_console("tick 5 ")
    vm.snapshot(folder)
    machines.stop()
    return folder


def begin(machines, start, snap):
    """A VM that has written one snapshot to snap and is halted again, some ticks later; what the console said last at both times."""
    vm = machines.restored(start, track_dirty_pages=True)
    vm.wait_ticks()
    vm.snapshot(snap)
    first = vm.ticks()[-1][0]
    vm.patch("/vm", state="Resumed")
    vm.wait_ticks()
    vm.patch("/vm", state="Paused")
    return vm, first, vm.ticks()[-1][0]


def ask_for_snapshot(vm, snap, kind):
    """On a thread; the process may well be gone before the answer."""
    def ask():
        try:
            vm.ask("PUT", "/snapshot/create", {"snapshot_path": str(snap / "state"), "mem_file_path": str(snap / "memory"), "snapshot_type": kind})
        except OSError:
            pass
        except Exception as e:  # noqa: BLE001 - http.client has its own
            assert "http" in type(e).__module__, e
    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def loads(machines, snap, first, second):
    """The pair loads, and the VM goes on from one of the two moments; whether it is the second."""
    vm = machines.restored(snap)
    vm.wait_ticks()
    number = vm.ticks()[0][0]
    assert number in (first + 1, first + 2, second + 1, second + 2), (first, second, vm.ticks()[:3])
    vm.stop()
    return number > second


@pytest.mark.parametrize("kind", ["Full", "Diff"])
def test_a_crash_at_a_random_moment_leaves_a_snapshot_that_loads(machines, start, tmp_path, kind):
    took, new = 0.15, 0
    for number in range(ROUNDS):
        snap = tmp_path / f"snap{number}"
        vm, first, second = begin(machines, start, snap)
        begun = time.monotonic()
        thread = ask_for_snapshot(vm, snap, kind)
        if number == 0:  # how long it takes undisturbed
            thread.join()
            took = time.monotonic() - begun
        time.sleep(random.uniform(0, took * 1.1))
        vm.process.kill()
        vm.process.wait()
        thread.join()
        new += loads(machines, snap, first, second)
        shutil.rmtree(snap)
    assert new >= 1


# Of each kind of call the first so many.
OPERATIONS = [("Full", "/rename", 2), ("Diff", "/rename", 2), ("Diff", "fdatasync", 1), ("Diff", "/^unlink", 1)]
if os.environ.get("HUSK_LONG"):
    OPERATIONS += [("Full", "fsync", 4), ("Diff", "fsync", 6), ("Full", "pwrite64", 2), ("Diff", "pwrite64", 6), ("Full", "ftruncate", 3)]


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("kind, call, times", OPERATIONS)
def test_a_crash_at_each_file_operation_leaves_a_snapshot_that_loads(machines, start, tmp_path, kind, call, times):
    for number in range(1, times + 1):
        snap = tmp_path / f"snap{number}"
        vm, first, second = begin(machines, start, snap)
        tracer = subprocess.Popen(["strace", "-f", "-q", "-o", tmp_path / "calls", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}",
                                   "-p", str(vm.process.pid)], stderr=subprocess.DEVNULL)
        try:
            vm.wait_for(lambda: "TracerPid:\t0" not in open(f"/proc/{vm.process.pid}/status").read(), "the tracer")
            ask_for_snapshot(vm, snap, kind).join(30)
            vm.process.wait(5)
        finally:
            vm.process.kill()
            tracer.wait(20)
        loads(machines, snap, first, second)
        again = machines.restored(start, track_dirty_pages=True)
        again.wait_ticks()
        again.snapshot(snap)
        last = again.ticks()[-1][0]
        again.stop()
        assert sorted(f.name for f in snap.iterdir()) == ["memory", "state"]
        assert loads(machines, snap, last, last) is True
        assert husk("snapshot", "info", snap).returncode == 0
        shutil.rmtree(snap)

"""One guest that does everything at once, through process after process: a timer loop, sums over memory, files on a disk, a TCP connection over tap.

Three stops and 32 MiB of sums here; `tools/test --long snapshot` makes a hundred of them with 256 MiB."""
import os
import re
import shutil
import subprocess

import pytest

from local_guest import local_guest, tap  # noqa: F401
from snapshot_vm import SUMS, TICKS, Machines
from test_snapshot_devices import DISK, MOUNT, TCP, Lines, data_drive, goes_on

STOPS, MIB = (100, 256) if os.environ.get("HUSK_LONG") else (3, 32)


@pytest.fixture
def machines(local_guest, tmp_path):  # noqa: F811
    made = Machines(tmp_path)
    yield made
    made.stop()


def test_everything_goes_on_through_stop_after_stop(machines, tap, tmp_path):  # noqa: F811
    disk, drive = data_drive(tmp_path, cache_type="Writeback")
    lines = Lines()
    vm = machines.booted(MOUNT + SUMS.format(mib=MIB) + DISK + TCP + TICKS, memory=MIB + 160, cpus=2, more=[
        ("/drives/data", drive), ("/network-interfaces/eth0", {"iface_id": "eth0", "host_dev_name": tap})])
    vm.wait_console("sum good", 300)
    last, sums = None, 0
    for stop in range(STOPS + 1):
        vm.wait_ticks(timeout=120)
        goes_on(vm, "disk", "tcp", timeout=180)
        ticks = vm.ticks()
        assert not last or ticks[0][0] in (last[0] + 1, last[0] + 2), (stop, last, ticks[:3])
        assert [n for n, _ in ticks] == list(range(ticks[0][0], ticks[-1][0] + 1)) and sorted(ticks, key=lambda t: t[1]) == ticks
        if stop == STOPS:
            break
        sums += vm.console().count("sum good")
        folder = tmp_path / f"snap{stop % 2}"  # the VM runs on the other
        vm.snapshot(folder)
        last = vm.ticks()[-1]
        vm.stop()
        shutil.rmtree(vm.folder)
        vm = machines.restored(folder)
    vm.wait_console("sum good", 300)
    assert "sum bad" not in vm.console() and sums + vm.console().count("sum good") >= 2
    vm.stop()
    lines.stop()
    assert not lines.error
    check = subprocess.run(f"/sbin/e2fsck -fy {disk}; /sbin/e2fsck -fn {disk}", shell=True, capture_output=True, text=True)
    assert check.returncode == 0 and not re.search("WRONG", check.stdout), check.stdout

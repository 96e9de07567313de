"""Devices of real guests across snapshots, under tcg on this machine: nothing written is lost, a TCP connection goes on, entropy and console answer."""
import os
import re
import socket
import subprocess
import threading
import time

import pytest

from local_guest import NET_UP, image, local_guest, tap  # noqa: F401
from snapshot_vm import Machines

MOVES = int(os.environ.get("HUSK_MOVES", "6"))
# On /data, files of 256 KiB whose content follows from their number: written, synced, read again past the cache.
MOUNT = "mkdir /data; mount -t ext4 /dev/vda /data\n"
DISK = """(i=0; while true; do i=$((i+1)); f=/data/f$((i%40)); yes "file $i" | head -c 262144 >$f; sync $f
 echo 1 >/proc/sys/vm/drop_caches; [ "$(uniq $f | head -n 1)" = "file $i" ] && [ $(uniq $f | wc -l) -le 2 ] && echo disk $i || echo WRONG disk $i; done) &
"""
# Numbered lines that the host sends over one connection for all of the time. The pipe: nc sends no end of its own.
TCP = NET_UP + """mkfifo /tmp/o; (nc 172.31.77.1 9001 <>/tmp/o | awk '$1 != n + 1 {print "WRONG line", n, $0} {n = $1} n % 50 == 0 {print "tcp", n; fflush()}'; echo WRONG end) &
"""
RANDOM = """(while true; do dd if=/dev/hwrng of=/dev/null bs=64 count=4 2>/dev/null || echo WRONG rng; n=$((n+1)); echo rng $n; sleep 0.3; done) &
"""


CONSOLE = """(n=0; while true; do n=$((n+1)); echo hvc $n >/dev/hvc0; sleep 0.3; done) &
"""


@pytest.fixture
def machines(local_guest, tmp_path):  # noqa: F811
    made = Machines(tmp_path)
    yield made
    made.stop()


class Lines(threading.Thread):
    """Sends one client numbered lines, for as long as it is there."""

    def __init__(self):
        super().__init__(daemon=True)
        self.server = socket.create_server(("172.31.77.1", 9001))
        self.sent, self.stopped, self.error = 0, False, None
        self.start()

    def run(self):
        try:
            peer, _ = self.server.accept()
            with peer:
                while not self.stopped:
                    self.sent += 1
                    peer.sendall(b"%d %s\n" % (self.sent, b"x" * 900))
                    time.sleep(0.005)
        except OSError as e:
            self.error = e

    def stop(self):
        self.stopped = True
        self.join(5)
        self.server.close()


def last(machine, what):
    found = re.findall(rf"^{what} (\d+)$", machine.console(), re.M)
    return int(found[-1]) if found else 0


def goes_on(machine, *kinds, timeout=90):
    """Each of them makes progress, with nothing wrong."""
    seen = {what: last(machine, what) for what in kinds}
    machine.wait_for(lambda: "WRONG" in machine.console() or all(last(machine, what) > n for what, n in seen.items()), f"progress of {kinds}", timeout)
    assert not re.search(r"WRONG|error|BUG|Call Trace|stall|corrupt", machine.console()), machine.console()[-3000:]


def moved(machines, vm, folder):
    vm.snapshot(folder)
    vm.stop()
    return machines.restored(folder)


def ping_answers():
    """Late ones count as well: this machine may have other things to do."""
    out = subprocess.run(["ping", "-c", "3", "-i", "0.2", "-w", "30", "172.31.77.2"], capture_output=True, text=True).stdout
    assert " 3 received" in out, out


def console_lines(file):
    """Each husk starts it anew."""
    return [int(n) for n in re.findall(r"^hvc (\d+)\r?\n", file.read_text(), re.M)]


def data_drive(folder, **more):
    disk = folder / "data.img"
    subprocess.run(f"truncate -s 64M {disk} && /sbin/mkfs.ext4 -q -F {disk}", shell=True, check=True)
    return disk, {"drive_id": "data", "path_on_host": str(disk), "is_root_device": False, "is_read_only": False, **more}


@pytest.mark.parametrize("engine,cache", [("Sync", "Writeback"), ("Async", "Unsafe")])
def test_work_on_all_devices_goes_on_through_many_snapshots(machines, tap, tmp_path, engine, cache):  # noqa: F811
    disk, drive = data_drive(tmp_path, io_engine=engine, cache_type=cache)
    lines = Lines()
    vm = machines.booted(MOUNT + DISK + TCP + RANDOM + "sleep 10000", memory=160, cpus=2, more=[
        ("/drives/data", drive),
        ("/network-interfaces/eth0", {"iface_id": "eth0", "host_dev_name": tap, "guest_mac": "06:00:ac:10:00:02"}),
        ("/entropy", {})])
    goes_on(vm, "disk", "tcp", "rng")
    for move in range(MOVES):
        vm = moved(machines, vm, tmp_path / f"snap{move % 2}")  # the VM runs on the other
        goes_on(vm, "disk", "tcp", "rng")
        if move % 3 == 0:
            ping_answers()
    vm.snapshot(tmp_path / "end")  # the journal is clean enough to replay, and every file that was synced is whole
    vm.stop()
    lines.stop()
    assert not lines.error and lines.sent > MOVES * 50
    check = subprocess.run(f"/sbin/e2fsck -fy {disk}; /sbin/e2fsck -fn {disk}", shell=True, capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


def test_debian_goes_on_through_many_snapshots(machines, tap, tmp_path):  # noqa: F811
    disk, con = tmp_path / "root.img", tmp_path / "hvc0"
    subprocess.run(["cp", "--sparse=always", image("rootfs.ext4"), disk], check=True)
    lines = Lines()
    vm = machines.booted("mkdir -p /data\n" + DISK + TCP + RANDOM + CONSOLE + "sleep 10000", memory=256, cpus=2,
                         cmdline="root=/dev/vda rw init=/sbin/husk-init", more=[
                             ("/drives/root", {"drive_id": "root", "path_on_host": str(disk), "is_root_device": False, "num_queues": 2}),
                             ("/network-interfaces/eth0", {"iface_id": "eth0", "host_dev_name": tap}),
                             ("/entropy", {}), ("/console", {"mode": f"file:{con}"})])
    goes_on(vm, "disk", "tcp", "rng")
    for move in range(MOVES):
        vm.wait_for(lambda: console_lines(con), "a line on hvc0")
        vm.snapshot(tmp_path / f"snap{move % 2}")
        seen = console_lines(con)[-1]
        vm.stop()
        vm = machines.restored(tmp_path / f"snap{move % 2}")
        goes_on(vm, "disk", "tcp", "rng")
        vm.wait_for(lambda: len(console_lines(con)) >= 2, "lines on hvc0")
        numbers = console_lines(con)
        assert numbers == list(range(numbers[0], numbers[-1] + 1)) and numbers[0] - seen in (1, 2)
        ping_answers()
    vm.stop()
    lines.stop()
    assert not lines.error
    check = subprocess.run(f"/sbin/e2fsck -fy {disk}; /sbin/e2fsck -fn {disk}", shell=True, capture_output=True, text=True)
    assert check.returncode == 0, check.stdout

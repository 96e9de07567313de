"""husk is replaced by another husk under a running guest: mode Local, over a unix socket, its memory handed over and not copied."""
import os
import re
import socket
import subprocess

import pytest

from local_guest import HUSK, image, local_guest, tap  # noqa: F401
from migrate_vm import movers, outcome, until  # noqa: F401
from snapshot_vm import SUMS, TICKS, husk
from test_snapshot_devices import DISK, RANDOM, TCP, Lines, goes_on

UPGRADES = 5


@pytest.fixture
def two_queues():
    """A tap like the fixture's, with several queues."""
    name = f"huskmq{os.getpid() % 10000}"
    made = subprocess.run(f"ip tuntap add {name} mode tap multi_queue && ip addr add 172.31.77.1/24 dev {name} && ip link set {name} up", shell=True, capture_output=True, text=True)
    if made.returncode:
        (pytest.fail if os.geteuid() == 0 else pytest.skip)(f"cannot make a tap interface: {made.stderr.strip()}")
    yield name
    subprocess.run(["ip", "link", "del", name], check=True)


def upgraded(movers, src, **params):
    """The husk that runs the guest now, and what the old one said at last."""
    dst = movers.waiting()
    return dst, movers.moved(src, dst, mode="Local", **params)


def sums_agree(vm):
    seen = vm.console().count("sum good")
    vm.wait_for(lambda: vm.console().count("sum good") > seen, "sums", 180)
    assert "sum bad" not in vm.console()


def follows(dst, src):
    dst.wait_ticks(timeout=120)
    last, first = src.ticks()[-1], dst.ticks()[0]
    assert first[0] in (last[0] + 1, last[0] + 2), (last, first)


def test_nothing_is_lost_in_five_upgrades_in_a_row(movers, two_queues, tmp_path):  # noqa: F811
    disk, vsock = tmp_path / "root.img", tmp_path / "vsock"
    subprocess.run(["cp", "--sparse=always", image("rootfs.ext4"), disk], check=True)
    lines = Lines()
    vm = movers.booted("mkdir -p /data\n" + SUMS.format(mib=16) + DISK + TCP + RANDOM + TICKS, memory=320, cpus=2,
                       cmdline="root=/dev/vda rw init=/sbin/husk-init", more=[
                           ("/drives/root", {"drive_id": "root", "path_on_host": str(disk), "is_root_device": False, "num_queues": 2}),
                           ("/network-interfaces/eth0", {"iface_id": "eth0", "host_dev_name": two_queues, "queue_pairs": 2}),
                           ("/vsock", {"guest_cid": 3, "uds_path": str(vsock)}), ("/entropy", {})])
    vm.wait_console("sum good", 300)
    downtimes = []
    for n in range(UPGRADES):
        goes_on(vm, "disk", "tcp", "rng", timeout=180)
        old = vm
        vm, status = upgraded(movers, old)
        follows(vm, old)
        # What the first husk had mapped of kernel and initrd is sent; then all of the memory is in the memfd.
        assert (status["pages"] > 0) == (n == 0) and status["pages"] < 320 * 256, status
        downtimes.append(status["downtime"]["total_us"] / 1000)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(vsock))
    print("downtime in ms:", *downtimes)
    goes_on(vm, "disk", "tcp", "rng", timeout=180)
    sums_agree(vm)
    assert sorted(downtimes)[UPGRADES // 2] < 100, downtimes
    vm.process.terminate()
    vm.process.wait(20)
    assert not vsock.exists()
    lines.stop()
    assert not lines.error
    check = subprocess.run(f"/sbin/e2fsck -fy {disk}; /sbin/e2fsck -fn {disk}", shell=True, capture_output=True, text=True)
    assert check.returncode == 0 and not re.search("WRONG", check.stdout), check.stdout


def test_an_upgrade_that_fails_leaves_the_old_husk_at_work(movers, tap, tmp_path):  # noqa: F811
    disk, vsock = tmp_path / "disk", tmp_path / "vsock"
    subprocess.run(["truncate", "-s", "8M", disk], check=True)
    lines = Lines()
    vm = movers.booted(SUMS.format(mib=16) + TCP + TICKS, memory=224, more=[
        ("/drives/d", {"drive_id": "d", "path_on_host": str(disk), "is_root_device": False}),
        ("/network-interfaces/eth0", {"iface_id": "eth0", "host_dev_name": tap}), ("/vsock", {"guest_cid": 3, "uds_path": str(vsock)})])
    vm.wait_console("sum good", 300)
    for number in range(6):
        dst = movers.waiting(drive_overrides=[{"drive_id": "d", "path_on_host": str(tmp_path / "missing")}] if number == 0 else [])
        vm.put("/migration", action="Start", address=dst.address, mode="Local", max_bandwidth=(4 << 20) * (number < 3))
        if number == 1:
            until(vm, "precopy")
            dst.stop()
        elif number == 2:
            until(vm, "precopy")
            vm.put("/migration", action="Cancel")
        elif number:
            dst.process.kill()
        status = outcome(vm)
        if status["phase"] == "completed":  # it was faster
            pytest.fail(str(status))
        assert status["phase"] in ("failed", "cancelled"), status
        goes_on(vm, "tcp")
        sums_agree(vm)
        assert vsock.exists()
    old = vm
    vm, _ = upgraded(movers, old)
    follows(vm, old)
    goes_on(vm, "tcp")
    sums_agree(vm)
    lines.stop()
    assert not lines.error


def test_a_restored_vm_and_one_with_plugged_memory(movers, tmp_path):  # noqa: F811
    vm = movers.booted(SUMS.format(mib=16) + TICKS, memory=192, more=[
        ("/hotplug/memory", {"total_size_mib": 128, "block_size_mib": 2, "slot_size_mib": 128})])
    vm.wait_console("sum good", 120)
    vm.patch("/hotplug/memory", requested_size_mib=64)
    vm.wait_for(lambda: vm.get("/hotplug/memory")["plugged_size_mib"] == 64, "plugged memory", 60)
    vm.snapshot(tmp_path / "snap")
    vm.stop()
    vm = movers.restored(tmp_path / "snap")
    vm.wait_ticks()
    for n in range(2):
        old = vm
        vm, status = upgraded(movers, old)
        follows(vm, old)
        sums_agree(vm)
        assert vm.get("/hotplug/memory")["plugged_size_mib"] == 64
    vm.patch("/hotplug/memory", requested_size_mib=128)
    vm.wait_for(lambda: vm.get("/hotplug/memory")["plugged_size_mib"] == 128, "plugged memory", 60)
    sums_agree(vm)


def test_the_commands_of_the_documentation(movers, tmp_path):  # noqa: F811
    old, new, address = movers.booted(TICKS), tmp_path / "new.sock", f"unix:{tmp_path}/move"
    old.wait_ticks()
    with open(tmp_path / "console", "wb") as out, open(tmp_path / "err", "wb") as err:
        dst = subprocess.Popen([HUSK, "receive", address, "--accelerator", "tcg", "--api-sock", new], stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    try:
        old.wait_for(lambda: (tmp_path / "move").exists() and new.exists(), "sockets")
        done = husk("migrate", old.sock, address, "mode=local")
        assert done.returncode == 0 and "stood still" in done.stdout, done
        os.rename(new, old.sock)
        assert old.end() == 0
        assert "unning" in husk("ctl", old.sock, "status").stdout  # the old one has left the file alone
        assert dst.poll() is None
    finally:
        dst.kill()
        dst.wait()


def test_what_cannot_be_handed_over_is_refused_at_once(movers):  # noqa: F811
    vm = movers.booted(TICKS)
    vm.wait_ticks()

    def fault(address="unix:/tmp/x", **more):
        return vm.refused("PUT", "/migration", {"action": "Start", "address": address, "mode": "Local", **more})

    assert "unix:PATH" in fault("tcp:127.0.0.1:1")
    assert "verify" in fault(verify=True)
    assert "on-stall=postcopy" in fault(on_stall="Postcopy")
    vm.wait_ticks()

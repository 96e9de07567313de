"""A guest with a disk and a TCP connection moves between two husks in two network namespaces, back and forth, as between two hosts.

           172.31.77.1, bridge (this namespace)
            |                       |
    A: tap - bridge - veth   B: tap - bridge - veth        the guest is 172.31.77.2, wherever it is
    A: 10.87.0.1 ------ veth ------ B: 10.87.0.2           what husks say to each other

`tools/test --long migrate` makes fifty moves in each mode with 1 GiB; here it is one in each."""
import os
import re
import subprocess

import pytest

from local_guest import local_guest  # noqa: F401
from migrate_vm import movers, outcome, until  # noqa: F401
from snapshot_vm import SUMS, TICKS
from test_snapshot_devices import DISK, MOUNT, TCP, Lines, data_drive, goes_on

MOVES, MEMORY, MIB = (50, 1024, 256) if os.environ.get("HUSK_LONG") else (1, 256, 16)
# 50 MiB of memory are written anew, each second.
WRITER = """(n=0; while true; do n=$((n+1)); yes $n | dd of=/tmp/w bs=1M count=%d iflag=fullblock conv=notrunc 2>/dev/null; echo written $n; sleep 0.7; done) &
""" % (50 if os.environ.get("HUSK_LONG") else 8)


def sh(text):
    done = subprocess.run(text, shell=True, capture_output=True, text=True)
    if done.returncode:
        (pytest.fail if os.geteuid() == 0 else pytest.skip)(f"{text}: {done.stderr.strip()}")


@pytest.fixture
def hosts():
    """Two namespaces; each is (command prefix, address)."""
    n = f"hm{os.getpid() % 10000}"
    made = []
    sh(f"ip link add {n} type bridge && ip addr add 172.31.77.1/24 dev {n} && ip link set {n} up")
    try:
        for side, number in (("a", 1), ("b", 2)):
            ns = n + side
            made.append(ns)
            sh(f"ip netns add {ns} && ip link add {n}{side} type veth peer name net0 netns {ns} && ip link set {n}{side} master {n} up")
            sh(f"ip -n {ns} link add bridge0 type bridge && ip -n {ns} tuntap add tap0 mode tap && ip -n {ns} link set lo up"
               f" && for i in net0 tap0; do ip -n {ns} link set $i master bridge0 up; done && ip -n {ns} link set bridge0 up")
        sh(f"ip -n {n}a link add mig0 type veth peer name mig0 netns {n}b")
        for side, number in (("a", 1), ("b", 2)):
            sh(f"ip -n {n}{side} addr add 10.87.0.{number}/24 dev mig0 && ip -n {n}{side} link set mig0 up")
        yield [(["ip", "netns", "exec", n + side], f"10.87.0.{number}") for side, number in (("a", 1), ("b", 2))]
    finally:
        for ns in made:  # the interface first: a namespace takes its time
            subprocess.run(["ip", "link", "del", ns])
            subprocess.run(["ip", "netns", "del", ns])
        subprocess.run(["ip", "link", "del", n])


@pytest.mark.parametrize("modes", [["Precopy"], ["Postcopy"], ["Hybrid"]] if MOVES > 1 else [["Precopy", "Postcopy", "Hybrid"]], ids="-".join)
def test_nothing_is_lost_between_two_hosts(movers, hosts, tmp_path, modes):  # noqa: F811
    disk, drive = data_drive(tmp_path, cache_type="Writeback")
    lines = Lines()
    vm = movers.booted(MOUNT + SUMS.format(mib=MIB) + WRITER + DISK + TCP + TICKS, memory=MEMORY, cpus=2, prefix=hosts[0][0], more=[
        ("/drives/data", drive), ("/network-interfaces/eth0", {"iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "06:00:ac:10:00:02"})])
    vm.wait_console("sum good", 300)
    for move in range(MOVES * len(modes)):
        goes_on(vm, "disk", "tcp", "written", timeout=180)
        prefix, address = hosts[(move + 1) % 2]
        dst = movers.waiting(f"tcp:{address}:0", prefix=prefix)
        movers.moved(vm, dst, mode=modes[move % len(modes)], verify=True, channels=1 + move % 3, push_channels=1 + move % 2)
        dst.wait_ticks(timeout=120)
        last, first = vm.ticks()[-1], dst.ticks()[0]
        assert first[0] in (last[0] + 1, last[0] + 2), (move, last, first)
        vm = dst
    goes_on(vm, "disk", "tcp", "written", timeout=180)
    vm.wait_console("sum good", 300)
    assert "sum bad" not in vm.console()
    vm.stop()
    lines.stop()
    assert not lines.error
    check = subprocess.run(f"/sbin/e2fsck -fy {disk}; /sbin/e2fsck -fn {disk}", shell=True, capture_output=True, text=True)
    assert check.returncode == 0 and not re.search("WRONG", check.stdout), check.stdout


def test_a_network_that_goes_silent_is_noticed_and_made_up_for(movers, hosts):  # noqa: F811
    """The link is cut without a word to either side, before the hand-over and after it."""
    (a, _), (b, address) = hosts
    src = movers.booted(SUMS.format(mib=64) + TICKS, memory=256, prefix=a)
    src.wait_console("sum good", 120)
    for mode, phase in (("Precopy", "precopy"), ("Postcopy", "postcopy")):
        dst = movers.waiting(f"tcp:{address}:0", prefix=b, timeout_ms=1500)
        src.put("/migration", action="Start", address=dst.address, mode=mode, max_bandwidth=8 << 20, timeout_ms=1500, verify=True)
        until(src, phase)
        sh(f"{' '.join(a)} ip link set mig0 down")
        status = outcome(src, timeout=20)
        if mode == "Precopy":
            assert status["phase"] == "failed" and "silent" in status["error"], status
            src.wait_ticks()
        else:
            assert status["phase"] == "paused", status
            until(dst, "paused", timeout=20)
        sh(f"{' '.join(a)} ip link set mig0 up")
    src.put("/migration", action="Recover")
    status = outcome(src)
    assert status["phase"] == "completed" and status["different_pages"] == 0, status
    dst.wait_ticks()

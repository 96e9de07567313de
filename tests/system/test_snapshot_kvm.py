"""A guest that moves from process to process by snapshots: under the nested host's KVM, and from there to this machine's tcg and back.

Each stop takes some seconds there: one or two rounds as a rule, HUSK_LONG=1 for a hundred under KVM and twenty in each direction."""
import base64
import gzip
import json
import os
import re
import subprocess

import pytest

from local_guest import local_guest  # noqa: F401
from snapshot_vm import SUMS, TICKS, Machines, husk
from test_snapshot_devices import DISK, MOUNT, RANDOM, TCP, goes_on

LONG = bool(os.environ.get("HUSK_LONG"))
MIB = 256 if LONG else 16  # of sums
DATA = f"/tmp/husk-travel-{os.getpid()}.img"  # the drive, on both machines
# stop DIR FLAGS WANTED COMMAND...: runs husk until the guest has ticked and has said each word of WANTED with a number, and leaves the halted
# guest in DIR; what the console had is shown.
STOP = """
ready() {
 [ $(grep -c '^tick' /tmp/snap.out) -ge 4 ] || return
 for word in $wanted; do grep -q "^$word [0-9]*.$" /tmp/snap.out || return; done
}
stop() {
 dir=$1; more=$2; wanted=$3; shift 3
 rm -f /tmp/snap.sock
 "$@" --api-sock /tmp/snap.sock </dev/null >/tmp/snap.out 2>/tmp/snap.err & p=$!
 i=0
 until ready || [ $i -ge 600 ] || ! kill -0 $p; do sleep 0.2; i=$((i+1)); done
 husk ctl /tmp/snap.sock snapshot $dir --keep-paused $more 2>&1; rc=$?
 kill $p; wait $p
 cat /tmp/snap.out; head -c 2000 /tmp/snap.err; echo; echo rc $rc
}
"""
# Numbered lines over one connection, some hundreds a second.
LINES = "(i=1; while true; do seq $i $((i+49)); i=$((i+50)); sleep 0.2; done) | nc -l -p 9001"


class Traveller:
    """The guest between its stops."""

    def __init__(self, host, accelerator, made, wanted=""):
        self.host, self.last, self.at, self.number, self.more, self.wanted, self.sums = host, 0, None, 0, "", wanted, 0
        host.put(json.dumps(made).encode(), "/tmp/snap.json")
        host.run("rm -rf /tmp/snap[0-9]*")
        self.stop(f"husk run /tmp/snap.json --accelerator {accelerator}")

    def seen(self, console):
        assert not re.search("WRONG|sum bad|BUG|Call Trace|stall", console), console[-3000:]
        self.sums += console.count("sum good")
        ticks = [int(n) for n in re.findall(r"^tick (\d+) ", console, re.M)]
        assert len(ticks) >= 4 and "backwards" not in console, console[-3000:]
        assert ticks[0] in (self.last + 1, self.last + 2) and ticks == list(range(ticks[0], ticks[-1] + 1)), (self.last, ticks, console[-2000:])
        self.last = ticks[-1]

    def stop(self, command):
        new = f"/tmp/snap{self.number}"
        out = self.host.run(f"{STOP}\nstop {new} '{self.more}' '{self.wanted}' {command}; rm -rf {self.at or '/tmp/none'}", timeout=300).stdout.replace("\r", "")
        assert "\nrc 0" in out, out[-3000:]
        self.seen(out)
        self.at, self.number = new, self.number + 1

    def go(self, accelerator):
        self.stop(f"husk run --restore {self.at} --accelerator {accelerator}")

    def sum_up(self):
        """Twice, at least: a sum takes longer than a stop."""
        while self.sums < 2 and self.number < 150:
            self.go("kvm")
        assert self.sums >= 2

    def fetch(self, folder):
        """The snapshot, and the drive, to this machine."""
        folder.mkdir()
        for name in ("state", "memory"):
            self.host.get(f"{self.at}/{name}", folder / name)
        fetch_data(self.host)

    def bring(self, folder):
        """And from here to the nested host."""
        self.host.run(f"rm -rf {self.at}; mkdir {self.at}", check=True)
        for name in ("state", "memory"):
            self.host.put(folder / name, f"{self.at}/{name}")
        put_data(self.host)


def fetch_data(host):
    with open(DATA, "wb") as f:
        f.write(gzip.decompress(host.run(f"gzip -1 <{DATA}", check=True, binary=True).stdout))


def put_data(host):
    with open(DATA, "rb") as f:
        host.run(f"gunzip >{DATA}.new && mv {DATA}.new {DATA}", input=gzip.compress(f.read(), 1), check=True)


def config(script, memory=96, cpus=1, template=None, **more):
    words = "console=ttyS0 quiet cryptomgr.notests mitigations=off husk.exec=" + base64.urlsafe_b64encode(script.encode()).decode()
    made = {"boot-source": {"kernel_image_path": "/husk/guest/vmlinuz-6.12", "initrd_path": "/husk/guest/initrd-6.12.img", "boot_args": words},
            "machine-config": {"vcpu_count": cpus, "mem_size_mib": memory}, **more}
    return {**made, "cpu-config": template} if template else made


@pytest.fixture
def data_there(host):
    """An empty file system in the nested host, as the guest's drive; what the guest left is checked at the end."""
    subprocess.run(f"truncate -s 64M {DATA} && /sbin/mkfs.ext4 -q -F {DATA}", shell=True, check=True)
    put_data(host)
    yield {"drives": [{"drive_id": "data", "path_on_host": DATA, "is_root_device": False, "is_read_only": False, "cache_type": "Writeback", "io_engine": "Async"}]}
    fetch_data(host)
    check = subprocess.run(f"/sbin/e2fsck -fy {DATA}; /sbin/e2fsck -fn {DATA}; rm {DATA}", shell=True, capture_output=True, text=True)
    host.run(f"rm {DATA}")
    assert check.returncode == 0 and "WRONG" not in check.stdout, check.stdout


@pytest.fixture
def tap_there(host):
    """An interface of the nested host, which sends its one caller numbered lines."""
    host.run("ip tuntap add tap0 mode tap && ip addr add 172.31.77.1/24 dev tap0 && ip link set tap0 up", check=True)
    with host.popen(LINES):
        yield {"network-interfaces": [{"iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "06:00:ac:10:00:02"}]}
    host.run("ip link del tap0", check=True)


@pytest.fixture
def common(host, local_guest, tmp_path):  # noqa: F811
    """The template of a guest that moves between the nested host's KVM and this machine's tcg."""
    there = host.run("husk cpu-template common 2>/dev/null", check=True).stdout
    (tmp_path / "there.json").write_text(there)
    here = husk("cpu-template", "common", tmp_path / "there.json")
    assert here.returncode == 0, here.stderr
    return json.loads(here.stdout)


def test_everything_goes_on_under_kvm(host, common, data_there, tap_there):
    """A timer loop, sums over memory, files on a disk, a TCP connection, random numbers."""
    script = MOUNT + SUMS.format(mib=MIB) + DISK + TCP + RANDOM + TICKS
    guest = Traveller(host, "kvm", config(script, MIB + 160, template=common, entropy={}, **data_there, **tap_there), "disk tcp rng")
    for _ in range(100 if LONG else 2):
        guest.go("kvm")
    guest.sum_up()


def test_two_vcpus_go_on_under_kvm(host):
    guest = Traveller(host, "kvm", config(TICKS, cpus=2))
    for _ in range(20 if LONG else 2):
        guest.go("kvm")


@pytest.fixture
def machines(local_guest, tmp_path):  # noqa: F811
    made = Machines(tmp_path)
    yield made
    made.stop()


def test_a_guest_goes_from_kvm_to_tcg_and_back(host, machines, common, data_there, tmp_path):
    """tcg is this machine's own: the nested host's time-stamp counter is not good enough for it. Two machines with no network in common: no TCP."""
    guest = Traveller(host, "kvm", config(MOUNT + SUMS.format(mib=16) + DISK + TICKS, template=common, **data_there), "disk")
    guest.more = "--compress"  # the way there is slow
    guest.go("kvm")
    for number in range(20 if LONG else 1):
        guest.fetch(tmp_path / f"from{number}")
        vm = machines.restored(tmp_path / f"from{number}")
        vm.wait_ticks(4)
        goes_on(vm, "disk")
        vm.snapshot(tmp_path / f"to{number}", compress=True)
        guest.seen(vm.console())
        vm.stop()
        guest.bring(tmp_path / f"to{number}")
        guest.go("kvm")
    guest.sum_up()

"""A guest that moves from process to process by snapshots: under the nested host's KVM, and from there to this machine's tcg and back.

Each stop takes some seconds there: one or two rounds as a rule, HUSK_LONG=1 for a hundred under KVM and twenty in each direction."""
import base64
import json
import os
import re

import pytest

from local_guest import local_guest  # noqa: F401
from snapshot_vm import TICKS, Machines, husk

LONG = bool(os.environ.get("HUSK_LONG"))
# stop DIR FLAGS COMMAND...: runs husk until the guest has ticked, and leaves the halted guest in DIR; what the console had is shown.
STOP = """
stop() {
 dir=$1; more=$2; shift 2
 rm -f /tmp/snap.sock
 "$@" --api-sock /tmp/snap.sock </dev/null >/tmp/snap.out 2>/tmp/snap.err & p=$!
 i=0
 until [ $(grep -c '^tick' /tmp/snap.out) -ge 4 ] || [ $i -ge 300 ] || ! kill -0 $p; do sleep 0.2; i=$((i+1)); done
 husk ctl /tmp/snap.sock snapshot $dir --keep-paused $more 2>&1; rc=$?
 kill $p; wait $p
 cat /tmp/snap.out; head -c 2000 /tmp/snap.err; echo; echo rc $rc
}
"""


class Traveller:
    """The guest between its stops."""

    def __init__(self, host, accelerator, cpus=1, template=None):
        self.host, self.last, self.at, self.number, self.more = host, 0, None, 0, ""
        host.put(json.dumps(config(cpus, template, "/husk/guest")).encode(), "/tmp/snap.json")
        host.run("rm -rf /tmp/snap[0-9]*")
        self.stop(f"husk run /tmp/snap.json --accelerator {accelerator}")

    def seen(self, console):
        ticks = [int(n) for n in re.findall(r"^tick (\d+) ", console, re.M)]
        assert len(ticks) >= 4 and "backwards" not in console, console[-3000:]
        assert ticks[0] in (self.last + 1, self.last + 2) and ticks == list(range(ticks[0], ticks[-1] + 1)), (self.last, ticks, console[-2000:])
        self.last = ticks[-1]

    def stop(self, command):
        new = f"/tmp/snap{self.number}"
        out = self.host.run(f"{STOP}\nstop {new} '{self.more}' {command}; rm -rf {self.at or '/tmp/none'}", timeout=300).stdout.replace("\r", "")
        assert "\nrc 0" in out, out[-3000:]
        self.seen(out)
        self.at, self.number = new, self.number + 1

    def go(self, accelerator):
        self.stop(f"husk run --restore {self.at} --accelerator {accelerator}")

    def fetch(self, folder):
        """The snapshot to this machine."""
        folder.mkdir()
        for name in ("state", "memory"):
            self.host.get(f"{self.at}/{name}", folder / name)

    def bring(self, folder):
        """And one from here to the nested host."""
        self.host.run(f"rm -rf {self.at}; mkdir {self.at}", check=True)
        for name in ("state", "memory"):
            self.host.put(folder / name, f"{self.at}/{name}")


def config(cpus, template, images):
    words = "console=ttyS0 quiet cryptomgr.notests mitigations=off husk.exec=" + base64.urlsafe_b64encode(TICKS.encode()).decode()
    made = {"boot-source": {"kernel_image_path": f"{images}/vmlinuz-6.12", "initrd_path": f"{images}/initrd-6.12.img", "boot_args": words},
            "machine-config": {"vcpu_count": cpus, "mem_size_mib": 96}}
    return {**made, "cpu-config": template} if template else made


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_guest_goes_on_under_kvm(host, cpus):
    guest = Traveller(host, "kvm", cpus)
    for _ in range(100 if LONG else 2):
        guest.go("kvm")


@pytest.fixture
def common(host, local_guest, tmp_path):  # noqa: F811
    """The template of a guest that moves between the nested host's KVM and this machine's tcg."""
    there = host.run("husk cpu-template common 2>/dev/null", check=True).stdout
    (tmp_path / "there.json").write_text(there)
    here = husk("cpu-template", "common", tmp_path / "there.json")
    assert here.returncode == 0, here.stderr
    return json.loads(here.stdout)


@pytest.fixture
def machines(local_guest, tmp_path):  # noqa: F811
    made = Machines(tmp_path)
    yield made
    made.stop()


def test_a_guest_goes_from_kvm_to_tcg_and_back(host, machines, common, tmp_path):
    """tcg is this machine's own: the nested host's time-stamp counter is not good enough for it."""
    guest = Traveller(host, "kvm", template=common)
    guest.more = "--compress"  # the way there is slow
    guest.go("kvm")
    for number in range(20 if LONG else 1):
        guest.fetch(tmp_path / f"from{number}")
        vm = machines.restored(tmp_path / f"from{number}")
        vm.wait_ticks(4)
        vm.snapshot(tmp_path / f"to{number}", compress=True)
        guest.seen(vm.console())
        vm.stop()
        guest.bring(tmp_path / f"to{number}")
        guest.go("kvm")

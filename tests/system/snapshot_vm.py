"""Machines that are snapshotted and restored over their REST API, for test_snapshot*.py: on this machine under tcg, or in the nested host."""
import json
import os
import re
import subprocess
from pathlib import Path

from api_client import Husk
from local_guest import HUSK

# Prints `tick N UPTIME` for ever, and `backwards` should the clock ever go back.
TICKS = """n=0; last=0
while true; do
 read u _ </proc/uptime; v=$(echo $u | tr -d .); [ $v -ge $last ] || echo backwards $last $v
 last=$v; n=$((n+1)); echo tick $n $u; sleep 0.03
done
"""
# A file of MIB random bytes in memory, summed over and over.
SUMS = """dd if=/dev/urandom of=/tmp/ram bs=1M count={mib} 2>/dev/null; good=$(sha256sum </tmp/ram)
(while true; do s=$(sha256sum </tmp/ram); if [ "$s" = "$good" ]; then echo sum good; else echo sum bad; fi; done) &
"""


class Machine(Husk):
    """A process of husk with its API; the guest's console is a file."""

    def ticks(self):
        return [(int(n), float(u)) for n, u in re.findall(r"^tick (\d+) ([\d.]+)$", self.console(), re.M)]

    def wait_ticks(self, more=3, timeout=60):
        seen = len(self.ticks())
        self.wait_for(lambda: len(self.ticks()) >= seen + more, f"{more} more ticks", timeout)
        assert "backwards" not in self.console() and "sum bad" not in self.console(), self.console()[-2000:]

    def snapshot(self, folder, resume=False, **more):
        """Halts it and writes DIR/state and DIR/memory."""
        folder = Path(folder)
        folder.mkdir(exist_ok=True)
        self.patch("/vm", state="Paused")
        answer = self.ask("PUT", "/snapshot/create", {"snapshot_path": str(folder / "state"), "mem_file_path": str(folder / "memory"), **more})
        assert answer.status == 204, answer.json
        if resume:
            self.patch("/vm", state="Resumed")
        return answer

    def load(self, folder, resume=True, **more):
        folder = Path(folder)
        if "mem_backend" not in more:
            more["mem_backend"] = {"backend_type": "File", "backend_path": str(folder / "memory")}
        return self.put("/snapshot/load", snapshot_path=str(folder / "state"), resume_vm=resume, **more)


class Machines:
    """Makes them, and sees to it that none is left."""

    def __init__(self, folder):
        self.folder, self.all = Path(folder), []

    def new(self, *flags, prefix=()):
        where = self.folder / f"vm{len(self.all)}"
        where.mkdir()
        machine = Machine(where, *flags, prefix=prefix)
        self.all.append(machine)
        return machine

    def booted(self, script, memory=128, cpus=1, track=False, more=(), prefix=(), flags=(), **how):
        machine = self.new(*flags, prefix=prefix)
        machine.put("/machine-config", vcpu_count=cpus, mem_size_mib=memory, track_dirty_pages=track)
        machine.put("/boot-source", **machine.boot_source(script, **how))
        for path, body in more:
            machine.put(path, **body)
        machine.put("/actions", action_type="InstanceStart")
        return machine

    def restored(self, folder, *flags, **more):
        machine = self.new(*flags)
        machine.load(folder, **more)
        return machine

    def stop(self):
        for machine in self.all:
            machine.stop()


def husk(*words, timeout=60):
    """A command that ends by itself."""
    return subprocess.run([HUSK, *map(str, words)], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


def describe(folder):
    done = husk("snapshot", "info", folder, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

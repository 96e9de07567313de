"""Machines that move from one husk to another, for test_migrate*.py."""
import time

import pytest

from local_guest import local_guest  # noqa: F401
from snapshot_vm import Machines

OVER = ("completed", "failed", "cancelled", "paused")


class Movers(Machines):
    """Pairs of processes on this machine."""

    def waiting(self, address=None, prefix=(), flags=(), **more):
        """A husk that waits for a VM; its address is .address."""
        machine = self.new(*flags, prefix=prefix)
        answer = machine.ask("PUT", "/migration", {"action": "Receive", "address": address or f"unix:{machine.folder}/in", **more})
        assert answer.status == 200, answer.json
        machine.address = answer.json["address"]
        return machine

    def move(self, src, dst, **params):
        """Starts it and waits for its end; the source's last status."""
        src.put("/migration", action="Start", address=dst.address, **params)
        return outcome(src)

    def moved(self, src, dst, **params):
        """The same, which has to come out well; `src` has ended then."""
        status = self.move(src, dst, **params)
        assert status["phase"] == "completed", (status, src.tail(), dst.tail())
        assert status["different_pages"] == 0 and (not params.get("verify") or status["verified_pages"]), status
        assert src.end() == 0, src.tail()
        return status


def status_of(machine):
    return machine.get("/migration")


def outcome(machine, timeout=120):
    return until(machine, *OVER, timeout=timeout)


def until(machine, *phases, timeout=60):
    """Its status once it is in one of these phases."""
    end = time.monotonic() + timeout
    while True:
        status = status_of(machine)
        if status["phase"] in phases:
            return status
        assert status["phase"] not in OVER, status
        assert time.monotonic() < end, (phases, status, machine.tail())
        time.sleep(0.005)


@pytest.fixture
def movers(local_guest, tmp_path):  # noqa: F811
    made = Movers(tmp_path)
    yield made
    made.stop()

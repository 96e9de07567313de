"""Migration at length; `tools/test --long migrate` runs it: fifty moves in each mode between two namespaces, 1 GiB, 50 MiB/s written; two hundred
connections cut where chance has it (HUSK_CUTS=N: another number; HUSK_SEED=N: the same again); every fault in every phase."""
import os
import random
import time

from local_guest import local_guest  # noqa: F401
from migrate_relay import Relay
from migrate_vm import movers, outcome, status_of  # noqa: F401
from snapshot_vm import SUMS, TICKS
from test_migrate import MODES, goes_on, sums_agree
from test_migrate_faults import base, cell, test_fault  # noqa: F401
from test_migrate_kvm import common, test_a_guest_moves_from_kvm_to_tcg_and_back, test_a_guest_moves_under_kvm  # noqa: F401
from test_migrate_net import hosts, test_nothing_is_lost_between_two_hosts  # noqa: F401

# 2 MiB of memory are written anew, again and again.
WRITER = "(while true; do dd if=/dev/urandom of=/tmp/w bs=64k count=32 conv=notrunc 2>/dev/null; sleep 0.05; done) &\n"


def attempt(src, relay, action, **params):
    """Begins or recovers; the source's status when that has come to an end."""
    answer = src.ask("PUT", "/migration", {"action": action, "address": relay.address, **params})
    assert answer.status == 204, answer.json
    return outcome(src)


def move_with_cuts(movers, src, chance, mode, cuts):  # noqa: F811
    """One move, cut up to so many times; (where it runs, how often it was cut)."""
    dst, whole, made = movers.waiting("tcp:127.0.0.1:0"), 70 << 20, 0
    relay = Relay(dst.address)
    action, params = "Start", {"mode": mode, "channels": chance.choice([1, 2, 3]), "push_channels": chance.choice([1, 3]), "verify": True}
    while True:
        relay.sprung.clear()
        before = relay.passed
        if made < cuts:  # small numbers as often as large ones: handshakes, and the end of it
            relay.limit = before + int(chance.choice([chance.uniform(0, whole), 2 ** chance.uniform(4, 26)]))
        status = attempt(src, relay, action, **params)
        relay.limit = None
        made += relay.sprung.is_set()
        if status["phase"] == "completed":
            break
        assert relay.sprung.is_set(), (status, src.tail(), dst.tail())
        if status["phase"] == "failed":  # before COMMIT: as if nothing had been
            src.wait_ticks(1)
            relay.close()
            dst.stop()
            dst = movers.waiting("tcp:127.0.0.1:0")
            relay = Relay(dst.address)
        else:
            assert status["phase"] == "paused" and src.get("/")["state"] == "Paused", status
            action, params = "Recover", {}
    relay.close()
    assert status["different_pages"] == 0 and (status["verified_pages"] or status["recoveries"]), status
    assert src.end() == 0
    goes_on(dst, src.ticks()[-1])
    return dst, made


def test_cuts_wherever_chance_has_it(movers):  # noqa: F811
    seed = int(os.environ.get("HUSK_SEED", time.time_ns()))
    chance, left, moves = random.Random(seed), int(os.environ.get("HUSK_CUTS", "200")), 0
    print(f"HUSK_SEED={seed}")
    vm = movers.booted(SUMS.format(mib=24) + WRITER + TICKS, memory=192)
    vm.wait_console("sum good", 120)
    while left > 0:
        vm, made = move_with_cuts(movers, vm, chance, MODES[moves % 3], min(left, chance.randint(1, 6)))
        left -= made
        moves += 1
        assert status_of(vm)["role"] == "destination"
        sums_agree(vm)
    print(f"{moves} moves")

"""Live migration under the nested host's KVM, and from there to this machine's tcg and back. HUSK_LONG=1: five times in each mode."""
import json
import os
import re

import pytest

from local_guest import local_guest  # noqa: F401
from migrate_vm import movers, until  # noqa: F401
from snapshot_vm import TICKS
from test_snapshot_kvm import common, config  # noqa: F401

MODES = {1: ["precopy", "postcopy", "local"], 2: ["hybrid", "local", "local"]}
if os.environ.get("HUSK_LONG"):
    MODES = {1: ["precopy", "postcopy", "hybrid", "local"] * 5, 2: ["precopy", "postcopy", "hybrid", "local"]}
# Each husk has a number, its console and API socket are /tmp/mig$n.out and .sock.
SHELL = """
begin() { n=$1; shift; rm -f /tmp/mig$n.*; setsid "$@" --accelerator kvm --api-sock /tmp/mig$n.sock </dev/null >/tmp/mig$n.out 2>/tmp/mig$n.err & }
ticks() { i=0; until [ $(grep -c '^tick' /tmp/mig$1.out) -ge 4 ] || [ $i -ge 300 ]; do sleep 0.2; i=$((i+1)); done; }
there() { i=0; until grep -q "waiting for a VM" /tmp/mig$1.err || [ $i -ge 100 ]; do sleep 0.1; i=$((i+1)); done; sleep 0.2; }
"""


def in_order(consoles):
    """Ticks of one guest, as its husks have heard them one after the other."""
    heard = [[int(n) for n in re.findall(r"^tick (\d+) [\d.]+\r?$", text, re.M)] for text in consoles]
    assert all(len(ticks) >= 3 for ticks in heard), [text[-500:] for text in consoles]
    every = [n for ticks in heard for n in ticks]
    # One may be cut in two by the move.
    assert all(b in (a + 1, a + 2) for a, b in zip(every, every[1:])), every
    assert not any("backwards" in text for text in consoles)


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_guest_moves_under_kvm(host, cpus):
    host.put(json.dumps(config(TICKS, cpus=cpus)).encode(), "/tmp/mig.json")
    script = SHELL + "begin 0 husk run /tmp/mig.json; ticks 0\n"
    modes = MODES[cpus]
    for n, mode in enumerate(modes):
        script += (f"begin {n + 1} husk receive unix:/tmp/mig{n + 1}.in; there {n + 1}\n"
                   f"husk migrate /tmp/mig{n}.sock unix:/tmp/mig{n + 1}.in mode={mode} {'verify' * (mode != 'local')} --json || cat /tmp/mig{n}.err /tmp/mig{n + 1}.err\n ticks {n + 1}\n")
    script += f"kill %{len(modes) + 1}; wait; for n in $(seq 0 {len(modes)}); do echo; echo console; cat /tmp/mig$n.out; done\n"
    out = host.run(script, timeout=600).stdout.replace("\r", "")
    moves, *consoles = out.split("\nconsole\n")
    decoder, results = json.JSONDecoder(), []
    assert moves.count('"phase":') == len(modes), moves
    while (at := moves.find("{")) >= 0:
        result, end = decoder.raw_decode(moves[at:])
        results.append(result)
        moves = moves[at + end:]
    assert all(r["phase"] == "completed" and r["different_pages"] == 0 and (r["verified_pages"] > 0 or r["mode"] == "Local") for r in results), results
    print("downtime in ms:", *(f"{r['mode']} {r['downtime']['total_us'] / 1000}" for r in results))
    in_order(consoles)


def test_a_guest_moves_from_kvm_to_tcg_and_back(host, movers, common):  # noqa: F811
    host.put(json.dumps(config(TICKS, template=common)).encode(), "/tmp/mig.json")
    host.run(SHELL + "begin 0 husk run /tmp/mig.json; ticks 0", timeout=120, check=True)
    here = movers.waiting("tcp:127.0.0.1:0", timeout_ms=30000)
    port = here.address.rpartition(":")[2]
    out = host.run(f"husk migrate /tmp/mig0.sock tcp:10.0.2.2:{port} timeout=30000 verify --json; cat /tmp/mig0.err; echo; echo console; cat /tmp/mig0.out", timeout=300).stdout
    assert '"completed"' in out, (out, here.tail())
    here.wait_ticks(4)
    first = out.split("\nconsole\n")[1]
    host.run(SHELL + f"begin 1 husk receive tcp:0.0.0.0:{host.migrate_guest_port}; there 1", timeout=60, check=True)
    here.put("/migration", action="Start", address=f"tcp:127.0.0.1:{host.migrate_port}", mode="Hybrid", verify=True, timeout_ms=30000)
    status = until(here, "completed", timeout=180)
    assert status["different_pages"] == 0, status
    assert here.end() == 0
    third = host.run(SHELL + "ticks 1; cat /tmp/mig1.out; kill %1 2>/dev/null; pkill -f 'husk receive' || true", timeout=120).stdout
    in_order([first.replace("\r", ""), here.console(), third.replace("\r", "")])

"""Live migration on arm64, between two processes of a nested host: a guest with a drive and a tap works on through move after move (HUSK_LONG=1:
five of each mode), and all of its memory is compared at the end of each."""
import json

import pytest

from moving import LONG, TICKS, consoles, goes_on, host, put_config

EACH = 5 if LONG else 1


@pytest.mark.parametrize("cpus,channel", [(1, "unix:/tmp/in$n"), (4 if LONG else 3, "tcp:127.0.0.1:400$n")])
def test_a_guest_works_on_through_move_after_move(tmp_path, cpus, channel):
    moves = ["precopy", "postcopy"] * EACH
    out = host("ip link set lo up; boot /tmp/api0 /tmp/out0; p=$!; until_ticks /tmp/out0 4; n=0\n"
               f"for m in {' '.join(moves)}; do\n"
               f" n=$((n+1)); husk receive {channel} --net eth0=tap$((n%2)) --api-sock /tmp/api$n </dev/null >/tmp/out$n 2>/tmp/err$n & q=$!\n"
               " until grep -q waiting /tmp/err$n; do sleep 0.2; done\n"
               f" husk migrate /tmp/api$((n-1)) {channel} mode=$m verify 2>/dev/null; echo moved $?; ip route replace 10.9.0.2 dev tap$((n%2))\n"
               " wait $p; show out$((n-1)) /tmp/out$((n-1))\n"
               " until_ticks /tmp/out$n 4; husk ctl /tmp/api$n migrate status >/tmp/status; show status$n /tmp/status; cat /tmp/err$n; p=$q\n"
               "done\n"
               f"kill $p; wait $p; show out{len(moves)} /tmp/out{len(moves)}", put_config(tmp_path, cpus), timeout=300 + 90 * len(moves))
    seen, last = consoles(out), None
    assert f"out{len(moves)}" in seen and out.count("moved 0\n") == len(moves), out[-3000:]
    for n in range(len(moves) + 1):
        last = goes_on(seen[f"out{n}"], last)
    for n, mode in enumerate(moves, 1):
        status = json.loads(seen[f"status{n}"])
        assert status["phase"] == "completed" and status["verified_pages"] and not status["different_pages"], status
        assert (status["faults"]["count"] > 0) == (mode == "postcopy"), status


def test_a_guest_moves_in_the_other_modes(tmp_path):
    out = host("boot /tmp/api0 /tmp/out0; p=$!; until_ticks /tmp/out0 4; n=0\n"
               "for m in hybrid local; do\n"
               " n=$((n+1)); husk receive unix:/tmp/in$n --api-sock /tmp/api$n </dev/null >/tmp/out$n 2>/tmp/err$n & q=$!\n"
               " until grep -q waiting /tmp/err$n; do sleep 0.2; done\n"
               " husk migrate /tmp/api$((n-1)) unix:/tmp/in$n mode=$m 2>/dev/null; echo moved $?\n"
               " wait $p; show out$((n-1)) /tmp/out$((n-1)); until_ticks /tmp/out$n 4; p=$q\n"
               "done\n"
               "kill $p; wait $p; show out2 /tmp/out2", put_config(tmp_path, 2, TICKS))
    seen, last = consoles(out), None
    assert "out2" in seen and out.count("moved 0\n") == 2, out[-3000:]
    for n in range(3):
        last = goes_on(seen[f"out{n}"], last)

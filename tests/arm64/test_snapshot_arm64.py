"""Snapshots on arm64, in a nested host: a guest with a drive and a tap that works on through stop after stop (HUSK_LONG=1: twenty), clones,
diffs, and what is refused."""
import pytest

from moving import LONG, TICKS, TOP, consoles, goes_on, host, put_config

STOPS = 20 if LONG else 2


@pytest.mark.parametrize("cpus", [1, 4 if LONG else 2])
def test_a_guest_works_on_through_stop_after_stop(tmp_path, cpus):
    out = host("boot /tmp/api /tmp/out0; p=$!; until_ticks /tmp/out0 4\n"
               f"for n in $(seq {STOPS}); do\n"
               " husk ctl /tmp/api snapshot /tmp/snap$n --keep-paused >/dev/null 2>&1; echo rc $?; kill $p; wait $p; show out$((n-1)) /tmp/out$((n-1))\n"
               " rm -rf /tmp/api /tmp/snap$((n-1)); husk run --restore /tmp/snap$n --api-sock /tmp/api </dev/null >/tmp/out$n 2>&1 & p=$!\n"
               " until_ticks /tmp/out$n 4\n"
               "done\n"
               f"kill $p; wait $p; show out{STOPS} /tmp/out{STOPS}", put_config(tmp_path, cpus), timeout=300 + 60 * STOPS)
    seen, last = consoles(out), None
    assert f"out{STOPS}" in seen and out.count("rc 0\n") == STOPS, out[-3000:]
    for n in range(STOPS + 1):
        last = goes_on(seen[f"out{n}"], last)


def test_a_diff_merged_is_the_guest_and_clones_of_it_go_on(tmp_path):
    """The record of written pages is KVM's dirty ring; where it lost one, the guest's sums would be wrong or it would crash. The second processor
    is off when the diff is made, and comes back in the clones."""
    out = host("boot /tmp/api /tmp/out0; p=$!; until_ticks /tmp/out0 3\n"
               "husk ctl /tmp/api snapshot /tmp/full >/dev/null 2>&1; echo full $?\n"
               "until_ticks /tmp/out0 $(($(grep -c ^tick /tmp/out0)+3))\n"
               "husk ctl /tmp/api snapshot /tmp/diff --diff --keep-paused >/dev/null 2>&1; echo diff $?; kill $p; wait $p; show out0 /tmp/out0\n"
               "echo sizes $(du -m /tmp/full/memory | cut -f1) $(du -m /tmp/diff/memory | cut -f1)\n"
               "husk snapshot merge /tmp/full /tmp/diff -o /tmp/snap >/dev/null 2>&1; echo merge $?\n"
               "husk clone /tmp/snap --count 2 --serial file:/tmp/clone%d --api-sock /tmp/clone%d.sock & p=$!\n"
               "for n in 0 1; do until_ticks /tmp/clone$n 8; done; kill $p; wait $p; for n in 0 1; do show clone$n /tmp/clone$n; done",
               put_config(tmp_path, 2, TICKS, track_dirty_pages=True))
    assert "full 0\n" in out and "diff 0\n" in out and "merge 0\n" in out, out[-3000:]
    full, diff = map(int, out.split("\nsizes ")[1].split()[:2])
    assert 0 < diff < full, (full, diff)
    seen = consoles(out)
    last = goes_on(seen["out0"])
    assert seen["out0"].count("cpus ") == 1 and "cpus 1\n" in seen["out0"] and 6 <= last[0] < 12, seen["out0"]
    for n in (0, 1):
        goes_on(seen[f"clone{n}"], last)
        assert "cpus 2\n" in seen[f"clone{n}"]


def test_a_snapshot_of_another_architecture_is_refused_by_name():
    out = host("mkdir /tmp/snap; cp /files/package-v1.husk /tmp/snap/state; dd if=/dev/zero of=/tmp/snap/memory bs=1M count=1 2>/dev/null\n"
               "husk run --restore /tmp/snap 2>&1; echo rc $?; husk inspect /tmp/snap/state", f"{TOP}/tests/golden/package-v1.husk")
    assert "the state is that of a VM for x86_64, and this husk runs aarch64" in out
    assert "rc 0" not in out
    assert "this husk does not know VMs for that architecture" in out

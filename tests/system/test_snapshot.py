"""Snapshots of real guests, under tcg on this machine: what a restored VM goes on with, what a snapshot may be made onto, and what is refused."""
import subprocess
import time

import pytest

from local_guest import local_guest  # noqa: F401
from snapshot_vm import SUMS, TICKS, Machines, describe, husk


@pytest.fixture
def machines(local_guest, tmp_path):  # noqa: F811
    made = Machines(tmp_path)
    yield made
    made.stop()


def goes_on(machines, folder, before, **more):
    """Restores it; its ticks go on where the ones before ended. The machine."""
    after = machines.restored(folder, **more)
    after.wait_ticks()
    n, up = after.ticks()[0]
    assert n in (before[0] + 1, before[0] + 2) and before[1] <= up < before[1] + 5, (before, after.ticks()[:3])
    return after


def test_a_restored_vm_goes_on_where_it_was(machines, tmp_path):
    vm = machines.booted(TICKS)
    vm.wait_console("tick 5 ")
    vm.snapshot(tmp_path / "snap")
    last = vm.ticks()[-1]
    vm.stop()
    after = goes_on(machines, tmp_path / "snap", last)
    assert after.get("/")["state"] == "Running"
    assert after.get("/vm/config")["machine-config"]["mem_size_mib"] == 128


def test_a_full_snapshot_may_take_the_place_of_the_one_before(machines, tmp_path):
    vm = machines.booted(TICKS)
    for _ in range(3):
        vm.wait_ticks()
        vm.snapshot(tmp_path / "snap", resume=True)
        last = vm.ticks()[-1]
    vm.stop()
    goes_on(machines, tmp_path / "snap", last)
    assert sorted(f.name for f in (tmp_path / "snap").iterdir()) == ["memory", "state"]


def test_several_cpus_and_what_lies_in_memory_go_on(machines, tmp_path):
    vm = machines.booted(SUMS.format(mib=24) + TICKS, memory=192, cpus=2)
    vm.wait_console("sum good", 90)
    vm.snapshot(tmp_path / "snap")
    last = vm.ticks()[-1]
    vm.stop()
    after = goes_on(machines, tmp_path / "snap", last)
    after.wait_for(lambda: after.console().count("sum good") >= 2, "sums", 90)
    assert "sum bad" not in after.console()


@pytest.mark.parametrize("how", [{"eager": True}, {"huge_pages": "None"}, {"huge_pages": "Transparent"}, {"track_dirty_pages": True}], ids=str)
def test_memory_may_be_brought_in_other_ways(machines, one, how):
    after = machines.restored(one.folder, **how)
    after.wait_ticks()


class One:
    """A snapshot that many tests look at, and the last tick before it."""


@pytest.fixture(scope="module")
def one(local_guest, tmp_path_factory):  # noqa: F811
    made = One()
    made.folder = tmp_path_factory.mktemp("one") / "snap"
    machines = Machines(made.folder.parent)
    vm = machines.booted(TICKS)
    vm.wait_console("tick 5 ")
    vm.snapshot(made.folder)
    made.last = vm.ticks()[-1]
    machines.stop()
    return made


def test_a_paused_restore_waits_until_it_is_resumed(machines, one):
    vm = machines.restored(one.folder, resume=False)
    assert vm.get("/")["state"] == "Paused"
    time.sleep(0.3)
    assert not vm.ticks()
    vm.patch("/vm", state="Resumed")
    vm.wait_ticks()


def test_one_snapshot_makes_many_vms_at_once(machines, one):
    vms = [machines.restored(one.folder) for _ in range(4)]
    for vm in vms:
        vm.wait_ticks()


def test_compressed_memory_is_smaller_and_loads(machines, tmp_path):
    vm = machines.booted(TICKS)
    vm.wait_console("tick 5 ")
    vm.snapshot(tmp_path / "plain", resume=True)
    vm.wait_ticks()
    vm.snapshot(tmp_path / "zip", compress=True)
    last = vm.ticks()[-1]
    vm.stop()
    assert (tmp_path / "zip" / "memory").stat().st_blocks * 2 < (tmp_path / "plain" / "memory").stat().st_blocks
    assert describe(tmp_path / "zip")["memory"] == "whole, compressed"
    goes_on(machines, tmp_path / "zip", last)


# ---- Diffs ----

def test_diffs_are_small_and_merge_onto_their_base(machines, tmp_path):
    vm = machines.booted(TICKS, track=True)
    folders = [tmp_path / name for name in ("full", "diff1", "diff2")]
    vm.wait_console("tick 5 ")
    for number, folder in enumerate(folders):
        vm.wait_ticks()
        vm.snapshot(folder, resume=True, snapshot_type="Diff" if number else "Full")
        last = vm.ticks()[-1]
    vm.stop()
    sizes = [(f / "memory").stat().st_blocks for f in folders]
    assert sizes[1] < sizes[0] / 4 and sizes[2] < sizes[0] / 4, sizes
    assert [describe(f)["memory"] for f in folders] == ["whole", "diff", "diff"]
    assert "is a diff: merge it" in machines.new().refused("PUT", "/snapshot/load", {
        "snapshot_path": str(folders[1] / "state"), "mem_file_path": str(folders[1] / "memory")})
    wrong = husk("snapshot", "merge", folders[0], folders[2])
    assert wrong.returncode == 1 and "does not build on" in wrong.stderr
    for diff in folders[1:]:
        done = husk("snapshot", "merge", folders[0], diff)
        assert done.returncode == 0, done.stderr
    assert describe(folders[0])["memory"] == "whole"
    after = goes_on(machines, folders[0], last, track_dirty_pages=True)
    after.snapshot(tmp_path / "diff3", snapshot_type="Diff")
    done = husk("snapshot", "merge", folders[0], tmp_path / "diff3", "-o", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    last = after.ticks()[-1]
    after.stop()
    goes_on(machines, tmp_path / "new", last)


def test_a_diff_onto_the_file_that_it_builds_on_is_merged_into_it(machines, tmp_path):
    vm = machines.booted(TICKS, track=True)
    vm.wait_console("tick 5 ")
    vm.snapshot(tmp_path / "snap", resume=True)
    inode = (tmp_path / "snap" / "memory").stat().st_ino
    for _ in range(3):
        vm.wait_ticks()
        vm.snapshot(tmp_path / "snap", resume=True, snapshot_type="Diff")
        last = vm.ticks()[-1]
    vm.snapshot(tmp_path / "other", resume=True)
    vm.stop()
    assert (tmp_path / "snap" / "memory").stat().st_ino == inode
    assert sorted(f.name for f in (tmp_path / "snap").iterdir()) == ["memory", "state"]
    goes_on(machines, tmp_path / "snap", last)


def test_the_first_diff_of_a_vm_that_booted_has_everything(machines, tmp_path):
    vm = machines.booted(TICKS, track=True)
    vm.wait_console("tick 5 ")
    vm.snapshot(tmp_path / "snap", snapshot_type="Diff")
    last = vm.ticks()[-1]
    vm.stop()
    goes_on(machines, tmp_path / "snap", last)


# ---- Refusals ----

def refused(vm, folder, **more):
    return vm.refused("PUT", "/snapshot/create", {"snapshot_path": str(folder / "state"), "mem_file_path": str(folder / "memory"), **more})


def test_what_no_snapshot_can_be_made_of_is_refused_and_leaves_nothing(machines, tmp_path, one):
    vm = machines.restored(one.folder)
    vm.wait_ticks()
    new = tmp_path / "new"
    new.mkdir()
    assert "should be paused" in refused(vm, new)
    vm.patch("/vm", state="Paused")
    assert "track_dirty_pages" in refused(vm, new, snapshot_type="Diff")
    assert "runs on" in refused(vm, one.folder)
    assert "a file each" in refused(vm, new, mem_file_path=str(new / "state"))
    assert "(os error 2)" in refused(vm, new / "nowhere")
    assert "no regular file" in refused(vm, new, mem_file_path="/dev/null")
    assert not list(new.iterdir())
    vm.patch("/vm", state="Resumed")
    vm.wait_ticks()
    vm.snapshot(new)


def test_a_full_disk_is_said_and_the_vm_runs_on(machines, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "none", small]).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        vm = machines.booted(TICKS, track=True)
        vm.wait_console("tick 5 ")
        vm.patch("/vm", state="Paused")
        for more in ({}, {"compress": True}, {"snapshot_type": "Diff"}):
            assert "No space left on device" in refused(vm, small, **more)
            assert not list(small.iterdir())
        vm.patch("/vm", state="Resumed")
        vm.wait_ticks()
        vm.snapshot(tmp_path / "snap", resume=True)
        vm.wait_ticks()
        vm.snapshot(tmp_path / "diff", resume=True, snapshot_type="Diff")
        assert husk("snapshot", "merge", tmp_path / "snap", tmp_path / "diff").returncode == 0
        machines.restored(tmp_path / "snap").wait_ticks()
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("more", [
    {"mem_file_path": "x", "mem_backend": {"backend_type": "File", "backend_path": "x"}}, {"mem_file_path": None}], ids=["both", "none"])
def test_the_memory_is_named_once(machines, one, more):
    fault = machines.new().refused("PUT", "/snapshot/load", {"snapshot_path": str(one.folder / "state"), **{k: v for k, v in more.items() if v}})
    assert "either `mem_backend` or `mem_file_path`" in fault


def test_a_load_comes_before_any_configuration(machines, one):
    vm = machines.new()
    vm.put("/machine-config", vcpu_count=1, mem_size_mib=128)
    body = {"snapshot_path": str(one.folder / "state"), "mem_file_path": str(one.folder / "memory")}
    assert vm.refused("PUT", "/snapshot/load", body) == \
        "Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources."
    fresh = machines.new()
    fresh.put("/mmds", a=1)
    answer = fresh.put("/snapshot/load", **body)
    assert answer.headers["Deprecation"] == "true"
    assert "after starting" in fresh.refused("PUT", "/snapshot/load", body)


def test_a_load_that_fails_changes_nothing_and_can_be_tried_again(machines, one, tmp_path):
    vm = machines.new()
    body = {"snapshot_path": str(one.folder / "state"), "mem_file_path": str(one.folder / "memory")}
    short = tmp_path / "short"
    short.write_bytes((one.folder / "memory").read_bytes()[:-4096])
    torn = tmp_path / "torn"
    torn.write_bytes((one.folder / "state").read_bytes()[:-1])
    other = tmp_path / "other"
    other.write_bytes(bytes(128 << 20))
    for change, said in (({"snapshot_path": "/nowhere"}, "os error 2"), ({"mem_file_path": "/nowhere"}, "os error 2"),
                         ({"mem_file_path": str(short)}, "bytes of memory"), ({"snapshot_path": str(torn)}, "torn"),
                         ({"mem_file_path": str(other)}, "no memory file"), ({"snapshot_path": str(one.folder / "memory")}, ""),
                         ({"network_overrides": [{"iface_id": "eth0", "host_dev_name": "tap9"}]}, "no network interface"),
                         ({"vsock_override": {"uds_path": "x"}}, "no vsock"), ({"drive_overrides": [{"drive_id": "a", "path_on_host": "x"}]}, "no drive")):
        fault = vm.refused("PUT", "/snapshot/load", {**body, **change})
        assert fault.startswith("Load snapshot error: ") and said in fault, fault
        assert vm.get("/")["state"] == "Not started" and vm.get("/machine-config")["mem_size_mib"] == 128
    vm.load(one.folder)
    vm.wait_ticks()


def test_what_the_vm_needs_on_this_host_and_is_not_there_is_said_and_can_be_overridden(machines, tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    vm = machines.booted(TICKS, more=[("/drives/data", {"drive_id": "data", "path_on_host": str(disk), "is_root_device": False}),
                                      ("/vsock", {"guest_cid": 3, "uds_path": str(tmp_path / "v.sock")})])
    vm.wait_console("tick 5 ")
    vm.snapshot(tmp_path / "snap")
    last = vm.ticks()[-1]
    vm.stop()
    disk.rename(tmp_path / "moved")
    again = machines.new()
    body = {"snapshot_path": str(tmp_path / "snap" / "state"), "mem_file_path": str(tmp_path / "snap" / "memory"), "resume_vm": True}
    for _ in range(2):
        fault = again.refused("PUT", "/snapshot/load", body)
        assert fault.startswith("Load snapshot error: ") and str(disk) in fault and "(os error 2)" in fault, fault
        assert again.get("/vm/config")["drives"] == [] and again.get("/")["state"] == "Not started"
    # Nor is the socket's name free: the VM that had it was killed.
    fault = again.refused("PUT", "/snapshot/load", {**body, "drive_overrides": [{"drive_id": "data", "path_on_host": str(tmp_path / "moved")}]})
    assert "v.sock" in fault
    again.put("/snapshot/load", **body, drive_overrides=[{"drive_id": "data", "path_on_host": str(tmp_path / "moved")}],
              vsock_override={"uds_path": str(tmp_path / "w.sock")})
    again.wait_ticks()
    assert again.ticks()[0][0] in (last[0] + 1, last[0] + 2)
    shown = again.get("/vm/config")
    assert shown["drives"][0]["path_on_host"] == str(tmp_path / "moved") and shown["vsock"]["uds_path"] == str(tmp_path / "w.sock")
    assert (tmp_path / "w.sock").exists()
    metrics = again.get("/husk/metrics")
    assert metrics["latencies_us"]["load_snapshot"] > 0
    again.snapshot(tmp_path / "next", resume=True)
    metrics = again.get("/husk/metrics")
    assert metrics["latencies_us"]["full_create_snapshot"] >= metrics["latencies_us"]["vmm_full_create_snapshot"] > 0
    own = metrics["husk"]["snapshot"]
    assert own["count"] == 1 and own["memory_bytes"] > 1 << 20 and own["state_time_us"] > 0 and own["package_bytes"] > 1000


def test_clocks_jump_over_the_time_on_disk_when_they_are_asked_to(machines, one):
    time.sleep(max(0, 4 - (time.time() - (one.folder / "state").stat().st_mtime)))
    away = time.time() - (one.folder / "state").stat().st_mtime
    plain, jumped = machines.restored(one.folder), machines.restored(one.folder, clock_realtime=True)
    for vm in (plain, jumped):
        vm.wait_ticks()
    assert plain.ticks()[0][1] < one.last[1] + 3 <= one.last[1] + away - 1 < jumped.ticks()[0][1]


def test_a_guest_hears_of_its_new_generation_unless_it_is_to_keep_the_old_one(machines, tmp_path):
    vm = machines.booted("while true; do echo forks $(dmesg | grep -c 'virtual machine fork'); sleep 0.1; done")
    vm.wait_console("forks 0", 60)
    vm.snapshot(tmp_path / "snap")
    vm.stop()
    new, kept = machines.restored(tmp_path / "snap"), machines.restored(tmp_path / "snap", keep_generation_id=True)
    new.wait_console("forks 1", 60)
    kept.wait_for(lambda: kept.console().count("forks") > 10, "ten looks", 60)
    assert "forks 1" not in kept.console()

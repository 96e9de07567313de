"""Live migration of real guests between two processes on this machine, under tcg: what goes on, what is refused, and what a failure leaves."""
import json
import re
import subprocess
import time
from itertools import groupby

import pytest

from local_guest import HUSK, local_guest  # noqa: F401
from migrate_vm import movers, outcome, status_of, until  # noqa: F401
from snapshot_vm import SUMS, TICKS, husk

MODES = ["Precopy", "Postcopy", "Hybrid"]


def goes_on(dst, before):
    """Its ticks follow those of the source without a gap, and the clock did not jump."""
    dst.wait_ticks(timeout=120)
    n, up = dst.ticks()[0]
    assert n in (before[0] + 1, before[0] + 2), (before, dst.ticks()[:3])
    assert before[1] <= up < before[1] + 20, (before, dst.ticks()[:3])


def sums_agree(dst):
    seen = dst.console().count("sum good")
    dst.wait_for(lambda: dst.console().count("sum good") > seen, "sums", 180)
    assert "sum bad" not in dst.console()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_guest_moves_and_goes_on(movers, mode, channels):  # noqa: F811
    src = movers.booted(SUMS.format(mib=24) + TICKS, memory=256, cpus=channels)
    src.wait_console("sum good", 120)
    dst = movers.waiting()
    status = movers.moved(src, dst, mode=mode, channels=channels, push_channels=channels, verify=True)
    goes_on(dst, src.ticks()[-1])
    sums_agree(dst)
    assert dst.get("/")["state"] == "Running" and dst.get("/vm/config")["machine-config"]["mem_size_mib"] == 256
    split = status["downtime"]
    assert 0 < split["total_us"] < 5e6 and split["total_us"] >= split["capture_us"], status
    there = until(dst, "completed")
    assert there["role"] == "destination", there
    assert mode == "Hybrid" or (mode == "Precopy") == (there["faults"]["count"] == 0), there  # hybrid may come without


def test_it_moves_again_and_again(movers):  # noqa: F811
    vm = movers.booted(SUMS.format(mib=16) + TICKS, memory=192)
    vm.wait_console("sum good", 120)
    for n in range(4):
        dst = movers.waiting("tcp:127.0.0.1:0")
        movers.moved(vm, dst, mode=MODES[n % 3], compress=n % 2 == 1, verify=True)
        goes_on(dst, vm.ticks()[-1])
        vm = dst
    sums_agree(vm)


def test_the_command_line_moves_a_vm(movers, tmp_path):  # noqa: F811
    src = movers.booted(TICKS)
    src.wait_ticks()
    with open(tmp_path / "console", "wb") as out, open(tmp_path / "err", "wb") as err:
        dst = subprocess.Popen([HUSK, "receive", f"unix:{tmp_path}/in", "--accelerator", "tcg"], stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    try:
        src.wait_for((tmp_path / "in").exists, "socket")
        done = husk("migrate", src.sock, f"unix:{tmp_path}/in", "mode=hybrid", "max-downtime=500", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["phase"] == "completed"
        assert src.end() == 0
        end = time.monotonic() + 30
        while (tmp_path / "console").read_bytes().count(b"tick ") < 3:
            assert dst.poll() is None and time.monotonic() < end, (tmp_path / "err").read_text()
            time.sleep(0.01)
    finally:
        dst.kill()
        dst.wait()


def runs_on(src, status, *words):
    """The migration failed, and nothing else did."""
    assert status["phase"] in ("failed", "cancelled"), status
    for word in words:
        assert word in status["error"], status["error"]
    src.wait_ticks()
    assert src.get("/")["state"] == "Running"


def test_nobody_there(movers, tmp_path):  # noqa: F811
    src = movers.booted(TICKS)
    src.wait_ticks()
    src.put("/migration", action="Start", address=f"unix:{tmp_path}/nobody")
    runs_on(src, outcome(src), "nobody", "husk receive")
    src.put("/migration", action="Start", address="tcp:127.0.0.1:1")
    runs_on(src, outcome(src), "Connection refused")


def test_a_destination_without_the_disk_says_so_and_the_source_runs_on(movers, tmp_path):  # noqa: F811
    disk = tmp_path / "disk"
    subprocess.run(["truncate", "-s", "8M", disk], check=True)
    src = movers.booted(TICKS, more=[("/drives/d", {"drive_id": "d", "path_on_host": str(disk), "is_root_device": False})])
    src.wait_ticks()
    dst = movers.waiting(drive_overrides=[{"drive_id": "d", "path_on_host": str(tmp_path / "missing")}])
    runs_on(src, movers.move(src, dst), "missing", "destination")
    dst = movers.waiting(drive_overrides=[{"drive_id": "other", "path_on_host": str(disk)}])
    runs_on(src, movers.move(src, dst), "other")
    movers.moved(src, movers.waiting())


def test_cancel_at_any_time_before_the_hand_over(movers):  # noqa: F811
    src = movers.booted(SUMS.format(mib=32) + TICKS, memory=256)
    src.wait_console("sum good", 120)
    for phase in ("connect", "setup", "precopy", "precopy"):
        dst = movers.waiting()
        src.put("/migration", action="Start", address=dst.address, max_bandwidth=4 << 20)
        if phase == "precopy":
            until(src, "precopy")
        src.put("/migration", action="Cancel")
        status = outcome(src)
        assert status["phase"] == "cancelled", status
        runs_on(src, status)
    assert "no migration" in src.refused("PUT", "/migration", {"action": "Cancel"})
    movers.moved(src, movers.waiting(), verify=True)


@pytest.mark.parametrize("mode", MODES)
def test_a_destination_that_is_killed_before_the_hand_over(movers, mode):  # noqa: F811
    src = movers.booted(SUMS.format(mib=32) + TICKS, memory=256)
    src.wait_console("sum good", 120)
    dst = movers.waiting()
    dst.process.send_signal(19)  # it neither answers nor goes away
    src.put("/migration", action="Start", address=dst.address, mode=mode, max_bandwidth=4 << 20)
    until(src, "precopy", "setup", "connect")
    dst.stop()
    runs_on(src, outcome(src), "connect")


def test_nothing_is_changed_meanwhile(movers, tmp_path):  # noqa: F811
    src = movers.booted(SUMS.format(mib=32) + TICKS, memory=256)
    src.wait_console("sum good", 120)
    dst = movers.waiting()
    src.put("/migration", action="Start", address=dst.address, max_bandwidth=4 << 20)
    until(src, "precopy")
    for method, path, body in [("PATCH", "/vm", {"state": "Paused"}), ("PUT", "/mmds", {}),
                               ("PUT", "/snapshot/create", {"snapshot_path": str(tmp_path / "s"), "mem_file_path": str(tmp_path / "m")})]:
        assert "on its way" in src.refused(method, path, body)
    assert "under way" in src.refused("PUT", "/migration", {"action": "Start", "address": "unix:/x"})
    src.put("/migration", action="Cancel")
    runs_on(src, outcome(src))


def cut_in_postcopy(src, dst, cut):
    """Moves it slowly, and cuts it when the guest runs there; the source's status."""
    src.put("/migration", action="Start", address=dst.address, mode="Postcopy", max_bandwidth=8 << 20, verify=True, timeout_ms=3000)
    until(src, "postcopy")
    cut()
    return outcome(src)


def test_a_cut_connection_is_made_again(movers):  # noqa: F811
    src = movers.booted(SUMS.format(mib=64) + TICKS, memory=256)
    src.wait_console("sum good", 120)
    dst = movers.waiting()
    status = cut_in_postcopy(src, dst, lambda: src.put("/migration", action="Break"))
    for n in range(3):
        assert status["phase"] == "paused" and "recover" in status["error"], status
        assert "cannot be changed" in src.refused("PATCH", "/vm", {"state": "Resumed"})
        src.put("/migration", action="Recover")
        until(src, "postcopy", "completed")
        if n == 2:
            break
        (dst if n else src).ask("PUT", "/migration", {"action": "Break"})
        status = outcome(src)
        if status["phase"] == "completed":
            break
    status = outcome(src)
    assert status["phase"] == "completed" and status["different_pages"] == 0 and status["recoveries"] >= 1, status
    assert src.end() == 0
    goes_on(dst, src.ticks()[-1])
    sums_agree(dst)


def events(side):
    """What a supervisor reads in the log."""
    return [phase for phase, _ in groupby(re.findall(r"\] migration: (\w+)(?:: .+)?$", side.log(), re.M))]


def test_a_supervisor_can_follow_it_in_log_and_metrics(movers):  # noqa: F811
    src = movers.booted(SUMS.format(mib=64) + TICKS, memory=256)
    src.wait_console("sum good", 120)
    dst = movers.waiting()
    src.put("/migration", action="Start", address=dst.address, max_bandwidth=8 << 20)
    until(src, "precopy")
    src.put("/migration", action="Cancel")
    runs_on(src, outcome(src))
    assert events(src) == ["connect", "setup", "precopy", "cancelled"]
    dst.wait_for(lambda: "cancelled" in events(dst), "the last event")
    assert events(dst) == ["listen", "setup", "receive", "cancelled"]
    dst = movers.waiting()
    status = cut_in_postcopy(src, dst, lambda: src.put("/migration", action="Break"))
    assert status["phase"] == "paused", status
    until(dst, "paused")
    counted = src.get("/husk/metrics")["husk"]["migration"]
    assert [counted[f"{what}_count"] for what in ("started", "cancelled", "paused", "recovered", "completed")] == [2, 1, 1, 0, 0], counted
    src.put("/migration", action="Recover")
    totals = lambda: src.get("/husk/metrics")["husk"]["migration"]  # noqa: E731
    src.wait_for(lambda: totals()["completed_count"] == 1, "the end")  # it leaves once somebody has seen its status
    counted = totals()
    assert counted["sent_bytes"] > 4096 * (counted["sent_pages"] - counted["zero_pages"]) // 2 > 0 and counted["downtime_time_us"] > 0, counted
    assert outcome(src)["phase"] == "completed" and src.end() == 0
    assert events(src)[4:] == ["connect", "setup", "precopy", "handover", "postcopy", "paused", "recover", "postcopy", "completed"]
    until(dst, "completed")
    assert events(dst) == ["listen", "setup", "receive", "loaded", "postcopy", "paused", "recover", "postcopy", "completed"]
    counted = dst.get("/husk/metrics")["husk"]["migration"]
    assert counted["arrived_count"] == counted["paused_count"] == counted["recovered_count"] == 1 and counted["started_count"] == 0, counted
    assert counted["received_pages"] > 64 << 8 and counted["fault_count"] > 0 and counted["fault_agg"]["max_us"] > 0, counted
    shown = husk("ctl", dst.sock, "metrics", "--prometheus").stdout
    assert re.search(r"^husk_migration_arrived_count_total 1$", shown, re.M) and re.search(r"^husk_migration_downtime_time_us \d+$", shown, re.M), shown


def test_a_destination_that_is_killed_in_postcopy_and_taken_back(movers):  # noqa: F811
    src = movers.booted(SUMS.format(mib=64) + TICKS, memory=256)
    src.wait_console("sum good", 120)
    dst = movers.waiting()
    status = cut_in_postcopy(src, dst, dst.stop)
    assert status["phase"] == "paused" and "take" in status["error"], status
    src.put("/migration", action="Recover")
    status = outcome(src)
    assert status["phase"] == "paused", status
    src.put("/migration", action="TakeBack")
    src.wait_ticks()
    sums_agree(src)


def test_a_source_that_is_killed_in_postcopy(movers):  # noqa: F811
    src = movers.booted(SUMS.format(mib=64) + TICKS, memory=256)
    src.wait_console("sum good", 120)
    dst = movers.waiting()
    src.put("/migration", action="Start", address=dst.address, mode="Postcopy", max_bandwidth=8 << 20)
    until(src, "postcopy")
    src.stop()
    status = until(dst, "paused", timeout=30)
    assert status["remaining_bytes"] > 0 and "connection" in status["error"], status  # and the API answers, whatever waits for memory
    dst.process.terminate()
    dst.process.wait(20)


def test_a_package_over_the_cap_is_refused_while_the_guest_runs(movers):  # noqa: F811
    src = movers.booted(TICKS)
    src.wait_ticks()
    dst = movers.waiting()
    fault = src.refused("PUT", "/migration", {"action": "Start", "address": dst.address, "package_cap": 4096})
    assert "4096" in fault and "cpu" in fault, fault
    src.wait_ticks()
    dst.stop()
    dst = movers.waiting(package_cap=4096)
    runs_on(src, movers.move(src, dst), "4096")


def test_waiting_can_be_given_up(movers):  # noqa: F811
    dst = movers.waiting()
    assert status_of(dst)["phase"] == "listen"
    dst.put("/migration", action="Cancel")
    dst.wait_for(lambda: status_of(dst)["phase"] == "none", "its end")
    dst.start(TICKS, memory=128)
    dst.wait_ticks()


def certificates(folder):
    """A CA and a folder for each side of a migration."""
    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *new, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem")
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
    for side in ("src", "dst"):
        (folder / side).mkdir()
        (folder / side / "ca.pem").write_bytes((folder / "ca.pem").read_bytes())
        openssl("req", *new, "-subj", f"/CN={side}", "-keyout", f"{side}/key.pem", "-out", "csr")
        openssl("x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext", "-out", f"{side}/cert.pem")
    return folder / "src", folder / "dst"


@pytest.mark.parametrize("mode", MODES)
def test_a_guest_moves_over_tls(movers, tmp_path, mode):  # noqa: F811
    mine, theirs = certificates(tmp_path)
    src = movers.booted(SUMS.format(mib=16) + TICKS, memory=192, flags=["--tls", mine])
    src.wait_console("sum good", 120)
    dst = movers.waiting("tls:127.0.0.1:0", flags=["--tls", theirs])
    assert dst.address.startswith("tls:127.0.0.1:")
    plain = movers.move(src, type("plain", (), {"address": dst.address.replace("tls:", "tcp:")}))
    runs_on(src, plain)
    movers.moved(src, dst, mode=mode, verify=True)
    goes_on(dst, src.ticks()[-1])
    sums_agree(dst)


def test_tls_needs_certificates(movers):  # noqa: F811
    src = movers.booted(TICKS)
    answer = src.ask("PUT", "/migration", {"action": "Start", "address": "tls:127.0.0.1:1"})
    assert answer.status == 400 and "--tls DIR" in answer.json["fault_message"], answer.json
    answer = movers.new().ask("PUT", "/migration", {"action": "Receive", "address": "tls:127.0.0.1:0"})
    assert answer.status == 400 and "--tls DIR" in answer.json["fault_message"], answer.json

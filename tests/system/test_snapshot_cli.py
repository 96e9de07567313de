"""husk run --restore, husk ctl snapshot, husk snapshot info | merge, under tcg on this machine."""
import json
import os
import pty
import re
import signal
import subprocess
import threading
import time

import pytest

from local_guest import HUSK, local_guest, tap  # noqa: F401
from snapshot_vm import TICKS, Machines, describe, husk

SHELL = "echo ready; while read line; do echo \"<$line>\"; done"


@pytest.fixture
def machines(local_guest, tmp_path):  # noqa: F811
    made = Machines(tmp_path)
    yield made
    made.stop()


class Run:
    """husk run in the foreground, its console on pipes."""

    def __init__(self, *words, stdin=subprocess.PIPE):
        self.process = subprocess.Popen([HUSK, "run", *map(str, words)], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.text = ""
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.text += line.replace("\r", "")

    def wait(self, what, timeout=60):
        end = time.monotonic() + timeout
        while what not in self.text:
            assert time.monotonic() < end and (self.process.poll() is None or what in self.text), (self.text[-2000:], self.process.poll())
            time.sleep(0.01)

    def say(self, text):
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        self.reader.join(5)
        return code


@pytest.fixture
def runs():
    made = []

    def run(*words, **how):
        made.append(Run(*words, **how))
        return made[-1]
    yield run
    for r in made:
        r.process.kill()
        r.process.wait()


def test_a_shell_goes_on_in_another_process(local_guest, runs, tmp_path):  # noqa: F811
    sock = tmp_path / "vm.sock"
    first = runs(*local_guest.command("--api-sock", sock, script=SHELL, memory="128M")[2:])
    first.wait("ready")
    first.say("one\n")
    first.wait("<one>")
    done = husk("ctl", sock, "snapshot", tmp_path / "snap")
    assert done.returncode == 0 and re.fullmatch(r"state \d+ KiB, memory \d+ MiB on disk, the VM stood still for [\d.]+ ms\n", done.stdout), done
    first.say("two\n")
    first.wait("<two>")
    assert first.end() == 0
    for _ in range(2):
        again = runs("--restore", tmp_path / "snap", "--accelerator", "tcg")
        again.say("three\n")
        again.wait("<three>")
        assert "ready" not in again.text and "<two>" not in again.text
        assert again.end() == 0


def test_restored_paused_until_ctl_resumes_it(machines, runs, tmp_path):
    vm = machines.booted(TICKS)
    vm.wait_console("tick 5 ")
    done = husk("ctl", vm.sock, "snapshot", tmp_path / "snap", "--keep-paused", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["memory_bytes"] > 1 << 20 and said["state"] == str(tmp_path / "snap" / "state") and said["paused_us"] > 0
    assert vm.get("/")["state"] == "Paused"
    sock = tmp_path / "vm.sock"
    again = runs("--restore", tmp_path / "snap", "--paused", "--api-sock", sock, "--accelerator", "tcg", "--track-dirty", "--level", "Info")
    time.sleep(0.5)
    assert "tick" not in again.text
    assert husk("ctl", sock, "resume").returncode == 0
    again.wait("tick")
    assert husk("ctl", sock, "snapshot", tmp_path / "diff", "--diff").returncode == 0
    assert describe(tmp_path / "diff")["memory"] == "diff"
    assert husk("ctl", sock, "snapshot", tmp_path / "zip", "--compress").returncode == 0
    refused = husk("ctl", sock, "snapshot", tmp_path / "snap")
    assert refused.returncode == 1 and "runs on" in refused.stderr
    seen = again.text.count("tick")
    end = time.monotonic() + 20
    while again.text.count("tick") < seen + 3:  # refused or not, it goes on
        assert time.monotonic() < end
        time.sleep(0.01)


def test_ctl_snapshot_draws_a_bar_on_a_terminal(machines, tmp_path):
    vm = machines.booted(TICKS, memory=512)
    vm.wait_console("tick 5 ")
    master, slave = pty.openpty()
    with subprocess.Popen([HUSK, "ctl", vm.sock, "snapshot", tmp_path / "snap", "--compress"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=slave) as ctl:
        assert b"stood still" in ctl.stdout.read()
    os.close(slave)
    drawn = os.read(master, 100000)
    os.close(master)
    assert re.search(rb"\r\[#* *\] \d+ MiB", drawn), drawn


def test_info_tells_what_is_in_a_snapshot(machines, tmp_path):
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    vm = machines.booted(TICKS, track=True, more=[("/drives/data", {"drive_id": "data", "path_on_host": str(tmp_path / "disk"), "is_root_device": False})])
    vm.wait_console("tick 5 ")
    vm.snapshot(tmp_path / "snap", resume=True)
    vm.snapshot(tmp_path / "diff", snapshot_type="Diff")
    done = husk("snapshot", "info", tmp_path / "snap")
    text = re.sub(r"\s+", " ", done.stdout)
    for word in ("arch x86_64", "accelerator tcg", "cpus 1", "memory size 128 MiB", "memory whole", f"drive data={tmp_path}/disk"):
        assert word in text, (word, done)
    base, diff = describe(tmp_path / "snap"), describe(tmp_path / "diff")
    assert diff["builds_on"] == base["id"] and base["config"]["machine-config"]["mem_size_mib"] == 128
    (tmp_path / "diff" / "memory").unlink()
    assert "No such file" in describe(tmp_path / "diff")["memory"]
    os.rename(tmp_path / "snap" / "memory", tmp_path / "diff" / "memory")
    assert describe(tmp_path / "diff")["memory"] == "of another snapshot"
    version = subprocess.run([HUSK, "--snapshot-version"], capture_output=True, text=True)
    described = subprocess.run([HUSK, "--describe-snapshot", tmp_path / "snap" / "state"], capture_output=True, text=True)
    assert version.stdout == described.stdout and re.fullmatch(r"v\d+\.\d+\.\d+\n", version.stdout) and not version.returncode + described.returncode
    assert subprocess.run([HUSK, "--describe-snapshot", tmp_path / "disk"], capture_output=True, text=True).returncode == 1


def test_another_drive_and_tap_take_the_place_of_those_saved(machines, runs, tap, tmp_path):  # noqa: F811
    for name in ("disk", "disk2"):
        (tmp_path / name).write_bytes(name.encode() + bytes((1 << 20) - len(name)))
    script = "while true; do echo has $(dd if=/dev/vda bs=8 count=1 iflag=direct 2>/dev/null | tr -d '\\\\000') $(ls /sys/class/net | tr '\\\n' ' '); sleep 0.1; done"
    vm = machines.booted(script, more=[("/drives/data", {"drive_id": "data", "path_on_host": str(tmp_path / "disk"), "is_root_device": False}),
                                       ("/network-interfaces/eth0", {"iface_id": "eth0", "host_dev_name": tap})])
    vm.wait_console("has disk eth0")
    vm.snapshot(tmp_path / "snap")
    other = tap + "b"
    subprocess.run(["ip", "tuntap", "add", other, "mode", "tap"], check=True)
    try:
        again = runs("--restore", tmp_path / "snap", "--accelerator", "tcg", "--drive", f"data={tmp_path}/disk2", "--net", f"eth0={other}")
        again.wait("has disk2 eth0")
        assert again.end() == 0
    finally:
        subprocess.run(["ip", "link", "del", other], check=True)


@pytest.mark.parametrize("words, said", [
    (["--restore", "/nowhere"], 'cannot open "/nowhere/state"'), (["--restore", "/nowhere", "--memory", "1G"], "--memory does not go with --restore"),
    (["--restore", "/nowhere", "vm.json"], '"vm.json" does not go with --restore'), (["--restore", "/nowhere", "--net", "tap0"], "with --restore it is ID=DEV"),
    (["--restore", "/nowhere", "--net", "=tap0"], "with --restore it is ID=DEV"), (["--restore", "/nowhere", "--kernel", "x"], "--kernel does not go"),
    (["--paused"], "--restore DIR"), (["--restore"], "needs a value"), (["--restore", "/x", "--record-working-set", "a", "--working-set", "b"], "not both")])
def test_what_does_not_go_with_a_restore_is_said(words, said):
    done = husk("run", *words)
    assert done.returncode in (1, 2) and said in done.stderr, done


@pytest.mark.parametrize("words", [[], ["info"], ["merge", "a"], ["info", "a", "b"], ["nothing", "a"], ["info", "a", "--what"], ["merge", "a", "b", "-o"]], ids=str)
def test_usage_of_husk_snapshot(words):
    done = husk("snapshot", *words)
    assert done.returncode == 2 and done.stderr.startswith("husk: "), done

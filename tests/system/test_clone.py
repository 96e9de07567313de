"""husk clone: many VMs out of one snapshot, each going on by itself. Under tcg on this machine."""
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from api_client import Connection
from local_guest import HUSK, local_guest  # noqa: F401
from snapshot_vm import TICKS, Machines, husk

COUNT = 8
MANY = 200


@pytest.fixture
def snapshot(local_guest, tmp_path, request):  # noqa: F811
    made = Machines(tmp_path)
    machine = made.booted(getattr(request, "param", TICKS))
    machine.wait_ticks(1)
    machine.snapshot(tmp_path / "snap")
    made.stop()
    return tmp_path / "snap"


@pytest.fixture
def clones(snapshot, tmp_path):
    """Starts `husk clone`; ends it, and with it the clones."""
    made = []

    def start(*words):
        made.append(subprocess.Popen([HUSK, "clone", str(snapshot), *map(str, words)], stderr=subprocess.PIPE, text=True))
        return made[-1]

    yield start
    for process in made:
        if process.poll() is None:
            process.kill()
        process.wait()


def answers_as(sock, name, state):
    connection = Connection(sock)
    try:
        connection.request("GET", "/")
        answer = json.loads(connection.getresponse().read())
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    finally:
        connection.close()
    return (answer["id"], answer["state"]) == (name, state)


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def own_kib(pid):
    """Its own memory and its part of what it shares: translated code is mapped twice, and no page of it counts as private."""
    return next(int(line.split()[1]) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))


def ticks(path):
    text = path.read_text(errors="replace").replace("\r", "") if path.exists() else ""
    assert "backwards" not in text
    return re.findall(r"^tick (\d+) ([\d.]+)$", text, re.M)


def wait_for(what, test, timeout=60):
    end = time.monotonic() + timeout
    while not test():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def test_each_clone_goes_on_by_itself_and_answers(clones, tmp_path):
    process = clones("--count", COUNT, "--api-sock", tmp_path / "api%d.sock", "--serial", f"file:{tmp_path}/console%d", "--id", "clone%d")
    consoles = [tmp_path / f"console{i}" for i in range(COUNT)]
    wait_for("ticks of every clone", lambda: all(len(ticks(c)) >= 5 for c in consoles))
    ids = [re.search(r"^id +(\S+)$", husk("ctl", tmp_path / f"api{i}.sock", "status").stdout, re.M)[1] for i in range(COUNT)]
    assert ids == [f"clone{i}" for i in range(COUNT)]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, process.stderr.read()
    assert not [f for f in os.listdir(tmp_path) if f.endswith(".sock")]


# A while between two signs of life, and no program for it: 200 of them are to want no more of a small machine than to start.
SLOW_TICKS = "mkfifo /tmp/never; exec 3<>/tmp/never\n" + TICKS.replace("sleep 0.03", "read -t 3 _ <&3")


@pytest.mark.parametrize("snapshot", [SLOW_TICKS], indirect=True)
def test_two_hundred_are_alive_at_once_and_each_answers(clones, tmp_path):
    process = clones("--count", MANY, "--api-sock", tmp_path / "api%d.sock", "--serial", f"file:{tmp_path}/console%d", "--id", "clone%d")
    for i in range(MANY):
        wait_for("a clone that runs", lambda: answers_as(tmp_path / f"api{i}.sock", f"clone{i}", "Running"))
    assert len(children(process.pid)) == MANY
    seen = [len(ticks(tmp_path / f"console{i}")) for i in range(MANY)]
    for i in range(MANY):
        wait_for("a tick of every clone", lambda: len(ticks(tmp_path / f"console{i}")) > seen[i])
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, process.stderr.read()


def test_a_paused_clone_has_little_memory_of_its_own(clones, tmp_path):
    process = clones("--count", COUNT, "--api-sock", tmp_path / "api%d.sock", "--id", "clone%d", "--paused", "--accelerator", "tcg")
    for i in range(COUNT):
        wait_for("a clone that is paused", lambda: answers_as(tmp_path / f"api{i}.sock", f"clone{i}", "Paused"))
    assert max(own_kib(pid) for pid in children(process.pid)) < 1024


def test_one_clone_that_ends_leaves_the_others(clones, tmp_path):
    process = clones("--count", 3, "--api-sock", tmp_path / "api%d.sock", "--serial", f"file:{tmp_path}/console%d")
    wait_for("the clones", lambda: all(len(ticks(tmp_path / f"console{i}")) >= 2 for i in range(3)))
    husk("ctl", tmp_path / "api1.sock", "pause")
    seen = [len(ticks(tmp_path / f"console{i}")) for i in range(3)]
    wait_for("ticks of the other two", lambda: all(len(ticks(tmp_path / f"console{i}")) > seen[i] + 3 for i in (0, 2)))
    assert len(ticks(tmp_path / "console1")) <= seen[1] + 1
    assert process.poll() is None


def test_clones_end_with_the_process_that_made_them(clones, tmp_path):
    process = clones("--count", 2, "--api-sock", tmp_path / "api%d.sock", "--serial", f"file:{tmp_path}/console%d")
    wait_for("ticks of both", lambda: all(ticks(tmp_path / f"console{i}") for i in range(2)))
    process.kill()
    process.wait()
    wait_for("their end", lambda: not (tmp_path / "api0.sock").exists() and not (tmp_path / "api1.sock").exists())


def test_a_clone_that_cannot_start_says_which_and_why(clones):
    process = clones("--count", 2, "--net", "eth%d=tap0")
    assert process.wait(30) == 1
    said = process.stderr.read()
    assert 'clone 0: the snapshot has no network interface "eth0"' in said and 'clone 1: the snapshot has no network interface "eth1"' in said


@pytest.mark.parametrize("words, says", [(["--count", "0"], "a number from 1"), (["--count", "x"], "a number from 1"), (["--count"], "wants a number")])
def test_wrong_counts_are_refused(words, says, tmp_path):
    done = husk("clone", tmp_path, *words)
    assert done.returncode == 2 and says in done.stderr


def test_without_a_folder_it_says_what_is_missing():
    done = husk("clone", "--count", "2")
    assert done.returncode == 2 and "the folder of a snapshot comes first" in done.stderr

"""Memory goes back to the host and comes again, with real Debian guests under the software accelerator: balloon, statistics, free pages, hotplug."""
import json
import os
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from local_guest import local_guest  # noqa: F401

MIB = 1 << 20

# The guest does what comes on its console, a word with its argument each, and says when it is done.
AGENT = """
set +e
echo 1 >/proc/sys/vm/overcommit_memory
echo guest: ready
while read -r what n; do
	case $what in
	fill) mkdir -p /t; mount -t tmpfs -o size=95% none /t; dd if=/dev/zero bs=1M count=$n 2>/dev/null | tr '\\000' x >/t/f; sum=$(cksum </t/f) ;;
	check) [ "$(cksum </t/f)" = "$sum" ] && echo "guest: same" ;;
	drop) umount /t; echo 3 >/proc/sys/vm/drop_caches ;;
	total) grep MemTotal /proc/meminfo ;;
	kernel) dmesg | grep -E "BUG:|Oops|WARNING:|Out of memory" ;;
	end) exit 0 ;;
	esac
	echo "guest: done $what $n"
done
"""


class Api:
    """The REST API on a unix socket, one connection per call."""

    def __init__(self, path):
        self.path = str(path)

    def __call__(self, method, path, body=None):
        text = b"" if body is None else json.dumps(body).encode()
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(self.path)
            s.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
            answer = b"".join(iter(lambda: s.recv(65536), b""))
        head, _, payload = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(payload) if payload else None

    def get(self, path):
        status, body = self("GET", path)
        assert status == 200, (path, status, body)
        return body

    def patch(self, path, body=None):
        status, answer = self("PATCH", path, body)
        assert status == 204, (path, body, status, answer)


class Machine:
    """A guest with an agent on its console, and the API."""

    def __init__(self, cmd, sock):
        self.text, self.at = "", 0
        self.husk = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.api = Api(sock)
        self.log = []
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=lambda: self.log.extend(self.husk.stderr), daemon=True).start()

    def _read(self):
        for line in self.husk.stdout:
            self.text += line.decode(errors="replace").replace("\r", "")

    def ask(self, *words, timeout=90):
        """What the guest says to it."""
        self.husk.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        self.husk.stdin.flush()
        done = "guest: done " + " ".join(map(str, [*words, ""][:2]))
        self.wait(lambda: done in self.text[self.at:], timeout, done)
        said = self.text[self.at:]
        self.at = len(self.text)
        return said

    def wait(self, condition, timeout, what):
        """Seconds until the condition is true."""
        start = time.monotonic()
        while not condition():
            assert self.husk.poll() is None, (self.husk.returncode, self.log, self.text[-2000:])
            assert time.monotonic() < start + timeout, f"no {what} in {timeout} s: {self.log} {self.text[-2000:]}"
            time.sleep(0.02)
        return time.monotonic() - start

    def memory(self):
        """MiB of the host that the guest's memory takes, in the memfd; and how much of it husk has mapped."""
        pid = self.husk.pid
        fd = next(f for f in os.scandir(f"/proc/{pid}/fd") if "husk-guest-memory" in os.readlink(f.path))
        rss = inside = 0
        with open(f"/proc/{pid}/smaps") as smaps:
            for line in smaps:
                if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                    inside = "husk-guest-memory" in line
                elif inside and line.startswith("Rss:"):
                    rss += int(line.split()[1])
        return os.stat(fd.path).st_blocks * 512 // MIB, rss // 1024

    def end(self):
        assert not re.search("BUG:|Oops|WARNING:", self.ask("kernel"))
        self.husk.stdin.write(b"end\n")
        self.husk.stdin.flush()
        assert self.husk.wait(30) == 0, (self.log, self.text[-2000:])


@pytest.fixture
def machine(local_guest, tmp_path):  # noqa: F811
    made = []

    def make(*flags, **how):
        sock = tmp_path / "api.sock"
        m = Machine(local_guest.command("--api-sock", sock, *flags, script=AGENT, **how), sock)
        made.append(m)
        m.wait(lambda: "guest: ready" in m.text, 90, "start of the agent")
        return m

    yield make
    for m in made:
        m.husk.kill()
        m.husk.wait()


def in_time(seconds, limit):
    """The limit is for a machine that has a processor for the guest and one for husk."""
    assert seconds < limit * max(1, os.getloadavg()[0] / 2), f"{seconds:.2f} s"


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_512_mib_go_back_within_two_seconds_and_come_again(machine, kernel):
    m = machine("--balloon", "0,stats=1", memory="1G", kernel=kernel)
    m.ask("fill", 700)
    m.ask("drop")
    full, rss = m.memory()
    assert full > 700 and rss > 700
    m.api.patch("/balloon", {"amount_mib": 512})
    took = m.wait(lambda: m.memory()[0] < full - 500 and m.memory()[1] < rss - 500, 30, "memory")
    print(f"512 MiB: {took:.2f} s")
    in_time(took, 2)
    m.wait(lambda: m.api.get("/balloon/statistics")["actual_mib"] == 512, 10, "actual_mib")
    assert m.api.get("/balloon")["amount_mib"] == 512
    assert "guest: same" in m.ask("fill", 150) + m.ask("check")
    m.ask("drop")
    small = m.memory()[0]
    m.api.patch("/balloon", {"amount_mib": 0})
    m.wait(lambda: m.api.get("/balloon/statistics")["actual_mib"] == 0, 10, "deflation")
    m.ask("fill", 700)
    assert m.memory()[0] > small + 300
    assert "guest: same" in m.ask("check")
    m.end()


HUGE_PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
NR_HUGE_PAGES = HUGE_PAGES / "nr_hugepages"


def free_huge_pages():
    return int((HUGE_PAGES / "free_hugepages").read_text())


@pytest.fixture
def huge_pages():
    """The host sets enough aside for 1 GiB, where this user may ask it."""
    before = NR_HUGE_PAGES.read_text()
    if os.access(NR_HUGE_PAGES, os.W_OK):
        NR_HUGE_PAGES.write_text(str(int(before) + 520))
    if free_huge_pages() < 520:
        NR_HUGE_PAGES.write_text(before)
        pytest.skip("no 2 MiB pages: sysctl vm.nr_hugepages=520")
    yield
    NR_HUGE_PAGES.write_text(before)


def test_huge_pages_go_back_once_the_balloon_has_all_of_them(machine, huge_pages):
    m = machine("--balloon", "0,stats=1", "--huge-pages", "2M", memory="1G")
    m.ask("fill", 700)
    m.ask("drop")
    before = free_huge_pages()
    m.api.patch("/balloon", {"amount_mib": 512})
    m.wait(lambda: m.api.get("/balloon/statistics")["actual_mib"] == 512, 20, "inflation")
    m.wait(lambda: free_huge_pages() > before + 150, 5, "huge pages")
    assert "guest: same" in m.ask("fill", 150) + m.ask("check")
    m.api.patch("/balloon", {"amount_mib": 0})
    m.wait(lambda: m.api.get("/balloon/statistics")["actual_mib"] == 0, 20, "deflation")
    assert "guest: same" in m.ask("fill", 700) + m.ask("check")
    m.end()


def test_statistics_are_the_guests(machine):
    m = machine("--balloon", "64,stats=1", memory="512M")
    total = int(re.search(r"MemTotal: +(\d+) kB", m.ask("total")).group(1)) * 1024
    m.wait(lambda: m.api.get("/balloon/statistics")["actual_mib"] == 64, 10, "inflation at boot")
    m.wait(lambda: "free_memory" in m.api.get("/balloon/statistics"), 10, "statistics")
    first = m.api.get("/balloon/statistics")
    assert (first["target_pages"], first["actual_pages"], first["target_mib"]) == (16384, 16384, 64)
    assert first["available_memory"] <= first["total_memory"] and abs(first["total_memory"] - total) < 80 * MIB
    assert {"swap_in", "swap_out", "major_faults", "minor_faults", "disk_caches", "hugetlb_allocations", "oom_kill", "direct_reclaim"} <= set(first)
    m.ask("fill", 100)
    m.wait(lambda: m.api.get("/balloon/statistics")["free_memory"] < first["free_memory"] - 90 * MIB, 10, "new statistics")
    m.api.patch("/balloon/statistics", {"stats_polling_interval_s": 60})
    assert m.api.get("/balloon")["stats_polling_interval_s"] == 60
    for body in {"stats_polling_interval_s": 0}, {"stats_polling_interval_s": 65536}, {}, {"amount_mib": 1}:
        assert m.api("PATCH", "/balloon/statistics", body)[0] == 400
    status, body = m.api("PATCH", "/balloon", {"amount_mib": 513})
    assert status == 400 and "Amount of pages requested is too large." in body["fault_message"]
    assert m.api("PATCH", "/balloon/hinting/start")[0] == 400
    m.end()


def test_a_guest_short_of_memory_takes_pages_back(machine):
    m = machine("--balloon", "300,oom,stats=1", memory="512M")
    m.wait(lambda: m.api.get("/balloon/statistics")["actual_mib"] == 300, 20, "inflation")
    assert "guest: same" in m.ask("fill", 250) + m.ask("check")
    assert m.api.get("/balloon/statistics")["actual_mib"] < 300
    assert "Out of memory" not in m.ask("kernel")


def test_reported_free_pages_go_back_by_themselves(machine):
    m = machine("--balloon", "0,reporting", memory="1G")
    m.ask("fill", 600)
    full = m.memory()[0]
    assert full > 600
    m.ask("drop")
    m.wait(lambda: m.memory()[0] < full - 550, 40, "memory")
    assert "guest: same" in m.ask("fill", 600) + m.ask("check")
    m.ask("drop")
    m.end()


def test_free_pages_are_hinted_on_request(machine):
    m = machine("--balloon", "0,hinting", memory="1G")
    m.ask("fill", 600)
    m.ask("drop")
    full = m.memory()[0]
    assert m.api.get("/balloon/hinting/status")["host_cmd"] == 0
    m.api.patch("/balloon/hinting/start", {"acknowledge_on_stop": False})
    m.wait(lambda: m.memory()[0] < full - 500, 20, "memory")
    m.wait(lambda: m.api.get("/balloon/hinting/status") == {"host_cmd": 2, "guest_cmd": 0}, 10, "end of the run")
    m.api.patch("/balloon/hinting/stop")
    assert m.api.get("/balloon/hinting/status")["host_cmd"] == 1
    assert "guest: same" in m.ask("fill", 700) + m.ask("check")
    m.ask("drop")
    m.api.patch("/balloon/hinting/start")
    m.wait(lambda: m.api.get("/balloon/hinting/status") == {"host_cmd": 1, "guest_cmd": 0}, 20, "acknowledgement")
    assert "guest: same" in m.ask("fill", 700) + m.ask("check")
    m.end()


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_memory_is_plugged_in_and_out(machine, kernel):
    m = machine("--memory-hotplug", "1024", memory="256M", kernel=kernel, cmdline="memhp_default_state=online_movable")

    def total():
        return int(re.search(r"MemTotal: +(\d+) kB", m.ask("total")).group(1)) // 1024

    def plugged():
        return m.api.get("/hotplug/memory")["plugged_size_mib"]

    before, host = total(), m.memory()[0]
    m.api.patch("/hotplug/memory", {"requested_size_mib": 640})
    m.wait(lambda: plugged() == 640, 30, "memory to be plugged in")
    assert m.api.get("/hotplug/memory") == {"total_size_mib": 1024, "block_size_mib": 2, "slot_size_mib": 128, "plugged_size_mib": 640,
                                            "requested_size_mib": 640}
    m.wait(lambda: total() >= before + 620, 10, "memory to be online")
    assert "guest: same" in m.ask("fill", 500) + m.ask("check")
    assert m.memory()[0] > host + 480
    m.ask("drop")
    m.api.patch("/hotplug/memory", {"requested_size_mib": 0})
    m.wait(lambda: plugged() == 0, 60, "memory to be unplugged")
    m.wait(lambda: total() <= before, 10, "memory to be away")
    assert m.memory()[0] < host + 100
    assert m.api("PATCH", "/hotplug/memory", {"requested_size_mib": 1026})[0] == 400
    assert m.api("PATCH", "/hotplug/memory", {"requested_size_mib": 3})[0] == 400
    m.end()

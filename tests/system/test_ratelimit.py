"""Rate limits as a guest sees them: what it moves in about ten seconds is within 5 % of the setting. Under tcg, on this machine."""
import base64
import http.client
import json
import re
import socket
import subprocess
import threading
import time

import pytest

from local_guest import HUSK, NET_UP, image, local_guest, tap  # noqa: F401

SECONDS = 10


def bucket(per_second, refill=100):
    return {"size": per_second * refill // 1000, "refill_time": refill}


def config(path, **sections):
    path.write_text(json.dumps({"boot-source": {"kernel_image_path": str(image("vmlinuz-6.12"))}, **sections}))
    return path


def timed(name, command):
    """A line that runs a command in the guest and says how long it took, by the guest's clock."""
    return f"read a _ </proc/uptime; {command}; read b _ </proc/uptime; echo {name} $a $b\n"


def seconds(out, name):
    found = re.search(rf"^{name} ([\d.]+) ([\d.]+)$", out, re.M)
    assert found, out
    return float(found.group(2)) - float(found.group(1))


def drive(tmp_path, **limits):
    disk = tmp_path / "disk.img"
    subprocess.run(["truncate", "-s", "64M", str(disk)], check=True)
    return config(tmp_path / "vm.json", drives=[{"drive_id": "d", "is_root_device": False, "path_on_host": str(disk), "rate_limiter": limits}])


@pytest.mark.parametrize("what", ["if=/dev/vda of=/dev/null iflag=direct", "if=/dev/zero of=/dev/vda oflag=direct"])
@pytest.mark.parametrize("engine", ["Sync", "Async"])
def test_the_bandwidth_of_a_drive_is_as_set(local_guest, tmp_path, what, engine):
    rate = 4 << 20
    vm = drive(tmp_path, bandwidth=bucket(rate))
    text = json.loads(vm.read_text())
    text["drives"][0]["io_engine"] = engine
    vm.write_text(json.dumps(text))
    out = local_guest.script(timed("took", f"dd {what} bs=64k count={rate * SECONDS >> 16} 2>/dev/null"), vm)
    assert seconds(out, "took") == pytest.approx(SECONDS, rel=0.05)


def test_the_requests_of_a_drive_are_as_set(local_guest, tmp_path):
    # Four at a time: one always waits, however late this machine lets the others go on.
    dd = f"dd if=/dev/vda of=/dev/null iflag=direct bs=4k count={50 * SECONDS} 2>/dev/null &"
    out = local_guest.script(timed("took", f"{dd} {dd} {dd} {dd} wait"), drive(tmp_path, ops=bucket(200)))
    assert seconds(out, "took") == pytest.approx(SECONDS, rel=0.05)


def test_a_burst_is_on_top_and_comes_once(local_guest, tmp_path):
    rate, burst = 1 << 20, 16 << 20
    dd = "dd if=/dev/vda of=/dev/null iflag=direct bs=64k count={} 2>/dev/null"
    out = local_guest.script(timed("burst", dd.format(burst >> 16)) + timed("then", dd.format(rate * 5 >> 16)),
                             drive(tmp_path, bandwidth={**bucket(rate), "one_time_burst": burst}))
    assert seconds(out, "burst") < 1
    assert seconds(out, "then") == pytest.approx(5, rel=0.05)


def receive(listener, got):
    """Time from the first byte to the last, and their number."""
    conn, _ = listener.accept()
    with conn:
        conn.settimeout(60)
        while chunk := conn.recv(1 << 16):
            got.append((time.monotonic(), len(chunk)))


def test_what_a_guest_sends_is_limited(local_guest, tmp_path, tap):
    rate, got = 2 << 20, []
    vm = config(tmp_path / "vm.json", **{"network-interfaces": [
        {"iface_id": "n", "host_dev_name": tap, "tx_rate_limiter": {"bandwidth": bucket(rate, 50)}}]})
    with socket.create_server(("172.31.77.1", 0)) as listener:
        thread = threading.Thread(target=receive, args=(listener, got), daemon=True)
        thread.start()
        local_guest.script(NET_UP + f"dd if=/dev/zero bs=64k count={rate * SECONDS >> 16} 2>/dev/null | "
                           f"nc 172.31.77.1 {listener.getsockname()[1]}", vm)
        thread.join(10)
    # Headers are 66 bytes on each frame of up to 64 KiB.
    assert sum(n for _, n in got) == rate * SECONDS
    assert got[-1][0] - got[0][0] == pytest.approx(SECONDS, rel=0.05)


def test_what_a_guest_receives_is_limited(local_guest, tmp_path, tap):
    rate = 2 << 20
    vm = config(tmp_path / "vm.json", **{"network-interfaces": [
        {"iface_id": "n", "host_dev_name": tap, "rx_rate_limiter": {"bandwidth": bucket(rate, 50)}}]})
    with socket.create_server(("172.31.77.1", 0)) as listener:

        def send():
            conn, _ = listener.accept()
            with conn:
                # Always a queue in the tap: BBR, the default of some hosts, lets it run empty now and then to measure the path.
                conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
                conn.sendall(bytes(rate * SECONDS))

        threading.Thread(target=send, daemon=True).start()
        out = local_guest.script(NET_UP + timed("took", f"nc 172.31.77.1 {listener.getsockname()[1]} </dev/null >/tmp/got") +
                                 "echo got $(wc -c </tmp/got)\n", vm)
    assert f"got {rate * SECONDS}" in out
    # Headers are 66 bytes on each frame of up to 64 KiB.
    assert seconds(out, "took") == pytest.approx(SECONDS, rel=0.05)


def test_what_a_guest_receives_is_limited_however_much_comes(local_guest, tmp_path, tap):
    """Datagrams at many times the limit, which are dropped before the guest: what its interface counts in ten seconds."""
    rate, stop = 1 << 20, threading.Event()
    vm = config(tmp_path / "vm.json", **{"network-interfaces": [
        {"iface_id": "n", "host_dev_name": tap, "rx_rate_limiter": {"bandwidth": bucket(rate)}}]})

    def flood():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            while not stop.wait(0.002):
                for _ in range(8):
                    s.sendto(bytes(1400), ("172.31.77.2", 9))

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    try:
        sample = "read {0} _ </proc/uptime; read {0}n </sys/class/net/eth0/statistics/rx_bytes; "
        out = local_guest.script(NET_UP + "sleep 2; " + sample.format("a") + f"sleep {SECONDS}; " + sample.format("b") + "echo took $a $b $an $bn\n", vm)
    finally:
        stop.set()
        thread.join()
    a, b, first, last = map(float, re.search(r"^took (\S+) (\S+) (\d+) (\d+)$", out, re.M).groups())
    assert (last - first) / (b - a) == pytest.approx(rate, rel=0.05)


def test_the_entropy_device_is_limited(local_guest, tmp_path):
    # The guest's kernel takes from it as well, to seed its own generator: no more than the setting is what can be said here.
    out = local_guest.script("cat /sys/class/misc/hw_random/rng_current; " + timed("took", "dd if=/dev/hwrng of=/dev/null bs=512 count=100 2>/dev/null"),
                             config(tmp_path / "vm.json", entropy={"rate_limiter": {"bandwidth": bucket(10240)}}))
    assert "virtio_rng" in out
    assert 51200 / 10240 * 0.9 < seconds(out, "took") < 51200 / 10240 * 4


def test_an_unlimited_drive_is_fast(local_guest, tmp_path):
    out = local_guest.script(timed("took", "dd if=/dev/vda of=/dev/null iflag=direct bs=64k count=1000 2>/dev/null"),
                             drive(tmp_path, bandwidth={"size": 0, "refill_time": 100}))
    assert seconds(out, "took") < 5


# ---- changes while the guest runs ----


class ApiGuest:
    """husk with Firecracker's command line: the guest runs a script, the test talks to the API."""

    def __init__(self, tmp_path, script, **sections):
        words = "console=ttyS0 quiet cryptomgr.notests husk.exec=" + base64.urlsafe_b64encode(script.encode()).decode()
        vm = config(tmp_path / "vm.json", **{"accelerator": "tcg", "machine-config": {"vcpu_count": 1, "mem_size_mib": 256}, **sections,
                                             "boot-source": {"kernel_image_path": str(image("vmlinuz-6.12")),
                                                             "initrd_path": str(image("initrd-6.12.img")), "boot_args": words}})
        self.socket = tmp_path / "api.sock"
        self.husk = subprocess.Popen([HUSK, "--api-sock", str(self.socket), "--config-file", str(vm)], stdin=subprocess.DEVNULL,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.husk.kill()
        self.husk.communicate()

    def wait_for(self, pattern):
        """The next line of the console that matches."""
        seen = []
        for line in self.husk.stdout:
            seen.append(line)
            if found := re.search(pattern, line):
                return found
        pytest.fail("".join(seen) + self.husk.stderr.read())

    def patch(self, path, status=204, **body):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.socket))
        connection.request("PATCH", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.status == status, (answer.status, text)
        return text


READS = """i=0
while :; do
	read a _ </proc/uptime; dd if=/dev/vda of=/dev/null iflag=direct bs=64k count=32 2>/dev/null; read b _ </proc/uptime
	echo took $a $b size $(cat /sys/block/vda/size) first $(dd if=/dev/vda iflag=direct bs=512 count=1 2>/dev/null | head -c 4) end
done
"""


def disk_of(path, size, first):
    path.write_bytes(first.ljust(512))
    subprocess.run(["truncate", "-s", size, str(path)], check=True)
    return str(path)


def test_limit_and_image_of_a_drive_change_while_the_guest_reads(tmp_path):
    old, new = disk_of(tmp_path / "old", "64M", b"old!"), disk_of(tmp_path / "new", "32M", b"new!")
    with ApiGuest(tmp_path, READS, drives=[{"drive_id": "d", "is_root_device": False, "path_on_host": old,
                                            "rate_limiter": {"bandwidth": bucket(2 << 20)}}]) as guest:

        def until(speed, *rest, rel=0.1):
            """Reads rows until one is as it should be: those that the guest has printed before the change are there, too."""
            end, row = time.monotonic() + 30, None
            while time.monotonic() < end:
                a, b, *row = guest.wait_for(r"^took ([\d.]+) ([\d.]+) size (\d+) first (\S*) end").groups()
                row.append((2 << 20) / max(float(b) - float(a), 0.01))
                if row[:2] == [str(rest[0] << 11), rest[1]] and (row[2] == pytest.approx(speed, rel=rel) if speed else row[2] > 8 << 20):
                    return
            pytest.fail(f"not {speed} {rest}: the last was {row}")

        until(2 << 20, 64, "old!")
        guest.patch("/drives/d", drive_id="d", rate_limiter={"bandwidth": bucket(512 << 10)})
        until(512 << 10, 64, "old!")
        guest.patch("/drives/d", drive_id="d", rate_limiter={"bandwidth": {"size": 0, "refill_time": 0}})
        until(None, 64, "old!")
        fault = guest.patch("/drives/d", 400, drive_id="d", path_on_host=str(tmp_path / "missing"))
        assert "fault_message" in fault and "missing" in fault
        guest.patch("/drives/d", drive_id="d", path_on_host=new, rate_limiter={"bandwidth": bucket(2 << 20)})
        until(2 << 20, 32, "new!")
        # It grew: the same path again tells the guest.
        subprocess.run(["truncate", "-s", "128M", new], check=True)
        guest.patch("/drives/d", drive_id="d", path_on_host=new)
        until(2 << 20, 128, "new!")

"""Where the serial port's output goes: PUT /serial with a file, a FIFO, a limit; and the boot timer. Real guests under tcg."""
import json
import os
import re
import threading
import time

import pytest

from api_client import Husk
from local_guest import local_guest  # noqa: F401

END = "echo the last line; sleep 0.2; reboot -f"


@pytest.fixture
def api(tmp_path, local_guest):  # noqa: F811
    husk = Husk(tmp_path, "--boot-timer", "--metrics-path", tmp_path / "metrics")
    yield husk
    husk.stop()


def flood(lines):
    """A script that prints lines of 64 bytes, numbered. The driver makes two of each newline."""
    return f"i=10000; while [ $i -lt {10000 + lines} ]; do echo line $i {'x' * 51}; i=$((i+1)); done; "


def test_output_goes_to_a_file_that_is_not_emptied(api, tmp_path):
    out = tmp_path / "serial"
    out.write_bytes(b"#" * 1000000)
    api.put("/serial", serial_out_path=str(out))
    api.start(flood(100) + END)
    assert api.end() == 0
    text = out.read_bytes()
    assert len(text) == 1000000 and text.endswith(b"###")
    assert re.findall(rb"line (\d+) x{51}\r\n", text) == [b"%d" % i for i in range(10000, 10100)]
    assert b"the last line" in text and "line" not in api.console()


def test_a_file_is_made_when_it_is_missing(api, tmp_path):
    api.put("/serial", serial_out_path=str(tmp_path / "new"))
    api.start(END)
    assert api.end() == 0
    assert "the last line" in (tmp_path / "new").read_text()


def test_a_place_where_no_file_can_be_made_fails_the_start(api):
    api.put("/serial", serial_out_path="/nonexistent/serial")
    api.put("/machine-config", vcpu_count=1, mem_size_mib=256)
    api.put("/boot-source", **api.boot_source(END))
    fault = api.refused("PUT", "/actions", {"action_type": "InstanceStart"})
    assert "/nonexistent/serial" in fault and "No such file" in fault


def test_output_goes_through_a_fifo(api, tmp_path):
    fifo, got = tmp_path / "fifo", []
    os.mkfifo(fifo)
    api.put("/serial", serial_out_path=str(fifo))
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)

    def read():
        while chunk := os.read(reader, 65536):
            got.append(chunk)

    api.start(flood(3000) + END)
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    assert api.end() == 0
    thread.join(10)
    text = b"".join(got)
    assert [int(n) for n in re.findall(rb"line (\d+) x{51}\r\n", text)] == list(range(10000, 13000))


def test_a_fifo_that_nobody_reads_does_not_stop_the_guest(api, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    api.put("/serial", serial_out_path=str(tmp_path / "fifo"))
    api.start(flood(4000) + END)
    assert api.end() == 0


def test_a_limited_port_keeps_its_rate_and_counts_what_it_loses(api, tmp_path):
    out, rate, burst = tmp_path / "serial", 20000, 5000
    api.put("/serial", serial_out_path=str(out), rate_limiter={"size": rate // 10, "refill_time": 100, "one_time_burst": burst})
    # The guest is much faster than the limit; four seconds of it.
    api.start("sleep 1; end=$(($(date +%s)+4)); while [ $(date +%s) -lt $end ]; do " + flood(200) + " done; echo; sleep 1; " + END)
    start = None
    while api.process.poll() is None:
        if out.exists() and start is None and b"line 1" in out.read_bytes():
            start = (time.monotonic(), out.stat().st_size)
        if start and time.monotonic() - start[0] > 3:
            break
        time.sleep(0.01)
    took, size = time.monotonic() - start[0], out.stat().st_size - start[1]
    assert size <= burst + rate // 10 + rate * took * 1.05
    assert size >= rate * took * 0.8
    assert api.end() == 0
    uart = json.loads((tmp_path / "metrics").read_text().splitlines()[-1])["uart"]
    assert uart["rate_limiter_dropped_bytes"] > 4 * rate
    assert uart["write_count"] == out.stat().st_size


def test_the_boot_timer_says_how_long_the_boot_took(api):
    api.start(cmdline="husk.boottimer=0xc0000000 husk.end=reboot")
    assert api.end() == 0
    found = re.search(r"Guest-boot-time = +(\d+) us (\d+) ms, +(\d+) CPU us (\d+) CPU ms", api.log())
    assert found, api.log()
    us, ms, cpu_us, cpu_ms = map(int, found.groups())
    assert us // 1000 == ms and cpu_us // 1000 == cpu_ms and 50_000 < us < 30_000_000 and cpu_us > 10_000

"""`husk ctl` as a person uses it, on a VM with a real guest under the software accelerator."""
import json
import re
import subprocess

import pytest

from api_client import Husk
from local_guest import HUSK, local_guest  # noqa: F401


class Ctl:
    def __init__(self, sock):
        self.sock = str(sock)

    def run(self, *words, stdin=None):
        return subprocess.run([HUSK, "ctl", self.sock, *map(str, words)], capture_output=True, text=True, timeout=60, input=stdin)

    def __call__(self, *words, **how):
        done = self.run(*words, **how)
        assert (done.returncode, done.stderr) == (0, ""), (words, done)
        return done.stdout

    def refused(self, *words, code=1):
        done = self.run(*words)
        assert done.returncode == code and done.stdout == "" and done.stderr.count("\n") == 1, (words, done)
        assert done.stderr.startswith("husk: ")
        return done.stderr

    def fields(self, *words):
        return dict(re.split(r"\s+", line, maxsplit=1) for line in self(*words).splitlines())


@pytest.fixture
def api(local_guest, tmp_path):
    husk = Husk(tmp_path)
    yield husk
    husk.stop()


def test_a_vm_from_configuration_to_end(api, tmp_path):
    ctl = Ctl(api.sock)
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(b"\0" * (4 << 20))
    assert ctl.fields("status")["state"] == "Not started"
    assert "before starting" in ctl.refused("pause")
    ctl("put", "/drives/data", json.dumps({"drive_id": "data", "path_on_host": str(tmp_path / "one"), "is_root_device": False}))
    (tmp_path / "balloon.json").write_text(json.dumps({"amount_mib": 0, "deflate_on_oom": True, "stats_polling_interval_s": 1}))
    ctl("put", "/balloon", tmp_path / "balloon.json")
    ctl("put", "/metrics", "-", stdin=json.dumps({"metrics_path": str(tmp_path / "metrics")}))
    ctl("put", "/machine-config", '{"vcpu_count": 1, "mem_size_mib": 256}')
    ctl("put", "/boot-source", json.dumps(api.boot_source("echo up; sleep 1000")))
    ctl("start")
    api.wait_console("up")

    status = ctl.fields("status")
    assert (status["id"], status["state"], status["CPUs"], status["memory"]) == ("api-test", "Running", "1", "256 MiB")
    assert json.loads(ctl("--json", "status"))["state"] == "Running"
    ctl("pause")
    assert ctl.fields("status")["state"] == "Paused"
    ctl("resume")
    assert json.loads(ctl("config"))["machine-config"]["vcpu_count"] == 1

    ctl("balloon", "32M")
    api.wait_for(lambda: ctl.fields("balloon")["actual_mib"] == "32", "balloon")
    assert "expected a size" in ctl.refused("balloon", "much", code=2)

    ctl("drives", "data", tmp_path / "two")
    ctl("drives", "data", "bandwidth=10M", "ops=100")
    drive = ctl("drives").splitlines()[1]
    assert re.fullmatch(r"data +rw +Sync +10485760/s +100/s +\S*/two", drive), drive
    ctl("drives", "data", "bandwidth=off")
    assert re.search(r"Sync +- +100/s", ctl("drives").splitlines()[1])
    assert "not found" in ctl.refused("drives", "other", "ops=1")
    assert "no limit" in ctl.refused("drives", "data", "speed=1", code=2)
    assert ctl("net") == "INTERFACE  HOST  MAC  RX  TX  RX-OPS  TX-OPS\n"
    assert "Memory hotplug" in ctl.refused("memory-hotplug")

    before = len((tmp_path / "log").read_text())
    ctl("log", "Error")
    ctl("status")
    quiet = (tmp_path / "log").read_text()[before:]
    assert quiet.count("Get request") == 0
    ctl("log", "Debug")
    ctl("status")
    assert "Get request" in (tmp_path / "log").read_text()[before:]

    assert json.loads(ctl("get", "/version"))["firecracker_version"]
    assert "Invalid request method and/or path" in ctl.refused("get", "/nowhere")
    assert json.loads(ctl("mmds")) == {}
    ctl("end")
    assert api.end() == 0
    assert "nobody serves" in ctl.refused("status")


def test_metrics_for_people_and_for_prometheus(api, tmp_path):
    ctl = Ctl(api.sock)
    (tmp_path / "disk").write_bytes(b"\0" * (4 << 20))
    api.put("/drives/disk", drive_id="disk", path_on_host=str(tmp_path / "disk"), is_root_device=False)
    api.put("/metrics", metrics_path=str(tmp_path / "metrics"))
    api.start("dd if=/dev/vda of=/dev/null bs=64k; echo up; sleep 1000")
    api.wait_console("up")
    table = ctl("metrics")
    assert table.startswith("GROUP") and re.search(r"^block_disk +read_bytes +\d{7,}$", table, re.M)
    assert set(line.split()[0] for line in ctl("metrics", "block_disk").splitlines()[1:]) == {"block_disk"}
    ctl("metrics", "flush")
    assert (tmp_path / "metrics").read_text().count("\n") == 2
    totals = json.loads(ctl("metrics", "--json"))

    text = ctl("metrics", "--prometheus")
    samples, types, last = {}, {}, None
    for line in text.splitlines():
        kind = re.fullmatch(r"# TYPE (\w+) (counter|gauge)", line)
        if kind:
            assert kind[1] not in types, f"{kind[1]} is in two places"
            last = kind[1]
            types[last] = kind[2]
            continue
        sample = re.fullmatch(r'(husk_\w+)((?:\{id="[\w-]+"\})?) (\d+)', line)
        assert sample and sample[1] == last, line
        samples[sample[1] + sample[2]] = int(sample[3])
    assert samples['husk_block_read_bytes_total{id="disk"}'] >= totals["block"]["read_bytes"] >= 4 << 20
    assert samples["husk_put_api_requests_drive_count_total"] == 1
    assert types["husk_latencies_us_pause_vm"] == types["husk_block_read_agg_max_us"] == "gauge"
    assert types["husk_block_read_agg_sum_us_total"] == "counter" and samples["husk_tcg_units_total"] > 1000
    assert "husk_block_read_bytes_total" not in samples, "the sum is for Prometheus to make"


def test_what_cannot_be_reached(tmp_path):
    (tmp_path / "file").write_text("")
    assert "nobody serves" in Ctl(tmp_path / "file").refused("status")
    assert "No such file" in Ctl(tmp_path / "none").refused("status")
    assert "at most 107 bytes" in Ctl("/x" * 100).refused("status")
    assert "did you mean status" in Ctl("s").refused("statsu", code=2)
    assert "it is: log LEVEL" in Ctl("s").refused("log", code=2)
    assert "unknown flag --yaml" in Ctl("s").refused("status", "--yaml", code=2)


def test_completion_is_understood_by_bash(tmp_path):
    script = subprocess.run([HUSK, "completion", "bash"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "husk.bash").write_text(script)

    def complete(*words):
        line = f'source {tmp_path}/husk.bash; COMP_WORDS=({" ".join(repr(w) for w in words)}); COMP_CWORD={len(words) - 1}; _husk; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.split()

    assert complete("husk", "ct") == ["ctl"]
    assert complete("husk", "ctl", "s", "pa") == ["pause", "patch"]
    assert complete("husk", "ctl", "s", "log", "D") == ["Debug"]
    assert "--drive" in complete("husk", "run", "--dr")
    assert complete("husk", "ctl", "s", "metrics", "--pro") == ["--prometheus"]

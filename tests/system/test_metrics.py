"""Metrics of a real guest under the software accelerator: every group and key that readers of Firecracker's metrics expect, and no other; what
a line counts; logs and metrics into FIFOs."""
import json
import os
import re
import time

import pytest

from api_client import Husk
from local_guest import local_guest  # noqa: F401

AGG = {"min_us", "max_us", "sum_us"}
BLOCK = """activate_fails cfg_fails no_avail_buffer event_fails execute_fails invalid_reqs_count flush_count queue_event_count rate_limiter_event_count
    update_count update_fails read_bytes write_bytes read_count write_count rate_limiter_throttled_events io_engine_throttled_events
    remaining_reqs_count read_agg write_agg"""
# As Firecracker's own tests have them.
SCHEMA = {
    "api_server": "process_startup_time_us process_startup_time_cpu_us",
    "balloon": """activate_fails inflate_count stats_updates_count stats_update_fails deflate_count event_fails free_page_report_count
        free_page_report_freed free_page_report_fails free_page_hint_count free_page_hint_freed free_page_hint_fails""",
    "block": BLOCK,
    "block_disk": BLOCK,
    "deprecated_api": "deprecated_http_api_calls",
    "entropy": """activate_fails entropy_event_fails entropy_event_count entropy_bytes host_rng_fails entropy_rate_limiter_throttled
        rate_limiter_event_count""",
    "get_api_requests": "instance_info_count machine_cfg_count mmds_count vmm_version_count hotplug_memory_count",
    "i8042": "error_count missed_read_count missed_write_count read_count reset_count write_count",
    "interrupts": "triggers config_updates",
    "latencies_us": """full_create_snapshot diff_create_snapshot load_snapshot pause_vm resume_vm vmm_full_create_snapshot
        vmm_diff_create_snapshot vmm_load_snapshot vmm_pause_vm vmm_resume_vm""",
    "logger": "missed_metrics_count metrics_fails missed_log_count",
    "memory_hotplug": """activate_fails queue_event_fails queue_event_count plug_count plug_bytes plug_fails plug_agg unplug_count unplug_bytes
        unplug_fails unplug_discard_fails unplug_agg state_count state_fails state_agg unplug_all_count unplug_all_fails unplug_all_agg""",
    "mmds": """rx_accepted rx_accepted_err rx_accepted_unusual rx_bad_eth rx_invalid_token rx_no_token rx_count tx_bytes tx_count tx_errors
        tx_frames connections_created connections_destroyed""",
    "net": """activate_fails cfg_fails mac_address_updates no_rx_avail_buffer no_tx_avail_buffer event_fails rx_queue_event_count
        rx_event_rate_limiter_count rx_rate_limiter_throttled rx_tap_event_count rx_bytes_count rx_packets_count rx_fails rx_count tap_read_fails
        tap_write_fails tx_bytes_count tx_malformed_frames tx_fails tx_count tx_packets_count tx_queue_event_count tx_rate_limiter_event_count
        tx_rate_limiter_throttled tx_spoofed_mac_count tx_remaining_reqs_count tap_write_agg""",
    "patch_api_requests": """drive_count drive_fails network_count network_fails machine_cfg_count machine_cfg_fails mmds_count mmds_fails
        hotplug_memory_count hotplug_memory_fails""",
    "pmem": "activate_fails cfg_fails event_fails queue_event_count",
    "put_api_requests": """actions_count actions_fails boot_source_count boot_source_fails drive_count drive_fails logger_count logger_fails
        machine_cfg_count machine_cfg_fails cpu_cfg_count cpu_cfg_fails metrics_count metrics_fails network_count network_fails mmds_count
        mmds_fails vsock_count vsock_fails pmem_count pmem_fails serial_count serial_fails hotplug_memory_count hotplug_memory_fails""",
    "seccomp": "num_faults",
    "signals": "sigbus sigsegv sigxfsz sigxcpu sigpipe sighup sigill",
    "uart": "error_count flush_count missed_read_count missed_write_count rate_limiter_dropped_bytes read_count write_count",
    "vcpu": """exit_io_in exit_io_out exit_mmio_read exit_mmio_write failures kvmclock_ctrl_fails exit_io_in_agg exit_io_out_agg
        exit_mmio_read_agg exit_mmio_write_agg""",
    "vmm": "panic_count",
    "vsock": """activate_fails cfg_fails rx_queue_event_fails tx_queue_event_fails ev_queue_event_fails muxer_event_fails conn_event_fails
        rx_queue_event_count tx_queue_event_count rx_bytes_count tx_bytes_count rx_packets_count tx_packets_count conns_added conns_killed
        conns_removed killq_resync tx_flush_fails tx_write_fails rx_read_fails""",
}
# Firecracker's tests lag behind its program here: what is more is no error.
MORE = {"balloon": {"cfg_fails"}}


@pytest.fixture
def api(local_guest, tmp_path):
    husk = Husk(tmp_path)
    yield husk
    husk.stop()


def check_shape(line):
    assert abs(line["utc_timestamp_ms"] - time.time() * 1000) < 5000
    assert set(line) == set(SCHEMA) | {"utc_timestamp_ms"}
    for group, keys in SCHEMA.items():
        assert set(line[group]) - MORE.get(group, set()) == set(keys.split()), group
        for key, value in line[group].items():
            if key.endswith("_agg"):
                assert set(value) == AGG, (group, key)
                value = max(value.values())
            assert isinstance(value, int) and value >= 0, (group, key, value)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_of_a_life(api, tmp_path):
    disk, metrics = tmp_path / "disk", tmp_path / "metrics"
    disk.write_bytes(b"\0" * (8 << 20))
    api.put("/metrics", metrics_path=str(metrics))
    api.put("/drives/disk", drive_id="disk", path_on_host=str(disk), is_root_device=False, is_read_only=False)
    api.put("/entropy")
    api.start("dd if=/dev/vda of=/dev/null bs=64k count=16; dd if=/dev/zero of=/dev/vda bs=4k count=8; sync; echo done; sleep 1000")
    first = lines_of(metrics)
    assert len(first) == 1
    check_shape(first[0])
    put = first[0]["put_api_requests"]
    assert (put["metrics_count"], put["drive_count"], put["machine_cfg_count"], put["boot_source_count"]) == (1, 1, 1, 1)

    api.wait_console("done")
    api.refused("PATCH", "/drives/other", {"drive_id": "other"})
    api.patch("/vm", state="Paused")
    api.patch("/vm", state="Resumed")
    api.put("/actions", action_type="FlushMetrics")
    line = lines_of(metrics)[1]
    check_shape(line)
    assert line["block"]["read_bytes"] >= 1 << 20 and line["block"]["write_bytes"] >= 32 << 10
    assert line["block"]["read_count"] == line["block_disk"]["read_count"] > 0
    assert line["block_disk"]["read_agg"]["sum_us"] >= line["block_disk"]["read_agg"]["max_us"] > 0
    assert line["block"]["read_agg"] == {"min_us": 0, "max_us": 0, "sum_us": line["block_disk"]["read_agg"]["sum_us"]}
    assert line["entropy"]["entropy_bytes"] > 0
    assert line["uart"]["write_count"] > 20
    assert line["vcpu"]["exit_io_out"] > 20 and line["vcpu"]["exit_mmio_write"] > 10
    assert line["patch_api_requests"]["drive_count"] == line["patch_api_requests"]["drive_fails"] == 1
    assert line["latencies_us"]["pause_vm"] >= line["latencies_us"]["vmm_pause_vm"]
    assert line["interrupts"]["triggers"] > 0

    api.put("/actions", action_type="FlushMetrics")
    quiet = lines_of(metrics)[2]
    assert quiet["block"]["read_count"] == quiet["block_disk"]["write_bytes"] == 0
    assert quiet["latencies_us"]["pause_vm"] == line["latencies_us"]["pause_vm"]
    assert quiet["put_api_requests"]["actions_count"] == 1

    totals = api.get("/husk/metrics")
    assert totals["block"]["read_count"] == line["block"]["read_count"] + first[0]["block"]["read_count"]
    assert totals["husk"]["tcg"]["units"] > 1000
    api.process.terminate()
    api.end()
    assert len(lines_of(metrics)) == 4


def test_the_second_configuration_is_refused(api, tmp_path):
    api.put("/metrics", metrics_path=str(tmp_path / "metrics"), emit_id=True, properties={"rack": "7"})
    assert "Reinitialization of metrics not allowed." in api.refused("PUT", "/metrics", {"metrics_path": str(tmp_path / "m2")})
    assert "a string" in api.refused("PUT", "/metrics", {"metrics_path": "m", "properties": {"rack": 7}})
    api.start("sleep 1000")
    line = lines_of(tmp_path / "metrics")[0]
    assert (line["id"], line["properties"]) == ("api-test", {"rack": "7"})


def test_husk_run_adds_its_own_counters(local_guest, tmp_path):
    local_guest.script("true", "--metrics-path", tmp_path / "metrics")
    first, last = lines_of(tmp_path / "metrics")
    assert first["husk"]["tcg"]["units"] == 0 < last["husk"]["tcg"]["units"]


def test_fifos_that_nobody_reads_stop_nothing(api, tmp_path):
    fifo, log = tmp_path / "fifo", tmp_path / "log.fifo"
    os.mkfifo(fifo)
    os.mkfifo(log)
    api.put("/metrics", metrics_path=str(fifo))
    api.put("/logger", log_path=str(log), level="Debug", show_level=True, show_log_origin=True)
    api.start("echo up; sleep 1000")
    for _ in range(400):
        assert api.put("/actions", action_type="FlushMetrics").took < 1
    assert api.get("/husk/metrics")["logger"]["missed_metrics_count"] > 300
    assert api.get("/husk/metrics")["logger"]["missed_log_count"] > 0
    api.wait_console("up")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    text = os.read(reader, 1 << 20)
    api.put("/actions", action_type="FlushMetrics")
    text += os.read(reader, 1 << 20)
    lines = [json.loads(line) for line in text.splitlines()]
    assert sum(line["logger"]["missed_metrics_count"] for line in lines) > 300
    assert sum(line["put_api_requests"]["actions_count"] for line in lines) == 402
    os.close(reader)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    line = os.read(reader, 1 << 20).splitlines()[-2].decode()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9} \[api-test:[\w ]+:(INFO|DEBUG|WARN):[\w/]+\.c:\d+\] ", line), line
    os.close(reader)

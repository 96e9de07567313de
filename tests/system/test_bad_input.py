"""Everything a user can get wrong: one clear line on standard error, a non-zero exit, nothing left behind. Needs no guest and no working KVM."""
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HUSK = os.environ.get("HUSK", str(ROOT / "build" / "husk"))
NOBODY = 65534


def tiny_kernel(path):
    """An ELF image that any loader takes: one segment at 16 MiB that halts."""
    code = b"\xfa\xf4\xeb\xfd"  # cli; hlt; jmp to the hlt
    load = 16 << 20
    ehdr = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01" + bytes(9), 2, 62, 1, load, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    phdr = struct.pack("<IIQQQQQQ", 1, 5, 0x1000, load, load, len(code), len(code), 0x1000)
    path.write_bytes((ehdr + phdr).ljust(0x1000, b"\0") + code)
    return path


@pytest.fixture
def box(tmp_path, monkeypatch):
    """A directory to run in: a kernel, a disk, a configuration of the two that can be bent."""
    monkeypatch.chdir(tmp_path)
    tiny_kernel(tmp_path / "kernel")
    (tmp_path / "disk.img").write_bytes(bytes(4096))
    return tmp_path


def config(**changes):
    made = {
        "boot-source": {"kernel_image_path": "kernel"},
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 64},
        "drives": [{"drive_id": "root", "is_root_device": True, "path_on_host": "disk.img"}],
        "serial": {"mode": "null"},
    }
    made.update({key.replace("_", "-"): value for key, value in changes.items()})
    return made


def refused(*argv, code=1, **how):
    """Runs husk; returns its one line. Fails if it does more, or leaves a file or a network interface."""
    before = (sorted(os.listdir(".")), sorted(os.listdir("/sys/class/net")))
    done = subprocess.run([HUSK, *map(str, argv)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **how)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("husk: ") and done.stderr.count("\n") == 1 and done.stderr.endswith("\n"), done.stderr
    assert (sorted(os.listdir(".")), sorted(os.listdir("/sys/class/net"))) == before
    return done.stderr


def run_config(made, *flags, **how):
    Path("vm.json").write_text(made if isinstance(made, str) else json.dumps(made))
    return refused("run", "vm.json", "--accelerator", "kvm", *flags, **how)


def run_flags(*flags, **how):
    return refused("run", "--accelerator", "kvm", "--serial", "null", "--memory", "64M", *flags, **how)


# ---- what the configuration's reader finds ----

WRONG_CONFIGS = {
    "an unknown key": (config(balloons={}), 'unknown key "balloons"'),
    "an unknown key inside": (config(boot_source={"kernel_image_path": "kernel", "kernel": "x"}), '/boot-source: unknown key "kernel"'),
    "a wrong type": (config(drives=[{"drive_id": "a", "is_root_device": True, "path_on_host": "disk.img", "is_read_only": "yes"}]),
                     '/drives/0/is_read_only: expected true or false, found "yes"'),
    "a duplicate id": (config(drives=[{"drive_id": "a", "is_root_device": r, "path_on_host": "disk.img"} for r in (True, False)]), "/drives/1/drive_id"),
    "two root drives": (config(drives=[{"drive_id": i, "is_root_device": True, "path_on_host": "disk.img"} for i in "ab"]), "/drives/1/is_root_device"),
    "one tap twice": (config(network_interfaces=[{"iface_id": i, "host_dev_name": "t0"} for i in "ab"]), "/network-interfaces/1/host_dev_name"),
    "one MAC twice": (config(network_interfaces=[{"iface_id": i, "host_dev_name": i, "guest_mac": "06:00:00:00:00:01"} for i in "ab"]),
                      "/network-interfaces/1/guest_mac"),
    "0 vCPUs": (config(machine_config={"vcpu_count": 0, "mem_size_mib": 64}), "/machine-config/vcpu_count: expected a whole number from 1 to 64, found 0"),
    "1000 vCPUs": (config(machine_config={"vcpu_count": 1000, "mem_size_mib": 64}), "found 1000"),
    "0 MiB": (config(machine_config={"vcpu_count": 1, "mem_size_mib": 0}), "/machine-config/mem_size_mib: expected a whole number of MiB"),
    "more memory than exists": (config(machine_config={"vcpu_count": 1, "mem_size_mib": 1 << 40}), "mem_size_mib"),
    "a CPU template that is none": (config(**{"cpu-config": {"kvm_capabilities": {}}}), "/cpu-config/kvm_capabilities: expected a list"),
    "a CPU template for ARM": (config(machine_config={"vcpu_count": 1, "mem_size_mib": 64, "cpu_template": "V1N1"}), "V1N1 is for ARM processors"),
    "a command line that is too long": (config(boot_source={"kernel_image_path": "kernel", "boot_args": "x" * 4096}), "/boot-source/boot_args"),
    "no kernel": ({"drives": []}, '"boot-source" is missing'),
    "a list": ([], "expected an object"),
    "an empty file": ("", "vm.json:1:1: not JSON"),
    "half a file": ('{"boot-source": {"kernel_image_path": "k"', "the text ends too early"),
    "a comma too many": ('{\n  "id": "a",\n}', "vm.json:3:1: not JSON"),
    "the same key twice": ('{"id": "a",\n "id": "b"}', 'vm.json:2:2: the key "id" is there twice'),
    "control characters": ('{"a\\nb\\u001b": 1}', "unknown key"),
    "too deep nesting": ("[" * 100, "nested more than 32 deep"),
    "too much of it": (" " * (1 << 20) + "{}", "longer than 1048576 bytes"),
}


@pytest.mark.parametrize("case", WRONG_CONFIGS)
def test_a_configuration_with(box, case):
    made, message = WRONG_CONFIGS[case]
    (box / "vm.json").touch()
    assert message in run_config(made)


def test_a_configuration_that_is_not_there_or_no_file(box):
    assert "nothing.json: No such file or directory" in refused("run", "nothing.json")
    assert "Is a directory" in refused("run", "/")


@pytest.mark.parametrize("flags, message", [
    (["--cpus", "0"], "--cpus: expected a whole number from 1 to 64, found 0"),
    (["--cpus", "1000"], "--cpus: expected a whole number from 1 to 64, found 1000"),
    (["--memory", "0"], "--memory: expected a whole number of MiB"),
    (["--drive", "disk.img,readonly"], '--drive: "readonly" is not understood'),
    (["--accelerator", "hvf"], "--accelerator: expected one of"),
])
def test_a_wrong_flag_is_named(box, flags, message):
    assert message in run_flags("--kernel", "kernel", *flags)


@pytest.mark.parametrize("argv, code", [(["fly"], 2), (["run"], 2), (["run", "--fly"], 2), (["run", "--kernel"], 2), (["config", "fly"], 2),
                                        (["check", "--fly"], 2), (["help", "fly"], 2), (["--fly"], 153), (["--no-api"], 153), (["--id"], 153)])
def test_a_command_line_that_is_not_understood(box, argv, code):
    refused(*argv, code=code)


# ---- what turns up while the VM is built ----

def test_a_missing_kernel(box):
    assert "nothing" in (said := run_flags("--kernel", "nothing")) and "No such file or directory" in said


@pytest.mark.parametrize("size", [0, 1, 63, 64, 200, 0x1001])
def test_a_truncated_kernel(box, size):
    (box / "kernel").write_bytes((box / "kernel").read_bytes()[:size])
    assert "kernel" in run_flags("--kernel", "kernel")


def test_a_truncated_bzimage(box):
    image = ROOT / "build" / "guest" / "vmlinuz-6.12"
    if image.exists():
        text = image.read_bytes()[:100000]
    else:  # what a loader looks at: boot flag, "HdrS", protocol 2.15, 40 setup sectors
        head = bytearray(40000)
        head[0x1f1], head[0x1fe:0x200], head[0x202:0x208] = 40, b"\x55\xaa", b"HdrS\x0f\x02"
        text = bytes(head[:4000])
    (box / "kernel").write_bytes(text)
    assert "kernel" in run_flags("--kernel", "kernel")


def test_a_kernel_that_is_garbage(box):
    (box / "kernel").write_bytes(bytes((i * 167 + 13) % 256 for i in range(1 << 20)))
    assert "kernel" in run_flags("--kernel", "kernel")


def test_a_command_line_that_the_devices_make_too_long(box):
    assert "command line" in run_flags("--kernel", "kernel", "--cmdline", "x" * 2040, "--drive", "disk.img,root")


def test_a_missing_initrd(box):
    assert "nothing" in run_flags("--kernel", "kernel", "--initrd", "nothing")


def test_an_initrd_that_is_larger_than_memory(box):
    with open("initrd", "wb") as f:
        f.truncate(80 << 20)
    said = run_flags("--kernel", "kernel", "--initrd", "initrd")
    assert "initrd" in said and ("memory" in said.lower() or "room" in said.lower() or "fit" in said.lower())


def test_a_missing_disk(box):
    assert "nothing.img" in (said := run_flags("--kernel", "kernel", "--drive", "nothing.img")) and "No such file or directory" in said


@pytest.mark.parametrize("size", [1, 511, 513])
def test_a_disk_that_is_not_whole_sectors(box, size):
    (box / "disk.img").write_bytes(bytes(size))
    assert "512" in run_flags("--kernel", "kernel", "--drive", "disk.img")


def test_a_tap_that_is_not_there(box):
    assert "husknotap" in run_flags("--kernel", "kernel", "--net", "tap=husknotap")


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/kvm") or bool(os.stat("/dev/kvm").st_mode & 0o006),
                    reason="needs root, to become someone who may not use /dev/kvm")
def test_no_permission_on_dev_kvm(monkeypatch):
    with tempfile.TemporaryDirectory() as box:
        os.chmod(box, 0o755)  # pytest's own directories are closed to others
        monkeypatch.chdir(box)
        tiny_kernel(Path("kernel"))
        monkeypatch.setattr(sys.modules[__name__], "HUSK", shutil.copy(HUSK, box))  # so may be the folder of the build
        said = run_flags("--kernel", "kernel", user=NOBODY, group=NOBODY, extra_groups=[])
        monkeypatch.undo()
    assert "/dev/kvm" in said and "permission" in said.lower()


# ---- what is right stays right ----

@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.json")), ids=lambda p: p.name)
def test_the_example_configurations_pass_their_check(path):
    done = subprocess.run([HUSK, "config", "check", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and ": ok" in done.stdout and done.stderr == ""


def test_the_schema_is_json_and_lists_the_sections():
    schema = json.loads(subprocess.run([HUSK, "config", "schema"], capture_output=True, text=True, timeout=60, check=True).stdout)
    assert schema["$schema"].endswith("2020-12/schema") and schema["additionalProperties"] is False
    for path in (ROOT / "configs").glob("*.json"):
        assert set(json.loads(path.read_text())) <= set(schema["properties"])


# ---- the same through Firecracker's command line ----

def test_firecracker_mode_logs_the_failure_and_exits_with_1(box):
    Path("vm.json").write_text(json.dumps(config(machine_config={"vcpu_count": 0, "mem_size_mib": 64})))
    done = subprocess.run([HUSK, "--no-api", "--config-file", "vm.json", "--level", "Info"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Running Firecracker v" in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[-1].endswith("Firecracker exiting with error. exit_code=1")
    assert "vcpu_count" in done.stderr and done.stderr.count("\n") == 1


def test_an_api_socket_that_exists_is_left_alone(box):
    Path("x.sock").write_text("mine")
    done = subprocess.run([HUSK, "--api-sock", "x.sock", "--id", "a"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Failed to open the API socket at: x.sock. Check that it is not already used" in done.stderr
    assert done.stdout.splitlines()[-1].endswith("Firecracker exiting with error. exit_code=1")
    assert Path("x.sock").read_text() == "mine"


def test_version_is_what_kata_parses():
    done = subprocess.run([HUSK, "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.splitlines()[0].startswith("Firecracker v1.")

"""CPU templates in a Debian guest on this machine, under tcg: what a template takes away is gone, what it cannot have is refused."""
import base64
import json
import re
import struct
import subprocess

import pytest

from api_client import Husk
from local_guest import HUSK, image, local_guest  # noqa: F401

SIGILL = 132

SHOW = """grep -m1 ^flags /proc/cpuinfo
grep -m1 ^model /proc/cpuinfo
"""


def program(code):
    """A shell line that makes /tmp/p, an ELF file that executes these instructions and ends well."""
    code += bytes.fromhex("31ff b83c000000 0f05")  # exit(0)
    base, size = 0x400000, 120 + len(code)
    elf = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, base + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    elf += struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096)
    return f"echo {base64.b64encode(elf + code).decode()} | base64 -d >/tmp/p; chmod +x /tmp/p; /tmp/p && echo ran 0 || echo ran $?\n"


RDSEED = bytes.fromhex("480fc7f8")
VPADDD_YMM = bytes.fromhex("c5f5fec2")  # AVX2
SHA256 = bytes.fromhex("0f38cbc1")


def bits(**changes):
    """A bitmap of 32 digits, the given bits set or cleared: b3=0."""
    text = ["x"] * 32
    for bit, value in changes.items():
        text[31 - int(bit[1:])] = str(value)
    return "0b" + "".join(text)


def leaf(number, register, bitmap, subleaf="0x0"):
    return {"leaf": number, "subleaf": subleaf, "flags": 1, "modifiers": [{"register": register, "bitmap": bitmap}]}


def config(path, **sections):
    path.write_text(json.dumps({"boot-source": {"kernel_image_path": str(image("vmlinuz-6.12"))}, **sections}))
    return path


def host_has(flag):
    return flag in open("/proc/cpuinfo").read().split("flags", 1)[1].split("\n", 1)[0].split()


def flags_in(out):
    return set(re.search(r"^flags\s*:(.*)$", out, re.M).group(1).split())


@pytest.fixture
def plain(local_guest):  # noqa: F811
    """What the guest shows without a template."""
    return flags_in(local_guest.script(SHOW))


def test_what_a_template_takes_away_is_gone(local_guest, tmp_path, plain):
    take = {"avx2": ("0x7", "ebx", bits(b5=0), VPADDD_YMM), "rdseed": ("0x7", "ebx", bits(b18=0), RDSEED),
            "sha_ni": ("0x7", "ebx", bits(b29=0), SHA256)}
    here = [flag for flag in take if host_has(flag)]
    if not here:
        pytest.skip("this machine's processor has none of them")
    every = "".join(program(take[flag][3]) for flag in here)
    assert re.findall(r"^ran (\d+)$", local_guest.script(every), re.M) == ["0"] * len(here)
    vm = config(tmp_path / "vm.json", **{"cpu-config": {"cpuid_modifiers": [leaf(*take[flag][:3]) for flag in here]}})
    out = local_guest.script(SHOW + every, vm, cpus=2)
    assert re.findall(r"^ran (\d+)$", out, re.M) == [str(SIGILL)] * len(here), out
    assert not flags_in(out) & set(here)
    assert plain - flags_in(out) <= {*here, "vaes", "vpclmulqdq", "avx512f"} | {f for f in plain if f.startswith("avx512")}


def test_a_template_may_be_in_a_file_of_its_own(local_guest, tmp_path):
    (tmp_path / "template.json").write_text(json.dumps({
        "kvm_capabilities": ["!56"],
        "cpuid_modifiers": [leaf("0x80000002", "eax", f"0b{int.from_bytes(b'husk', 'little'):032b}"), leaf("0x1", "ecx", bits(b30=0))]}))
    vm = config(tmp_path / "vm.json", **{"cpu-config": str(tmp_path / "template.json")})
    out = local_guest.script("grep -m1 'model name' /proc/cpuinfo\n" + SHOW, vm)
    assert re.search(r"^model name\s*: husk", out, re.M), out
    assert "rdrand" not in flags_in(out)


def test_a_template_file_is_checked_as_the_rest(local_guest, tmp_path):
    (tmp_path / "template.json").write_text('{"cpuid_modifiers": [{"leaf": "one"}]}')
    vm = config(tmp_path / "vm.json", **{"cpu-config": str(tmp_path / "template.json")})
    result = subprocess.run([HUSK, "config", "check", str(vm)], capture_output=True, text=True)
    assert result.returncode and f"{tmp_path}/template.json: /cpuid_modifiers/0" in result.stderr, result.stderr
    (tmp_path / "template.json").unlink()
    result = subprocess.run([HUSK, "config", "check", str(vm)], capture_output=True, text=True)
    assert result.returncode and "cpu-config" in result.stderr and "template.json" in result.stderr, result.stderr


VENDOR = "Intel" if "GenuineIntel" in open("/proc/cpuinfo").read() else "AMD"
NAMES = {"C3": ("Intel", 62), "T2": ("Intel", 63), "T2S": ("Intel", 63), "T2CL": ("Intel", 63), "T2A": ("AMD", 63)}


@pytest.mark.parametrize("name", NAMES)
def test_a_named_template_is_for_one_vendor_and_makes_its_model(local_guest, plain, name):
    vendor, model = NAMES[name]
    if vendor != VENDOR:
        result = local_guest.run("--cpu-template", name)
        assert result.rc == 1 and f"it is for processors of {vendor}" in result.stderr
        return
    # Every access to an MSR that is not there is a warning in the guest's log.
    out = local_guest.script(SHOW + "if dmesg | grep -E 'BUG:|WARNING:|Oops|unchecked MSR'; then exit 1; fi\n", "--cpu-template", name, cpus=2)
    shown = flags_in(out)
    assert re.search(rf"^model\s*: {model}$", out, re.M), out
    assert shown - plain <= {"pti", "ht", "cmp_legacy"}
    assert not {f for f in shown if f.startswith("avx512")} and not shown & {"umip", "pku", "rdpid", "sha_ni", "rdseed", "adx", "pdpe1gb"}
    assert ("avx2" in shown) == (name != "C3" and "avx2" in plain)


def test_t2s_shows_a_processor_that_needs_mitigations(local_guest):
    if VENDOR != "Intel":
        pytest.skip("T2S is for Intel's")
    show = "cat /sys/devices/system/cpu/vulnerabilities/meltdown\n"
    assert "Not affected" in local_guest.script(show)
    assert "Mitigation: PTI" in local_guest.script(show, "--cpu-template", "T2S", cmdline="mitigations=auto")


@pytest.mark.parametrize("template, message", [
    ({"cpuid_modifiers": [leaf("0x7", "ecx", bits(b5=1))]}, "CPUID leaf 0x7, subleaf 0x0, register ecx: the template sets bit 5"),
    ({"cpuid_modifiers": [leaf("0x0", "ebx", bits(b0=0, b1=0))]}, "the vendor of the processor cannot be changed"),
    ({"msr_modifiers": [{"addr": "0x10a", "bitmap": "0b1xxxxxxxxx"}]}, "MSR 0x10a: the template sets bit 9"),
    ({"msr_modifiers": [{"addr": "0x4e0", "bitmap": "0b1"}]}, "MSR 0x4e0: the template sets bit 0"),
    ({"reg_modifiers": [{"addr": "0x603000000013c020", "bitmap": "0b0"}]}, "reg_modifiers: it is for ARM processors"),
])
def test_what_tcg_does_not_have_is_refused(local_guest, tmp_path, template, message):
    result = local_guest.run(config(tmp_path / "vm.json", **{"cpu-config": template}))
    assert result.rc == 1 and message in result.stderr and "init" not in result.stdout, result.stderr


def test_the_api_sets_a_template_and_says_what_is_wrong_with_it_at_the_start(local_guest, tmp_path):
    husk = Husk(tmp_path)
    try:
        husk.put("/machine-config", vcpu_count=1, mem_size_mib=256)
        husk.put("/boot-source", **husk.boot_source(SHOW + "reboot -f"))
        husk.put("/cpu-config", cpuid_modifiers=[leaf("0x7", "ecx", bits(b5=1))])
        fault = husk.refused("PUT", "/actions", {"action_type": "InstanceStart"})
        assert fault.startswith("Start microvm error: ") and "register ecx: the template sets bit 5" in fault
        assert "bitmap" in husk.refused("PUT", "/cpu-config", {"cpuid_modifiers": [leaf("0x7", "ecx", "0b12")]})
        husk.put("/cpu-config", cpuid_modifiers=[leaf("0x1", "ecx", bits(b30=0))])
        assert husk.get("/vm/config")["cpu-config"] is None
        husk.put("/actions", action_type="InstanceStart")
        husk.wait_console("model")
        assert "rdrand" not in flags_in(husk.console())
    finally:
        husk.stop()

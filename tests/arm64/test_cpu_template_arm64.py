"""CPU templates on arm64, in a nested host: what guests see of the processor, what KVM cannot show, and that it stays so after a restore."""
import json
import re

import pytest
from hosted import between, host, husk, machines, until

ISAR0, PFR0, MMFR0 = "0x603000000013c030", "0x603000000013c020", "0x603000000013c038"
SEE = "grep -m 1 Features /proc/cpuinfo; grep -c Features /proc/cpuinfo; dmesg | grep -E 'BUG:|WARNING:|Oops' | head -n 3"


def features(out, name):
    return set(re.search(r"Features\s*:(.*)", between(out, f"== {name}", f"== end {name}")).group(1).split())


def clear(low, digits=4):
    """A bitmap that clears the field at bit low."""
    return "0b" + "0" * digits + "x" * low


def template(tmp_path, name, **keys):
    (tmp_path / name).write_text(json.dumps({"cpu-config": keys}))
    return tmp_path / name


def registers(*changes):
    return {"reg_modifiers": [{"addr": addr, "bitmap": bitmap} for addr, bitmap in changes]}


def boots(name, version, *flags):
    return f"echo '== {name}'; {husk(version, SEE, *flags)}; echo '== end {name}'\n"


@machines(("6.12", 2))
def test_a_guest_sees_what_its_template_leaves(tmp_path, version, cpus):
    files = [template(tmp_path, "crc", **registers((ISAR0, clear(16)), (ISAR0, clear(4)))),
             template(tmp_path, "sve", vcpu_features=[{"index": 0, "bitmap": "0b0xxxx"}]),
             template(tmp_path, "pfr", **registers((PFR0, clear(32))))]
    out = host(boots("all", version) + "".join(boots(f.name, version, f"/files/{f.name}", f"--cpus {cpus}") for f in files), files=files)
    whole = features(out, "all")
    assert {"crc32", "aes", "pmull", "sve", "sha1", "atomics"} <= whole and not re.search("BUG:|WARNING:|Oops", out)
    assert whole - features(out, "crc") == {"crc32", "aes", "pmull"}
    for name in ("sve", "pfr"):
        gone = whole - features(out, name)
        assert "sve" in gone and all(f.startswith(("sve", "sme")) or f in ("i8mm", "bf16") for f in gone), gone
    assert f"\n{cpus}\n" in between(out, "== crc", "== end crc")


def test_v1n1_makes_a_neoverse_v1_like_n1():
    out = host(boots("v1", "6.12") + boots("v1n1", "6.12", "--cpu-template V1N1", "--cpus 4"), cpu="neoverse-v1")
    gone = features(out, "v1") - features(out, "v1n1")
    assert {"sve", "sha3", "sha512", "sm3", "sm4", "asimdfhm", "jscvt", "fcma", "ilrcpc", "dcpodp", "rng", "dit", "uscat", "flagm"} & features(out, "v1") <= gone
    assert {"atomics", "aes", "sha2", "crc32", "lrcpc", "dcpop"} <= features(out, "v1n1") and "sve" in gone
    assert not re.search("BUG:|WARNING:|Oops", out)


def test_what_cannot_be_shown_gets_a_sentence(tmp_path):
    cases = {
        "part": ("--cpu-template V1N1", "cpu_template V1N1: The current CPU model is not permitted to apply the CPU template: it is for part 0xd40"),
        "x86": ("--cpu-template T2", "cpu_template T2 is for x86-64 processors"),
        "more": (template(tmp_path, "more", **registers((ISAR0, "0b1111" + "x" * 16))), "this host's KVM shows 0x"),
        "unknown": (template(tmp_path, "unknown", **registers(("0x603000000013dfff", "0b1"))), "does not say what the processor is like"),
        "psci": (template(tmp_path, "psci", vcpu_features=[{"index": 0, "bitmap": "0b0xx"}]), "PSCI is how husk's guests start their processors"),
        "pauth": (template(tmp_path, "pauth", vcpu_features=[{"index": 0, "bitmap": "0b1xxxxx"}]), "this host's KVM does not have pointer authentication"),
        "cap": (template(tmp_path, "cap", kvm_capabilities=["9999"]), "this host's KVM does not have capability 9999"),
    }
    files = [flag for flag, _ in cases.values() if not isinstance(flag, str)]
    flags = {name: flag if isinstance(flag, str) else f"/files/{flag.name}" for name, (flag, _) in cases.items()}
    out = host("".join(f"echo '== {name}'; {husk('6.12', 'true', flag)} 2>&1; echo rc $?; echo '== end {name}'\n" for name, flag in flags.items()), files=files)
    for name, (_, why) in cases.items():
        said = between(out, f"== {name}", f"== end {name}")
        assert why in said and "rc 1" in said, (name, said)


@pytest.mark.parametrize("how", ["restore", "receive"])
def test_a_guest_that_stops_or_moves_keeps_its_processor(tmp_path, how):
    """The template comes with the guest: where it goes on its processor is made the same."""
    see = "c() { grep -m 1 Features /proc/cpuinfo; }; c; n=0; while :; do n=$((n+1)); echo tick $n $(c | md5sum | cut -c1-8); sleep 0.2; done"
    crc = template(tmp_path, "crc", **registers((ISAR0, clear(16))))
    go_on = {"restore": "husk ctl /tmp/api snapshot /tmp/snap >/dev/null 2>&1; husk ctl /tmp/api end; wait; husk run --restore /tmp/snap </dev/null >/tmp/two 2>&1 &\n",
             "receive": "husk receive unix:/tmp/in </dev/null >/tmp/two 2>&1 & " + until("[ -S /tmp/in ]")
                        + "; husk ctl /tmp/api migrate unix:/tmp/in verify 2>&1 | tail -n 1\n"}[how]
    out = host(husk("6.12", see, "/files/crc", "--cpus 2", "--api-sock /tmp/api") + " </dev/null >/tmp/one 2>&1 &\n"
               + until("grep -q '^tick 3 ' /tmp/one") + "\n" + go_on + until("[ $(grep -c '^tick' /tmp/two) -ge 4 ]")
               + "\n# where it stopped a line may be cut off\necho '== one'; cat /tmp/one; echo; echo '== end one'; echo '== two'; cat /tmp/two; echo; echo '== end two'", files=[crc])
    assert "crc32" not in features(out, "one") and "atomics" in features(out, "one"), out
    sums = set(re.findall(r"^tick \d+ (\w{8})$", out, re.M))
    assert len(sums) == 1 and len(re.findall(r"^tick \d+ \w{8}$", between(out, "== two", "== end two"), re.M)) >= 3, out

"""States that lie, with right checksums, for KVM in a nested host: what this host cannot have is refused by name, and whatever is taken ends
neither husk nor the host (HUSK_LONG=1: three hundred of them; HUSK_SEED=N: the same again)."""
import base64
import os
import random
import re
import time

from moving import LONG, TICKS, consoles, host, put_config
from package import Package

# Tags of the tables in src/arch/aarch64/state.c
PSTATE, SVE_VLS, PAUTH, SERROR_ESR, NR_REGS, REGS = (4, 0), 11, (16, 0), (19, 0), (20, 0), 21
ID_AA64PFR0, MPIDR, SCTLR = 0x603000000013c020, 0x603000000013c005, 0x603000000013c080


def reg(p, cpu, number):
    """Index of a register in a vCPU's list."""
    return next(i for i in range(p.get("cpu", cpu, *NR_REGS)) if p.get("cpu", cpu, REGS, i, 1, 0) == number)


def set_reg(p, cpu, number, value):
    p.set("cpu", cpu, (REGS, reg(p, cpu, number), 2, 0), value)


def rename(p, number, other):
    p.set("cpu", "0", (REGS, reg(p, "0", number), 1, 0), other)


def vls(p, bits):
    for cpu in "01":
        p.set("cpu", cpu, (SVE_VLS, 0), bits)


# What to change, and what is said. None: this host can do that too.
LIES = [
    (lambda p: set_reg(p, "1", ID_AA64PFR0, 0x11), "section cpu 1: ID_AA64PFR0_EL1 is 0x11 in the state"),
    (lambda p: set_reg(p, "1", MPIDR, 0x80000000), "section cpu 1: MPIDR_EL1"),
    (lambda p: rename(p, SCTLR, 0x603000000013df91), "does not have S3_3_C15_C2_1"),
    (lambda p: rename(p, SCTLR, 0x6080000000150000), "does not have register 0x6080000000150000"),
    (lambda p: rename(p, SCTLR, ID_AA64PFR0), "ID_AA64PFR0_EL1"),
    (lambda p: p.set("cpu", "0", PSTATE, 0x9), "PSTATE = 0x9 is not possible"),
    (lambda p: p.set("cpu", "0", PAUTH, 1), "has pointer authentication"),
    (lambda p: p.set("cpu", "0", SERROR_ESR, 1), "serror_esr"),
    (lambda p: vls(p, 0), "SVE"),
    (lambda p: vls(p, 5), "vector lengths of SVE"),
    (lambda p: p.set("cpu", "1", (SVE_VLS, 0), 1), "vector lengths of SVE"),
    (lambda p: vls(p, 3), None),
    (lambda p: p.set("clock", "", (3, 0), 1), "CNTFRQ_EL0: the guest counts time at 1 Hz"),
    (lambda p: p.set("gic", "", (1, 0), 0x43b), "GICD_IIDR"),
    (lambda p: p.set("gic", "", (12, 1, 1, 0), 7), "cpus[1]: MPIDR 0x7"),
    (lambda p: p.set("gic", "", (12, 0, 12, 0), 0), "ICC_CTLR_EL1"),
    (lambda p: None, None),
]
# Exit codes of a husk that was killed by a signal, or by its own sandbox; SIGTERM is what timeout sends.
CRASHES = {128 + n for n in range(1, 65)} - {143}


def chance_lies(p, chance):
    for _ in range(chance.randint(1, 4)):
        section = chance.choice([("cpu", "0"), ("cpu", "1"), ("gic", ""), ("clock", "")])
        path, _, size = chance.choice(list(p.places(*section)))
        p.set(*section, path, chance.choice([0, (1 << 8 * size) - 1, p.get(*section, *path) ^ 1 << chance.randrange(8 * size), chance.randrange(1 << 8 * size)]))


def test_a_state_that_lies_is_refused_by_name_or_harmless(tmp_path):
    seed = int(os.environ.get("HUSK_SEED", time.time_ns()))
    chance = random.Random(seed)
    print(f"HUSK_SEED={seed}")
    out = host("boot /tmp/api /tmp/out; p=$!; until_ticks /tmp/out 3; husk ctl /tmp/api snapshot /tmp/snap --keep-paused >/dev/null 2>&1; kill $p; wait $p\n"
               "base64 /tmp/snap/state >/tmp/s; show state /tmp/s; head -c 32 /tmp/snap/memory | base64 >/tmp/m; show mark /tmp/m", put_config(tmp_path, 2, TICKS))
    state, mark = (base64.b64decode(consoles(out)[name]) for name in ("state", "mark"))
    assert Package(state).bytes() == state
    lies = LIES + [(lambda p: chance_lies(p, chance), "")] * (300 if LONG else 24)
    for n, (lie, _) in enumerate(lies):
        p = Package(state)
        lie(p)
        (tmp_path / f"state{n}").write_bytes(p.bytes())
    (tmp_path / "mark").write_bytes(mark)
    out = host(f"mkdir /tmp/snap; truncate -s {160 << 20} /tmp/snap/memory; dd if=/files/mark of=/tmp/snap/memory conv=notrunc 2>/dev/null\n"
               f"for n in $(seq 0 {len(lies) - 1}); do cp /files/state$n /tmp/snap/state\n"
               " timeout 2 husk run --restore /tmp/snap </dev/null >/tmp/out 2>&1; rc=$?; head -c 600 /tmp/out >/tmp/o; show $n /tmp/o; echo rc $rc\n"
               "done; dmesg | grep -E 'BUG:|WARNING:|Oops|Unable to handle' | head -n 5", *[tmp_path / f"state{n}" for n in range(len(lies))], tmp_path / "mark",
               timeout=200 + 6 * len(lies))
    said, codes = consoles(out), [int(rc) for rc in re.findall(r"^rc (\d+)$", out, re.M)]
    assert len(codes) == len(lies) and not re.search("BUG:|WARNING:|Oops|Unable to handle", out), out[-3000:]
    for n, (_, why) in enumerate(lies):
        assert codes[n] not in CRASHES, (n, codes[n], said[str(n)])
        assert why == "" or (codes[n] == 1) == (why is not None) and (why or "") in said[str(n)], (n, why, codes[n], said[str(n)])
    print(sorted((code, codes.count(code)) for code in set(codes)))

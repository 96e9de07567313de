"""The debugger on arm64, in a nested host: registers, steps, breakpoints in a running kernel, a guest's own, by gdb's remote protocol. There is no
gdb in that host: a shell speaks it."""
import base64
import json
import re
import struct

from moving import TICKS, config, consoles, host, ticks

# p PACKET: with its checksum. swap: 16 digits of a little-endian number the other way round. talk: a connection; what came back goes to /tmp/gdb.
SPEAK = r"""
p() { s=0; t=$1; while [ -n "$t" ]; do s=$((s+$(printf %d "'$t"))); t=${t#?}; done; printf '$%s#%02x' "$1" $((s&255)); sleep ${2:-1}; }
swap() { echo $1 | sed 's/\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)/\8\7\6\5\4\3\2\1/'; }
talk() { timeout 60 nc 127.0.0.1 1234 >/tmp/gdb; }
hello() { printf +; p QStartNoAckMode; printf +; p 'qSupported:swbreak+;hwbreak+'; }
ip link set lo up
"""


# A program of one instruction, BRK #1: a signal ends it, which the shell calls 133.
TRAP = (struct.pack("<4s12xHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 183, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        + struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0, 124, 124, 4096) + bytes.fromhex("200020d4"))
WORK = f"echo {base64.b64encode(TRAP).decode()} | base64 -d >/tmp/t; chmod +x /tmp/t; (while :; do /tmp/t 2>/dev/null; echo brk $?; sleep 1; done) &\ngrep ' jiffies_64$' /proc/kallsyms\n" + TICKS


def answers(text):
    """The packets in what the stub sent."""
    return re.findall(r"\$([^#]*)#[0-9a-f]{2}", text)


def number(text):
    return int.from_bytes(bytes.fromhex(text), "little")


def test_a_kernel_is_stopped_stepped_and_goes_on(tmp_path):
    path = tmp_path / "vm.json"
    path.write_text(json.dumps(config(1, WORK)))
    out = host(SPEAK + "husk run /files/vm.json --gdb 127.0.0.1:1234 </dev/null >/tmp/out 2>&1 & pid=$!; sleep 3\n"
               # from the first instruction on
               "(hello; p g; p s; p p20; p c; until_ticks /tmp/out 2) | talk; show start /tmp/gdb\n"
               # a breakpoint where the kernel takes its interrupts: VBAR_EL1 + 0x280
               "(hello; p p48; p D) | talk; show look /tmp/gdb\n"
               "at=$(printf %x $((0x$(swap $(grep -o '[$][0-9a-f]\\{16\\}#' /tmp/gdb | head -n 1 | tr -d '$#')) + 0x280))); echo at $at\n"
               "(hello; p Z0,$at,4; p m$at,4; p c 4; p p20; p z0,$at,4; p m$at,4; p s; p p20; p Z1,$at,4; p c 4; p p20; p z1,$at,4; p D) | talk; show break /tmp/gdb\n"
               # one that nobody comes by (an exception of AArch32): the guest keeps its own
               "(hello; p Z0,$(printf %x $((0x$at + 0x500))),4; p c; a=$(grep -c '^brk 133' /tmp/out); sleep 8; echo own $(($(grep -c '^brk 133' /tmp/out)-a)) >/tmp/own; printf '\\003'; sleep 1; p D)"
               " | talk; show own /tmp/gdb; cat /tmp/own\n"
               # whoever writes the kernel's count of ticks is stopped before it does
               "at=$(grep -o '^[0-9a-f]\\{16\\}.*jiffies_64' /tmp/out | cut -c 1-16); echo watched $at\n"
               "(hello; p Z2,$at,8; p m$at,8; p c 4; p m$at,8; p z2,$at,8; p s; p m$at,8; p D) | talk; show watch /tmp/gdb\n"
               "until_ticks /tmp/out $(($(grep -c ^tick /tmp/out)+3)); kill $pid; wait $pid; show out /tmp/out", path)
    seen = consoles(out)
    start, look, stops = (answers(seen[name]) for name in ("start", "look", "break"))
    regs, stepped = start[2], number(start[4])
    assert start[0] == "OK" and "swbreak+" in start[1] and len(regs) == 2 * (33 * 8 + 4 + 32 * 16 + 2 * 4 + 10 * 8)
    pc, cpsr = number(regs[512:528]), number(regs[528:536])
    assert (pc, cpsr & 0x3cf) == (0x80200000, 0x3c5) and start[3].startswith("T05") and stepped != pc and stepped - pc < 0x4000000
    at = int(out.split("\nat ")[1].split()[0], 16)
    assert at >> 48 == 0xffff and at == number(look[2]) + 0x280
    ok, original, stop, where, ok2, again, step, next_, ok3, hw_stop, hw_where, ok4 = stops[2:14]
    assert [ok, ok2, ok3, ok4] == ["OK"] * 4
    assert original == again and len(original) == 8 and not original.startswith("603b37d4")  # its own instruction is hidden
    assert stop.startswith("T05thread:1;swbreak") and number(where) == at
    assert step.startswith("T05") and number(next_) != at
    assert hw_stop.startswith("T05thread:1;hwbreak") and number(hw_where) == at
    assert answers(seen["own"])[2] == "OK" and int(out.split("\nown ")[1].split()[0]) > 0, seen["own"]
    watched = int(out.split("\nwatched ")[1].split()[0], 16)
    ok, before, stop, still, ok2, _, after, ok3 = answers(seen["watch"])[2:10]
    assert [ok, ok2, ok3] == ["OK"] * 3 and stop.startswith(f"T05thread:1;watch:{watched:x};"), seen["watch"]
    assert number(before) <= number(still) < number(after), seen["watch"]
    assert [n for n, _ in ticks(seen["out"])][-1] >= 8 and "sum bad" not in seen["out"]

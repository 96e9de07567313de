"""Debian's gdb on a running Debian kernel, with the symbols that the kernel itself lists (tools/ksyms)."""
import re
import shutil
import signal
import socket
import subprocess
import time

import pexpect
import pytest

from local_guest import ROOT, local_guest  # noqa: F401

# Opens files all the time, until it is told to end: by the debugger, which writes to a variable that the guest reads here.
BUSY = "i=0; while [ $i -lt 600 ]; do i=$((i+1)); cat /proc/sys/kernel/panic >/tmp/p; [ $(cat /tmp/p) = 0 ] || break; sleep 0.05; done; echo ended=well"


class Gdb:
    """An interactive gdb on an ELF file."""

    PROMPT = "<prompt>"

    def __init__(self, symbols, target):
        settings = ["editing off", "pagination off", "confirm off", "style enabled off", "remotetimeout 30", f"prompt {self.PROMPT}"]
        args = ["-nx", "-q", str(symbols)] + [a for s in settings for a in ("-ex", f"set {s}")]
        self.process = pexpect.spawn("gdb", args, encoding="utf-8", timeout=60, echo=False, dimensions=(50, 200))
        self.result()
        self.do(f"target remote {target}")

    def do(self, command):
        """Runs a command to its end; what it printed."""
        self.process.sendline(command)
        return self.result()

    def result(self):
        self.process.expect_exact(self.PROMPT)
        return self.process.before.replace("\r", "")

    def number(self, expression):
        return int(re.search(r"= (?:0x)?([0-9a-f]+)", self.do(f"print/x (long){expression}")).group(1), 16)

    def interrupt(self):
        self.process.kill(signal.SIGINT)
        return self.result()

    def hit(self, command, where):
        out = self.do(command)
        assert where in out and "SIG" not in out, out
        return out


@pytest.fixture(scope="module")
def symbols(local_guest, tmp_path_factory):  # noqa: F811
    """A file of symbols, made from what a guest's kernel says of itself."""
    if not shutil.which("gdb"):
        pytest.fail("gdb is missing: tools/setup")
    folder = tmp_path_factory.mktemp("gdb")
    listing = folder / "kallsyms"
    with open(listing, "wb") as file:
        file.truncate(32 << 20)
    local_guest.script("cat /proc/kallsyms >/dev/vda; sync", "--drive", listing, cmdline="nokaslr")
    listing.write_bytes(listing.read_bytes().rstrip(b"\0"))
    subprocess.run([ROOT / "tools" / "ksyms", listing, folder / "vmlinux.syms"], check=True)
    return folder / "vmlinux.syms"


@pytest.fixture
def start(local_guest, tmp_path):  # noqa: F811
    """Starts a guest that serves gdb at the socket, and waits until it does."""
    running = []

    def start_guest(where, cpus=1, script=BUSY):
        out = open(tmp_path / "console", "wb")
        cmd = local_guest.command("--gdb", where, script=script, cpus=cpus, cmdline="nokaslr")
        husk = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE)
        running.append(husk)
        assert b"waits for a debugger" in husk.stderr.readline()
        return husk

    yield start_guest
    for husk in running:
        if husk.poll() is None:
            husk.kill()
        husk.wait()


def console(tmp_path):
    return (tmp_path / "console").read_text(errors="replace")


def wait_for_console(tmp_path, text, seconds=60):
    end = time.time() + seconds
    while text not in console(tmp_path):
        assert time.time() < end, console(tmp_path)[-2000:]
        time.sleep(0.05)


@pytest.mark.parametrize("cpus", [1, 2])
def test_gdb_debugs_a_kernel(start, symbols, tmp_path, cpus):
    where = tmp_path / "gdb.sock"
    husk = start(where, cpus)
    gdb = Gdb(symbols, where)
    assert console(tmp_path) == ""  # not one instruction
    assert gdb.do("info threads").count("vCPU") == cpus
    assert cpus == 1 or "vCPU 1: not started" in gdb.do("info threads")

    # Before there are page tables for it.
    gdb.do("hbreak start_kernel")
    gdb.hit("continue", "in start_kernel ()")
    assert "x86_64_start_kernel" in gdb.do("bt")
    gdb.do("delete")

    # Ctrl-C, once the kernel has patched its code: breakpoints in it would be in the way.
    gdb.process.sendline("continue")
    wait_for_console(tmp_path, "husk: init reached")
    assert "SIGINT" in gdb.interrupt()

    gdb.do("break do_sys_openat2")
    for _ in range(3):
        gdb.hit("continue", "in do_sys_openat2 ()")
    assert re.search(r"#0 .*do_sys_openat2 \(\)\n#1 .*(__x64_sys_openat|do_sys_open|__se_sys_openat)", gdb.do("bt")), gdb.do("bt")
    at = gdb.number("$pc")
    assert re.search(rf"=> {at:#x} <do_sys_openat2(\+\d+)?>:\t(nop|endbr64|call)", gdb.do("x/i $pc")), gdb.do("x/i $pc")
    assert re.search(r'"/?[\w./+-]+"', gdb.do("x/s $rsi")), "the name of a file"
    for _ in range(20):
        gdb.do("stepi")
    assert gdb.number("$pc") != at
    assert gdb.number("$cr3") & ~0xfff and gdb.number("$gs_base") >> 47 == 0x1ffff
    threads = gdb.do("info threads")
    assert threads.count("vCPU") == cpus and "not started" not in threads and "do_sys_openat2" in threads + gdb.do("bt")
    gdb.do("finish")
    gdb.do("delete")

    # Another vCPU, stepped by itself.
    gdb.do(f"thread {cpus}")
    gdb.do("set scheduler-locking on")
    gdb.do("stepi")
    gdb.do("set scheduler-locking off")

    # A watchpoint on a variable of the kernel; then one is written to, and the guest's script sees it.
    gdb.do("watch *(long *)&jiffies_64")
    assert "New value" in gdb.do("continue")
    gdb.do("delete")
    gdb.do("set *(int *)&panic_timeout = 77")
    gdb.do("detach")
    assert husk.wait(60) == 0, console(tmp_path)
    assert "ended=well" in console(tmp_path)
    assert not where.exists()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_gdb_comes_and_goes_over_tcp(start, symbols, tmp_path):
    port = free_port()
    husk = start(f"127.0.0.1:{port}")
    first = Gdb(symbols, f"localhost:{port}")
    first.process.sendline("continue")
    time.sleep(2)
    first.interrupt()
    first.do("break do_sys_openat2")
    first.hit("continue", "in do_sys_openat2 ()")
    first.process.kill(signal.SIGKILL)  # with its breakpoint in the kernel
    first.process.wait()
    time.sleep(0.5)
    second = Gdb(symbols, f":{port}")
    assert "int3" not in second.do("x/i do_sys_openat2")
    second.process.sendline("continue")
    time.sleep(0.5)
    second.interrupt()
    second.do("set *(int *)&panic_timeout = 77")
    second.process.sendline("continue")
    assert "exited normally" in second.result()
    assert husk.wait(60) == 0 and "ended=well" in console(tmp_path)


def test_kill_in_gdb_ends_the_vm(start, symbols, tmp_path):
    husk = start(tmp_path / "gdb.sock")
    Gdb(symbols, tmp_path / "gdb.sock").do("kill")
    assert husk.wait(30) == 0 and "ended=well" not in console(tmp_path)


@pytest.mark.parametrize("where", ["0.0.0.0:1234", "example.org:1234", "127.0.0.1:0", "x" * 108])
def test_other_addresses_are_refused(local_guest, where):  # noqa: F811
    result = local_guest.run("--gdb", where, script="true")
    assert result.rc == 1 and "--gdb: expected a path of 1 to 107 bytes, or a loopback address" in result.stderr

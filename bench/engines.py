"""What bench/guest-tcg and bench/boot-tcg share: QEMU's TCG and husk's on the same kernel, initrd and command line, on this machine.

The peer is the QEMU of bookworm-backports that tools/mkguest unpacks into build/guest/emulator, at its best: multi-threaded TCG, microvm.
"""
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GUEST = ROOT / "build" / "guest"
sys.path.insert(0, str(ROOT / "tests" / "nested"))


class EngineError(Exception):
    """One sentence that says what is missing, or what went wrong with which VMM."""


def guest_file(name, how="tools/mkguest"):
    path = GUEST / name
    if not path.exists():
        raise EngineError(f"{path} is missing: run {how}")
    return path


def why_no_tcg(husk):
    """None when this husk can run guests with its software accelerator; else the reason."""
    if not os.access(husk, os.X_OK):
        return f"{husk} is not there: ninja -C build"
    done = subprocess.run([husk, "check", "--accelerator", "tcg"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip().splitlines()[-1]


def tsc_khz():
    """The rate of the time-stamp counter, which QEMU hands to its guest as it is; told to the kernel, for on a busy machine it measures wrong."""
    from nested import Builder
    return Builder().tsc_khz()


def qemu(kernel, initrd, cmdline, memory=1024, cpus=1, drive=None, cpu="max", machine="microvm,rtc=on"):
    usr = guest_file("emulator", "tools/mkguest --only emulator") / "usr"
    cmd = [usr / "bin" / "qemu-system-x86_64", "-L", usr / "share" / "qemu", "-L", usr / "share" / "seabios", "-M", machine,
           "-accel", "tcg,thread=multi", "-cpu", cpu, "-smp", cpus, "-m", memory, "-nodefaults", "-no-user-config", "-display", "none",
           "-no-reboot", "-serial", "stdio", "-kernel", kernel, "-initrd", initrd, "-append", cmdline]
    if drive:
        cmd += ["-drive", f"file={drive},file.locking=off,format=raw,if=none,id=d,readonly=on", "-device", "virtio-blk-device,drive=d"]
    return [str(c) for c in cmd]


def husk(binary, kernel, initrd, cmdline, memory=1024, cpus=1, drive=None):
    cmd = [binary, "run", "--accelerator", "tcg", "--kernel", kernel, "--initrd", initrd, "--memory", f"{memory}M", "--cpus", cpus,
           "--cmdline", cmdline]
    if drive:
        cmd += ["--drive", f"{drive},ro"]
    return [str(c) for c in cmd]


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Qmp:
    def __init__(self, path, timeout=20):
        self.sock = socket.socket(socket.AF_UNIX)
        end = time.monotonic() + timeout
        while True:
            try:
                self.sock.connect(path)
                break
            except OSError:
                if time.monotonic() > end:
                    raise EngineError("QEMU's monitor does not answer")
                time.sleep(0.01)
        self.file = self.sock.makefile("rw")
        self.file.readline()
        self.ask("qmp_capabilities")

    def ask(self, what, **arguments):
        self.file.write(json.dumps({"execute": what, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "error" in answer:
                raise EngineError(f"QEMU: {what}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


def run(name, cmd, end, timeout, heard=None):
    """Runs a VMM until a console line begins with `end` or its process ends: [(seconds since exec, line)], (seconds, exit code or None).
    A VMM that prints `end` has two seconds to end by itself; after that, and after the time-out, it is killed. heard(pid, line) is told of
    each line at once."""
    start = time.monotonic()
    lines, pending, deadline, ended = [], b"", start + timeout, False
    vmm = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=_die_with_parent)
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([vmm.stdout], [], [], left)[0]:
                break
            data = os.read(vmm.stdout.fileno(), 65536)
            now = time.monotonic() - start
            if not data:
                break
            *whole, pending = (pending + data).split(b"\n")
            lines += [(now, line.decode(errors="replace").rstrip("\r")) for line in whole]
            for line in whole if heard else []:
                heard(vmm.pid, line.decode(errors="replace"))
            if not ended and any(line.startswith(end.encode()) for line in whole):
                ended, deadline = True, min(deadline, time.monotonic() + 2)
        lines += [(time.monotonic() - start, pending.decode(errors="replace"))] if pending else []
        try:
            code = vmm.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            code = None
        total = time.monotonic() - start
    finally:
        vmm.kill()
        vmm.wait()
        vmm.stdout.close()
    if not ended and not (code is not None and end == ""):
        tail = "\n".join("    " + line for _, line in lines[-15:])
        raise EngineError(f"{name} did not get to '{end}' in {total:.0f} s (exit code {code}); its last lines:\n{tail}")
    return lines, total, code

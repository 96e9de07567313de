"""Guests that husk runs on this very machine with its software accelerator: no nested host, no KVM. Fixtures for test_tcg_*.py:

    from local_guest import local_guest, tap  # noqa: F401

They skip, with the reason, where husk has no tcg, an image is missing, or this machine lets nobody make a network interface.
HUSK names the binary to test (default build/husk).
"""
import base64
import collections
import os
import re
import shlex
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HUSK = os.environ.get("HUSK", str(ROOT / "build" / "husk"))
GUEST_DIR = ROOT / "build" / "guest"

Result = collections.namedtuple("Result", "rc stdout stderr")


def image(name, how="tools/mkguest"):
    path = GUEST_DIR / name
    if not path.exists():
        pytest.fail(f"{path} is missing: run {how}")
    return path


class LocalGuest:
    def command(self, *flags, kernel="6.12", cmdline="", script=None, memory="256M", cpus=1):
        """husk's argument vector."""
        words = f"console=ttyS0 quiet cryptomgr.notests {cmdline}".strip()
        if script is not None:
            words += " husk.exec=" + base64.urlsafe_b64encode(script.encode()).decode()
        return [HUSK, "run", "--accelerator", "tcg", "--kernel", str(image(f"vmlinuz-{kernel}")), "--initrd", str(image(f"initrd-{kernel}.img")),
                "--memory", memory, "--cpus", str(cpus), "--cmdline", words, *map(str, flags)]

    def run(self, *flags, timeout=120, **how):
        """Boots a guest to its end; stdout is the console, without the carriage returns."""
        cmd = self.command(*flags, **how)
        # Files, not pipes: what a guest has written is shown after a time-out, too.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            with subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=out, stderr=err) as husk:
                try:
                    rc = husk.wait(timeout)
                except subprocess.TimeoutExpired:
                    rc = None
                    husk.kill()
            result = Result(rc, *(self._text(f) for f in (out, err)))
        assert rc is not None, f"no end after {timeout} s: {shlex.join(cmd)}\n{result.stderr[-2000:]}\n{result.stdout[-3000:]}"
        return result

    @staticmethod
    def _text(f):
        f.seek(0)
        return f.read().decode(errors="replace").replace("\r", "")

    def script(self, script, *flags, **how):
        """Runs a shell script in the guest; returns what the console shows. Fails unless script and husk end well."""
        result = self.run(*flags, script="set -e\n" + script, **how)
        found = re.search(r"^husk: exit (\d+)$", result.stdout, re.M)
        assert found and found.group(1) == "0" and result.rc == 0, \
            f"husk ended with {result.rc}\n{result.stderr}\n{result.stdout[-3000:]}"
        return result.stdout


@pytest.fixture(scope="session")
def local_guest():
    if not os.access(HUSK, os.X_OK):
        pytest.fail(f"{HUSK} is not there: ninja -C build")
    check = subprocess.run([HUSK, "check", "--accelerator", "tcg"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if check.returncode:
        why = (check.stderr or check.stdout).strip().splitlines()[-1]
        (pytest.skip if "built without" in why else pytest.fail)(why)
    return LocalGuest()


@pytest.fixture
def tap():
    """A network interface for the guest; this machine is 172.31.77.1 on it."""
    name = f"husk{os.getpid() % 100000}"
    made = subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], capture_output=True, text=True)
    if made.returncode:
        (pytest.fail if os.geteuid() == 0 else pytest.skip)(f"cannot make a tap interface: {made.stderr.strip()}")
    subprocess.run(f"ip addr add 172.31.77.1/24 dev {name} && ip link set {name} up", shell=True, check=True)
    yield name
    subprocess.run(["ip", "link", "del", name], check=True)


NET_UP = "ip addr add 172.31.77.2/24 dev eth0; ip link set eth0 up\n"

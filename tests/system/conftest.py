"""What the system tests share: Debian guests in one nested host with a true KVM for the whole session."""
import base64
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nested"))
from pytest_nested import nested, nested_session  # noqa: E402,F401


@pytest.fixture(autouse=True)
def no_thread_leaves_its_filter(monkeypatch):
    """Exit code 148 is a system call that a seccomp filter of husk's stopped: whatever the test looks at, its list is wrong then."""
    faults, seen = [], subprocess.Popen._handle_exitstatus

    def handle(self, *args, **how):
        seen(self, *args, **how)
        if self.returncode == 148:
            faults.append(self.args)

    monkeypatch.setattr(subprocess.Popen, "_handle_exitstatus", handle)
    yield
    assert not faults, f"ended by a seccomp filter: {faults}"


class Guest:
    """Runs husk in the nested host on Debian's kernels."""

    def __init__(self, host):
        self.host = host

    def command(self, *flags, kernel="6.12", cmdline="", script=None, memory="256M", cpus=1):
        # Each character on the emulated host's serial port is dear, and so are the cipher self-tests.
        words = f"console=ttyS0 quiet cryptomgr.notests {cmdline}"
        if script is not None:
            words += " husk.exec=" + base64.urlsafe_b64encode(script.encode()).decode()
        return " ".join(["husk", "run", "--accelerator", "kvm", "--kernel", f"/husk/guest/vmlinuz-{kernel}",
                         "--initrd", f"/husk/guest/initrd-{kernel}.img", "--memory", memory, "--cpus", str(cpus),
                         "--cmdline", shlex.quote(words.strip()), *flags])

    def run(self, *flags, timeout=240, **how):
        """Boots a guest to its end. Result(rc, stdout, stderr); stdout is the console, without the carriage returns."""
        result = self.host.run(self.command(*flags, **how) + " </dev/null", timeout=timeout)
        return result._replace(stdout=result.stdout.replace("\r", ""))

    def script(self, script, *flags, **how):
        """Runs a shell script in the guest; returns what the console shows. Fails unless script and husk end well."""
        result = self.run(*flags, script="set -e\n" + script, **how)
        found = re.search(r"^husk: exit (\d+)$", result.stdout, re.M)
        assert found and found.group(1) == "0" and result.rc == 0, \
            f"husk ended with {result.rc}\n{result.stderr}\n{result.stdout[-3000:]}"
        return result.stdout


@pytest.fixture
def host(nested):  # noqa: F811
    """The running nested host."""
    return nested


@pytest.fixture
def guest(host):
    return Guest(host)

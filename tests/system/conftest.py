"""What the system tests share: Debian guests in one nested host with a true KVM for the whole session."""
import base64
import re
import shlex
import sys
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nested"))
from pytest_nested import nested, nested_session  # noqa: E402,F401


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
def host(nested, request):  # noqa: F811
    """The running nested host."""
    request.config.nested_host = nested
    return nested


@pytest.fixture
def guest(host):
    return Guest(host)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    """A test that fails in the emulated host runs once more on a new one; the first failure is printed. QEMU's SVM emulation crashes hosts
    and guests now and then; what husk does wrong fails twice."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    host = getattr(item.config, "nested_host", None)
    if host and "host" in item.fixturenames and any(r.failed for r in reports):
        print(f"\n{item.name}: once more on a new nested host, after:", *(str(r.longrepr)[-2000:] for r in reports if r.failed), sep="\n", flush=True)
        host.stop()
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True

"""What the tests of the nested arm64 host share: hosts for one command each, husk's command lines in them, files for host and guest.

HUSK_LONG (tools/test --long arm64) asks for more kernels, CPUs and rounds: rounds(few, many), machines().
"""
import base64
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
BUILD = TOP / "build-arm64"
GUEST = Path(os.environ.get("HUSK_GUEST_ARM64", TOP / "build" / "guest-arm64"))
LONG = bool(os.environ.get("HUSK_LONG"))

sys.path.insert(0, str(TOP / "tests/nested"))
from nested import _Cpio as Cpio  # noqa: E402


def rounds(few, many):
    return many if LONG else few


def machines(*some):
    """For a test's (kernel, CPUs): some; with HUSK_LONG all four."""
    return pytest.mark.parametrize("version,cpus", list(itertools.product(("6.1", "6.12"), (1, 4))) if LONG else list(some))


def host(command, timeout=600, files=(), programs=(), disk=None, cpu=None, code=0):
    """Runs a shell script in a fresh nested host; its output, without carriage returns. The script must end with code."""
    arguments = [a for f in files for a in ("--file", str(f))] + [a for p in programs for a in ("--program", str(p))]
    arguments += (["--disk", str(disk)] if disk else []) + (["--cpu", cpu] if cpu else [])
    done = subprocess.run([TOP / "tests/nested/arm64.py", "--timeout", str(timeout * rounds(1, 3)), *arguments, "--", command],
                          capture_output=True, text=True, errors="replace")
    assert done.returncode == code, f"{command}\nends with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.replace("\r", "")


def husk(version, script, *flags, args="console=ttyS0 panic=-1 quiet", initrd=None):
    """The command line that boots a guest which runs script."""
    exe = base64.urlsafe_b64encode(script.encode()).decode()
    return (f"husk run --kernel /guest/vmlinuz-{version} --initrd {initrd or f'/guest/initrd-{version}.img'} {' '.join(flags)} "
            f"--cmdline '{args} husk.exec={exe}'")


def with_files(version):
    """A command that makes /tmp/initrd.img: the guest's initrd with what /files/more.cpio holds (see archive)."""
    return f"cat /guest/initrd-{version}.img /files/more.cpio >/tmp/initrd.img"


def archive(path, **files):
    """Writes an initrd with programs in /bin: name -> path of the program."""
    c = Cpio()
    for name, source in files.items():
        c.data(f"bin/{name}", Path(source).read_bytes(), 0o755)
    Path(path).write_bytes(c.bytes())
    return path


def until(condition, tries=900):
    """A shell command that waits for a condition of the shell: three minutes, for this machine may be busy."""
    return f"for i in $(seq {tries}); do {condition} && break; sleep 0.2; done"


def cross_compile(source, out, *flags):
    """A static arm64 program, that runs in host and guest alike."""
    subprocess.run(["aarch64-linux-gnu-gcc", "-O2", "-Wall", "-Werror", "-static", "-o", str(out), str(source), *flags], check=True)
    return out


def between(text, begin, end):
    """What text has between two lines."""
    found = re.search(f"^{re.escape(begin)}$\n(.*?)^{re.escape(end)}$", text, re.M | re.S)
    assert found, f"no {begin} .. {end} in\n{text}"
    return found.group(1)

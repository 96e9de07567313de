"""Those unit and device tests that qemu-user cannot run (ON_ARM64_KERNEL in tests/run.py), on the nested arm64 host's own kernel."""
import re
import sys

import pytest

from hosted import BUILD, TOP, host

sys.path.insert(0, str(TOP / "tests"))
from run import ON_ARM64_KERNEL  # noqa: E402


@pytest.fixture(scope="module")
def runs():
    """Name -> exit code and what the program said. All in one host, in which /tmp is a file system on a disk."""
    programs = {name: BUILD / "tests" / path for name, path in ON_ARM64_KERNEL.items()}
    script = "export CMOCKA_MESSAGE_OUTPUT=TAP\n" + "".join(
        f"echo '== {name}'; timeout 300 /programs/{path.name} 2>&1; code=$?; echo; echo \"== {name} ends with $code\"\n"
        for name, path in programs.items())
    out = host(script, timeout=900, programs=programs.values(), disk=2048)
    return {name: (int(code), said) for name, said, code in re.findall(r"^== (\w+)$\n(.*?)^== \1 ends with (\d+)$", out, re.M | re.S)}


@pytest.mark.parametrize("name", sorted(ON_ARM64_KERNEL))
def test_passes_on_an_arm64_kernel(runs, name):
    code, said = runs[name]
    assert code == 0, said
    planned, passed = re.search(r"^1\.\.(\d+)$", said, re.M), re.findall(r"^ok \d+", said, re.M)
    assert planned and int(planned.group(1)) == len(passed) > 0, said
    assert "# SKIP" not in said, said

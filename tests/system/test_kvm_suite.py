"""The accelerator's own tests, run on a true KVM: here on the build machine they may meet one that only emulates."""
import glob
import os
import subprocess
from pathlib import Path

import pytest

BUILD = Path(os.environ.get("HUSK", Path(__file__).resolve().parents[2] / "build" / "husk")).resolve().parent
TESTS = ["kvm_dirty", "kvm_irq", "kvm_run", "kvm_selftest", "kvm_state"]


@pytest.fixture(scope="module")
def put_once():
    return set()


def run(host, put_once, program, *args, files=(), env=None):
    """Runs a test program of the build in the nested host; every case of it must be ok, and none skipped."""
    cmocka = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.split("libcmocka.so.0 => ")[1].split()[0]
    for src, dst in [(cmocka, "/tmp/lib/libcmocka.so.0"), (program, f"/tmp/{program.name}"), *files,
                     *((f, f"/tmp/isa/{os.path.basename(f)}") for f in glob.glob(str(BUILD / "tests" / "isa" / "*.bin")))]:
        if (host.console_path, dst) not in put_once:  # a new host has a new console
            host.run(f"mkdir -p {os.path.dirname(dst)}", check=True)
            host.put(src, dst)
            put_once.add((host.console_path, dst))
    result = host.run([f"/tmp/{program.name}", *args], timeout=200,
                      env={"LD_LIBRARY_PATH": "/tmp/lib", "CMOCKA_MESSAGE_OUTPUT": "TAP", "HUSK_ISA_DIR": "/tmp/isa", **(env or {})})
    output = result.stdout + result.stderr
    assert result.rc == 0 and "not ok" not in output and "SKIP" not in output and "\nok " in output, output[-3000:]


@pytest.mark.parametrize("name", TESTS)
def test_the_accelerator_on_a_true_kvm(host, put_once, name):
    run(host, put_once, BUILD / "tests" / "unit" / f"test_{name}")


@pytest.mark.parametrize("args", [[], ["processor"]], ids=["machine", "processor"])
def test_bare_guests_end_with_their_registers(host, put_once, args):
    run(host, put_once, BUILD / "tests" / "isa" / "test_kvm_bare", *args)


def test_a_guest_moves_between_a_true_kvm_and_tcg_and_back(host, put_once, tmp_path):
    """The nested host's processor is QEMU's, this machine's another: the bare guest is shown little of either. tcg runs here."""
    program = BUILD / "tests" / "isa" / "test_moves"
    env = {**os.environ, "HUSK_ISA_DIR": str(program.parent), "CMOCKA_MESSAGE_OUTPUT": "TAP"}
    state = tmp_path / "state"
    run(host, put_once, program, "save", "kvm", "/tmp/moving")
    for _ in range(3):
        state.write_bytes(host.get("/tmp/moving"))
        here = subprocess.run([program, "load", "tcg", state], env=env, capture_output=True, text=True, timeout=60)
        assert here.returncode == 0, here.stdout + here.stderr
        host.put(str(state), "/tmp/moving")
        run(host, put_once, program, "load", "kvm", "/tmp/moving")


def test_packages_of_whole_machines(host, put_once):
    golden = [(f, f"/tmp/golden/{f.name}") for f in (Path(__file__).resolve().parents[1] / "golden").glob("package-v*.husk")]
    run(host, put_once, BUILD / "tests" / "unit" / "test_package_vm", "kvm", files=golden, env={"HUSK_GOLDEN_DIR": "/tmp/golden", "HUSK_FLIPS": "100"})

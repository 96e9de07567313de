"""The software accelerator under the programs of a Debian machine; `tools/test --long tcg` runs it, some hours under an unhurried husk.

Each program ends with its own message of success. They come on a tar archive that is the guest's second drive (guest/); the root is a copy of
rootfs-full.ext4 (tools/mkguest --full). HUSK_LONG_BOOTS and HUSK_LONG_SECONDS shorten a trial run.
"""
import http.server
import functools
import os
import re
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import pexpect
import pytest

from local_guest import NET_UP, image, local_guest, tap  # noqa: F401

BOOTS = int(os.environ.get("HUSK_LONG_BOOTS", "20"))
SECONDS = int(os.environ.get("HUSK_LONG_SECONDS", "60"))
HOUR = 3600
FULL = "tools/mkguest --full"


@pytest.mark.parametrize("mitigations", ["off", "auto"])
@pytest.mark.parametrize("cpus", [1, 2, 4])
@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_each_of_many_boots_reaches_init(local_guest, kernel, cpus, mitigations):
    for number in range(BOOTS):
        result = local_guest.run(kernel=kernel, cpus=cpus, cmdline=f"mitigations={mitigations} husk.end=poweroff")
        assert result.rc == 0 and re.search(r"^husk: init reached", result.stdout, re.M), f"boot {number + 1}: {result}"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The archive of guest/, as a drive."""
    path = tmp_path_factory.mktemp("files") / "files.tar"
    with tarfile.open(path, "w") as tar:
        for f in sorted((Path(__file__).parent / "guest").iterdir()):
            tar.add(f, f.name)
    path.write_bytes(path.read_bytes() + bytes(-path.stat().st_size % 4096))
    return path


@pytest.fixture
def root(tmp_path):
    disk = tmp_path / "root.ext4"
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", image("rootfs-full.ext4", FULL), disk], check=True)
    yield disk
    checked = subprocess.run(["/sbin/e2fsck", "-fp", disk], capture_output=True, text=True)
    disk.unlink()
    assert checked.returncode <= 1, checked.stdout


@pytest.fixture
def program(local_guest, root, files):
    """Runs a command line in the Debian guest, guest/ being in /tmp; returns the console. Fails unless it ends well, with this message."""
    def run(command, says, *flags, kernel="6.12", cpus=2, memory="2G", timeout=HOUR):
        out = local_guest.script(f"cd /tmp; tar xf /dev/vdb\n{command}\n", "--drive", f"{root},root", "--drive", f"{files},ro", *flags, kernel=kernel,
                                 cpus=cpus, memory=memory, timeout=timeout, cmdline="root=/dev/vda rw init=/sbin/husk-init")
        assert re.search(says, out), out[-3000:]
        return out
    return run


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("kernel", ["6.1-amd64", "6.12"])
def test_systemd_boots_to_a_login_prompt(local_guest, root, kernel, cpus):
    image(f"vmlinuz-{kernel}", FULL)
    cmd = local_guest.command("--drive", f"{root},root", kernel=kernel, cpus=cpus, memory="1G", cmdline="root=/dev/vda rw")
    p = pexpect.spawn(cmd[0], cmd[1:], timeout=300, encoding="utf-8", codec_errors="replace")
    try:
        p.expect("husk login: ")
        p.send("root\r")
        p.expect(r"root@husk:\S*# ")
        p.send("systemctl is-system-running --wait; systemctl --failed --no-legend | cat; echo up=$((40 + 2))\r")
        p.expect(r"[\r\n](running|degraded|starting)[\s\S]*up=42")
        assert p.match.group(1) == "running", p.match.group(0)
        p.expect(r"root@husk:\S*# ")
        p.send("poweroff\r")
        p.expect(pexpect.EOF)
        p.wait()
        assert p.exitstatus == 0
    except pexpect.ExceptionPexpect as e:
        pytest.fail(str(e)[-4000:])
    finally:
        p.close(force=True)


def test_openssl(program):
    program("sh openssl.sh", "openssl: .* are right")


def test_packers_keep_200_mib(program):
    program("sh pack.sh", "pack: five round trips of 200 MiB kept")


def test_python_passes_its_own_tests(program):
    program("sh python.sh", "Tests result: SUCCESS", timeout=4 * HOUR)


def test_gcc_builds_zlib_and_programs(program):
    program("sh compile.sh", "compile: zlib's [0-9]+ lines are built and right")


def test_perl(program):
    program("perl check.pl", "check.pl: all is right")


def test_go(program):
    program("sh go.sh", "go: all is right")


def test_luajit(program):
    program("luajit check.lua", "check.lua: all is right")


def test_node(program):
    program("node check.js", "check.js: all is right")


@pytest.mark.parametrize("stressor", ["cpu", "vm", "atomic", "memcpy", "str", "fork", "futex", "signal", "sigq", "icache"])
def test_stress_ng_finds_nothing_wrong(program, stressor):
    program(f"sh stress.sh {stressor} {SECONDS}", f"stress: {stressor} is right", timeout=600 + 5 * SECONDS)


def test_fio_reads_what_it_wrote(program, tmp_path):
    disk = tmp_path / "fio.img"
    with open(disk, "wb") as f:
        f.truncate(128 << 20)
    program("sh fio.sh", "fio: three engines read what they had written", "--drive", disk)


@pytest.fixture
def archive():
    """The package archive, offered by HTTP on the tap's address."""
    folder = image("apt", FULL)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_apt_installs_packages_over_the_network(program, tap, archive):
    program(NET_UP + f"echo 'deb [trusted=yes] http://172.31.77.1:{archive}/ ./' >/etc/apt/sources.list\n"
            "export DEBIAN_FRONTEND=noninteractive\napt-get -q update\napt-get -q -y install hello bc\nhello; echo '6 * 7' | bc",
            r"Hello, world!\s+42", "--net", f"tap={tap}")


def test_iperf3_both_ways_over_tap(program, tap):
    if not shutil.which("iperf3"):
        pytest.skip("iperf3 is missing: run tools/setup")
    server = subprocess.Popen(["iperf3", "-s", "-B", "172.31.77.1", "-p", "5299"], stdout=subprocess.DEVNULL)
    try:
        out = program(NET_UP + f"for how in '' -R '-P 4'; do iperf3 -c 172.31.77.1 -p 5299 -t {min(SECONDS, 10)} $how; done", "iperf Done",
                      "--net", f"tap={tap}")
    finally:
        server.terminate()
        server.wait()
    assert len(re.findall("iperf Done", out)) == 3
    assert all(float(rate) > 0 for rate in re.findall(r"([\d.]+) [GMK]bits/sec.*receiver", out))

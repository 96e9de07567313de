"""A client that is not ours: Firecracker's Go SDK drives a whole life of a Debian guest, with husk as `firecracker`, and husk-jailer as `jailer` or none.
Without a jailer the guest's life ends in a second process, which loads a snapshot of it.

Needs Go and its module proxy (the SDK's modules are pinned by gosdk/go.sum); skipped, with the reason, where they are not there. Under tcg, on this machine.
"""
import base64
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from local_guest import HUSK, image, local_guest, tap  # noqa: F401

SDK = Path(__file__).parent / "gosdk"
JAILER = os.environ.get("HUSK_JAILER", str(Path(HUSK).parent / "src" / "jailer" / "husk-jailer"))
STEPS = ["start", "version", "running", "guest up", "drive", "guest sees it", "balloon", "balloon statistics", "metadata", "limits", "pause", "paused",
         "stands still", "resume", "goes on", "shutdown", "end"]
SNAPSHOT_STEPS = ["pause again", "snapshot", "first process ends", "log again", "second machine", "load", "loaded runs", "loaded goes on"]
SCRIPT = """echo guest up $(cat /sys/block/vdb/size) $(. /etc/os-release; echo $ID)
until [ $(cat /sys/block/vdb/size) = 6144 ]; do sleep 0.05; done
echo patched $(head -c 3 /dev/vdb) $(ls /sys/class/net | tr '\\n' ' ')
while true; do echo tick; sleep 0.05; done
"""


@pytest.fixture(scope="module")
def client():
    go = shutil.which("go")
    if not go:
        pytest.skip("Go is not installed here: the SDK cannot be built")
    fetched = subprocess.run([go, "mod", "download", "github.com/firecracker-microvm/firecracker-go-sdk"], cwd=SDK, capture_output=True, text=True, timeout=120)
    if fetched.returncode:
        pytest.skip(f"the Go module proxy does not give the SDK: {fetched.stderr.strip()[:200]}")
    with tempfile.TemporaryDirectory(prefix="husk-sdk") as where:
        built = subprocess.run([go, "build", "-o", f"{where}/client", "."], cwd=SDK, capture_output=True, text=True, timeout=500)
        assert built.returncode == 0, built.stderr
        yield f"{where}/client"


@pytest.fixture
def folder():
    """Where the user in the jail may read, and hard links of the images may go; paths of sockets are short."""
    with tempfile.TemporaryDirectory(prefix="husk-go") as where:
        os.chmod(where, 0o755)
        yield Path(where)


def put(source, folder, name=None):
    """A hard link where it can be one: the root file system is large."""
    where = folder / (name or Path(source).name)
    try:
        os.link(source, where)
    except OSError:
        shutil.copyfile(source, where)
        shutil.copymode(source, where)
    return where


def live(client, folder, tap, *flags):  # noqa: F811
    """Returns the names of the steps that went well, what the client said, and the console."""
    put(HUSK, folder, "firecracker")
    put(JAILER, folder, "jailer")
    for name, size in (("one.img", 1), ("two.img", 3)):
        (folder / name).write_bytes(name[:3].encode() + bytes((size << 20) - 3))
        os.chmod(folder / name, 0o666)
    words = "console=ttyS0 reboot=k panic=1 quiet cryptomgr.notests init=/sbin/husk-init husk.exec=" + base64.urlsafe_b64encode(SCRIPT.encode()).decode()
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}",
           # Three seconds and half a second are the SDK's, for machines that do nothing else and have KVM.
           "FIRECRACKER_GO_SDK_INIT_TIMEOUT_SECONDS": "30", "FIRECRACKER_GO_SDK_REQUEST_TIMEOUT_MILLISECONDS": "5000"}
    with open(folder / "console", "wb") as out, open(folder / "said", "wb") as err:
        done = subprocess.run([client, "-folder", folder, "-console", folder / "console", "-kernel", put(image("vmlinuz-6.12"), folder),
                               "-initrd", put(image("initrd-6.12.img"), folder), "-args", words, "-root", put(image("rootfs.ext4"), folder),
                               "-disk", folder / "one.img", "-disk2", folder / "two.img", "-tap", tap, *map(str, flags)],
                              stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, timeout=240)
    said = (folder / "said").read_text()
    console = (folder / "console").read_text(errors="replace").replace("\r", "")
    log = (folder / "log").read_text()
    assert done.returncode == 0, said + console[-2000:] + log[-2000:]
    assert "guest up 2048 debian\n" in console and "patched two eth0 lo\n" in console
    assert "The API server received a Put request on" in log and "Firecracker exiting successfully. exit_code=0" in log
    assert "Received Error" not in log
    return [line[3:line.rindex(" (")] for line in said.splitlines() if line.startswith("ok ")]


def test_the_go_sdk_drives_husk_as_firecracker(local_guest, client, folder, tap):  # noqa: F811
    steps = STEPS[:-2] + SNAPSHOT_STEPS + STEPS[-2:]
    assert live(client, folder, tap)[-len(steps):] == steps
    assert not (folder / "api.sock").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="a jail like Firecracker's needs root")
def test_the_go_sdk_drives_husk_in_the_jail_of_husk_jailer(local_guest, client, folder, tap):  # noqa: F811
    # The SDK asks for the cpuset of a NUMA node where it knows the node's CPUs; without a v1 cpuset hierarchy it shall not.
    node = 0 if Path("/sys/fs/cgroup/cpuset/tasks").exists() else 999
    base = folder / "jail"
    base.mkdir(mode=0o755)
    try:
        assert live(client, folder, tap, "-jail", base, "-node", node)[-len(STEPS):] == STEPS
        root = base / "firecracker" / "sdk-vm" / "root"
        assert (root / "rootfs.ext4").exists()
    finally:
        removed = subprocess.run([JAILER, "--remove", "--id", "sdk-vm", "--exec-file", folder / "firecracker", "--chroot-base-dir", base],
                                 capture_output=True, text=True)
    assert removed.returncode == 0, removed.stderr

"""fio verifies what it wrote to a drive of qemu-storage-daemon; `tools/test --long vhost_user` runs it, some minutes. The guest's root is a copy of
rootfs-full.ext4 (tools/mkguest --full). HUSK_LONG_MIB shortens a trial run."""
import os
import re
import subprocess
import time

import pytest

from local_guest import image, local_guest  # noqa: F401
from test_vhost_user import peers, run_in_steps, storage  # noqa: F401

MIB = int(os.environ.get("HUSK_LONG_MIB", "1024"))
HOUR = 3600
# Each block carries its own checksum and place. First all blocks at random, which fio reads and compares at the end; then again, compared while it goes
# on writing; then in large blocks, two at a time at both ends of the drive.
FIO = """
cd /tmp
common="--ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --randrepeat=0 --minimal"
echo writing
fio $common --name=all --filename=/dev/vdb --rw=randwrite --bs=4k --iodepth=32 >all.out && echo 'all: verified'
fio $common --name=backlog --filename=/dev/vdb --rw=randrw --bsrange=4k-64k --iodepth=16 --verify_backlog=1024 --io_size={half}M >backlog.out &&
	echo 'backlog: verified'
fio $common --name=a --filename=/dev/vdb --rw=write --bs=1M --iodepth=8 --size={half}M --name=b --filename=/dev/vdb --rw=randwrite --bs=64k --iodepth=8 \\
	--offset={half}M --size={half}M >ends.out && echo 'ends: verified'
"""


@pytest.fixture
def root(tmp_path):
    disk = tmp_path / "root.ext4"
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", image("rootfs-full.ext4", "tools/mkguest --full"), disk], check=True)
    yield disk
    disk.unlink()


@pytest.mark.parametrize("killed", [0, 5], ids=["undisturbed", "killed five times"])
@pytest.mark.parametrize("cpus", [1, 2])
def test_fio_verifies_what_it_wrote_to_the_storage_daemon(local_guest, root, storage, cpus, killed):
    daemon, _ = storage(MIB)

    def kill():
        for _ in range(killed):
            time.sleep(0.5)
            daemon.kill()
            time.sleep(0.5)
            daemon.start()

    cmd = local_guest.command("--drive", f"{root},root", "--drive", f"socket={daemon.sock},writeback", script="set -e\n" + FIO.format(half=MIB // 2), memory="1G",
                              cpus=cpus, cmdline="root=/dev/vda rw init=/sbin/husk-init")
    rc, out, err = run_in_steps(cmd, {"writing": kill}, timeout=HOUR)
    assert rc == 0 and "husk: exit 0" in out, out[-3000:] + err
    assert re.findall("^(.*): verified$", out, re.M) == ["all", "backlog", "ends"]
    assert err.count("is back") == killed and "rror" not in out

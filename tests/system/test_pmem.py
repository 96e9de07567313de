"""Persistent memory: a file in the guest's address space, as a disk, as a DAX file system and as root. Under tcg, on this machine."""
import hashlib
import os
import re
import subprocess

import pytest

from local_guest import HUSK, image, local_guest  # noqa: F401

KERNELS = ["6.1", "6.12"]


def ext4(path, size="64M"):
    subprocess.run(f"truncate -s {size} {path} && /sbin/mkfs.ext4 -q -b 4096 -F {path}", shell=True, check=True)
    return path


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_file_is_a_disk_and_keeps_what_the_guest_writes(local_guest, tmp_path, kernel):
    disk = tmp_path / "pmem.img"
    disk.write_bytes(os.urandom(5 << 20) + b"x" * 512)
    before = hashlib.sha256(disk.read_bytes()[:5 << 20]).hexdigest()
    out = local_guest.script("blockdev --getsize64 /dev/pmem0; dd if=/dev/pmem0 bs=1M count=5 2>/dev/null | sha256sum\n"
                             "echo written by the guest | dd of=/dev/pmem0 bs=512 seek=7 conv=fsync 2>/dev/null", "--pmem", disk, kernel=kernel)
    assert re.search(rf"^{6 << 20}$", out, re.M) and before in out
    assert disk.read_bytes()[7 * 512:].startswith(b"written by the guest\n")
    assert disk.stat().st_size == (5 << 20) + 512


@pytest.mark.parametrize("kernel", KERNELS)
def test_programs_run_straight_from_a_dax_file_system(local_guest, tmp_path, kernel):
    disk = ext4(tmp_path / "pmem.img")
    out = local_guest.script("mkdir /p; mount -t ext4 -o dax /dev/pmem0 /p; cp /bin/busybox /p/busybox; sync\n"
                             "/p/busybox sha256sum /p/busybox; sha256sum /bin/busybox\n"
                             "/p/busybox sh -c 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo counted to $i'\n"
                             # Code that changes: the page that ran a moment ago is another program now.
                             "mkdir /p/again; for i in 1 2 3 4; do cp /p/busybox /p/again/busybox; /p/again/busybox true; done\n"
                             "for i in 1 2 3 4; do printf \"#!/p/busybox sh\\necho script $i\\n\" >/p/script; chmod +x /p/script; /p/script; done\n"
                             "umount /p", "--pmem", disk, kernel=kernel, cpus=2)
    sums = re.findall(r"^([0-9a-f]{64})  \S*busybox$", out, re.M)
    assert len(sums) == 2 and sums[0] == sums[1] and "counted to 100000" in out and "script 4" in out
    back = subprocess.run(["/sbin/debugfs", "-R", f"dump /busybox {tmp_path}/busybox", str(disk)], capture_output=True)
    assert back.returncode == 0 and hashlib.sha256((tmp_path / "busybox").read_bytes()).hexdigest() == sums[0]


def test_code_in_the_file_runs_as_fast_as_in_memory(local_guest, tmp_path):
    """It is translated as any other, not interpreted: that would take fifty times as long."""
    loop = "sh -c 'i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done'"
    out = local_guest.script("mkdir /p; mount -t ext4 -o dax /dev/pmem0 /p; cp /bin/busybox /p/busybox; cp /bin/busybox /tmp/busybox\n"
                             f"for at in /tmp /p; do read a _ </proc/uptime; $at/busybox {loop}; read b _ </proc/uptime; echo $at $a $b; done",
                             "--pmem", ext4(tmp_path / "pmem.img"))
    took = {at: float(b) - float(a) for at, a, b in re.findall(r"^(/\w+) ([\d.]+) ([\d.]+)$", out, re.M)}
    assert took["/p"] < 4 * took["/tmp"] + 0.5, took


def test_several_files_are_numbered_in_their_order(local_guest, tmp_path):
    flags = []
    for i in range(3):
        (tmp_path / f"{i}").write_bytes(f"file {i}".encode().ljust(2 << 20, b"\n"))
        flags += ["--pmem", f"{tmp_path}/{i}"]
    out = local_guest.script("head -n1 /dev/pmem0 /dev/pmem1 /dev/pmem2", *flags)
    assert re.findall(r"^file \d$", out, re.M) == ["file 0", "file 1", "file 2"]


def test_a_read_only_file_keeps_its_bytes(local_guest, tmp_path):
    disk = tmp_path / "pmem.img"
    disk.write_bytes(b"a" * (2 << 20))
    disk.chmod(0o400)
    out = local_guest.script("echo hello | dd of=/dev/pmem0 conv=fsync 2>/dev/null; head -c 5 /dev/pmem0; echo", "--pmem", f"{disk},ro")
    assert "hello" in out
    assert disk.read_bytes() == b"a" * (2 << 20)


@pytest.mark.parametrize("rootflags", ["", "rootflags=dax"])
def test_debian_boots_from_it(local_guest, rootflags):
    out = local_guest.script("grep ' / ' /proc/mounts; ls /usr/bin | wc -l", "--pmem", f"{image('rootfs.ext4')},root,ro",
                             cmdline=f"init=/sbin/husk-init {rootflags}", memory="512M")
    assert "/dev/pmem0 / ext4 ro" in out
    assert not rootflags or "dax" in out


def test_its_memory_counts_as_the_hosts_page_cache_not_as_husks(local_guest, tmp_path):
    """Looking at 128 MiB of a sparse file costs neither the guest nor the host's file system anything."""
    disk = tmp_path / "pmem.img"
    subprocess.run(["truncate", "-s", "128M", str(disk)], check=True)
    assert "read 128" in local_guest.script("echo read $(($(cat /dev/pmem0 | wc -c) >> 20))", "--pmem", disk, memory="128M")
    assert disk.stat().st_blocks < 2048


def test_a_root_drive_and_a_root_pmem_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(2 << 20))
    p = subprocess.run([HUSK, "run", "--kernel", str(image("vmlinuz-6.12")), "--drive", f"{tmp_path}/a,root", "--pmem", f"{tmp_path}/b,root"],
                       capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert p.returncode == 1 and "a root device is there already" in p.stderr, (p.returncode, p.stderr)

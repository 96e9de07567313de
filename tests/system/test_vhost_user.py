"""Real back ends from Debian's packages and real guests: virtiofsd shares a directory, qemu-storage-daemon serves a drive; one is killed."""
import hashlib
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from local_guest import HUSK, image, local_guest  # noqa: F401

VIRTIOFSD = next((p for p in ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd") if os.access(p, os.X_OK)), None)
STORAGE_DAEMON = "/usr/bin/qemu-storage-daemon"


@pytest.fixture(autouse=True)
def peers():
    for path in (VIRTIOFSD, STORAGE_DAEMON):
        if not path or not os.access(path, os.X_OK):
            pytest.fail("virtiofsd or qemu-storage-daemon is missing: tools/setup installs qemu-system-common")


class StorageDaemon:
    """qemu-storage-daemon with one vhost-user-blk export of a raw image."""

    def __init__(self, disk, sock, *more):
        self.args = [STORAGE_DAEMON, "--blockdev", f"driver=file,node-name=file,filename={disk}", *more,
                     "--blockdev", f"driver=raw,node-name=disk,file={'slow' if more else 'file'}",
                     "--export", f"type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={sock},writable=on"]
        self.sock = Path(sock)
        self.start()

    def start(self):
        self.sock.unlink(missing_ok=True)
        self.process = subprocess.Popen(self.args, stdin=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while not self.sock.exists():
            assert self.process.poll() is None and time.monotonic() < end, "qemu-storage-daemon does not start"
            time.sleep(0.05)

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def storage(tmp_path):
    made = []

    def make(mib=64, *more):
        disk = tmp_path / "disk.img"
        subprocess.run(["truncate", "-s", f"{mib}M", disk], check=True)
        made.append(StorageDaemon(disk, tmp_path / "blk.sock", *more))
        return made[0], disk

    yield make
    for daemon in made:
        daemon.kill()


def run_in_steps(cmd, steps, timeout=150):
    """Runs husk; calls steps[word] when a line of the guest begins with word. Returns exit code and console."""
    lines = []
    with subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace") as husk:
        killer = threading.Timer(timeout, husk.kill)
        killer.start()
        for line in husk.stdout:
            lines.append(line.strip())
            if lines[-1] in steps:
                steps[lines[-1]]()
        err = husk.stderr.read()
        rc = husk.wait()
        killer.cancel()
    return rc, "\n".join(lines), err


# ---- virtiofs ----

FILES = """
mkdir /m; mount -t virtiofs share0 /m
cat >/tmp/make.sh <<'END'
i=0
while [ $i -lt 10000 ]; do echo "content $i of $((i * 7919 % 65537))" >/m/d$((i % 10))/f$i; i=$((i + 1)); done
END
for d in 0 1 2 3 4 5 6 7 8 9; do mkdir /m/d$d; done
sh /tmp/make.sh
umount /m; echo 3 >/proc/sys/vm/drop_caches; mount -t virtiofs share0 /m
echo files=$(find /m -type f | wc -l)
cd /m; find . -type f | sort | xargs cat | sha256sum | sed 's/^/sum=/'
echo made
"""


def expected_sum():
    files = {f"./d{i % 10}/f{i}": f"content {i} of {i * 7919 % 65537}\n".encode() for i in range(10000)}
    return hashlib.sha256(b"".join(files[name] for name in sorted(files, key=str.encode))).hexdigest(), files


def test_ten_thousand_files_through_a_share(local_guest, tmp_path):
    share = tmp_path / "share"
    share.mkdir()
    want, files = expected_sum()
    seen = {}

    def look():
        seen.update({"./" + str(p.relative_to(share)): p.read_bytes() for p in share.rglob("*") if p.is_file()})
        (share / "from-the-host").write_text("hello\n")

    script = "set -e\n" + FILES + "sleep 2\ncat /m/from-the-host; rm -r /m/d*; ls /m; cd /; umount /m\n"
    rc, out, err = run_in_steps(local_guest.command("--share", share, script=script, memory="512M"), {"made": look})
    assert rc == 0 and "husk: exit 0" in out, out[-3000:] + err
    assert "files=10000" in out and f"sum={want}" in out
    assert seen == files
    assert re.search("^hello$", out, re.M)
    assert [p.name for p in share.iterdir()] == ["from-the-host"]
    assert not subprocess.run(["pgrep", "-f", f"source={share}"], capture_output=True).stdout, "virtiofsd outlives husk"


def test_a_share_over_a_socket_of_ones_own_and_programs_run_from_it(local_guest, tmp_path):
    """Code that the peer put into guest memory runs: text of a program, and a kernel module."""
    share, sock = tmp_path / "share", tmp_path / "fs.sock"
    share.mkdir()
    (share / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (share / "busybox").chmod(0o755)
    daemon = subprocess.Popen([VIRTIOFSD, f"--socket-path={sock}", "-o", f"source={share}"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not sock.exists():
            assert daemon.poll() is None
            time.sleep(0.05)
        out = local_guest.script("mkdir /m; mount -t virtiofs mine /m\nfor i in 1 2 3; do /m/busybox sha256sum /m/busybox; echo 3 >/proc/sys/vm/drop_caches; done\n"
                                 "umount /m", "--share", f"socket={sock},tag=mine", cpus=2)
    finally:
        daemon.kill()
        daemon.wait()
    assert out.count(hashlib.sha256((share / "busybox").read_bytes()).hexdigest()) == 3


def test_a_virtiofsd_that_dies_gives_errors_and_the_guest_lives(local_guest, tmp_path):
    share = tmp_path / "share"
    share.mkdir()
    (share / "f").write_text("x\n")

    def kill():
        pids = subprocess.run(["pgrep", "-f", f"source={share}"], capture_output=True, text=True).stdout.split()
        assert pids
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)

    script = ("mkdir /m; mount -t virtiofs share0 /m; cat /m/f; echo mounted; sleep 2\n"
              "echo 3 >/proc/sys/vm/drop_caches; ls /m/nowhere 2>&1 || true; cat /m/f 2>&1 || echo gone; umount /m; echo lives")
    rc, out, err = run_in_steps(local_guest.command("--share", share, script=script), {"mounted": kill})
    assert rc == 0 and "gone" in out and "lives" in out, out[-3000:] + err
    assert "lost the vhost-user back end" in err


@pytest.mark.parametrize("flag, says", [("/nowhere", "cannot share"), ("/etc/passwd", "not a directory"), ("socket=/nowhere,tag=x", "is the vhost-user back end running"),
                                        ("/tmp,socket=/x", "either")])
def test_a_share_that_cannot_be_is_refused_with_a_reason(flag, says):
    done = subprocess.run([HUSK, "run", "--accelerator", "tcg", "--kernel", image("vmlinuz-6.12"), "--share", flag], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode not in (0, None) and says in done.stderr, done.stderr


# ---- a drive ----

VERIFY = """
mkdir /data; mount -t ext4 /dev/vda /data
dd if=/dev/urandom of=/data/f bs=1M count=24 2>/dev/null
sha256sum /data/f; umount /data; echo 3 >/proc/sys/vm/drop_caches
mount -t ext4 -o ro /dev/vda /data; sha256sum /data/f; umount /data
"""


def test_a_drive_of_the_storage_daemon_keeps_what_the_guest_writes(local_guest, storage, tmp_path):
    daemon, disk = storage()
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-F", disk], check=True)
    out = local_guest.script(VERIFY, "--drive", f"socket={daemon.sock},writeback", cpus=2)
    sums = re.findall(r"^([0-9a-f]{64})  /data/f$", out, re.M)
    assert len(sums) == 2 and sums[0] == sums[1]
    daemon.kill()
    subprocess.run(["/sbin/debugfs", "-R", f"dump /f {tmp_path}/f", str(disk)], check=True, capture_output=True)
    assert hashlib.sha256((tmp_path / "f").read_bytes()).hexdigest() == sums[0]


def test_blocks_written_at_random_places_are_all_verified(local_guest, storage):
    """fio's verify, without fio: each block holds its own number, at depth (16 writers), then all are read and compared."""
    daemon, disk = storage()
    script = """
cat >/tmp/writer.sh <<'END'
w=$1; i=$w
while [ $i -lt 2048 ]; do
    b=$((i * 1103 % 2048)); yes "block $b" | head -c 4096 | dd of=/dev/vda bs=4096 seek=$b conv=notrunc oflag=direct 2>/dev/null || exit 1
    i=$((i + 16))
done
END
pids=; for w in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sh /tmp/writer.sh $w & pids="$pids $!"; done
for p in $pids; do wait $p; done
echo 3 >/proc/sys/vm/drop_caches
dd if=/dev/vda bs=1M count=8 2>/dev/null | sha256sum | sed 's/^/sum=/'
"""
    out = local_guest.script(script, "--drive", f"socket={daemon.sock}", cpus=2)
    want = b"".join((f"block {b}\n".encode() * 4096)[:4096] for b in range(2048))
    assert f"sum={hashlib.sha256(want).hexdigest()}" in out
    daemon.kill()
    with open(disk, "rb") as f:
        assert f.read(len(want)) == want


def test_a_root_file_system_on_the_storage_daemon(local_guest, storage):
    daemon, disk = storage(600)
    subprocess.run(["cp", "--sparse=always", image("rootfs.ext4"), disk], check=True)
    daemon.kill()
    daemon.start()
    out = local_guest.script("grep PRETTY_NAME /etc/os-release; grep -o 'root=[^ ]* r[ow]' /proc/cmdline; python3 -c 'print(sum(x * x for x in range(100000)))'",
                             "--drive", f"socket={daemon.sock},root", cpus=2, memory="512M", cmdline="init=/sbin/husk-init")
    assert "Debian GNU/Linux 12" in out and "root=/dev/vda rw" in out and str(sum(x * x for x in range(100000))) in out


WRITING = """
echo begin
dd if=/dev/zero bs=64k count=320 2>/dev/null | tr '\\0' 'A' >/tmp/pattern
sha256sum </tmp/pattern | sed 's/^/want=/'
i=0; while [ $i -lt 12 ]; do dd if=/tmp/pattern of=/dev/vda bs=64k oflag=direct 2>&1 | grep -i error; i=$((i + 1)); [ $i != 2 ] || echo writing; done
dd if=/dev/vda bs=64k count=320 iflag=direct 2>/dev/null | sha256sum | sed 's/^/got=/'
"""
SLOW = ("--object", "throttle-group,id=limit,x-bps-total=16000000", "--blockdev", "driver=throttle,node-name=slow,throttle-group=limit,file=file")


def test_a_storage_daemon_killed_in_mid_io_and_started_again_costs_no_data(local_guest, storage):
    daemon, _ = storage(64, *SLOW)

    def restart():
        time.sleep(0.3)
        daemon.kill()
        time.sleep(1)
        daemon.start()

    rc, out, err = run_in_steps(local_guest.command("--drive", f"socket={daemon.sock}", script=WRITING), {"writing": restart})
    assert rc == 0 and "husk: exit 0" in out, out[-2000:] + err
    want, got = re.search("want=([0-9a-f]{64})", out), re.search("got=([0-9a-f]{64})", out)
    assert want.group(1) == got.group(1)
    assert "rror" not in out and "lost the vhost-user back end" in err and "is back" in err


def test_a_storage_daemon_killed_for_good_gives_io_errors_and_the_guest_lives(local_guest, storage):
    daemon, _ = storage(64, *SLOW)
    rc, out, err = run_in_steps(local_guest.command("--drive", f"socket={daemon.sock}", script=WRITING + "echo lives"), {"writing": daemon.kill})
    assert rc == 0 and "lives" in out, out[-2000:] + err
    assert re.search("I/O error", out) and "requests fail now" in err


"""Real Debian guests on this machine, without KVM: they boot on one CPU and several, see their machine, and end as documented."""
import hashlib
import os
import pty
import re
import select
import signal
import socket
import subprocess
import threading
import time

import pytest

from local_guest import HUSK, NET_UP, image, local_guest, tap  # noqa: F401

KERNELS = ["6.1", "6.12"]


@pytest.mark.parametrize("cpus", [1, 2, 4])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_boots_with_all_cpus_online(local_guest, kernel, cpus):
    out = local_guest.script("echo cpus=$(nproc) online=$(cat /sys/devices/system/cpu/online); uname -r; "
                             "if dmesg | grep -E 'BUG:|WARNING:|Oops|rcu.*stall|unchecked MSR|Unknown NMI'; then exit 1; fi; echo quiet=yes", kernel=kernel, cpus=cpus)
    assert f"cpus={cpus} online={'0' if cpus == 1 else f'0-{cpus - 1}'}" in out
    assert re.search(rf"^{re.escape(kernel)}\.", out, re.M)
    assert "quiet=yes" in out


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_boots_with_its_mitigations(local_guest, kernel):
    assert "ended=well" in local_guest.script("echo ended=well", kernel=kernel, cmdline="mitigations=auto", cpus=2)


@pytest.mark.parametrize("end, code, word", [("poweroff", 0, ""), ("reboot", 10, ""), ("panic", 11, "sysrq triggered crash")])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_end_of_the_guest_is_the_exit_code(local_guest, kernel, end, code, word):
    script = {"poweroff": "poweroff -f", "reboot": "reboot -f", "panic": "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger"}[end]
    result = local_guest.run(kernel=kernel, script=script + "; sleep 60", cmdline="reboot=k")
    assert result.rc == code, result.stderr + result.stdout[-2000:]
    assert word in result.stdout


def test_the_guests_clock_goes_as_this_machines(local_guest):
    show = "read up _ </proc/uptime; echo at $up $(date +%s)\n"
    with subprocess.Popen(local_guest.command(script=show + "sleep 3\n" + show), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as husk:
        lines = [(time.time(), *map(float, line.split()[1:])) for line in husk.stdout if line.startswith(b"at ")]
    assert len(lines) == 2, lines
    (host0, up0, date), (host1, up1, _) = lines
    assert abs((up1 - up0) - (host1 - host0)) < 0.3 and abs(date - host0) < 3, lines


def own_memory(pid):
    """KiB of husk's own (proportional set size): all but the guest's RAM and the boot images that are mapped into it."""
    total, counts = 0, True
    for line in open(f"/proc/{pid}/smaps"):
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counts = not re.search("husk-guest-memory|vmlinuz|initrd", line)
        elif line.startswith("Pss:") and counts:
            total += int(line.split()[1])
    return total


def test_husks_own_memory_stays_small(local_guest):
    """At most 8 MiB beside the guest's RAM and the code cache, which is made small and overflows here."""
    script = "for i in 1 2 3; do find / -xdev >/dev/null 2>&1; done; echo up; sleep 60"
    with subprocess.Popen(local_guest.command("--tcg-cache", "4M", script=script, cpus=2), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as husk:
        assert any(line.startswith(b"up") for line in husk.stdout)
        own = own_memory(husk.pid)
        husk.kill()
    assert own <= (8 + 4) * 1024, f"{own} KiB"


def test_a_drive_keeps_what_the_guest_writes(local_guest, tmp_path):
    disk = tmp_path / "data.img"
    subprocess.run(f"truncate -s 64M {disk} && /sbin/mkfs.ext4 -q -F {disk}", shell=True, check=True)
    out = local_guest.script("mkdir /data; mount -t ext4 /dev/vda /data; dd if=/dev/urandom of=/data/f bs=1M count=16 2>/dev/null\n"
                             "sha256sum /data/f; umount /data; echo 3 >/proc/sys/vm/drop_caches; mount -t ext4 -o ro /dev/vda /data; sha256sum /data/f\n"
                             "umount /data", "--drive", disk)
    sums = re.findall(r"^([0-9a-f]{64})  /data/f$", out, re.M)
    assert len(sums) == 2 and sums[0] == sums[1]
    subprocess.run(["/sbin/debugfs", "-R", f"dump /f {tmp_path}/f", str(disk)], check=True, capture_output=True)
    assert hashlib.sha256((tmp_path / "f").read_bytes()).hexdigest() == sums[0]


def test_a_read_only_drive_refuses_writes(local_guest, tmp_path):
    disk = tmp_path / "ro.img"
    before = os.urandom(1 << 20)
    disk.write_bytes(before)
    out = local_guest.script("cat /sys/block/vda/ro; sha256sum </dev/vda; dd if=/dev/zero of=/dev/vda bs=512 count=1 oflag=direct 2>&1 || echo refused",
                             "--drive", f"{disk},ro")
    assert re.search("^1$", out, re.M) and "refused" in out and hashlib.sha256(before).hexdigest() in out
    assert disk.read_bytes() == before


class Server(threading.Thread):
    """Accepts one connection on the guest's network; sends `give`, or keeps what comes."""

    def __init__(self, port, give=None):
        super().__init__(daemon=True)
        self.give, self.got = give, b""
        self.socket = socket.create_server(("172.31.77.1", port))
        self.socket.settimeout(100)
        self.start()

    def run(self):
        with self.socket, self.socket.accept()[0] as peer:
            if self.give is not None:
                peer.sendall(self.give)
                return
            for part in iter(lambda: peer.recv(1 << 16), b""):
                self.got += part


def test_ping_and_10_mib_each_way_over_tap(local_guest, tap):
    data = os.urandom(10 << 20)
    send, receive = Server(9001, data), Server(9002)
    out = local_guest.script(NET_UP + "ping -c 3 172.31.77.1\nmkfifo /tmp/open; nc 172.31.77.1 9001 <>/tmp/open >/tmp/got; sha256sum </tmp/got\n"
                             "nc 172.31.77.1 9002 </tmp/got", "--net", f"tap={tap}", memory="512M", cpus=2)
    send.join(30)
    receive.join(30)
    assert "3 packets transmitted, 3 packets received" in out
    assert hashlib.sha256(data).hexdigest() in out
    assert receive.got == data


def test_the_entropy_device_gives_random_bytes(local_guest):
    out = local_guest.script("cat /sys/class/misc/hw_random/rng_current; for i in 1 2; do dd if=/dev/hwrng bs=4096 count=4 2>/dev/null | sha256sum; done",
                             "--entropy")
    assert "virtio_rng" in out
    sums = re.findall(r"^([0-9a-f]{64})  -$", out, re.M)
    assert len(set(sums)) == 2


@pytest.mark.parametrize("kernel", KERNELS)
def test_debian_root_runs_python(local_guest, tmp_path, kernel):
    disk = tmp_path / "root.ext4"
    subprocess.run(["cp", "--sparse=always", image("rootfs.ext4"), disk], check=True)
    out = local_guest.script("grep PRETTY_NAME /etc/os-release; python3 -c 'import hashlib; print(sum(x * x for x in range(100000)), "
                             "hashlib.sha256(b\"husk\").hexdigest())'", "--drive", f"{disk},root", kernel=kernel, cpus=2, memory="512M",
                             cmdline="root=/dev/vda rw init=/sbin/husk-init")
    assert "Debian GNU/Linux 12" in out
    assert f"{sum(x * x for x in range(100000))} {hashlib.sha256(b'husk').hexdigest()}" in out
    assert subprocess.run(["/sbin/e2fsck", "-fp", disk], capture_output=True).returncode <= 1


class Terminal:
    """husk on a terminal of its own."""

    def __init__(self, cmd):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(cmd[0], cmd)
        self.text = ""

    def expect(self, word, timeout=100):
        """Waits for what is to come after what was found last."""
        end = time.monotonic() + timeout
        while not (found := re.search(word, self.text)):
            left = end - time.monotonic()
            assert left > 0 and select.select([self.fd], [], [], left)[0], f"no {word!r} in {self.text[-2000:]!r}"
            self.text += os.read(self.fd, 65536).decode(errors="replace")
        self.text = self.text[found.end():]
        return found

    def send(self, text):
        os.write(self.fd, text.encode())

    def wait(self, timeout=30):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:  # nobody else empties the terminal
                if select.select([self.fd], [], [], 0.05)[0]:
                    self.text += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)
        raise AssertionError(f"husk did not end in {timeout} s: {self.text[-2000:]!r}")


def test_the_console_is_interactive_and_ctrl_a_x_quits(local_guest):
    p = Terminal(local_guest.command())
    p.expect(r"husk-initrd:\S+# ")
    p.send("echo $((6 * 7)) is the answer\n")
    p.expect("42 is the answer")
    p.send("\x01x")
    assert p.wait() == 0


def test_sigterm_ends_a_busy_guest(local_guest):
    with subprocess.Popen(local_guest.command(script="echo busy; while :; do :; done", cpus=2), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as husk:
        assert any(line.startswith(b"busy") for line in husk.stdout)
        husk.terminate()
        assert husk.wait(20) == 0


def test_auto_takes_tcg_where_kvm_cannot_be_used_and_says_so(local_guest):
    if subprocess.run([HUSK, "check", "--accelerator", "kvm"], capture_output=True, stdin=subprocess.DEVNULL).returncode == 0:
        pytest.skip("KVM is usable here")
    cmd = local_guest.command(cmdline="husk.end=poweroff")
    cmd[cmd.index("tcg")] = "auto"
    done = subprocess.run(cmd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "husk: init reached" in done.stdout
    assert sum("tcg" in line for line in done.stderr.splitlines()) == 1, done.stderr

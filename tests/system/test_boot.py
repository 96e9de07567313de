"""Real Debian guests on a true KVM: they boot, see their machine, and end as documented."""
import gzip
import json
import re
import shlex
import struct
import subprocess
from pathlib import Path

import pytest

KERNELS = ["6.1", "6.12"]
GUEST_DIR = Path(__file__).resolve().parents[2] / "build" / "guest"


@pytest.mark.parametrize("cpus", [1, 4])
@pytest.mark.parametrize("kernel", KERNELS)
def test_initramfs_boots_to_a_shell_with_all_cpus_online(guest, kernel, cpus):
    out = guest.script("echo cpus=$(nproc) online=$(cat /sys/devices/system/cpu/online); uname -r; dmesg | grep -ci 'hypervisor detected'",
                       kernel=kernel, cpus=cpus)
    assert f"cpus={cpus} online={'0' if cpus == 1 else '0-3'}" in out
    assert re.search(rf"^{re.escape(kernel)}\.", out, re.M)


@pytest.fixture(scope="module")
def vmlinux():
    """The ELF inside Debian's 6.12 bzImage (its payload is zstd, followed by the unpacked size)."""
    image = (GUEST_DIR / "vmlinuz-6.12").read_bytes()
    start = (image[0x1f1] + 1) * 512 + struct.unpack_from("<I", image, 0x248)[0]
    payload = image[start:start + struct.unpack_from("<I", image, 0x24c)[0] - 4]
    return subprocess.run(["zstd", "-dc"], input=payload, stdout=subprocess.PIPE, check=True).stdout


@pytest.mark.parametrize("pack", [bytes, lambda elf: gzip.compress(elf, 1)], ids=["elf", "gzip"])
def test_a_vmlinux_boots_by_pvh(guest, host, vmlinux, pack):
    host.put(pack(vmlinux), "/tmp/vmlinux")
    out = guest.script("echo loader=$(cat /proc/sys/kernel/bootloader_type)", "--kernel", "/tmp/vmlinux")
    host.run("rm /tmp/vmlinux")
    assert "loader=176" in out  # 0xb0: entered by PVH, not Xen


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_that_husk_unpacks_boots_at_a_random_address(guest, host, kernel):
    host.put(json.dumps({"boot-source": {"kernel_image_path": f"/husk/guest/vmlinuz-{kernel}", "unpack": "host"}}).encode(), "/tmp/unpack.json")
    show = "grep -m1 ' _text$' /proc/kallsyms"
    texts = {re.search(r"^([0-9a-f]{16}) T _text", guest.script(show, "/tmp/unpack.json", kernel=kernel), re.M).group(1) for _ in range(2)}
    assert len(texts) == 2 and all(t.startswith("ffffffff") for t in texts)


def test_memory_of_2_mib_pages(guest, host):
    host.run("echo 140 >/proc/sys/vm/nr_hugepages; grep HugePages_Total /proc/meminfo", check=True)
    out = guest.script("grep MemTotal /proc/meminfo", "--huge-pages", "2M")
    assert "MemTotal" in out
    assert "HugePages_Free:      140" in host.run("grep HugePages_Free /proc/meminfo; echo 0 >/proc/sys/vm/nr_hugepages").stdout


def test_the_boot_timer_is_logged(guest):
    result = guest.run("--boot-timer", "--level", "Info", cmdline="husk.boottimer=0xc0000000 husk.end=poweroff")
    assert re.search(r"Guest-boot-time = +\d+ us \d+ ms, +\d+ CPU us \d+ CPU ms", result.stderr), result.stderr


@pytest.mark.parametrize("kernel", KERNELS)
def test_debian_root_is_read_write_and_keeps_a_file_over_a_reboot(guest, host, kernel):
    disk = f"/husk/root-{kernel}.ext4"
    host.run(f"cp /husk/guest/rootfs.ext4 {disk}", check=True, timeout=120)
    drive = ("--drive", f"{disk},root")
    how = dict(kernel=kernel, cmdline="root=/dev/vda rw init=/sbin/husk-init", memory="512M", timeout=400)
    out = guest.script("grep PRETTY_NAME /etc/os-release; dd if=/dev/urandom of=/big bs=1M count=64 2>/dev/null; sync; sha256sum /big",
                       *drive, **how)
    assert "Debian GNU/Linux 12" in out
    first = re.search(r"^([0-9a-f]{64})  /big$", out, re.M)
    assert first
    out = guest.script("sha256sum /big; rm /big", *drive, **how)
    assert first.group(0) in out
    assert host.run(f"e2fsck -fn {disk} >/dev/null 2>&1 || busybox true; rm {disk}").rc == 0


@pytest.mark.parametrize("engine", ["", ",async"])
def test_a_second_drive_keeps_a_64_mib_file_over_a_remount(guest, host, engine):
    host.run("rm -f /husk/data.img; truncate -s 256M /husk/data.img && mkfs.ext4 -q -F /husk/data.img", check=True, timeout=120)
    out = guest.script("mkdir /data; mount -t ext4 /dev/vda /data; dd if=/dev/urandom of=/data/f bs=1M count=64 2>/dev/null\n"
                       "sha256sum /data/f; umount /data; echo 3 >/proc/sys/vm/drop_caches; mount -t ext4 -o ro /dev/vda /data; sha256sum /data/f\n"
                       "umount /data",
                       "--drive", "/husk/data.img" + engine)
    sums = re.findall(r"^([0-9a-f]{64})  /data/f$", out, re.M)
    assert len(sums) == 2 and sums[0] == sums[1]
    host.run("rm /husk/data.img")


def test_a_read_only_drive_refuses_writes(guest, host):
    host.run("dd if=/dev/urandom bs=1M count=1 2>/dev/null of=/tmp/ro.img", check=True)
    before = host.run("sha256sum </tmp/ro.img").stdout
    out = guest.script("cat /sys/block/vda/ro; dd if=/dev/zero of=/dev/vda bs=512 count=1 oflag=direct 2>&1 || echo refused", "--drive", "/tmp/ro.img,ro")
    assert re.search("^1$", out, re.M) and "refused" in out
    assert host.run("sha256sum </tmp/ro.img; rm /tmp/ro.img").stdout == before


@pytest.fixture
def tap(host):
    host.run("ip tuntap add tap0 mode tap && ip addr add 172.16.0.1/24 dev tap0 && ip link set tap0 up", check=True)
    yield "tap0"
    host.run("ip link del tap0", check=True)


def test_ping_and_50_mib_each_way_over_tap(guest, host, tap):
    host.run("dd if=/dev/urandom bs=1M count=50 2>/dev/null of=/tmp/50M", check=True, timeout=60)
    want = host.run("sha256sum </tmp/50M").stdout.split()[0]
    with host.popen("nc -l -p 9001 </tmp/50M & nc -l -p 9002 | sha256sum; wait") as server:
        out = guest.script("ip addr add 172.16.0.2/24 dev eth0; ip link set eth0 up; ping -c 3 172.16.0.1\n"
                           "mkfifo /tmp/open; nc 172.16.0.1 9001 <>/tmp/open >/tmp/got; sha256sum </tmp/got; nc 172.16.0.1 9002 </tmp/got",
                           "--net", "tap=tap0", memory="512M", timeout=400)
        assert "3 packets transmitted, 3 packets received" in out
        assert want in out
        server.wait(timeout=60)
        assert want in server.text
    host.run("rm /tmp/50M")


@pytest.mark.parametrize("end, code, word", [("poweroff", 0, ""), ("reboot", 10, ""), ("panic", 11, "sysrq triggered crash")])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_end_of_the_guest_is_the_exit_code(guest, kernel, end, code, word):
    script = {"poweroff": "poweroff -f", "reboot": "reboot -f", "panic": "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger"}[end]
    result = guest.run(kernel=kernel, script=script + "; sleep 60")
    assert result.rc == code, result.stderr + result.stdout[-2000:]
    assert word in result.stdout


def test_memory_above_the_hole_is_used(guest):
    out = guest.script("grep MemTotal /proc/meminfo; grep -i 'system ram' /proc/iomem", memory="6G", timeout=400)
    assert int(re.search(r"MemTotal:\s+(\d+) kB", out).group(1)) > 5.7 * 1024 * 1024
    assert re.search(r"^100000000-1bfffffff : System RAM", out, re.M | re.I)


def test_twenty_drives_are_all_there_and_readable(guest, host):
    host.run("mkdir -p /tmp/d; for i in $(seq 0 19); do yes disk$i | dd bs=1M count=1 iflag=fullblock 2>/dev/null of=/tmp/d/$i; done", check=True)
    drives = [f"--drive /tmp/d/{i}" for i in range(20)]
    out = guest.script("for d in /dev/vd?; do echo $d $(head -n 1 $d); done; grep -c virtio /proc/interrupts", *drives)
    for i in range(20):
        assert f"/dev/vd{chr(ord('a') + i)} disk{i}" in out
    host.run("rm -r /tmp/d")


def test_a_kernel_without_acpi_boots(guest):
    """With one CPU: Debian's kernels are built without X86_MPPARSE and do not read the MP table; its bytes are a unit test's."""
    result = guest.run(cmdline="acpi=off husk.end=reboot reboot=k", cpus=4)
    assert re.search(r"husk: init reached", result.stdout), result.stdout[-2000:]
    assert result.rc == 10


def test_the_console_is_interactive_and_ctrl_a_x_quits(guest, host):
    with host.popen(guest.command(), tty=True) as p:
        p.expect(r"husk-initrd:\S+# ", timeout=200)
        p.send("echo $((6 * 7)) is the answer\n")
        p.expect("42 is the answer", timeout=60)
        for presses in range(2):
            p.send("grep ACPI:Ged /proc/interrupts\n")
            p.expect(rf"\s{presses} +IO-APIC +9-edge +ACPI:Ged", timeout=60)
            p.send("\x01p")
        p.send("\x01h")
        p.expect("Ctrl-a x", timeout=30)
        p.send("\x01x")
        assert p.wait(timeout=60) == 0


def test_a_virtio_console_works_as_the_console(guest):
    result = guest.run("--serial", "null", "--console", "stdio", cmdline="console=hvc0", script="echo hello from $(tty)")
    assert "hello from" in result.stdout and result.rc == 0, result.stdout[-2000:]


def test_sigterm_ends_the_vm_and_leaves_nothing(guest, host):
    p = host.popen(shlex.join(["sh", "-c", guest.command("--serial", "pty") + " & pid=$!; sleep 5; kill $pid; wait $pid; echo rc=$?"]))
    p.expect(r"rc=0", timeout=60)
    p.close()
    assert host.run("pidof husk").rc != 0


def test_one_json_file_boots_debian(guest, host):
    host.run("cp /husk/guest/rootfs.ext4 /husk/json.ext4", check=True, timeout=120)
    host.put(b"""{
      "boot-source": {"kernel_image_path": "/husk/guest/vmlinuz-6.12", "initrd_path": "/husk/guest/initrd-6.12.img",
                      "boot_args": "console=ttyS0 init=/sbin/husk-init"},
      "machine-config": {"vcpu_count": 2, "mem_size_mib": 512},
      "drives": [{"drive_id": "rootfs", "is_root_device": true, "path_on_host": "/husk/json.ext4", "is_read_only": false}],
      "entropy": {}, "metrics": {"metrics_path": "/tmp/metrics"}
    }""", "/tmp/vm.json")
    assert host.run("husk config check /tmp/vm.json").rc == 0
    with host.popen("husk run /tmp/vm.json", tty=True) as p:
        p.expect(r"root@husk:\S*# ", timeout=300)
        p.send("cat /etc/debian_version; nproc; findmnt -no FSTYPE,OPTIONS /; poweroff -f\n")
        p.expect(r"12\.\d+\s+2\s+ext4\s+rw", timeout=120)
        assert p.wait(timeout=60) == 0
    first, last = (json.loads(line) for line in host.run("cat /tmp/metrics; rm /tmp/metrics /tmp/vm.json /husk/json.ext4").stdout.splitlines())
    assert first["block_rootfs"]["read_count"] == 0 and last["block_rootfs"]["read_count"] > 100, last


def test_husk_check_finds_this_kvm_usable(host):
    result = host.run("husk check --accelerator kvm", timeout=60)
    assert result.rc == 0, result.stdout + result.stderr


@pytest.fixture
def passt(host):
    """passt as the network, without a tap. It wants to pivot_root, which this host's initramfs does not allow: it gets a root of its own."""
    with host.popen("mkdir -p /nr; exec unshare -m sh -c 'mount --rbind / /nr && cd /nr && mount --move . / && "
                    "exec chroot . /usr/bin/passt --foreground --runas 0 --socket /tmp/passt.sock'") as p:
        host.run("for i in $(seq 100); do [ -S /tmp/passt.sock ] && exit 0; sleep 0.1; done; exit 1", check=True, timeout=60)
        yield p
    host.run("rm -f /tmp/passt.sock")


def test_tcp_over_passt_needs_no_tap(guest, host, passt):
    host.run("dd if=/dev/urandom bs=1M count=10 2>/dev/null of=/tmp/10M", check=True, timeout=60)
    want = host.run("sha256sum </tmp/10M").stdout.split()[0]
    with host.popen("nc -l -p 9003 </tmp/10M"):
        out = guest.script("ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2\n"
                           "mkfifo /tmp/open; nc 10.0.2.2 9003 <>/tmp/open | sha256sum",  # the gateway's address is the host
                           "--net", "passt=/tmp/passt.sock")
    host.run("rm /tmp/10M")
    assert want in out

"""What Firecracker's clients do, replayed: curl along Firecracker's getting-started page up to a login; the requests, files and command lines of Kata Containers
(both runtimes), firectl and firecracker-containerd. Real Debian guests under tcg, on this machine. Those of the Go SDK are in test_gosdk.py."""
import base64
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from api_client import Husk
from local_guest import HUSK, image, local_guest, tap  # noqa: F401


def encoded(script):
    return "husk.exec=" + base64.urlsafe_b64encode(script.encode()).decode()


class Vmm(Husk):
    """husk under Firecracker's name, with exactly these arguments; its terminal is a pair of pipes."""

    def __init__(self, folder, *args):
        self.folder, self.sock = Path(folder), Path(folder) / "api.sock"
        self.console_file, self.log_file = self.folder / "console", self.folder / "log"
        name = self.folder / "firecracker"
        if not name.exists():
            name.symlink_to(Path(HUSK).resolve())
        with open(self.console_file, "wb") as out, open(self.folder / "stderr", "wb") as err:
            self.process = subprocess.Popen([str(name), *map(str, args)], stdin=subprocess.PIPE, stdout=out, stderr=err, cwd=folder)

    def type(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()


@pytest.fixture
def vmm(tmp_path, local_guest):  # noqa: F811
    made = []

    def make(*args, api=True):
        made.append(Vmm(tmp_path, *args))
        if api:
            made[-1].wait_for(made[-1].listens, "the API socket")
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def disks(tmp_path):
    """Makes an image that begins with its name."""
    def make(name, mib=1):
        path = tmp_path / name
        path.write_bytes(name.encode().ljust(8, b"."))
        os.truncate(path, mib << 20)
        return str(path)
    return make


# ---- curl ----

def curl(sock, method, path, body):
    done = subprocess.run(["curl", "-sS", "-X", method, "--unix-socket", str(sock), "--data", json.dumps(body), f"http://localhost{path}"],
                          capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and done.stdout == "", (path, done.stdout, done.stderr)


def test_curl_follows_the_getting_started_page_to_a_login(vmm, tmp_path, tap):  # noqa: F811
    rootfs, log, sock = tmp_path / "rootfs.ext4", tmp_path / "firecracker.log", tmp_path / "api.sock"
    subprocess.run(["cp", "--sparse=always", str(image("rootfs.ext4")), str(rootfs)], check=True)
    log.touch()
    vm = vmm("--api-sock", sock, "--enable-pci")
    curl(sock, "PUT", "/logger", {"log_path": str(log), "level": "Debug", "show_level": True, "show_log_origin": True})
    # Debian's kernel has its file systems in modules: the page's kernel needs no initrd.
    curl(sock, "PUT", "/boot-source", {"kernel_image_path": str(image("vmlinuz-6.12")), "initrd_path": str(image("initrd-6.12.img")),
                                       "boot_args": "console=ttyS0 reboot=k panic=1"})
    curl(sock, "PUT", "/drives/rootfs", {"drive_id": "rootfs", "path_on_host": str(rootfs), "is_root_device": True, "is_read_only": False})
    curl(sock, "PUT", "/network-interfaces/net1", {"iface_id": "net1", "guest_mac": "06:00:AC:10:00:02", "host_dev_name": tap})
    curl(sock, "PUT", "/actions", {"action_type": "InstanceStart"})
    vm.wait_for(lambda: re.search(r"login: |root@\S+:~# ", vm.console()), "login", 150)
    if "login: " in vm.console():
        vm.type("root")
    vm.wait_for(lambda: re.search(r"root@\S+:~# ", vm.console()), "shell", 60)
    vm.type("echo answer=$((6*7)) $(ip -o link show eth0 | grep -o 06:00:ac:10:00:02)")
    vm.wait_console("answer=42 06:00:ac:10:00:02", 30)
    vm.type("reboot")  # as the page ends a guest
    assert vm.end() == 0
    assert "DEBUG" in log.read_text() and "Firecracker exiting successfully. exit_code=0" in log.read_text()


# ---- Kata Containers, the runtime in Go: a configuration file, then drives are changed ----

KATA_ARGS = "console=ttyS0 pci=off acpi=off reboot=k panic=1 iommu=off net.ifnames=0 random.trust_cpu=on tsc=reliable no_timer_check quiet"


def kata_config(folder, disks, tap, args):  # noqa: F811
    os.mkfifo(folder / "logs.fifo")
    os.mkfifo(folder / "metrics.fifo")
    drives = [{"drive_id": "rootfs", "path_on_host": str(image("rootfs.ext4")), "is_root_device": True, "is_read_only": True}]
    drives += [{"drive_id": f"drive_{i}", "path_on_host": disks(f"drive_{i}"), "is_root_device": False, "is_read_only": False} for i in range(8)]
    return {
        "boot-source": {"kernel_image_path": str(image("vmlinuz-6.12")), "initrd_path": str(image("initrd-6.12.img")), "boot_args": args},
        "machine-config": {"mem_size_mib": 256, "vcpu_count": 1},
        "drives": drives,
        "vsock": {"guest_cid": 3, "uds_path": "kata.hvsock", "vsock_id": "root"},
        "network-interfaces": [{"guest_mac": "06:00:AC:10:00:02", "host_dev_name": tap, "iface_id": "eth0"}],
        "logger": {"log_path": "logs.fifo", "level": "Debug"},
        "metrics": {"metrics_path": "metrics.fifo"},
    }


def start_kata(vmm, tmp_path, config):
    """As it starts: readers on both FIFOs, the version's first line, the file, GET / until it runs."""
    (tmp_path / "fcConfig.json").write_text(json.dumps(config))
    version = subprocess.run([HUSK, "--version"], capture_output=True, text=True, check=True).stdout
    assert re.match(r"Firecracker v\d+\.\d+\.\d+\n", version)
    readers = [os.open(tmp_path / f"{name}.fifo", os.O_RDONLY | os.O_NONBLOCK) for name in ("logs", "metrics")]
    vm = vmm("--api-sock", "api.sock", "--config-file", "fcConfig.json")
    vm.wait_for(lambda: vm.get("/")["state"] == "Running", "running VM")
    return vm, readers


def test_kata_starts_from_its_file_and_fills_its_placeholders(vmm, tmp_path, disks, tap):  # noqa: F811
    script = "echo up $(ls -d /sys/block/vd* | wc -w); until [ $(cat /sys/block/vdc/size) = 6144 ]; do sleep 0.05; done; echo got $(head -c 8 /dev/vdc); sleep 1000"
    args = KATA_ARGS.replace("acpi=off ", "init=/sbin/husk-init ")  # Debian's kernel finds virtio devices by ACPI only
    vm, readers = start_kata(vmm, tmp_path, kata_config(tmp_path, disks, tap, f"{args} {encoded(script)}"))
    os.chmod(tmp_path / "kata.hvsock", 0o777)
    vm.wait_console("up 9")
    vm.patch("/drives/drive_1", drive_id="drive_1", path_on_host=disks("image-a", 3))
    vm.wait_console("got image-a.")
    assert "API server started." in os.read(readers[0], 65536).decode()
    assert json.loads(os.read(readers[1], 65536).decode().splitlines()[0])["utc_timestamp_ms"]
    vm.process.send_signal(signal.SIGTERM)
    assert vm.end() in (0, -signal.SIGTERM)
    for fd in readers:
        os.close(fd)


def test_katas_kernel_without_acpi_is_told_of_its_devices(vmm, tmp_path, disks, tap):  # noqa: F811
    """Debian's kernel cannot use them so, but it boots, and the words for a kernel that can are there."""
    vm, readers = start_kata(vmm, tmp_path, kata_config(tmp_path, disks, tap, KATA_ARGS.replace(" quiet", "")))
    vm.wait_console("Run /init as init process")
    found = re.findall(r" virtio_mmio\.device=4K@0xc000([1-9a-f])000:\d+", re.search("Kernel command line: (.*)", vm.console()).group(1))
    assert found == list("123456789ab"), found  # 9 drives, a network interface, vsock
    assert " root=/dev/vda ro" in vm.console()
    for fd in readers:
        os.close(fd)


# ---- Kata Containers, the runtime in Rust: all over the API ----

def test_kata_in_rust_configures_over_the_api(vmm, tmp_path, disks, tap):  # noqa: F811
    limits = {"bandwidth": {"size": 100 << 20, "one_time_burst": 0, "refill_time": 1000}, "ops": {"size": 10000, "one_time_burst": 0, "refill_time": 1000}}
    script = "echo up; until [ $(cat /sys/block/vdb/size) = 6144 ]; do sleep 0.05; done; echo got $(head -c 8 /dev/vdb); sleep 1000"
    vm = vmm("--id", "kata-1", "--api-sock", "api.sock", "--boot-timer")
    vm.put("/boot-source", kernel_image_path=str(image("vmlinuz-6.12")), initrd_path=str(image("initrd-6.12.img")),
           boot_args=f"console=ttyS0 reboot=k panic=1 pci=off quiet {encoded(script)}")
    vm.put("/machine-config", mem_size_mib=256, vcpu_count=1)
    vm.put("/drives/rootfs", drive_id="rootfs", path_on_host=disks("rootfs"), is_root_device=False, is_read_only=True)
    for i in range(1, 6):
        vm.put(f"/drives/drive{i}", drive_id=f"drive{i}", path_on_host=disks(f"drive{i}"), is_root_device=False, is_read_only=False)
    vm.put("/network-interfaces/eth0", iface_id="eth0", guest_mac="06:00:AC:10:00:02", host_dev_name=tap, rx_rate_limiter=limits, tx_rate_limiter=limits)
    vm.put("/vsock", guest_cid=3, uds_path="kata.hvsock", vsock_id="root")
    vm.put("/actions", action_type="InstanceStart")
    vm.wait_console("up\n")
    vm.patch("/drives/drive1", drive_id="drive1", path_on_host=disks("layer", 3), rate_limiter=limits)
    vm.wait_console("got layer...")
    vm.process.kill()
    assert vm.end() == -signal.SIGKILL


# ---- firectl and firecracker-containerd: the Go SDK's requests with values of their own ----

def test_firectl_boots_with_its_own_command_line(vmm, tmp_path, tap):  # noqa: F811
    vm = vmm("--api-sock", tmp_path / "api.sock", "--id", "550e8400-e29b-41d4-a716-446655440000", "--no-seccomp")
    os.mkfifo(tmp_path / "fc.fifo")
    reader = os.open(tmp_path / "fc.fifo", os.O_RDONLY | os.O_NONBLOCK)
    vm.get("/machine-config")
    vm.put("/logger", log_path=str(tmp_path / "fc.fifo"), level="Debug", show_level=True, show_log_origin=False)
    vm.put("/machine-config", vcpu_count=2, mem_size_mib=512, smt=True, track_dirty_pages=False)
    assert vm.get("/machine-config")["smt"] is True
    vm.put("/boot-source", kernel_image_path=str(image("vmlinuz-6.12")), initrd_path=str(image("initrd-6.12.img")),
           boot_args="ro console=ttyS0 reboot=k panic=1 pci=off nomodules init=/sbin/husk-init "
                     + encoded("echo guest $(nproc) $(. /etc/os-release; echo $ID); while true; do sleep 1; done"))
    vm.put("/drives/1", drive_id="1", path_on_host=str(image("rootfs.ext4")), is_root_device=True, is_read_only=True)
    vm.put("/network-interfaces/1", iface_id="1", guest_mac="06:00:AC:10:00:02", host_dev_name=tap)
    vm.put("/vsock", guest_cid=10, uds_path=str(tmp_path / "v.sock"), vsock_id="1")
    vm.put("/actions", action_type="InstanceStart")
    vm.wait_console("guest 2 debian")
    assert ":DEBUG" in os.read(reader, 65536).decode()
    os.close(reader)
    vm.put("/actions", action_type="SendCtrlAltDel")
    assert vm.end() == 0


def test_firectls_noapic_does_no_harm_to_a_kernel_with_acpi(vmm, tmp_path):
    """firectl says noapic unless told otherwise. Such a kernel has no interrupts of devices then (its 8259s stay masked), but comes up and ends."""
    vm = vmm("--api-sock", tmp_path / "api.sock")
    vm.put("/boot-source", kernel_image_path=str(image("vmlinuz-6.12")), initrd_path=str(image("initrd-6.12.img")),
           boot_args="ro console=ttyS0 noapic reboot=k panic=1 pci=off nomodules " + encoded("true"))
    vm.put("/actions", action_type="InstanceStart")
    assert vm.end() == 0
    assert "Run /init as init process" in vm.console() and "reboot: Power down" in vm.console() and "Oops" not in vm.console()


def test_containerds_stub_drives_are_filled_one_after_another(vmm, tmp_path, disks, tap):  # noqa: F811
    vm = vmm("--api-sock", tmp_path / "api.sock", "--id", "vm-1", "--no-seccomp")
    script = "".join(f"until [ $(cat /sys/block/vd{d}/size) = 4096 ]; do sleep 0.05; done; echo vd{d}=$(head -c 8 /dev/vd{d})\n" for d in "bcd") + "sleep 1000"
    vm.put("/machine-config", vcpu_count=1, mem_size_mib=256, smt=False, cpu_template="T2" if "GenuineIntel" in open("/proc/cpuinfo").read() else "T2A")
    vm.put("/boot-source", kernel_image_path=str(image("vmlinuz-6.12")), initrd_path=str(image("initrd-6.12.img")),
           boot_args="console=ttyS0 pnp.maxdevs=0 reboot=k panic=1 pci=off nomodules ro init=/sbin/husk-init systemd.unified_cgroup_hierarchy=0 " + encoded(script))
    vm.put("/drives/root_drive", drive_id="root_drive", path_on_host=str(image("rootfs.ext4")), is_root_device=True, is_read_only=True)
    for i in range(3):
        vm.put(f"/drives/ctrstub{i}", drive_id=f"ctrstub{i}", path_on_host=disks(f"stub{i}"), is_root_device=False, is_read_only=False)
    vm.put("/network-interfaces/1", iface_id="1", guest_mac="06:00:AC:10:00:02", host_dev_name=tap)
    vm.put("/mmds/config", network_interfaces=["1"], version="V1")
    vm.put("/balloon", amount_mib=0, deflate_on_oom=True, stats_polling_interval_s=1)
    vm.put("/actions", action_type="InstanceStart")
    for i in range(3):
        vm.patch(f"/drives/ctrstub{i}", drive_id=f"ctrstub{i}", path_on_host=disks(f"layer{i}", 2))
        vm.wait_console(f"vd{'bcd'[i]}=layer{i}")
    vm.put("/mmds", latest={"meta-data": {}})
    vm.patch("/mmds", latest={"meta-data": {"a": 1}})
    assert vm.get("/mmds") == {"latest": {"meta-data": {"a": 1}}}
    vm.patch("/balloon", amount_mib=8)
    assert vm.get("/balloon")["amount_mib"] == 8
    end = time.monotonic() + 30
    while vm.get("/balloon/statistics")["actual_mib"] != 8:
        assert time.monotonic() < end
        time.sleep(0.1)
    vm.patch("/vm", state="Paused")
    vm.patch("/vm", state="Resumed")
    vm.put("/actions", action_type="SendCtrlAltDel")
    assert vm.end() == 0

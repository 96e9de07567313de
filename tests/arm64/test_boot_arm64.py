"""Debian's arm64 kernels under husk on the KVM of a nested arm64 host (tests/nested/arm64.py); `tools/test --arch arm64` runs this."""
from hosted import host, husk, machines


@machines(("6.1", 1), ("6.12", 4))
def test_a_cloud_kernel_boots_with_what_the_device_tree_names(version, cpus):
    script = "uname -rm; nproc; cat /proc/interrupts; cat /proc/device-tree/compatible; hexdump -n 5 -C /dev/vda; exit 3"
    out = host("dd if=/dev/zero of=/tmp/disk bs=1M count=8 2>/dev/null; echo hallo | dd of=/tmp/disk conv=notrunc 2>/dev/null\n"
               + husk(version, script, f"--cpus {cpus}", "--drive /tmp/disk") + "; echo husk ends with $?")
    assert "cloud-arm64 aarch64" in out and f"\n{cpus}\n" in out
    assert "68 61 6c 6c 6f" in out
    for line in ("GICv3  32 Level     ttyS0", "GICv3  36 Edge      virtio0", "arch_timer"):
        assert line in out
    assert "husk: exit 3" in out and "husk ends with 0" in out


def test_processors_of_a_second_cluster_come_up():
    """MPIDR has 16 in a cluster: device tree, KVM and GIC must agree on the seventeenth."""
    out = host(husk("6.12", "nproc; cat /proc/device-tree/cpus/cpu@100/enable-method; echo", "--cpus 17", "--memory 512M"))
    assert "\n17\npsci" in out and "husk: exit 0" in out, out


@machines(("6.12", 1))
def test_the_guests_end_is_as_documented(version, cpus):
    out = host("".join(husk(version, script, f"--cpus {cpus}") + f"; echo {name} ends with $?\n"
                       for name, script in (("reboot", "reboot -f"), ("poweroff", "poweroff -f"), ("panic", "echo c >/proc/sysrq-trigger"))))
    assert "poweroff ends with 0" in out
    assert "reboot ends with 10" in out
    assert "Kernel panic" in out
    assert "panic ends with 10" in out  # Debian's arm64 cloud kernels have no pvpanic driver: panic=-1 resets


@machines(("6.12", 4))
def test_a_tap_carries_frames_both_ways(version, cpus):
    out = host("tunctl -t tap0; ip addr add 10.9.0.1/24 dev tap0; ip link set tap0 up\n"
               + husk(version, "ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up; ping -c 2 10.9.0.1", f"--cpus {cpus}", "--net tap=tap0",
                      "--vsock /tmp/vsock,cid=5", "--balloon 16"))
    assert "2 packets received" in out
    assert "husk: exit 0" in out


def test_a_guest_goes_on_after_a_pause():
    out = host(husk("6.12", "sleep 8; echo guest goes on", "--api-sock /tmp/api") + " & pid=$!\n"
               "for i in $(seq 100); do husk ctl /tmp/api status >/dev/null 2>&1 && break; sleep 0.2; done; sleep 6\n"
               "husk ctl /tmp/api pause; husk ctl /tmp/api resume\n"
               "wait $pid; echo husk ends with $?")
    assert "guest goes on" in out and "husk ends with 0" in out

"""Debian's arm64 kernels under husk on the KVM of a nested arm64 host (tests/nested/arm64.py); `tools/test --arch arm64` runs this."""
import base64
import os
import subprocess

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def host(command, timeout=240):
    """Runs a shell script in a fresh nested host; its output."""
    done = subprocess.run([os.path.join(TOP, "tests/nested/arm64.py"), "--timeout", str(timeout), "--", command],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def husk(version, script, *flags, args="console=ttyS0 panic=-1 quiet"):
    """The command line that boots a guest which runs script."""
    exe = base64.urlsafe_b64encode(script.encode()).decode()
    return f"husk run --kernel /guest/vmlinuz-{version} --initrd /guest/initrd-{version}.img {' '.join(flags)} --cmdline '{args} husk.exec={exe}'"


@pytest.mark.parametrize("version,cpus", [("6.1", 4), ("6.12", 1)])
def test_a_cloud_kernel_boots_with_what_the_device_tree_names(version, cpus):
    script = "uname -rm; nproc; cat /proc/interrupts; cat /proc/device-tree/compatible; hexdump -n 5 -C /dev/vda; exit 3"
    out = host("dd if=/dev/zero of=/tmp/disk bs=1M count=8 2>/dev/null; echo hallo | dd of=/tmp/disk conv=notrunc 2>/dev/null\n"
               + husk(version, script, f"--cpus {cpus}", "--drive /tmp/disk") + "; echo husk ends with $?")
    assert "cloud-arm64 aarch64" in out and f"\n{cpus}\n" in out
    assert "68 61 6c 6c 6f" in out
    for line in ("GICv3  32 Level     ttyS0", "GICv3  36 Edge      virtio0", "arch_timer"):
        assert line in out
    assert "husk: exit 3" in out and "husk ends with 0" in out


def test_reboot_and_panic_end_as_documented():
    out = host(husk("6.12", "reboot -f") + "; echo reboot ends with $?\n"
               + husk("6.12", "echo c >/proc/sysrq-trigger") + "; echo panic ends with $?\n")
    assert "reboot ends with 10" in out
    assert "Kernel panic" in out
    assert "panic ends with 10" in out  # Debian's arm64 cloud kernels have no pvpanic driver: panic=-1 resets


def test_what_is_no_kernel_gets_a_sentence():
    out = host("head -c 100000 /dev/urandom >/tmp/garbage; head -c 4096 /dev/zero >/tmp/x86; printf HdrS | dd of=/tmp/x86 bs=1 seek=514 conv=notrunc 2>/dev/null\n"
               "for k in garbage x86 missing; do husk run --kernel /tmp/$k 2>&1; echo $k $?; done\n"
               "husk run --memory 32 --kernel /guest/vmlinuz-6.12 2>&1; true")
    assert 'kernel image "/tmp/garbage": it is not an arm64 kernel' in out
    assert 'kernel image "/tmp/x86": it is an x86 kernel (bzImage)' in out
    assert 'kernel image "/tmp/missing": cannot open it' in out
    assert "does not fit into the machine's memory (32 MiB)" in out


def test_a_tap_carries_frames_both_ways():
    out = host("tunctl -t tap0; ip addr add 10.9.0.1/24 dev tap0; ip link set tap0 up\n"
               + husk("6.12", "ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up; ping -c 2 10.9.0.1", "--cpus 4", "--net tap=tap0",
                      "--vsock /tmp/vsock,cid=5", "--balloon 16"))
    assert "2 packets received" in out
    assert "husk: exit 0" in out


def test_a_guest_goes_on_after_a_pause():
    out = host(husk("6.12", "sleep 8; echo guest goes on", "--api-sock /tmp/api") + " & pid=$!\n"
               "for i in $(seq 100); do husk ctl /tmp/api status >/dev/null 2>&1 && break; sleep 0.2; done; sleep 6\n"
               "husk ctl /tmp/api pause; husk ctl /tmp/api resume\n"
               "wait $pid; echo husk ends with $?")
    assert "guest goes on" in out and "husk ends with 0" in out

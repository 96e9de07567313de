"""The API, the sandbox and the jailer on arm64, once each with a guest of four CPUs; and how a guest's end becomes husk's exit code."""
import base64
import json
import re

import pytest

from hosted import BUILD, between, host, husk, machines, rounds, until

SLEEPS = "echo the guest runs; sleep 10; dd if=/dev/vda bs=5 count=1 2>/dev/null; echo; echo the guest ends"
DISK = "truncate -s 1M {0}; echo hallo | dd of={0} conv=notrunc 2>/dev/null"


def requests(api, version, cpus, folder="", disk="/tmp/disk"):
    """A VM, request by request. folder: where husk finds the images."""
    script = base64.urlsafe_b64encode(SLEEPS.encode()).decode()
    bodies = {"/machine-config": {"vcpu_count": cpus, "mem_size_mib": 256}, "/entropy": {},
              "/boot-source": {"kernel_image_path": f"{folder}/vmlinuz-{version}", "initrd_path": f"{folder}/initrd-{version}.img",
                               "boot_args": f"console=ttyS0 panic=-1 quiet husk.exec={script}"},
              "/drives/d0": {"drive_id": "d0", "path_on_host": disk, "is_root_device": False}}
    return "".join(f"husk ctl {api} put {path} '{json.dumps(body)}' || echo {path} fails\n" for path, body in bodies.items())


@machines(("6.1", 1), ("6.12", 4))
def test_a_vm_is_made_started_paused_and_watched_over_the_api(version, cpus):
    api = "husk ctl /tmp/api"
    out = host(DISK.format("/tmp/disk") + "; husk --api-sock /tmp/api --id vm-1 >/tmp/console 2>/tmp/errors & pid=$!\n" + until("[ -S /tmp/api ]") + "\n"
               + requests("/tmp/api", version, cpus, "/guest") + f"{api} start || echo start fails\n" + until("grep -q 'the guest runs' /tmp/console") + "\n"
               f"echo STATE; {api} get /; {api} get /machine-config; {api} pause; {api} get /; {api} resume; {api} get /\n"
               f"echo REFUSED; {api} stop 2>&1; {api} put /boot-source '{{\"kernel_image_path\": \"/x\"}}' 2>&1; {api} patch /machine-config '{{\"smt\": true}}' 2>&1\n"
               "echo SANDBOX; husk check --sandbox --pid $pid 2>&1; echo threads $(ls /proc/$pid/task | wc -l)\n"
               "echo END; wait $pid; echo husk ends with $?; cat /tmp/console /tmp/errors; ls /tmp/api 2>&1; true")
    state, refused, sandbox = between(out, "STATE", "REFUSED"), between(out, "REFUSED", "SANDBOX"), between(out, "SANDBOX", "END")
    assert " fails" not in out
    assert re.findall(r'"state": ?"(\w+)"', state) == ["Running", "Paused", "Running"] and re.search(rf'"vcpu_count": ?{cpus},', state), state
    assert "the guest does not listen to its power button: its kernel has to have the driver gpio_keys" in refused and refused.count("not supported after starting the microVM") == 2, refused
    threads = int(re.search(r"threads (\d+)", sandbox).group(1))
    assert threads >= cpus + 2 and len(re.findall(r"thread \d+: filtered system calls, no capabilities", sandbox)) == threads, sandbox
    assert "fail" not in sandbox
    assert "hallo\nthe guest ends" in out and "husk ends with 0" in out
    assert out.count("Received Error") == 3, out  # in the log: those that are refused above


@machines(("6.12", 4))
def test_a_jailed_guest_runs_and_leaves_nothing(version, cpus):
    root = "/srv/husk/vm-1/root"
    jailer = "/programs/husk-jailer --id vm-1 --exec-file /bin/husk --uid 1234 --gid 1235 --chroot-base-dir /srv"
    out = host("mkdir -p /srv\n"
               f"{jailer} --cgroup-version 2 --cgroup pids.max=100 --cleanup -- --api-sock /api >/tmp/console 2>/tmp/errors & pid=$!\n"
               + until(f"[ -S {root}/api ]") + f"\nmkdir {root}/guest; cp /guest/*-{version}* {root}/guest; {DISK.format(root + '/disk')}; chown 1234 {root}/disk\n"
               + requests(f"{root}/api", version, cpus, "/guest", "/disk") + f"husk ctl {root}/api start || echo start fails\n"
               + until("grep -q 'the guest runs' /tmp/console") + "\n"
               "echo STATUS; grep -E '^(Uid|Gid|Groups|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/$pid/status; readlink /proc/$pid/root; cat /proc/$pid/cgroup\n"
               f"ls -ln {root} {root}/dev; husk check --sandbox --pid $pid 2>&1\n"
               "echo END; wait $pid; echo husk ends with $?; cat /tmp/console /tmp/errors; sleep 3; echo LEFT; find /srv /sys/fs/cgroup/husk | grep vm-1; true",
               programs=[BUILD / "src/jailer/husk-jailer"])
    status = between(out, "STATUS", "END")
    assert " fails" not in out
    assert "Uid:\t1234\t1234\t1234\t1234" in status and "Gid:\t1235\t1235\t1235\t1235" in status
    assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
    assert "/husk/vm-1" in status and re.search(r"^crw------- +1 1234 +1235 +10, +232 .* kvm$", status, re.M), status
    assert "fail" not in status, status
    assert "hallo\nthe guest ends" in out and "husk ends with 0" in out
    assert "vm-1" not in out.partition("\nLEFT\n")[2], out  # --cleanup


@machines(("6.1", 4), ("6.12", 1))
def test_ends_become_exit_codes(version, cpus):
    """Debian's cloud kernels have no driver for pvpanic: a panic resets. What the driver would write, devmem writes."""
    ends = {"off": ("poweroff -f", 0), "boot": ("reboot -f", 10), "panic": ("echo c >/proc/sysrq-trigger", 10), "pvpanic": ("devmem 0x40043000 8 1; sleep 60", 11)}
    out = host("\n".join(husk(version, script, f"--cpus {cpus}") + f"; echo {name} ends with $?" for name, (script, _) in ends.items() for _ in range(rounds(1, 5))))
    for name, (_, code) in ends.items():
        assert out.count(f"{name} ends with {code}\n") == rounds(1, 5), out
    assert "Kernel panic" in out


@pytest.mark.parametrize("signal", ["TERM", "INT"])
def test_a_signal_ends_the_vm(signal):
    out = host(husk("6.12", "echo the guest runs; sleep 100") + " >/tmp/console & pid=$!\n" + until("grep -q 'the guest runs' /tmp/console")
               + f"; kill -{signal} $pid; wait $pid; echo husk ends with $?")
    assert "husk ends with 0" in out

"""What a running VM can no longer do: filters and capabilities of each thread, its descriptors, files, programs; with husk-jailer, too."""
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from api_client import Husk
from local_guest import HUSK, image, local_guest  # noqa: F401

JAILER = os.environ.get("HUSK_JAILER", str(Path(HUSK).parent / "src" / "jailer" / "husk-jailer"))
MAY_BE_OPEN = re.compile(r"^(socket:|pipe:|/memfd:husk|anon_inode:(\[(eventfd|eventpoll|timerfd|io_uring)\]|kvm-vm|kvm-vcpu:)|/dev/(null|kvm|net/tun)|"
                         r"/proc/\d+/pagemap$|.*/build/guest/(vmlinuz|initrd)-)")  # which pages of memory and boot images are in use, for snapshots


@pytest.fixture(scope="module", autouse=True)
def filters_wanted(local_guest):  # noqa: F811
    if os.environ.get("HUSK_SANITIZED"):
        pytest.skip("a build with sanitizers has no sandbox")


def threads(pid):
    """{name: {key: value}} of the status files."""
    return {s["Name"] + ":" + s["Pid"]: s for s in (dict(line.split(":\t", 1) for line in f.read_text().splitlines() if ":\t" in line)
                                                    for f in Path(f"/proc/{pid}/task").glob("*/status"))}


def wait_for_text(path, text, process, seconds=60):
    end = time.monotonic() + seconds
    while text not in path.read_text(errors="replace"):
        assert process.poll() is None and time.monotonic() < end, path.read_text(errors="replace")[-2000:]
        time.sleep(0.05)


@pytest.fixture
def running(local_guest, tmp_path):  # noqa: F811
    """Starts a guest that waits, with all that makes threads; returns its process. With filters unless flags say otherwise."""
    started = []

    def start(*flags, cpus=2):
        drive = tmp_path / "drive"
        drive.write_bytes(bytes(1 << 20))
        cmd = local_guest.command("--drive", f"{drive},id=d0", "--entropy", "--vsock", f"{tmp_path}/v.sock,cid=3", *flags, cpus=cpus,
                                  script="echo guest: ready; sleep 1000")
        with open(tmp_path / "console", "wb") as out:
            started.append(subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=out, stderr=out))
        wait_for_text(tmp_path / "console", "guest: ready", started[-1])
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        assert process.wait(20) == 0
    assert not (tmp_path / "v.sock").exists()  # removed at the end, in spite of Landlock


def test_each_thread_has_a_filter_and_no_capability(running):
    found = threads(running().pid)
    names = sorted(n.split(":")[0] for n in found)
    assert names == ["husk", "husk-disk", "tcg timers", "vcpu 0", "vcpu 1"]
    for name, s in found.items():
        assert (s["Seccomp"], s["NoNewPrivs"]) == ("2", "1"), (name, s)
        assert all(int(s[f"Cap{which}"], 16) == 0 for which in ("Inh", "Prm", "Eff", "Amb")), (name, s)
        assert int(s["CapBnd"], 16) == 0 or os.geteuid() != 0, (name, s)


def test_no_seccomp_switches_the_filters_off_and_nothing_else(running):
    for name, s in threads(running("--no-seccomp").pid).items():
        assert (s["Seccomp"], s["NoNewPrivs"]) == ("0", "1") and int(s["CapPrm"], 16) == 0, (name, s)


def test_check_says_what_confines_a_process(running):
    husk = running()
    done = subprocess.run([HUSK, "check", "--sandbox", "--pid", str(husk.pid)], capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 5, done
    assert all(line.startswith("ok ") and "filtered system calls, no capabilities" in line for line in done.stdout.splitlines()), done.stdout
    done = subprocess.run([HUSK, "check", "--sandbox", "--pid", str(os.getpid())], capture_output=True, text=True)
    assert done.returncode == 1 and "NO seccomp filter" in done.stdout
    done = subprocess.run([HUSK, "check", "--sandbox"], capture_output=True, text=True)
    assert done.returncode == 0 and re.search(r"^(ok|warn) +landlock ", done.stdout, re.M)


def test_descriptors_are_those_of_the_vm_and_none_survives_an_exec(running, tmp_path):
    with open("/etc/passwd") as secret:  # not inherited: Python's own descriptors are close-on-exec
        husk = running()
        fds = {int(f.name): os.readlink(f) for f in Path(f"/proc/{husk.pid}/fd").iterdir()}
        assert secret.fileno() > 2
    allowed = {str(tmp_path / "drive"), str(tmp_path / "console")}
    assert not {n: what for n, what in fds.items() if n > 2 and what not in allowed and not MAY_BE_OPEN.match(what)}
    for n in fds:
        flags = int(re.search(r"^flags:\t(\d+)", Path(f"/proc/{husk.pid}/fdinfo/{n}").read_text(), re.M).group(1), 8)
        assert n <= 2 or flags & 0o2000000, (n, fds[n])


def test_others_of_the_user_cannot_read_its_memory(running):
    husk = running()
    assert os.stat(f"/proc/{husk.pid}/mem").st_uid == 0  # not dumpable: root's
    assert Path(f"/proc/{husk.pid}/status").read_text()


def test_a_fault_is_told_by_log_metrics_and_exit_code(local_guest, tmp_path):  # noqa: F811
    """From outside there is no way to make husk do what it does not do. gdb is one: the call is made in husk's name."""
    console, metrics = tmp_path / "console", tmp_path / "metrics"
    cmd = local_guest.command("--metrics-path", metrics, script="echo guest: ready; sleep 1000")
    # Its exit code is looked at by a shell: conftest takes 148 for a failure.
    with open(console, "wb") as out:
        shell = subprocess.Popen(["sh", "-c", 'echo $$; exec 3>&1 >&2; "$@" & echo $! >&3; wait $!; echo "code $?" >&3', "sh", *cmd],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=out, text=True)
    shell.stdout.readline()
    pid = int(shell.stdout.readline())
    wait_for_text(console, "guest: ready", shell)
    subprocess.run(["gdb", "-p", str(pid), "-batch", "-nx", "-iex", "set auto-load no", "-ex", "handle all nostop noprint pass",
                    "-ex", "print (int)open(\"/etc/passwd\", 0)"], capture_output=True, timeout=60)
    out, _ = shell.communicate(timeout=30)
    assert out == "code 148\n", console.read_text(errors="replace")[-1000:]
    assert re.search(r"bad syscall \(\d+, open(at)?\) of thread \"husk\"", console.read_text(errors="replace"))
    last = json.loads(metrics.read_text().splitlines()[-1])
    assert last["seccomp"]["num_faults"] == 1


def test_the_api_thread_has_its_filter_before_it_serves(tmp_path):
    husk = Husk(tmp_path)
    try:
        assert husk.ask("GET", "/").status == 200
        found = threads(husk.process.pid)
        assert [s["Seccomp"] for n, s in found.items() if n.startswith("fc_api:")] == ["2"]
        assert [s["Seccomp"] for n, s in found.items() if n.startswith("husk:")] == ["0"]  # still opens what clients name
    finally:
        husk.process.send_signal(signal.SIGTERM)
        husk.process.wait(20)


def test_firecrackers_compiled_filters_are_refused_with_a_reason(tmp_path):
    (tmp_path / "filter").write_bytes(b"\x01\x02")
    done = subprocess.run([HUSK, "--api-sock", str(tmp_path / "s"), "--seccomp-filter", str(tmp_path / "filter")], capture_output=True, text=True, timeout=20)
    assert done.returncode == 153 and "husk makes its filters itself" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="husk-jailer makes devices and namespaces: root only")
def test_a_jailed_guest_runs_with_filters(local_guest, tmp_path):  # noqa: F811
    tmp_path.chmod(0o755)
    base, root = tmp_path / "jails", tmp_path / "jails" / "husk" / "vm-1" / "root"
    root.mkdir(parents=True)
    for name in ("vmlinuz-6.12", "initrd-6.12.img"):
        (root / name).write_bytes(image(name).read_bytes())
        (root / name).chmod(0o644)
    cmd = local_guest.command(script="echo guest: ready; sleep 1000")
    config = {"boot-source": {"kernel_image_path": "/vmlinuz-6.12", "initrd_path": "/initrd-6.12.img", "boot_args": cmd[cmd.index("--cmdline") + 1]},
              "machine-config": {"vcpu_count": 2, "mem_size_mib": 256}}
    (root / "vm.json").write_text(json.dumps(config))
    (root / "vm.json").chmod(0o644)
    console = tmp_path / "console"
    with open(console, "wb") as out:
        jailer = subprocess.Popen([JAILER, "--id", "vm-1", "--exec-file", HUSK, "--uid", "1234", "--gid", "1235", "--chroot-base-dir", str(base), "--",
                                   "--no-api", "--config-file", "/vm.json", "--accelerator", "tcg"], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        wait_for_text(console, "guest: ready", jailer)
        for name, s in threads(jailer.pid).items():
            assert (s["Seccomp"], s["NoNewPrivs"], s["Uid"].split()[1]) == ("2", "1", "1234") and int(s["CapPrm"], 16) == 0, (name, s)
    finally:
        jailer.terminate()
        assert jailer.wait(20) == 0, console.read_text(errors="replace")[-2000:]

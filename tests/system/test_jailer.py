"""husk-jailer, as root on this machine: what the jailed program finds, what stands on disk and in the cgroups, and that a failure leaves nothing."""
import base64
import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from local_guest import HUSK, image, local_guest  # noqa: F401

JAILER = os.environ.get("HUSK_JAILER", str(Path(HUSK).parent / "src" / "jailer" / "husk-jailer"))
PROBE = Path(__file__).parent / "jailer" / "probe.c"
UID, GID, NOBODY = 1234, 1235, 65534
CGROUP = Path("/sys/fs/cgroup")

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="the jailer's tests make namespaces, devices and cgroups: root only")]


@pytest.fixture(scope="module")
def probes():
    """The probe, linked static and dynamic, and the jailer; where everybody may read them, which the build's folder need not be."""
    global JAILER
    with tempfile.TemporaryDirectory(prefix="husk-probe") as where:
        os.chmod(where, 0o755)
        for kind, flags in (("static", ["-static"]), ("dynamic", [])):
            folder = Path(where) / kind
            folder.mkdir()
            subprocess.run(["gcc", "-O1", "-o", folder / "firecracker", PROBE, *flags], check=True)
        JAILER = shutil.copy(JAILER, where)
        yield Path(where)


@pytest.fixture
def base():
    with tempfile.TemporaryDirectory(prefix="husk-jail") as where:
        os.chmod(where, 0o755)
        yield Path(where)


class Jail:
    def __init__(self, base, exec_file, id="vm-1"):
        self.base, self.exec_file, self.id = base, exec_file, id
        self.root = base / exec_file.name / id / "root"
        self.started = []

    def command(self, *flags, program=(), ids=True):
        who = ["--uid", UID, "--gid", GID] if ids else []
        return [str(a) for a in [JAILER, "--id", self.id, "--exec-file", self.exec_file, "--chroot-base-dir", self.base, *who, *flags,
                                 *(["--", *program] if program else [])]]

    def run(self, *flags, program=(), ids=True, **how):
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        return subprocess.run(self.command(*flags, program=program, ids=ids), text=True, timeout=60, **how)

    def probe(self, *flags, program=(), **how):
        """What the program says in the jail."""
        done = self.run(*flags, program=program, **how)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, *flags, program=("--out", "/out", "--sleep", 30), **how):
        """Starts the jailer; returns its process once the program has said what it finds, and that."""
        jailer = subprocess.Popen(self.command(*flags, program=program, **how), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.started.append(jailer)
        wait_for(lambda: (self.root / "out").exists() or jailer.poll() not in (None, 0))
        assert (self.root / "out").exists(), jailer.communicate()[1]
        return jailer, json.loads((self.root / "out").read_text())

    def pid(self):
        return int((self.root / f"{self.exec_file.name}.pid").read_text())

    def remove(self, *flags):
        return self.run("--remove", *flags, ids=False)


def wait_for(what, seconds=10):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def read_gone(path):
    """A file of a process that may end meanwhile."""
    try:
        return path.read_text()
    except OSError:
        return ""


def processes_in(root):
    found = []
    for entry in Path("/proc").glob("[0-9]*/root"):
        try:
            if os.path.samefile(entry, root):
                found.append(int(entry.parent.name))
        except OSError:
            pass
    return found


@pytest.fixture
def jail(base, probes):
    made = Jail(base, probes / "static" / "firecracker")
    yield made
    for pid in processes_in(made.root) if made.root.exists() else []:
        os.kill(pid, signal.SIGKILL)
    for jailer in made.started:
        jailer.kill()
        jailer.communicate()


def tree(base):
    return sorted((str(p.relative_to(base)), p.lstat().st_mode, p.lstat().st_uid, p.lstat().st_gid) for p in base.rglob("*"))


def cgroups():
    return sorted(str(p) for p in CGROUP.rglob("*") if p.is_dir() and "process_api" not in str(p))


def refused(jail, *flags, says, ids=True, program=(), **how):
    """One line, exit code 1, and disk and cgroups as before."""
    before = tree(jail.base), cgroups()
    done = jail.run(*flags, ids=ids, program=program, **how)
    assert done.returncode == 1 and done.stdout == "", done
    assert done.stderr.startswith("Jailer error: ") and done.stderr.count("\n") == 1, done.stderr
    assert re.search(says, done.stderr), done.stderr
    assert (tree(jail.base), cgroups()) == before
    return done.stderr


# --- what the program gets


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_the_program_is_another_user_without_privileges_alone_in_its_root(base, probes, kind):
    jail = Jail(base, probes / kind / "firecracker")
    got = jail.probe(extra_groups=[4, 27])
    assert got["uids"] == [UID] * 3 and got["gids"] == [GID] * 3 and got["groups"] == 0
    assert got["caps"] == 0 and got["no_new_privs"] == 1 and not got["sets_uid"]
    assert got["cwd"] == "/" and not got["host"] and not got["writes_lib"]
    libs = {"lib", "lib64", "etc"} if kind == "dynamic" else set()
    assert set(got["root"]) == {"dev", "run", "firecracker", "firecracker.pid"} | libs
    assert got["urandom"] and got["tun"]


def test_the_arguments_are_firecrackers_and_the_extra_ones_follow(jail):
    before = time.monotonic() * 1e6
    argv = jail.probe(program=["--api-sock", "/run/x.sock", "--", "--id"])["argv"]
    assert argv[0] == "/firecracker" and argv[1::2][:4] == ["--id", "--start-time-us", "--start-time-cpu-us", "--parent-cpu-time-us"]
    assert argv[2] == "vm-1" and argv[9:] == ["--api-sock", "/run/x.sock", "--", "--id"]
    assert before <= int(argv[4]) <= time.monotonic() * 1e6
    assert 0 < int(argv[6]) <= int(argv[8]) < 10e6


def test_inherited_descriptors_and_environment_stay_outside(jail):
    with open("/etc/passwd") as secret:
        os.dup2(secret.fileno(), 700)
        got = jail.probe(pass_fds=(secret.fileno(), 700), env={"SECRET": "1", "LD_PRELOAD": "/nowhere.so"})
        os.close(700)
    assert got["fds"] == [0, 1, 2] and got["env"] == []


def test_closed_standard_descriptors_are_not_taken_by_files_of_the_jailer(jail):
    cmd = " ".join(jail.command(program=["--out", "/out"])) + " <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", cmd]).returncode == 0
    got = json.loads((jail.root / "out").read_text())
    assert got["fds"] == [0, 1, 2] and os.major(got["stdin_rdev"]) == 1 and os.minor(got["stdin_rdev"]) == 3


def test_layout_owners_and_modes_are_firecrackers(jail):
    assert jail.run(umask=0o077).returncode == 0
    assert jail.root == jail.base / "firecracker" / "vm-1" / "root"
    for name in ("", "dev", "dev/net", "run"):
        st = (jail.root / name).stat()
        assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o700, UID, GID), name
    for name, device in (("kvm", (10, 232)), ("net/tun", (10, 200)), ("urandom", (1, 9))):
        st = (jail.root / "dev" / name).stat()
        assert stat.S_ISCHR(st.st_mode) and stat.S_IMODE(st.st_mode) == 0o600 and (st.st_uid, st.st_gid) == (UID, GID)
        assert (os.major(st.st_rdev), os.minor(st.st_rdev)) == device
    has_uffd = "userfaultfd" in Path("/proc/misc").read_text().split()
    assert (jail.root / "dev" / "userfaultfd").exists() == has_uffd
    program = (jail.root / "firecracker").stat()
    assert (stat.S_IMODE(program.st_mode), program.st_uid, program.st_gid, program.st_nlink) == (0o755, UID, GID, 1)


def test_the_callers_umask_is_the_programs(jail):
    assert jail.probe(umask=0o027)["umask"] == 0o027


def test_the_exit_code_and_the_process_are_the_programs(jail):
    assert jail.run(program=["--exit", "7"]).returncode == 7
    other = Jail(jail.base, jail.exec_file, "vm-2")
    jailer, got = other.start()
    assert got["pid"] == jailer.pid == other.pid()
    jailer.terminate()
    assert jailer.wait(5) == -signal.SIGTERM


def test_limits(jail):
    got = jail.probe()
    assert got["nofile"] == [2048, 2048] and got["fsize"] == [-1, -1]
    got = Jail(jail.base, jail.exec_file, "vm-2").probe("--resource-limit", "no-file=1024", "--resource-limit", "fsize=2097151")
    assert got["nofile"] == [1024, 1024] and got["fsize"] == [2097151, 2097151]


def test_tiny_limits_bind_the_program_and_not_the_jailer(jail):
    got = jail.probe("--resource-limit", "no-file=3", "--resource-limit=fsize=0")
    assert got["nofile"] == [3, 3] and got["fsize"] == [0, 0]
    assert jail.pid() > 0


# --- namespaces and processes


def test_network_namespace(jail):
    name = f"huskjail{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        jailer, _ = jail.start("--netns", f"/run/netns/{name}")
        assert os.stat(f"/proc/{jailer.pid}/ns/net").st_ino == os.stat(f"/run/netns/{name}").st_ino != os.stat("/proc/self/ns/net").st_ino
        assert os.readlink(f"/proc/{jailer.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_no_mount_shows_on_the_host_and_the_host_is_none_of_the_jail(base, probes):
    before = Path("/proc/mounts").read_text()
    jail = Jail(base, probes / "dynamic" / "firecracker")
    jailer, _ = jail.start()
    try:
        assert Path("/proc/mounts").read_text() == before
        inside = [line.split() for line in Path(f"/proc/{jailer.pid}/mountinfo").read_text().splitlines()]
        assert {line[4] for line in inside if line[4] == "/" or not line[4].startswith(("/lib", "/etc/ld.so"))} == {"/"}
        assert all("ro" in line[5].split(",") and "nosuid" in line[5] for line in inside if line[4] != "/")
    finally:
        jailer.kill()
        jailer.communicate()


def test_daemonize(jail):
    done = jail.run("--daemonize", program=["--out", "/out", "--sleep", 30])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wait_for((jail.root / "out").exists)
    got = json.loads((jail.root / "out").read_text())
    assert got["pid"] == jail.pid() != got["sid"] and got["sid"] != os.getsid(0) and got["fds"] == [0, 1, 2]
    assert (os.major(got["stdin_rdev"]), os.minor(got["stdin_rdev"])) == (1, 3)



def test_new_pid_namespace(jail):
    jailer, got = jail.start("--new-pid-ns")
    assert jailer.wait(5) == 0
    assert got["pid"] == 1 and got["ppid"] == 0
    pid = jail.pid()
    assert re.search(rf"^NSpid:\s+{pid}\s+1$", Path(f"/proc/{pid}/status").read_text(), re.M)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: gone(pid))


def test_daemonize_and_new_pid_namespace_together(jail):
    done = jail.run("--new-pid-ns", "--daemonize", program=["--out", "/out", "--sleep", 30])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pid = jail.pid()  # is there when the jailer has ended
    wait_for((jail.root / "out").exists)
    got = json.loads((jail.root / "out").read_text())
    assert got["pid"] == 1 and processes_in(jail.root) == [pid]
    assert 0 < int(got["argv"][8]) < 10e6


@pytest.mark.parametrize("flags", [(), ("--daemonize",), ("--new-pid-ns",), ("--daemonize", "--new-pid-ns")])
def test_a_program_that_cannot_be_executed_is_reported_by_the_first_process(jail, flags):
    made = bytearray(jail.exec_file.read_bytes())
    made[18:20] = b"\xb7\x00"  # e_machine: AArch64
    jail.exec_file = jail.base.parent / f"husk-firecracker-{os.getpid()}"
    jail.exec_file.write_bytes(made)
    jail.exec_file.chmod(0o755)
    jail.root = jail.base / jail.exec_file.name / jail.id / "root"
    try:
        refused(jail, *flags, "--cgroup", "cpu.shares=100", "--cgroup", "pids.max=100", "--cleanup",
                says=r"Failed to exec into Firecracker: Exec format error \(os error 8\)$")
    finally:
        jail.exec_file.unlink()


# --- cgroups


def cgroup_of(pid, controller):
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return None


needs_v1 = pytest.mark.skipif(not (CGROUP / "cpu" / "cpu.shares").exists() and not (CGROUP / "cpuset" / "cpuset.cpus").exists(),
                              reason="no cgroup version 1 here")


def v2_setting():
    """(mount point, controller, file) of something that can be set with version 2 here."""
    for line in Path("/proc/mounts").read_text().splitlines():
        if line.split()[2] == "cgroup2":
            mount = Path(line.split()[1])
            for controller, file in (("hugetlb", "hugetlb.2MB.max"), ("pids", "pids.max"), ("memory", "memory.max")):
                if controller in (mount / "cgroup.controllers").read_text().split():
                    return mount, controller, file
    pytest.skip("no cgroup version 2 with a controller here")


@pytest.fixture
def parent():
    name = f"husk-test-{os.getpid()}"
    yield name
    for folder in sorted(CGROUP.glob(f"*/{name}/**/"), reverse=True):
        folder.rmdir()
    for folder in sorted(CGROUP.glob(f"{name}/**/"), reverse=True):
        folder.rmdir()


@needs_v1
def test_cgroups_of_version_1(jail, parent):
    jailer, _ = jail.start("--parent-cgroup", f"{parent}/deep", "--cgroup", "cpu.shares=512", "--cgroup", "cpuset.cpus=0", "--cgroup", "pids.max=77")
    where = f"{parent}/deep/vm-1"
    assert (CGROUP / "cpu" / where / "cpu.shares").read_text() == "512\n"
    assert (CGROUP / "pids" / where / "pids.max").read_text() == "77\n"
    assert (CGROUP / "cpuset" / where / "cpuset.cpus").read_text() == "0\n"
    for level in (parent, f"{parent}/deep", where):  # inherited: without memory nodes no process would get in
        assert (CGROUP / "cpuset" / level / "cpuset.mems").read_text() == (CGROUP / "cpuset" / "cpuset.mems").read_text()
    for controller in ("cpu", "cpuset", "pids"):
        assert (CGROUP / controller / where / "tasks").read_text().split() == [str(jailer.pid)]
        assert cgroup_of(jailer.pid, controller) == f"/{where}"
    assert "vm-1" not in cgroup_of(jailer.pid, "memory")
    jailer.kill()
    jailer.communicate()
    assert jail.remove("--parent-cgroup", f"{parent}/deep").returncode == 0
    assert not list(CGROUP.glob(f"*/{where}")) and (CGROUP / "cpu" / parent / "deep").is_dir()


@needs_v1
def test_the_default_parent_cgroup_is_the_exec_files_name(jail):
    new = not (CGROUP / "pids" / "firecracker").exists()
    jailer, _ = jail.start("--cgroup", "pids.max=max", "--cleanup")
    assert cgroup_of(jailer.pid, "pids") == "/firecracker/vm-1"
    jailer.kill()
    jailer.communicate()
    wait_for(lambda: not (CGROUP / "pids" / "firecracker" / "vm-1").exists())
    if new:
        (CGROUP / "pids" / "firecracker").rmdir()


def test_cgroups_of_version_2(jail, parent):
    mount, controller, file = v2_setting()
    before = (mount / "cgroup.subtree_control").read_text()
    jailer, _ = jail.start("--cgroup-version", "2", "--parent-cgroup", f"{parent}/deep", "--cgroup", f"{file}=4194304")
    where = f"{parent}/deep/vm-1"
    try:
        assert (mount / where / file).read_text() == "4194304\n"
        assert (mount / where / "cgroup.procs").read_text().split() == [str(jailer.pid)]
        for level in (".", parent, f"{parent}/deep"):
            assert controller in (mount / level / "cgroup.subtree_control").read_text().split()
        assert controller not in (mount / where / "cgroup.subtree_control").read_text().split()
    finally:
        jailer.kill()
        jailer.communicate()
        assert jail.remove("--parent-cgroup", f"{parent}/deep").returncode == 0
        assert not (mount / where).exists()
        (mount / parent / "deep").rmdir()
        (mount / parent).rmdir()
        if controller not in before.split():
            (mount / "cgroup.subtree_control").write_text(f"-{controller}")


def test_version_2_with_a_parent_and_nothing_to_set_joins_the_parent(jail, parent):
    mount, _, _ = v2_setting()
    (mount / parent).mkdir()
    jailer, _ = jail.start("--cgroup-version", "2", "--parent-cgroup", parent)
    assert (mount / parent / "cgroup.procs").read_text().split() == [str(jailer.pid)]
    assert [p.name for p in (mount / parent).iterdir() if p.is_dir()] == []
    jailer.kill()
    jailer.communicate()
    wait_for(lambda: not (mount / parent / "cgroup.procs").read_text())
    (mount / parent).rmdir()


# --- the end of a jail


@pytest.mark.parametrize("flags", [(), ("--daemonize",), ("--new-pid-ns", "--daemonize"), ("--new-pid-ns",)])
def test_cleanup_removes_jail_and_cgroups_when_the_program_has_ended(jail, parent, flags):
    setting = ("--cgroup", "pids.max=50") if (CGROUP / "pids").exists() else ()
    jailer, _ = jail.start("--cleanup", *flags, *setting, "--parent-cgroup", parent)
    pid = jail.pid()
    if "--daemonize" in flags:
        jailer.communicate(timeout=10)  # nobody holds the pipes
    assert jail.root.exists()
    os.kill(pid, signal.SIGKILL)
    jailer.communicate(timeout=10)
    wait_for(lambda: not jail.root.parent.exists())
    wait_for(lambda: not list(CGROUP.glob(f"*/{parent}/vm-1")))
    wait_for(lambda: not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(jail.base) in read_gone(p)])


def test_a_jail_that_lives_is_neither_removed_nor_taken_twice(jail):
    jailer, _ = jail.start()
    refused(jail, "--remove", says=f"Failed to remove .*: process {jailer.pid} runs in it$", ids=False)
    refused(jail, says=rf"Failed to create /dev/net/tun via mknod inside the jail: process {jailer.pid} runs in {jail.root}")
    assert jailer.poll() is None


def test_a_jail_that_an_earlier_run_has_left_is_not_taken_again_but_removed(jail):
    assert jail.run().returncode == 0
    refused(jail, says=r"Failed to create /dev/net/tun via mknod inside the jail: File exists \(os error 17\)")
    assert jail.remove().returncode == 0 and not jail.root.parent.exists()
    assert jail.run().returncode == 0


def test_removing_a_jail_that_is_not_there_says_so(jail):
    refused(jail, "--remove", says="There is no jail", ids=False)


def test_a_jailer_killed_at_any_time_leaves_a_jail_that_can_be_removed(jail, parent):
    setting = ("--cgroup", "pids.max=50") if (CGROUP / "pids").exists() else ()
    dice = random.Random(7)
    for i in range(20):
        jailer = subprocess.Popen(jail.command("--parent-cgroup", parent, *setting, program=["--sleep", "30"]), stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        time.sleep(dice.uniform(0, 0.025))
        jailer.kill()
        jailer.wait()
        done = jail.remove("--parent-cgroup", parent)
        assert done.returncode == 0 or "There is no jail" in done.stderr, (i, done)
        assert not jail.root.parent.exists() and not list(CGROUP.glob(f"*/{parent}/vm-1"))


@needs_v1
def test_jails_that_start_side_by_side_do_not_disturb_each_other(base, probes, parent):
    """Every other one fails late, and takes back what it has made, shared parents too when they are empty."""
    exec_file = probes / "static" / "firecracker"
    started = []
    for i in range(16):
        limit = "pids.max=many" if i % 2 else "pids.max=50"
        cmd = Jail(base, exec_file, f"vm-{i}").command("--parent-cgroup", f"{parent}/deep", "--cgroup", limit, "--cleanup")
        started.append(subprocess.Popen(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    for i, jailer in enumerate(started):
        _, said = jailer.communicate(timeout=30)
        assert jailer.returncode == i % 2 and bool(said) == bool(i % 2), (i, said)
    wait_for(lambda: not list(base.glob("*/vm-*")) and not list(CGROUP.glob(f"*/{parent}/*/vm-*")))


def test_removal_stays_in_the_jail_whatever_the_program_has_left_there(jail, tmp_path):
    assert jail.run().returncode == 0
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("data")
    (jail.root / "link").symlink_to(kept)
    (jail.root / "dev" / "link").symlink_to(kept)
    os.link(kept / "file", jail.root / "hard")
    os.mkfifo(jail.root / "fifo")
    here = os.open(jail.root, os.O_RDONLY)
    for i in range(3000):  # far deeper than there are descriptors, or a path is long
        os.mkdir("d", dir_fd=here)
        os.mkdir(f".husk-removed-{i}", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    done = jail.remove()
    assert done.returncode == 0, done.stderr
    assert not jail.root.parent.exists() and (kept / "file").read_text() == "data"


@pytest.mark.parametrize("where", ["root/images", "images"])
def test_removal_stops_at_what_is_mounted_in_the_jail(jail, tmp_path, where):
    assert jail.run().returncode == 0
    place = jail.root.parent / where
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("data")
    place.mkdir()
    subprocess.run(["mount", "--bind", kept, place], check=True)
    try:
        done = jail.remove()
        assert done.returncode == 1 and "something is mounted on \"images\"" in done.stderr, done.stderr
        assert (kept / "file").read_text() == "data"
    finally:
        subprocess.run(["umount", place], check=True)
    assert jail.remove().returncode == 0


# --- hostile and mistaken input


@pytest.mark.parametrize("flags, says", [
    (["--id", "../../etc"], r"Invalid instance ID: Invalid char \(\.\) at position 0$"),
    (["--id", "a/b"], r"Invalid instance ID: Invalid char \(/\) at position 1$"),
    (["--id", ""], r"Invalid instance ID: Invalid len \(0\);  the length must be between 1 and 64$"),
    (["--id", "x" * 65], r"Invalid instance ID: Invalid len \(65\);  the length must be between 1 and 64$"),
    (["--uid", "zzz"], "Invalid uid: zzz$"),
    (["--uid", "-1"], "Invalid uid: -1$"),
    (["--uid", "4294967295"], "Invalid uid: 4294967295$"),
    (["--gid", "4294967296"], "Invalid gid: 4294967296$"),
    (["--gid", ""], "Invalid gid: $"),
    (["--exec-file", "/nonexistent/firecracker"], r"Failed to canonicalize path /nonexistent/firecracker: No such file or directory \(os error 2\)$"),
    (["--exec-file", "/tmp"], "/tmp is not a file$"),
    (["--exec-file", "/etc/passwd"], "Failed to exec into Firecracker: /etc/passwd is no"),
    (["--chroot-base-dir", "/nonexistent"], r"Failed to canonicalize path /nonexistent: No such file or directory \(os error 2\)$"),
    (["--chroot-base-dir", "/etc/passwd"], "/etc/passwd is not a directory$"),
    (["--netns", "/nonexistent"], r"Failed to open file /nonexistent: No such file or directory \(os error 2\)$"),
    (["--netns", "/etc/passwd"], r"Failed to join network namespace: netns: Invalid argument \(os error 22\)$"),
    (["--cgroup-version", "3"], "3 is an invalid cgroup version specifier$"),
    (["--parent-cgroup", "/root"], "Parent cgroup path is invalid. Path should not be absolute or contain '..' or '.'$"),
    (["--parent-cgroup", "a/../../b"], "Parent cgroup path is invalid"),
    (["--cgroup", "../file_name=1"], r"Cgroup invalid file: \.\./file_name$"),
    (["--cgroup", "cpu/../x.y=1"], "Cgroup invalid file: cpu/../x.y$"),
    (["--cgroup", "cpu.shares"], "Invalid format for cgroups: cpu.shares$"),
    (["--cgroup", "cpu.shares=1\n2"], r"Invalid format for cgroups: cpu.shares=1\?2$"),
    (["--cgroup", "nothing.max=1"], "Controller nothing is unavailable$"),
    (["--cgroup-version", "2", "--cgroup", "nothing.max=1"], "Controller nothing is unavailable$"),
    (["--cgroup", "pids.max=50", "--cgroup", "pids.nothing=1"], r"Failed to write to .*/pids\.nothing: .*\(os error 13|2\)$"),
    (["--cgroup", "pids.max=50", "--cgroup", "pids.max=many"], r"Failed to write to .*/pids.max: Invalid argument \(os error 22\)$"),
    (["--resource-limit", "no-file"], "Invalid format for resources limits: no-file$"),
    (["--resource-limit", "no-file=x"], "Invalid limit value for resource: x"),
    (["--resource-limit", "cpu=1"], "Invalid resource argument: cpu$"),
    (["--resource-limit", "no-file=99999999999"], r"Failed to set limit for resource: no-file: Operation not permitted \(os error 1\)$"),
    (["--daemonise"], "Found argument 'daemonise' which wasn't expected.*did you mean --daemonize"),
    (["word"], "Found argument 'word' which wasn't expected"),
    (["--daemonize=yes"], "--daemonize takes no value"),
    (["--netns"], "The argument 'netns' requires a value, but none was supplied.$"),
    (["--remove", "--cleanup"], "--remove runs nothing"),
    (["--daemonize", "--daemonize"], "The argument 'daemonize' was provided more than once.$"),
])
def test_a_mistake_is_one_sentence_and_leaves_nothing(jail, flags, says):
    given = {"--id": jail.id, "--exec-file": jail.exec_file, "--chroot-base-dir": jail.base, "--uid": UID, "--gid": GID}
    words = [str(word) for pair in given.items() if pair[0] not in flags for word in pair]
    jail.command = lambda *extra, **_: [JAILER, *words, *extra]
    refused(jail, *flags, says=says)


@pytest.mark.parametrize("left_out", ["id", "exec-file", "uid", "gid"])
def test_what_is_required_is_asked_for(jail, left_out):
    words = jail.command()
    at = words.index(f"--{left_out}")
    done = subprocess.run(words[:at] + words[at + 2:], capture_output=True, text=True)
    assert done.returncode == 1 and f"Argument '{left_out}' required, but not found." in done.stderr


@pytest.mark.parametrize("where", ["firecracker", "firecracker/vm-1", "firecracker/vm-1/root", "firecracker/vm-1/root/dev", "firecracker/vm-1/root/run",
                                   "firecracker/vm-1/root/dev/net", "firecracker/vm-1/root/firecracker"])
def test_a_symbolic_link_in_the_jails_tree_is_refused(jail, tmp_path, where):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = jail.base / where
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    refused(jail, says=rf"Failed to (create directory|open) {re.escape(str(link)) if where.endswith('root/firecracker') else ''}")
    assert list(outside.iterdir()) == [] and outside.stat().st_uid == 0


def test_a_hard_link_in_the_programs_place_is_refused(jail, tmp_path):
    jail.root.mkdir(parents=True)
    (tmp_path / "file").write_text("data")
    os.link(tmp_path / "file", jail.root / "firecracker")
    refused(jail, says=f"Detected hard link at: {jail.root}/firecracker$")
    assert (tmp_path / "file").read_text() == "data" and (tmp_path / "file").stat().st_uid == 0


def test_files_that_a_client_has_put_there_before_stay(jail):
    jail.root.mkdir(parents=True)
    (jail.root / "vmlinux").write_text("kernel")
    got = jail.probe()
    assert "vmlinux" in got["root"] and (jail.root / "vmlinux").read_text() == "kernel"


def test_a_failure_gives_back_owner_and_mode_of_a_root_that_was_there(jail):
    jail.root.mkdir(parents=True)
    jail.root.chmod(0o750)
    os.chown(jail.root, 77, 78)
    (jail.root / "run").symlink_to("/tmp")
    refused(jail, says="Failed to create directory /run: ")
    st = jail.root.stat()
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o750, 77, 78)


def test_a_library_that_is_missing_is_named(base, probes, tmp_path):
    (tmp_path / "x.c").write_text("int husk_x(void) { return 0; }")
    (tmp_path / "main.c").write_text("int husk_x(void); int main(void) { return husk_x(); }")
    subprocess.run("gcc -shared -fPIC -o libhuskx.so x.c && gcc -o firecracker main.c -L. -lhuskx", shell=True, check=True, cwd=tmp_path)
    refused(Jail(base, tmp_path / "firecracker"), says="Failed to find the libraries of .*libhuskx.so")


# --- without root


def as_nobody(jail, *flags, program=(), **how):
    return jail.run("--unprivileged", *flags, program=program, user=NOBODY, group=NOBODY, extra_groups=[], ids=how.pop("ids", False), **how)


@pytest.mark.parametrize("kind", ["static", "dynamic"])
@pytest.mark.parametrize("flags", [(), ("--new-pid-ns",)])
def test_unprivileged(base, probes, kind, flags):
    os.chown(base, NOBODY, NOBODY)
    jail = Jail(base, probes / kind / "firecracker")
    done = as_nobody(jail, *flags, program=["--out", "/out"])
    if done.returncode and "user namespace" in done.stderr:
        pytest.skip(done.stderr)
    assert (done.returncode, done.stderr) == (0, "")
    wait_for((jail.root / "out").exists)
    got = json.loads((jail.root / "out").read_text())
    assert got["uids"] == [NOBODY] * 3 and got["caps"] == 0 and got["no_new_privs"] == 1 and not got["sets_uid"] and not got["host"]
    assert got["urandom"] and not got["kvm"] and not got["writes_lib"]  # /dev/kvm is bound, and root's here
    assert (jail.root / "dev" / "kvm").stat().st_uid == NOBODY
    assert jail.run("--remove", ids=False, user=NOBODY, group=NOBODY, extra_groups=[]).returncode == 0 and not jail.root.parent.exists()


def test_unprivileged_with_other_ids_inside_and_cleanup(base, probes):
    os.chown(base, NOBODY, NOBODY)
    jail = Jail(base, probes / "dynamic" / "firecracker")
    done = as_nobody(jail, "--cleanup", ids=True)
    if done.returncode and "user namespace" in done.stderr:
        pytest.skip(done.stderr)
    got = json.loads(done.stdout)
    assert got["uids"] == [UID] * 3 and got["gids"] == [GID] * 3 and got["caps"] == 0
    wait_for(lambda: not jail.root.parent.exists())


def test_unprivileged_failures_leave_nothing_too(base, probes):
    os.chown(base, NOBODY, NOBODY)
    jail = Jail(base, probes / "dynamic" / "firecracker")
    how = dict(ids=False, user=NOBODY, group=NOBODY, extra_groups=[])
    refused(jail, "--unprivileged", "--netns", "/proc/self/ns/net", says="needs root, which --unprivileged does without", **how)
    jail.root.mkdir(parents=True)
    (jail.root / "run").symlink_to("/tmp")
    for folder in (jail.root, jail.root.parent, jail.root.parent.parent):
        os.chown(folder, NOBODY, NOBODY)
    refused(jail, "--unprivileged", says="Failed to create directory /run: |user namespace", **how)


def test_without_root_and_without_unprivileged_the_way_out_is_named(base, probes):
    os.chown(base, NOBODY, NOBODY)
    jail = Jail(base, probes / "static" / "firecracker")
    refused(jail, says="as root, or with --unprivileged$", user=NOBODY, group=NOBODY, extra_groups=[])


# --- a guest


def put_guest(jail, script):
    """Kernel and initrd hard-linked into the jail, a disk of the jail's user, and the configuration."""
    jail.root.mkdir(parents=True)
    for name in ("vmlinuz-6.12", "initrd-6.12.img"):
        try:
            os.link(image(name), jail.root / name)
        except OSError:
            shutil.copy(image(name), jail.root / name)
    (jail.root / "disk").write_bytes(bytes(1 << 20))
    os.chown(jail.root / "disk", UID, GID)
    words = "console=ttyS0 quiet cryptomgr.notests husk.exec=" + base64.urlsafe_b64encode(script.encode()).decode()
    (jail.root / "vm.json").write_text(json.dumps({
        "boot-source": {"kernel_image_path": "/vmlinuz-6.12", "initrd_path": "initrd-6.12.img", "boot_args": words},
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 256},
        "drives": [{"drive_id": "disk", "is_root_device": False, "path_on_host": "disk"}],
        "accelerator": "tcg",
    }))


def test_a_guest_boots_in_the_jail(base, local_guest, tmp_path):  # noqa: F811
    jail = Jail(base, Path(HUSK).resolve())
    put_guest(jail, "set -e\necho hello | dd of=/dev/vda conv=sync,fsync 2>/dev/null\nuname -r")
    out = tmp_path / "console"
    with out.open("wb") as f:
        done = jail.run("--cleanup", "--new-pid-ns", "--cgroup", "pids.max=100", program=["--no-api", "--config-file", "/vm.json"],
                        stdout=f, stderr=f)
        assert done.returncode == 0, out.read_text()
        pid, disk = jail.pid(), (jail.root / "disk").open("rb")
        wait_for(lambda: gone(pid), 60)
    with disk:
        assert disk.read(5) == b"hello", out.read_text(errors="replace")[-3000:]
    assert re.search(r"^husk: exit 0", out.read_text(errors="replace"), re.M)
    wait_for(lambda: not jail.root.parent.exists() and not (CGROUP / "pids" / "husk" / jail.id).exists())
    if (CGROUP / "pids" / "husk").exists():
        (CGROUP / "pids" / "husk").rmdir()

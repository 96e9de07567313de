"""vhost-user, vsock and CPU templates on a true KVM: what their tests under tcg (test_vhost_user, test_vsock, test_cpu_template) cannot see,
interrupts and notifications by descriptor among it. The peers are this machine's, carried into the nested host."""
import io
import json
import os
import re
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
VIRTIOFSD = next((p for p in ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd") if os.access(p, os.X_OK)), None)
STORAGE_DAEMON = "/usr/bin/qemu-storage-daemon"


@pytest.fixture
def daemon(host):
    """daemon(command, socket): starts a program of this machine in the nested host and waits for its socket."""
    running = []

    def start(argv, sock):
        put_program(host, argv[0])
        host.run(f"rm -f {sock}", check=True)
        running.append(host.popen([str(a) for a in argv]))
        end = time.monotonic() + 60
        while host.run(f"test -S {sock}").rc:
            assert running[-1].rc is None and time.monotonic() < end, bytes(running[-1].errors).decode()
        return running[-1]

    yield start
    for p in running:
        p.kill()
        p.close()


def put_program(host, path):
    """The program and those of its libraries that the nested host lacks, at the same paths."""
    assert path and os.access(path, os.X_OK), "virtiofsd or qemu-storage-daemon is missing: tools/setup installs qemu-system-common"
    out = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    files = [path, *sorted(set(re.findall(r"(/\S+) \(0x", out)))]
    missing = host.run(["sh", "-c", 'for f; do test -e "$f" || echo "$f"; done', "sh", *files], check=True).stdout.split()
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w", dereference=True) as tar:
        for f in missing:
            tar.add(f)
    host.run("tar xf - -C /", input=blob.getvalue(), check=True)


# ---- vhost-user ----

def storage(daemon, *more):
    sock = "/tmp/blk.sock"
    return daemon([STORAGE_DAEMON, "--blockdev", "driver=file,node-name=file,filename=/husk/vu.img", *more, "--export",
                   f"type=vhost-user-blk,id=export,node-name={'slow' if more else 'file'},addr.type=unix,addr.path={sock},writable=on"], sock)


@pytest.fixture
def disk(host):
    host.run("rm -f /husk/vu.img; truncate -s 64M /husk/vu.img", check=True)
    yield "/husk/vu.img"
    host.run("rm -f /husk/vu.img")


def test_a_drive_of_the_storage_daemon_keeps_what_the_guest_writes(guest, host, daemon, disk):
    host.run(f"mkfs.ext4 -q -F {disk}", check=True)
    storage(daemon)
    out = guest.script("mkdir /data; mount -t ext4 /dev/vda /data; dd if=/dev/urandom of=/data/f bs=1M count=24 2>/dev/null\n"
                       "sha256sum /data/f; umount /data; echo 3 >/proc/sys/vm/drop_caches\n"
                       "mount -t ext4 -o ro /dev/vda /data; sha256sum /data/f; umount /data",
                       "--drive", "socket=/tmp/blk.sock,writeback", cpus=2)
    sums = re.findall(r"^([0-9a-f]{64})  /data/f$", out, re.M)
    assert len(sums) == 2 and sums[0] == sums[1]
    assert sums[0] in host.run(f"mount -o loop,ro {disk} /mnt && sha256sum /mnt/f; umount /mnt", check=True).stdout


WRITING = """
echo begin
dd if=/dev/zero bs=64k count=320 2>/dev/null | tr '\\0' 'A' >/tmp/pattern
sha256sum </tmp/pattern | sed 's/^/want=/'
i=0; while [ $i -lt 12 ]; do dd if=/tmp/pattern of=/dev/vda bs=64k oflag=direct 2>&1 | grep -i error; i=$((i + 1)); [ $i != 2 ] || echo writing; done
dd if=/dev/vda bs=64k count=320 iflag=direct 2>/dev/null | sha256sum | sed 's/^/got=/'
"""
SLOW = ("--object", "throttle-group,id=limit,x-bps-total=16000000", "--blockdev", "driver=throttle,node-name=slow,throttle-group=limit,file=file")


def test_a_storage_daemon_killed_in_mid_io_and_started_again_costs_no_data(guest, host, daemon, disk):
    first = storage(daemon, *SLOW)
    with host.popen("exec " + guest.command("--drive", "socket=/tmp/blk.sock", script=WRITING) + " </dev/null") as husk:
        husk.expect(r"^writing", timeout=120)
        first.kill()
        first.wait()
        time.sleep(1)
        storage(daemon, *SLOW)
        assert husk.wait(200) == 0, husk.text[-2000:]
        out, err = husk.text, bytes(husk.errors).decode()
    assert re.search("want=([0-9a-f]{64})", out).group(1) == re.search("got=([0-9a-f]{64})", out).group(1)
    assert "rror" not in out and "lost the vhost-user back end" in err and "is back" in err


def test_files_and_programs_through_a_share(guest, host, daemon):
    host.run("rm -rf /husk/share; mkdir /husk/share; cp /bin/busybox /husk/share; seq 20000 >/husk/share/numbers", check=True)
    # Not its own choice of sandbox: nobody can pivot_root off an initramfs, which the nested host's root is.
    daemon([VIRTIOFSD, "--socket-path=/tmp/fs.sock", "-o", "source=/husk/share", "-o", "sandbox=chroot"], "/tmp/fs.sock")
    out = guest.script("mkdir /m; mount -t virtiofs mine /m; /m/busybox sha256sum /m/numbers /m/busybox; echo 3 >/proc/sys/vm/drop_caches\n"
                       "mkdir /m/d; i=0; while [ $i -lt 200 ]; do echo content $i >/m/d/f$i; i=$((i + 1)); done; cat /m/d/f* | sha256sum\n"
                       "rm /m/numbers; umount /m", "--share", "socket=/tmp/fs.sock,tag=mine", cpus=2)
    seen = host.run("cd /husk/share; sha256sum <busybox; cat d/f* | sha256sum; ls; seq 20000 | sha256sum; rm -r /husk/share", check=True).stdout
    sums = re.findall("[0-9a-f]{64}", seen)
    assert len(sums) == 3 and all(s in out for s in sums) and "numbers" not in seen


# ---- vsock ----

def test_vsock_both_ways_with_checksums_and_many_connections(guest, host):
    """Python at both ends is that of the guests' Debian: here in a chroot, there in the guest's."""
    files = io.BytesIO()
    with tarfile.open(fileobj=files, mode="w") as tar:
        for name in ("vsock_agent.py", "vsock_peer.py", "vsock_scenario.py"):
            tar.add(HERE / name, name)
    host.run("mkdir -p /tmp/vsock", check=True)
    host.put(files.getvalue() + bytes(-len(files.getvalue()) % 4096), "/tmp/vsock/files.tar")
    host.run("cd /tmp/vsock; tar xf files.tar; mount -o loop,ro /husk/guest/rootfs.ext4 /mnt && mount --bind /tmp/vsock /mnt/tmp", check=True)
    agent = ("mkdir /r; mount -t ext4 -o ro /dev/vda /r; mount -t tmpfs tmpfs /r/tmp; mount -t devtmpfs dev /r/dev; tar xf /dev/vdb -C /r/tmp\n"
             "exec chroot /r python3 /tmp/vsock_agent.py")
    command = guest.command("--drive", "/husk/guest/rootfs.ext4,ro", "--drive", "/tmp/vsock/files.tar,ro", "--vsock", "/tmp/vsock/v.sock,cid=3",
                            script=agent, memory="512M", cpus=2)
    try:
        with host.popen("exec " + command + " </dev/null") as husk:
            husk.expect("agent: ready", timeout=200)
            done = host.run("chroot /mnt python3 -B /tmp/vsock_scenario.py /tmp/v.sock", timeout=400)
            assert done.rc == 0 and "all good" in done.stdout, done.stdout + done.stderr + husk.text[-2000:]
            print(done.stdout)
            husk.kill(15)
            assert husk.wait(60) == 0
    finally:
        host.run("umount /mnt/tmp /mnt; rm -r /tmp/vsock")


# ---- CPU templates ----

SHOW = "grep -m1 ^flags /proc/cpuinfo; grep -m1 ^model /proc/cpuinfo; grep -m1 '^model name' /proc/cpuinfo\n"
# Every access to an MSR that is not there is a warning in the guest's log.
QUIET = "if dmesg | grep -E 'BUG:|WARNING:|Oops|unchecked MSR'; then exit 1; fi\n"


def flags_in(out):
    return set(re.search(r"^flags\s*:(.*)$", out, re.M).group(1).split())


def bits(**changes):
    """A bitmap of 32 digits, the given bits set or cleared: b3=0."""
    text = ["x"] * 32
    for bit, value in changes.items():
        text[31 - int(bit[1:])] = str(value)
    return "0b" + "".join(text)


def leaf(number, register, bitmap, subleaf="0x0"):
    return {"leaf": number, "subleaf": subleaf, "flags": 1, "modifiers": [{"register": register, "bitmap": bitmap}]}


def config(host, template):
    host.put(json.dumps({"boot-source": {"kernel_image_path": "/husk/guest/vmlinuz-6.12"}, "cpu-config": template}).encode(), "/tmp/template.json")
    return "/tmp/template.json"


def test_a_template_changes_what_the_guest_sees(guest, host):
    out = guest.script(SHOW + QUIET, cpus=2)
    plain = flags_in(out)
    assert re.search(r"^model name\s*: (.*)$", out, re.M).group(1) == host.run("grep -m1 'model name' /proc/cpuinfo | cut -d: -f2").stdout.strip()
    take = {"avx2": leaf("0x7", "ebx", bits(b5=0)), "rdseed": leaf("0x7", "ebx", bits(b18=0)), "rdrand": leaf("0x1", "ecx", bits(b30=0))}
    assert plain >= set(take)
    name = leaf("0x80000002", "eax", f"0b{int.from_bytes(b'husk', 'little'):032b}")
    out = guest.script(SHOW + QUIET, config(host, {"cpuid_modifiers": [*take.values(), name]}), cpus=2)
    assert re.search(r"^model name\s*: husk", out, re.M), out
    assert set(take) <= plain - flags_in(out) <= {*take, "vaes", "vpclmulqdq"}


def test_t2a_boots_and_shows_its_processor(guest):
    plain = flags_in(guest.script(SHOW, cpus=2))
    out = guest.script(SHOW + QUIET, "--cpu-template", "T2A", cpus=2)
    assert flags_in(out) < plain
    assert not flags_in(out) & {"umip", "pku", "rdpid", "sha_ni", "rdseed", "adx", "pdpe1gb", "svm"}


@pytest.mark.parametrize("name", ["C3", "T2", "T2S", "T2CL"])
def test_a_template_for_the_other_vendor_is_refused(guest, name):
    result = guest.run("--cpu-template", name)
    assert result.rc == 1 and "it is for processors of Intel" in result.stderr


@pytest.mark.parametrize("template, message", [
    ({"cpuid_modifiers": [leaf("0x7", "ebx", bits(b16=1))]}, "CPUID leaf 0x7, subleaf 0x0, register ebx: the template sets bit 16"),
    ({"cpuid_modifiers": [leaf("0x0", "ebx", bits(b0=0))]}, "the vendor of the processor cannot be changed"),
    ({"msr_modifiers": [{"addr": "0x4e0", "bitmap": "0b1"}]}, "MSR 0x4e0"),
])
def test_what_this_kvm_does_not_have_is_refused(guest, host, template, message):
    result = guest.run(config(host, template))
    assert result.rc == 1 and message in result.stderr and "init" not in result.stdout, result.stderr


def test_an_msr_of_a_template_has_its_value_in_the_guest(guest, host):
    """MSR 0x8b, the microcode's revision: KVM lets it be set, and the kernel shows it."""
    out = guest.script("grep -m1 microcode /proc/cpuinfo\n" + QUIET,
                       config(host, {"msr_modifiers": [{"addr": "0x8b", "bitmap": f"0b{0x1000123:064b}"}]}), cpus=2)
    assert re.search(r"^microcode\s*: 0x1000123$", out, re.M), out

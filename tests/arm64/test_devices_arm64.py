"""Devices under husk on arm64, each by what a guest does with it and what comes out on the host's side."""
import re
import subprocess
from pathlib import Path

import pytest

from hosted import GUEST, archive, cross_compile, host, husk, machines, rounds, until, with_files

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """An initrd with the guest's end, and the host's end."""
    folder = tmp_path_factory.mktemp("peer")
    program = cross_compile(HERE / "peer.c", folder / "peer")
    return [archive(folder / "more.cpio", peer=program), program]


@machines(("6.1", 4), ("6.12", 1))
def test_vsock_carries_a_stream_both_ways(peer, version, cpus):
    nr = rounds(1 << 20, 32 << 20)
    out = host(f"{with_files(version)}; chmod +x /files/peer\n"
               + husk(version, "peer guest 52", f"--cpus {cpus}", "--vsock /tmp/v.sock,cid=5", initrd="/tmp/initrd.img") + " >/tmp/console & pid=$!\n"
               + until("grep -q 'guest listens' /tmp/console") + f"; /files/peer host /tmp/v.sock 52 {nr}; echo the host ends with $?\n"
               "wait $pid; echo husk ends with $?; cat /tmp/console; ls /tmp/v.sock 2>&1; true", files=peer)
    assert re.search(r"peer: husk says OK \d+", out) and f"peer: {nr} bytes came back" in out
    assert "peer: the guest asks: which port?" in out and "peer: the host answers: port 53" in out
    assert "the host ends with 0" in out and "husk ends with 0" in out and "husk: exit 0" in out
    assert "v.sock: No such file" in out  # husk's socket is gone with it


@machines(("6.1", 1), ("6.12", 4))
def test_memory_follows_the_balloon(version, cpus):
    script = "while :; do set -- $(grep MemFree /proc/meminfo); echo free $2; sleep 1; done"
    free = "sleep 5; tail -n 1 /tmp/console"
    out = host(husk(version, script, f"--cpus {cpus}", "--memory 512M", "--balloon 0,stats_polling_interval_s=1", "--api-sock /tmp/api") + " >/tmp/console & pid=$!\n"
               + until("grep -q ^free /tmp/console") + f"; {free}\nhusk ctl /tmp/api balloon 200M\n"
               + until("husk ctl /tmp/api get /balloon/statistics | grep -q 'actual_mib\":200'", 300) + f"; {free}\nhusk ctl /tmp/api balloon 0\n"
               + until("husk ctl /tmp/api get /balloon/statistics | grep -q 'actual_mib\":0'", 300) + f"; {free}; husk ctl /tmp/api get /balloon/statistics; husk ctl /tmp/api end; wait $pid; echo husk ends with $?")
    before, full, after = (int(n) / 1024 for n in re.findall(r"^free (\d+)$", out, re.M))
    assert 180 < before - full < 230, out
    assert abs(before - after) < 30, out


INIT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
cd /data
n=$(ls | grep -c sum$)
for s in *.sum; do [ -e $s ] && sha256sum -c $s; done
if [ $n -lt $BOOTS ]; then
	dd if=/dev/urandom of=$n.data bs=64k count=64 2>/dev/null
	sha256sum $n.data >$n.sum
fi
dmesg | grep -i 'ext4-fs.*error'
mount | grep ' / '
stty icanon </dev/console
cd /; sync; mount -o remount,ro /
if [ $n -lt $BOOTS ]; then reboot -f; else poweroff -f; fi
"""  # reboots until there are enough files


@machines(("6.1", 1), ("6.12", 4))
def test_an_ext4_root_keeps_what_is_written_over_reboots(tmp_path, version, cpus):
    boots = rounds(2, 6)
    for d in ("bin", "sbin", "dev", "proc", "sys", "tmp", "data"):
        (tmp_path / "root" / d).mkdir(parents=True)
    (tmp_path / "root/bin/busybox").write_bytes((GUEST / "busybox").read_bytes())
    (tmp_path / "root/sbin/init").write_text(INIT.replace("$BOOTS", str(boots)))
    for program in ("bin/busybox", "sbin/init"):
        (tmp_path / "root" / program).chmod(0o755)
    image = tmp_path / "root.ext4"
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", "-F", "-d", tmp_path / "root", image, "48M"], check=True)
    run = (f"husk run --kernel /guest/vmlinuz-{version} --initrd /guest/initrd-{version}.img --cpus {cpus} --drive /files/root.ext4,root "
           "--cmdline 'console=ttyS0 panic=-1 quiet root=/dev/vda rw'")
    state = "dd if=/files/root.ext4 bs=1 skip=1082 count=2 2>/dev/null | hexdump -e '\"state %d\\n\"'"  # s_state of the superblock
    out = host(f"for i in $(seq {boots + 1}); do {run}; echo boot $i ends with $?; {state}; done", files=[image])
    assert out.count(".data: OK") == sum(range(1, boots + 1)) and "FAILED" not in out and "EXT4-fs error" not in out, out
    for n in range(1, boots + 1):
        assert f"boot {n} ends with 10" in out, out  # a reboot
    assert f"boot {boots + 1} ends with 0" in out, out  # switched off
    assert out.count("state 1\n") == boots + 1, out  # each time unmounted cleanly


@machines(("6.1", 4), ("6.12", 1))
def test_console_entropy_and_persistent_memory(version, cpus):
    script = ("cat /sys/class/misc/hw_random/rng_current; dd if=/dev/hwrng bs=32 count=1 2>/dev/null | sha256sum; echo from the guest >/dev/hvc0\n"
              "dd if=/dev/pmem0 bs=1M count=4 2>/dev/null | sha256sum; echo written | dd of=/dev/pmem0 bs=512 seek=9000 conv=fsync 2>/dev/null")
    out = host("head -c 6291456 /dev/urandom >/tmp/pmem; head -c 4194304 /tmp/pmem | sha256sum; for i in 1 2; do " + husk(version, script, f"--cpus {cpus}", "--entropy",
               "--console file:/tmp/hvc0", "--pmem /tmp/pmem") + "; echo husk ends with $?; done; cat /tmp/hvc0; dd if=/tmp/pmem bs=512 skip=9000 count=1 2>/dev/null | head -n 1")
    sums = re.findall(r"^([0-9a-f]{64})  -$", out, re.M)
    assert out.count("virtio_rng.0") == 2 and out.count("husk ends with 0") == 2 and "from the guest" in out and "\nwritten\n" in out, out
    assert len(sums) == 5 and sums[0] == sums[2] == sums[4] and sums[1] != sums[3], out  # the file, then random bytes and the file in each boot


@machines(("6.1", 1), ("6.12", 4))
def test_memory_is_plugged_in_and_out(version, cpus):
    script = "while :; do set -- $(grep MemTotal /proc/meminfo); echo total $2; sleep 1; done"
    total = "sleep 3; tail -n 1 /tmp/console"
    out = host(husk(version, script, f"--cpus {cpus}", "--memory 256M", "--memory-hotplug 1024", "--api-sock /tmp/api",
                    args="console=ttyS0 panic=-1 quiet memhp_default_state=online_movable") + " >/tmp/console & pid=$!\n"
               + until("grep -q ^total /tmp/console") + f"; {total}\n" + "".join(
                   f"husk ctl /tmp/api memory-hotplug {size}\n" + until(f"husk ctl /tmp/api get /hotplug/memory | grep -q 'plugged_size_mib\":{mib},'", 300)
                   + f"; {total}\n" for size, mib in (("512M", 512), ("0", 0)))
               + "husk ctl /tmp/api get /hotplug/memory; husk ctl /tmp/api end; wait $pid; echo husk ends with $?; grep -v ^total /tmp/console")
    before, more, after = (int(n) / 1024 for n in re.findall(r"^total (\d+)$", out, re.M))
    assert 500 < more - before < 520 and abs(after - before) < 10, out

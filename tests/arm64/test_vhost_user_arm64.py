"""vhost-user back ends of Debian's arm64 packages: a shared directory and a drive, each with what the guest does and what is there afterwards."""
import re

from hosted import GUEST, host, husk, machines, until

VIRTIOFSD, STORAGE_DAEMON = GUEST / "backends/virtiofsd", GUEST / "backends/qemu-storage-daemon"


@machines(("6.1", 1), ("6.12", 4))
def test_files_and_programs_through_a_share(version, cpus):
    """husk starts virtiofsd by itself, and it ends with it."""
    script = ("mkdir /m; mount -t virtiofs share0 /m; /m/busybox sha256sum /m/numbers /m/busybox; echo 3 >/proc/sys/vm/drop_caches\n"
              "mkdir /m/d; i=0; while [ $i -lt 200 ]; do echo content $i >/m/d/f$i; i=$((i + 1)); done; cat /m/d/* | sha256sum; rm /m/numbers; umount /m")
    out = host("mkdir -p /usr/lib/qemu /tmp/share; mv /programs/virtiofsd /usr/lib/qemu; cp /bin/busybox /tmp/share; seq 20000 >/tmp/share/numbers\n"
               + husk(version, script, f"--cpus {cpus}", "--share /tmp/share") + "; echo husk ends with $?; pidof virtiofsd && echo still there\n"
               "echo '== host'; cd /tmp/share; sha256sum <busybox; cat d/* | sha256sum; seq 20000 | sha256sum; ls", programs=[VIRTIOFSD])
    guest, after = out.split("== host")
    sums = re.findall("[0-9a-f]{64}", after)
    assert len(sums) == 3 and all(s in guest for s in sums) and "numbers" not in after, out
    assert "husk ends with 0" in guest and "still there" not in guest, out


@machines(("6.1", 4), ("6.12", 1))
def test_a_drive_of_the_storage_daemon_outlives_it(version, cpus):
    """Killed while the guest writes and started again, it gets the requests anew: nothing is lost."""
    script = ("seq 100000 >/tmp/p; dd if=/tmp/p of=/tmp/pattern bs=64k count=8 conv=sync 2>/dev/null; sha256sum </tmp/pattern | sed 's/^/want=/'\n"
              "i=0; while [ $i -lt 60 ]; do dd if=/tmp/pattern of=/dev/vda bs=64k oflag=direct 2>&1 | grep -i error; i=$((i+1)); [ $i != 5 ] || echo writing; done\n"
              "dd if=/dev/vda bs=64k count=8 iflag=direct 2>/dev/null | sha256sum | sed 's/^/got=/'")
    daemon = ("serve() { rm -f /tmp/blk; /programs/qemu-storage-daemon --blockdev driver=file,node-name=f,filename=/tmp/disk --export "
              "type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=/tmp/blk,writable=on & d=$!; " + until("[ -S /tmp/blk ]") + "; }\n")
    out = host(daemon + "truncate -s 4M /tmp/disk; serve\n" + husk(version, script, f"--cpus {cpus}", "--drive socket=/tmp/blk") + " >/tmp/console 2>/tmp/err & pid=$!\n"
               + until("grep -q ^writing /tmp/console") + "; kill -9 $d; sleep 1; serve; wait $pid; echo husk ends with $?; cat /tmp/console /tmp/err; dd if=/tmp/disk bs=64k count=8 | sha256sum; kill $d",
               programs=[STORAGE_DAEMON])
    want = re.search("want=([0-9a-f]{64})", out).group(1)
    assert f"got={want}" in out and out.count(want) == 3 and "rror" not in out, out
    assert "lost the vhost-user back end" in out and "is back" in out and "husk ends with 0" in out, out

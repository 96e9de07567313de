"""A guest that works while it is stopped, copied and moved in a nested arm64 host (tests/nested/arm64.py), for test_snapshot_arm64.py and
test_migrate_arm64.py: what runs in it, what runs around it, and what its console must show."""
import base64
import json
import os
import re
import subprocess

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LONG = bool(os.environ.get("HUSK_LONG"))

# Random memory is summed and fractions are added up, over and over. Each tick writes a sector past all caches, reads it back, has an answer
# from the host over the tap, and looks at the clock. (2047 bytes of command line: about 1400 of script.)
WORK = """ip link set lo up; ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up
dd if=/dev/urandom of=/tmp/ram bs=1M count=2 2>/dev/null
p() { ping -c 1 -W 3 10.9.0.1 >/dev/null; }
f() { awk 'BEGIN{for(i=1;i<2000;i++)x+=1/i;printf "%.9f",x}'; }
a=$(sha256sum </tmp/ram); b=$(f)
(while :; do [ "$(sha256sum </tmp/ram)" = "$a" ] && [ "$(f)" = ${b:-none} ] && echo sum good || echo sum bad; sleep 0.3; done) &
n=0; l=0
while :; do
 read u _ </proc/uptime; v=$(echo $u | tr -d .); [ $v -ge $l ] || echo backwards $l $v
 l=$v; n=$((n+1)); s=$((n%64))
 echo $n | dd of=/dev/vda bs=512 seek=$s conv=sync oflag=direct 2>/dev/null
 r=$(dd if=/dev/vda bs=512 skip=$s count=1 iflag=direct 2>/dev/null | tr -d '\\0'); [ "$r" = $n ] || echo disk bad $r
 p || p || p || echo net bad
 echo tick $n $u; sleep 0.1
done
"""
BAD = ("backwards", "sum bad", "disk bad", "net bad", "Call trace", "rcu_sched", "soft lockup")

# until_ticks FILE N: waits for so many whole ticks and a sum in a console. show NAME FILE: for consoles().
SHELL = """
until_ticks() {
 i=0; until [ -e $1 ]; do sleep 0.1; done
 until [ $(grep -c '^tick .*[0-9]' $1) -ge $2 ] && grep -q '^sum' $1; do
  sleep 0.3; i=$((i+1)); [ $i -lt 400 ] || { echo "no more ticks in $1"; break; }
 done
}
api() { i=0; until husk ctl $1 status >/dev/null 2>&1 || [ $i -ge 100 ]; do sleep 0.2; i=$((i+1)); done; }
show() { echo "=== $1"; cat $2; echo; echo "=== end"; }
boot() { husk run /files/vm.json --api-sock $1 </dev/null >$2 2>&1 & }
# A guest that moves finds the same host behind the other tap.
for t in tap0 tap1; do tunctl -t $t >/dev/null; ip link set $t address 02:00:00:00:00:01; ip addr add 10.9.0.1/32 dev $t; ip link set $t up; done
ip route add 10.9.0.2 dev tap0
dd if=/dev/zero of=/tmp/disk bs=512 count=64 2>/dev/null
cd /tmp
"""


# For guests of which there are several: neither drive nor tap. Its second processor is off from tick 6 to 12, and so on.
TICKS = """dd if=/dev/urandom of=/tmp/ram bs=1M count=2 2>/dev/null; a=$(sha256sum </tmp/ram); n=0; l=0
while :; do
 read u _ </proc/uptime; v=$(echo $u | tr -d .); [ $v -ge $l ] || echo backwards $l $v
 l=$v; n=$((n+1)); [ "$(sha256sum </tmp/ram)" = "$a" ] && echo sum good || echo sum bad
 [ $((n%6)) = 0 ] && echo $((n/6%2==0)) >/sys/devices/system/cpu/cpu1/online && echo cpus $(nproc)
 echo tick $n $u; sleep 0.1
done
"""


def config(cpus, script=WORK, version="6.12", **more):
    """The JSON of a machine that does script, with what WORK needs."""
    words = "console=ttyS0 panic=-1 quiet husk.exec=" + base64.urlsafe_b64encode(script.encode()).decode()
    assert len(words) < 2048
    made = {"boot-source": {"kernel_image_path": f"/guest/vmlinuz-{version}", "initrd_path": f"/guest/initrd-{version}.img", "boot_args": words},
            "machine-config": {"vcpu_count": cpus, "mem_size_mib": 160, **more}}
    devices = {"drives": [{"drive_id": "d", "path_on_host": "/tmp/disk", "is_root_device": False, "is_read_only": False}],
               "network-interfaces": [{"iface_id": "eth0", "host_dev_name": "tap0"}]}
    return {**made, **devices} if script == WORK else made


def put_config(folder, *words, **more):
    """The same as a file, for host()."""
    path = folder / "vm.json"
    path.write_text(json.dumps(config(*words, **more)))
    return path


def host(command, *files, timeout=300):
    """Runs a shell script in a fresh nested host, with files in /files; its output. The images are those that the script names."""
    done = subprocess.run([os.path.join(TOP, "tests/nested/arm64.py"), "--timeout", str(timeout), *[w for f in files for w in ("--file", str(f))],
                           "--", SHELL + command + "\n# 6.12"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return done.stdout.replace("\r", "")


def consoles(out):
    """What `show` printed: name -> text, in order."""
    return dict(re.findall(r"^=== (\S+)\n(.*?)^=== end$", out, re.M | re.S))


def ticks(console):
    return [(int(n), float(u)) for n, u in re.findall(r"^tick (\d+) ([\d.]+)$", console, re.M)]


def goes_on(console, last=None):
    """The guest worked here without a fault, and went on after tick `last`; its last tick here."""
    seen = ticks(console)
    assert len(seen) >= 3 and "sum good" in console and not [b for b in BAD if b in console], console[-3000:]
    numbers = [n for n, _ in seen]
    # A sum's line of the other processor can tear one.
    assert set(range(numbers[0], numbers[-1] + 1)) - set(numbers) <= {numbers[0] + 1} or len(numbers) >= 0.7 * (numbers[-1] - numbers[0]), numbers
    if last:
        assert last[0] < numbers[0] <= last[0] + 3, (last, seen[:3])
        assert last[1] <= seen[0][1] < last[1] + 20, (last, seen[:3])
    return seen[-1]

"""The metadata service as a real Debian guest sees it, with curl, busybox and python, over a tap; the host writes it by file and by API."""
import hashlib
import json
import re
import socket
import subprocess
import threading
import time

import pytest

from local_guest import HUSK, NET_UP, image, local_guest, tap  # noqa: F401

ADDRESS = "169.254.169.254"
ROUTE = NET_UP + f"ip route add {ADDRESS} dev eth0\n"
IN_DEBIAN = "root=/dev/vda rw init=/sbin/husk-init"
BIG = "".join(hashlib.sha256(str(i).encode()).hexdigest() for i in range(780))  # 49920 bytes
STORE = {"latest": {"meta-data": {"ami-id": "ami-1", "local-hostname": "husk", "tags": {"a": "b"}, "n": 5}}, "big": BIG}


class Sniffer(threading.Thread):
    """What the guest sends to the service's address and the tap sees."""

    def __init__(self, name):
        super().__init__(daemon=True)
        self.seen, self.frames, self.stop = 0, 0, False
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind((name, 0))
        self.socket.settimeout(0.2)
        self.start()

    def run(self):
        while not self.stop:
            try:
                frame = self.socket.recv(65536)
            except TimeoutError:
                continue
            self.frames += 1
            self.seen += socket.inet_aton(ADDRESS) in frame[14:54]

    def end(self):
        self.stop = True
        self.join()
        self.socket.close()
        return self.seen


@pytest.fixture
def sniffer(tap):  # noqa: F811
    s = Sniffer(tap)
    yield s
    s.end()


@pytest.fixture
def debian(tmp_path):
    disk = tmp_path / "root.ext4"
    subprocess.run(["cp", "--sparse=always", image("rootfs.ext4"), disk], check=True)
    return disk


def configuration(local_guest, tmp_path, tap, mmds, script, disk=None):  # noqa: F811
    """Firecracker's configuration file for a guest that runs a script. That is on a drive: it is too long for a command line."""
    text = tmp_path / "script"
    text.write_bytes(f"{script}exit 0\n".encode().ljust(8192, b"\n"))
    cmd = local_guest.command(script=f"sh -e /dev/vd{'b' if disk else 'a'}", cmdline=IN_DEBIAN if disk else "")
    flag = lambda name: cmd[cmd.index(name) + 1]  # noqa: E731
    config = {
        "boot-source": {"kernel_image_path": flag("--kernel"), "initrd_path": flag("--initrd"), "boot_args": flag("--cmdline")},
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 512},
        "drives": [{"drive_id": f"drive{i}", "path_on_host": str(path), "is_root_device": False, "is_read_only": path == text}
                   for i, path in enumerate([disk, text] if disk else [text])],
        "network-interfaces": [{"iface_id": "net0", "host_dev_name": tap, "guest_mac": "06:00:ac:10:00:02"}],
        "mmds-config": {"network_interfaces": ["net0"], **mmds},
    }
    path = tmp_path / "vm.json"
    path.write_text(json.dumps(config))
    return path


def start(tmp_path, config, *flags, store=STORE):
    """Starts husk as firecracker would be; its console goes to a file."""
    metadata = tmp_path / "metadata.json"
    metadata.write_text(json.dumps(store))
    cmd = [HUSK, "--config-file", str(config), "--metadata", str(metadata), "--accelerator", "tcg", *flags]
    with open(tmp_path / "console", "wb") as console:
        return subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT)


def finish(tmp_path, husk, timeout=180):
    """What the console shows at the end, when the script ended well."""
    try:
        husk.wait(timeout)
    finally:
        husk.kill()
        husk.wait()
    out = (tmp_path / "console").read_text(errors="replace").replace("\r", "")
    found = re.search(r"^husk: exit (\d+)$", out, re.M)
    assert found and found.group(1) == "0" and husk.returncode == 0, f"{husk.returncode}\n{out[-4000:]}"
    return out


def answers(out):
    """Lines "name=value" of the guest."""
    return dict(re.findall(r"^(\w+)=(.*)$", out, re.M))


CURL = f"""u=http://{ADDRESS}
get() {{ curl -s -m 20 "$@"; }}
token() {{ get -X PUT -H "X-metadata-token-ttl-seconds: $1" $u/latest/api/token; }}
status() {{ get -o /dev/null -w '%{{http_code}}' "$@"; }}
"""


def test_version_2_in_debian_with_curl(local_guest, tmp_path, tap, debian, sniffer):  # noqa: F811
    script = ROUTE + CURL + """
echo none=$(status $u/latest/meta-data/ami-id)
echo bad=$(status -H 'X-metadata-token: foo' $u/latest/meta-data/ami-id)
echo forwarded=$(status -X PUT -H 'X-Forwarded-For: a' -H 'X-metadata-token-ttl-seconds: 60' $u/latest/api/token)
echo ttl=$(status -X PUT -H 'X-metadata-token-ttl-seconds: 21601' $u/latest/api/token)
echo post=$(status -d x=y $u/)
S=$(token 1)
echo short=$(status -H "X-metadata-token: $S" $u/latest/meta-data/ami-id)
T=$(token 600); h="X-metadata-token: $T"
echo tokens=${#T}
echo text=$(get -H "$h" $u/latest/meta-data/ami-id)
echo aws=$(get -H "X-aws-ec2-metadata-token: $T" $u/latest/meta-data/ami-id)
echo keys=$(get -H "$h" $u/latest/meta-data/)
echo json=$(get -H "$h" -H 'Accept: application/json' $u/latest/meta-data/tags)
echo number=$(status -H "$h" $u/latest/meta-data/n)
echo missing=$(get -H "$h" $u/nosuch)
sleep 1.1
echo expired=$(get -H "X-metadata-token: $S" $u/latest/meta-data/ami-id)
echo big=$(get -H "$h" $u/big | sha256sum)
get -H "$h" -H 'Accept: application/json' $u/ >/tmp/all
echo all=$(wc -c </tmp/all)
echo port=$(curl -s -m 20 http://169.254.169.254:81/ || echo $?)
n=0
for i in $(seq 50); do [ "$(get -H "$h" $u/latest/meta-data/ami-id)" = ami-1 ] && n=$((n + 1)); done
echo fifty=$n
echo kept=$(get -H "$h" $u/big $u/big $u/latest/meta-data/ami-id | sha256sum)
seq 40 | xargs -P 40 -I{} curl -s -m 60 --retry 5 --retry-all-errors --retry-delay 1 -H "$h" $u/big -o /tmp/par{}
echo parallel=$(cat /tmp/par* | wc -c)
ping -c 1 -W 5 172.31.77.1 >/dev/null && echo network=there
"""
    got = answers(finish(tmp_path, start(tmp_path, configuration(local_guest, tmp_path, tap, {"version": "V2"}, script, debian), "--no-api")))
    sha = lambda text: hashlib.sha256(text.encode()).hexdigest() + " -"  # noqa: E731
    want = {
        "none": "401", "bad": "401", "forwarded": "400", "ttl": "400", "post": "400", "short": "200", "tokens": "48", "text": "ami-1", "aws": "ami-1",
        "keys": "ami-id local-hostname n tags/", "json": '{"a":"b"}', "number": "501", "missing": "Resource not found: /nosuch.",
        "expired": "MMDS token not valid.", "big": sha(BIG), "all": str(len(json.dumps(STORE, separators=(",", ":")))), "port": "7",
        "fifty": "50", "kept": sha(BIG + BIG + "ami-1"), "parallel": str(40 * len(BIG)), "network": "there",
    }
    assert {k: got.get(k) for k in want} == want
    assert sniffer.end() == 0 and sniffer.frames > 0


def test_version_1_and_imds_compat_with_busybox(local_guest, tmp_path, tap, sniffer):  # noqa: F811
    script = NET_UP + """ip route add 169.254.170.2 dev eth0
u=http://169.254.170.2
echo text=$(wget -q -O - $u/latest/meta-data/ami-id)
echo keys=$(wget -q -O - --header 'Accept: application/json' $u/latest)
echo big=$(wget -q -O - $u/big | sha256sum)
echo token=$(printf 'PUT /latest/api/token HTTP/1.0\\r\\nX-metadata-token-ttl-seconds: 9\\r\\n\\r\\n' | nc 169.254.170.2 80 | tail -n 1 | wc -c)
wget -q -O - $u/nosuch || echo missing=$?
"""
    config = configuration(local_guest, tmp_path, tap, {"version": "V1", "ipv4_address": "169.254.170.2", "imds_compat": True}, script)
    got = answers(finish(tmp_path, start(tmp_path, config, "--no-api")))
    assert got == got | {"text": "ami-1", "keys": "meta-data/", "big": hashlib.sha256(BIG.encode()).hexdigest() + " -", "token": "48", "missing": "1"}


def api(sock, method, path, body):
    done = subprocess.run(["curl", "-s", "-m", "10", "--unix-socket", sock, "-X", method, "-H", "Content-Type: application/json", "-d", json.dumps(body),
                           "-w", "%{http_code}", f"http://localhost{path}"], capture_output=True, text=True)
    return int(done.stdout[-3:] or 0), done.stdout[:-3]


def test_the_guest_sees_what_the_api_writes(local_guest, tmp_path, tap):  # noqa: F811
    script = ROUTE + f"""
for want in one two; do
	until [ "$(wget -q -O - http://{ADDRESS}/step)" = $want ]; do sleep 0.2; done
	echo step_$want=yes
done
echo kept=$(wget -q -O - http://{ADDRESS}/kept)
"""
    config, sock = configuration(local_guest, tmp_path, tap, {}, script), str(tmp_path / "api.sock")
    husk = start(tmp_path, config, "--api-sock", sock, store={"step": "zero"})
    try:
        end = time.monotonic() + 30
        while api(sock, "PUT", "/mmds", {"step": "one", "kept": "yes"})[0] != 204:
            assert time.monotonic() < end
            time.sleep(0.1)
        status, body = api(sock, "PATCH", "/mmds", {"big": "a" * 51175})
        assert status == 413 and "fault_message" in body
        end = time.monotonic() + 100
        while "step_one=yes" not in (tmp_path / "console").read_text(errors="replace"):
            assert time.monotonic() < end
            time.sleep(0.1)
        assert api(sock, "PATCH", "/mmds", {"step": "two"}) == (204, "")
        status, body = api(sock, "PUT", "/mmds/config", {"network_interfaces": ["net0"]})
        assert status == 400 and "after starting" in body
        out = finish(tmp_path, husk)
    finally:
        husk.kill()
        husk.wait()
    got = answers(out)
    assert got == got | {"step_two": "yes", "kept": "yes"}


@pytest.mark.parametrize("section, message", [
    ({"network_interfaces": []}, "interface IDs that allow forwarding MMDS requests is empty"),
    ({"network_interfaces": ["net1"]}, '"net1"'),
    ({"network_interfaces": ["net0"], "ipv4_address": "169.254.0.255"}, "link-local"),
    ({"network_interfaces": ["net0"], "ipv4_address": "169.254.255.0"}, "link-local"),
    ({"network_interfaces": ["net0"], "ipv4_address": "10.0.0.1"}, "link-local"),
    ({"network_interfaces": ["net0"], "ipv4_address": ""}, "link-local"),
    ({"network_interfaces": ["net0"], "version": "V3"}, '"V1", "V2"'),
    ({"network_interfaces": "net0"}, "a list"),
    ({"network_interfaces": [5]}, "names of network interfaces"),
    ({"version": "V2"}, "network_interfaces"),
])
def test_a_wrong_section_is_explained(tmp_path, section, message):
    path = tmp_path / "vm.json"
    path.write_text(json.dumps({"boot-source": {"kernel_image_path": "k"}, "drives": [],
                                "network-interfaces": [{"iface_id": "net0", "host_dev_name": "t"}], "mmds-config": section}))
    done = subprocess.run([HUSK, "config", "check", str(path)], capture_output=True, text=True)
    assert done.returncode == 1 and message in done.stderr, done.stderr

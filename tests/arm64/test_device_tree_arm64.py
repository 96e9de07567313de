"""The device tree: dtc finds no fault with it; a guest has the tree that `husk config dtb` prints, and finds each device where it says."""
import base64
import io
import json
import re
import struct
import subprocess
import tarfile

import pytest

from hosted import BUILD, between, host, husk, machines

# Checks of dtc that are off unless asked for. Not node_name_chars_strict: virtio_mmio@ has a _, as Firecracker and QEMU write it.
STRICT = ["unique_unit_address_if_enabled", "property_name_chars_strict", "interrupts_property", "interrupt_provider", "unit_address_vs_reg",
          "unit_address_format", "reg_format", "avoid_unnecessary_addr_size", "duplicate_node_names", "chosen_node_stdout_path"]
GUEST_ONLY = {"name"}  # properties that Linux adds to each node
SPI, PPI, EDGE, LEVEL = 0, 1, 1, 4


def machine(cpus, drives=1):
    return {
        "boot-source": {"kernel_image_path": "/guest/vmlinuz", "boot_args": "console=ttyS0 panic=-1 quiet"},
        "machine-config": {"vcpu_count": cpus, "mem_size_mib": 512},
        "drives": [{"drive_id": f"d{n}", "path_on_host": "/tmp/disk", "is_root_device": False} for n in range(drives)],
        "network-interfaces": [{"iface_id": "eth0", "host_dev_name": "tap0"}],
        "vsock": {"guest_cid": 3, "uds_path": "/tmp/v.sock"},
        "balloon": {"amount_mib": 0, "deflate_on_oom": True},
        "entropy": {},
    }


def dtb(path):
    done = subprocess.run(["qemu-aarch64-static", BUILD / "husk", "config", "dtb", path], capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def parse(blob):
    """Node path -> property -> bytes. Devicetree Specification 0.4, chapter 5"""
    magic, _, at, strings = struct.unpack_from(">4I", blob)
    assert magic == 0xd00dfeed
    tree, path = {}, []
    while True:
        token, = struct.unpack_from(">I", blob, at)
        at += 4
        if token == 1:
            name = blob[at:blob.index(0, at)].decode()
            at += (len(name) + 4) & ~3
            path.append(name)
            tree["/".join(path) or "/"] = {}
        elif token == 2:
            path.pop()
        elif token == 3:
            size, name = struct.unpack_from(">2I", blob, at)
            name = blob[strings + name:blob.index(0, strings + name)].decode()
            tree["/".join(path) or "/"][name] = blob[at + 8:at + 8 + size]
            at += 8 + ((size + 3) & ~3)
        elif token == 9:
            return tree


def cells(value, n):
    """A property of 32-bit numbers, n at a time."""
    words = struct.unpack(f">{len(value) // 4}I", value)
    return [words[i:i + n] for i in range(0, len(words), n)]


def addresses(node):
    return [(a << 32 | b, c << 32 | d) for a, b, c, d in cells(node.get("reg", b""), 4)]


def devices(tree):
    """The nodes with addresses in the machine's address space, and those with interrupts."""
    return {path: node for path, node in tree.items() if not path.startswith("/cpus")}


def check_each_once(tree):
    ranges = sorted(r for node in devices(tree).values() for r in addresses(node))
    assert all(a + size <= b for (a, size), (b, _) in zip(ranges, ranges[1:])), ranges
    interrupts = [i[:2] for node in devices(tree).values() for i in cells(node.get("interrupts", b""), 3)]
    assert len(interrupts) == len(set(interrupts)), interrupts


@pytest.mark.parametrize("cpus,drives", [(1, 1), (4, 1), (64, 60)])
def test_dtc_finds_nothing_to_warn_of(tmp_path, cpus, drives):
    file, out = tmp_path / "vm.json", tmp_path / "vm.dtb"
    file.write_text(json.dumps(machine(cpus, drives)))
    out.write_bytes(dtb(file))
    for checks in ([], [f"-W{name}" for name in STRICT]):
        done = subprocess.run(["dtc", "-I", "dtb", "-O", "dts", "-o", "/dev/null", *checks, out], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr
    tree = parse(out.read_bytes())
    assert len([p for p in tree if p.startswith("/cpus/cpu@")]) == cpus and len([p for p in tree if "virtio_mmio" in p]) == drives + 4
    check_each_once(tree)


def test_more_devices_than_slots_are_refused(tmp_path):
    file = tmp_path / "vm.json"
    file.write_text(json.dumps(machine(1, 61)))
    done = subprocess.run(["qemu-aarch64-static", BUILD / "husk", "config", "dtb", file], capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout and "room for 64 virtio devices; take some out" in done.stderr


SCRIPT = r"""
echo TREE; (cd /proc/device-tree && tar cf - . | gzip | base64); echo INTERRUPTS; cat /proc/interrupts; echo IOMEM; cat /proc/iomem
echo VIRTIO; for d in /sys/bus/virtio/devices/*; do echo "$(basename $d) $(readlink -f $d)"; done; echo END
"""


def guest_tree(text):
    """What a tar file of /proc/device-tree holds, in the form that parse has."""
    tree = {}
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(text)), mode="r:gz") as tar:
        for member in tar:
            path = "/" + member.name.removeprefix(".").strip("/")
            if member.isdir():
                tree.setdefault(path, {})
            else:
                node, _, name = path.rpartition("/")
                tree.setdefault(node or "/", {})[name] = tar.extractfile(member).read()
    return tree


def check_interrupts(tree, out):
    """Each line of the GIC in /proc/interrupts is an interrupt of the node whose device it names, of its kind."""
    named = {"ttyS0": "/serial@", "arch_timer": "/timer", "rtc-pl031": "/rtc@", "vmgenid": "/vmgenid@"}
    for line in between(out, "VIRTIO", "END").splitlines():
        name, place = line.split()
        named[name] = "/virtio_mmio@" + re.search(r"/([0-9a-f]+)\.virtio_mmio/", place).group(1)
    seen = []
    for irq, kind, name in re.findall(r"GICv3 +(\d+) (Level|Edge) +(\S+)$", between(out, "INTERRUPTS", "IOMEM"), re.M):
        (node,) = [n for path, n in tree.items() if name in named and path.startswith(named[name])]
        owned = [(which + (32 if space == SPI else 16), how) for space, which, how in cells(node["interrupts"], 3)]
        assert (int(irq), LEVEL if kind == "Level" else EDGE) in owned, (name, irq, kind, owned)
        seen.append(name)
    assert len(seen) == len(set(seen)) and {"ttyS0", "arch_timer", *(n for n in named if n.startswith("virtio"))} <= set(seen), seen


@machines(("6.1", 1), ("6.12", 4))
def test_a_guest_finds_the_tree_and_each_device_where_it_says(tmp_path, version, cpus):
    file = tmp_path / "vm.json"
    file.write_text(json.dumps(machine(cpus)))
    out = host("tunctl -t tap0; truncate -s 1M /tmp/disk; " + husk(version, SCRIPT, "/files/vm.json") + "; echo husk ends with $?", files=[file])
    assert "husk ends with 0" in out
    mine, theirs = parse(dtb(file)), guest_tree(between(out, "TREE", "INTERRUPTS"))
    assert theirs.keys() == mine.keys()
    for path, node in mine.items():
        if path != "/chosen":  # the seed, the initrd, the command line
            assert {k: v for k, v in theirs[path].items() if k not in GUEST_ONLY} == node, path
    assert theirs["/chosen"]["stdout-path"] == mine["/chosen"]["stdout-path"] and "rng-seed" not in theirs["/chosen"]  # used up
    check_each_once(theirs)
    check_interrupts(theirs, out)
    iomem = between(out, "IOMEM", "VIRTIO")
    for path, node in theirs.items():  # what a driver has claimed is what the node has
        for address, size in addresses(node) if "virtio_mmio" in path or "memory@" in path else []:
            assert f"{address:08x}-" in iomem and (f"-{address + size - 1:08x} :" in iomem or "memory@" in path), (path, iomem)

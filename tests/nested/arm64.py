#!/usr/bin/python3
"""A nested arm64 host: QEMU emulates an arm64 machine with virtualization, Debian's arm64 kernel in it has a true /dev/kvm, and husk's
cross-build runs there. One command per host: it boots in a few seconds and ends with the command.

    tests/nested/arm64.py [--smp N] [--cpu MODEL] [--timeout S] [--file PATH]... [--program PATH]... [--disk MIB] -- COMMAND...
    # exit code of COMMAND; 125: the host itself failed

In the host: husk, busybox, /guest/vmlinuz-V and /guest/initrd-V.img (tools/mkguest-arm64) of those V that COMMAND names, --file's files in
/files, arm64 programs with the libraries that they are linked with in /programs. /tmp is memory, or with --disk an ext4 of that size.
Only the standard library. HUSK names another binary,
HUSK_GUEST_ARM64 the directory of the images.
"""
import argparse
import glob
import lzma
import os
import re
import shlex
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)
from nested import _Cpio  # noqa: E402

GUEST = os.environ.get("HUSK_GUEST_ARM64", os.path.join(TOP, "build", "guest-arm64"))
LIBRARIES = ["/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
MODULES = ["net/tun", "virtio/virtio_mmio", "block/virtio_blk"]  # of the nested host, in the order in which they load
END = "nested-arm64: exit "


def libraries(path, seen=None):
    """What the arm64 program at path is linked with, and those libraries, by name -> path."""
    seen = {} if seen is None else seen
    out = subprocess.run(["aarch64-linux-gnu-objdump", "-p", path], capture_output=True, text=True, check=True).stdout
    for name in re.findall(r"NEEDED +(\S+)", out):
        if name in seen:
            continue
        found = [os.path.join(d, name) for d in LIBRARIES if os.path.exists(os.path.join(d, name))]
        if not found:
            sys.exit("arm64.py: %s needs %s, which is not there: run tools/setup --arm64" % (path, name))
        seen[name] = found[0]
        libraries(found[0], seen)
    return seen


def initramfs(husk, command, files, programs):
    """Busybox, husk, what it needs, the guest's images and the command."""
    c = _Cpio()
    for d in ("dev", "proc", "sys", "tmp", "run", "root", "sbin", "usr/bin", "usr/sbin"):
        c.directory(d)
    c.file(os.path.join(GUEST, "busybox"), "bin/busybox")
    c.file(os.path.join(HERE, "host-init-arm64"), "init")
    c.file(husk, "bin/husk")
    libs = libraries(husk)
    for p in programs:
        c.file(p, "programs/" + os.path.basename(p))
        libraries(p, libs)
    for name, path in libs.items():
        c.data("lib/aarch64-linux-gnu/" + name, open(path, "rb").read(), 0o755)
    c.data("lib/ld-linux-aarch64.so.1", open("/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1", "rb").read(), 0o755)
    for v in ("6.1", "6.12", "6.12-generic"):
        if v in command:
            for name in ("vmlinuz-" + v, "initrd-%s.img" % v):
                c.file(os.path.join(GUEST, name), "guest/" + name)
    for i, module in enumerate(MODULES):
        for path in glob.glob(os.path.join(GUEST, "kernel-6.12/lib/modules/*/kernel/drivers/%s.ko*" % module)):
            blob = open(path, "rb").read()
            c.data("modules/%d.ko" % i, lzma.decompress(blob) if path.endswith(".xz") else blob)
    for f in files:
        c.file(f, "files/" + os.path.basename(f))
    c.data("command", command.encode() + b"\n")
    return c.bytes()


def boot(image, disk, smp, cpu):
    qemu = os.path.join(GUEST, "emulator", "usr")
    drive = ["-drive", "if=none,id=disk,format=raw,cache=unsafe,file=" + disk, "-device", "virtio-blk-device,drive=disk"] if disk else []
    return [os.path.join(qemu, "bin", "qemu-system-aarch64"), "-L", os.path.join(qemu, "share", "qemu"), "-nodefaults", "-no-user-config",
            "-M", "virt,virtualization=on,gic-version=3", "-cpu", cpu, "-accel", "tcg", "-smp", str(smp), "-m", "3072",
            "-nographic", "-serial", "stdio", "-monitor", "none", "-no-reboot", "-net", "none", *drive,
            "-kernel", os.path.join(GUEST, "vmlinuz-6.12"), "-initrd", image, "-append", "console=ttyAMA0 quiet panic=-1 kvm-arm.mode=nvhe"
            if os.environ.get("HUSK_NVHE") else "console=ttyAMA0 quiet panic=-1"]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--smp", type=int, default=2)
    p.add_argument("--cpu", default="max,pauth=off", metavar="MODEL")
    p.add_argument("--timeout", type=int, default=240)
    p.add_argument("--file", action="append", default=[])
    p.add_argument("--program", action="append", default=[])
    p.add_argument("--disk", type=int, metavar="MIB")
    p.add_argument("command", nargs="+")
    a = p.parse_args()
    if not os.path.exists(os.path.join(GUEST, "emulator")):
        sys.exit("arm64.py: %s is empty: run tools/mkguest-arm64" % GUEST)
    husk = os.environ.get("HUSK", os.path.join(TOP, "build-arm64", "husk"))
    command = a.command[0] if len(a.command) == 1 else shlex.join(a.command)
    with tempfile.NamedTemporaryFile(suffix=".cpio") as image, tempfile.NamedTemporaryFile(suffix=".ext4") as disk:
        if a.disk:
            disk.truncate(a.disk << 20)
            subprocess.run(["/usr/sbin/mkfs.ext4", "-q", "-F", disk.name], check=True)
        image.write(initramfs(husk, command, a.file, a.program))
        image.flush()
        code = 125
        with subprocess.Popen(["timeout", str(a.timeout)] + boot(image.name, a.disk and disk.name, a.smp, a.cpu), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as q:
            for line in q.stdout:
                text = line.decode("utf-8", "replace").rstrip("\r\n")
                if text.startswith(END):
                    code = int(text[len(END):])
                else:
                    print(text, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())

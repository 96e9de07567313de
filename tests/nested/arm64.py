#!/usr/bin/python3
"""A nested arm64 host: QEMU emulates an arm64 machine with virtualization, Debian's arm64 kernel in it has a true /dev/kvm, and husk's
cross-build runs there. One command per host: it boots in a few seconds and ends with the command.

    tests/nested/arm64.py [--smp N] [--timeout S] [--file PATH]... -- COMMAND...    # exit code of COMMAND; 125: the host itself failed

In the host: husk, busybox, /guest/vmlinuz-V and /guest/initrd-V.img (tools/mkguest-arm64), --file's files in /files. Only the standard
library. HUSK names another binary, HUSK_GUEST_ARM64 the directory of the images.
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


def initramfs(husk, command, files):
    """Busybox, husk, what it needs, the guest's images and the command."""
    c = _Cpio()
    for d in ("dev", "proc", "sys", "tmp", "run", "root", "sbin", "usr/bin", "usr/sbin"):
        c.directory(d)
    c.file(os.path.join(GUEST, "busybox"), "bin/busybox")
    c.file(os.path.join(HERE, "host-init-arm64"), "init")
    c.file(husk, "bin/husk")
    libs = libraries(husk)
    for name, path in libs.items():
        c.data("lib/aarch64-linux-gnu/" + name, open(path, "rb").read(), 0o755)
    c.data("lib/ld-linux-aarch64.so.1", open("/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1", "rb").read(), 0o755)
    for v in ("6.1", "6.12"):
        if v in command:
            for name in ("vmlinuz-" + v, "initrd-%s.img" % v):
                c.file(os.path.join(GUEST, name), "guest/" + name)
    for path in sorted(glob.glob(os.path.join(GUEST, "kernel-6.12/lib/modules/*/kernel/drivers/net/tun.ko*"))):
        blob = open(path, "rb").read()
        c.data("modules/tun.ko", lzma.decompress(blob) if path.endswith(".xz") else blob)
    for f in files:
        c.file(f, "files/" + os.path.basename(f))
    c.data("command", command.encode() + b"\n")
    return c.bytes()


def boot(image, smp):
    qemu = os.path.join(GUEST, "emulator", "usr")
    return [os.path.join(qemu, "bin", "qemu-system-aarch64"), "-L", os.path.join(qemu, "share", "qemu"), "-nodefaults", "-no-user-config",
            "-M", "virt,virtualization=on,gic-version=3", "-cpu", "max,pauth=off", "-accel", "tcg", "-smp", str(smp), "-m", "3072",
            "-nographic", "-serial", "stdio", "-monitor", "none", "-no-reboot", "-net", "none",
            "-kernel", os.path.join(GUEST, "vmlinuz-6.12"), "-initrd", image, "-append", "console=ttyAMA0 quiet panic=-1 kvm-arm.mode=nvhe"
            if os.environ.get("HUSK_NVHE") else "console=ttyAMA0 quiet panic=-1"]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--smp", type=int, default=2)
    p.add_argument("--timeout", type=int, default=240)
    p.add_argument("--file", action="append", default=[])
    p.add_argument("command", nargs="+")
    a = p.parse_args()
    if not os.path.exists(os.path.join(GUEST, "emulator")):
        sys.exit("arm64.py: %s is empty: run tools/mkguest-arm64" % GUEST)
    husk = os.environ.get("HUSK", os.path.join(TOP, "build-arm64", "husk"))
    command = a.command[0] if len(a.command) == 1 else shlex.join(a.command)
    with tempfile.NamedTemporaryFile(suffix=".cpio") as image:
        image.write(initramfs(husk, command, a.file))
        image.flush()
        code = 125
        with subprocess.Popen(["timeout", str(a.timeout)] + boot(image.name, a.smp), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as q:
            for line in q.stdout:
                text = line.decode("utf-8", "replace").rstrip("\r\n")
                if text.startswith(END):
                    code = int(text[len(END):])
                else:
                    print(text, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())

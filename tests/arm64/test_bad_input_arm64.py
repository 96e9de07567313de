"""Kernels, initrds and machines that an arm64 husk cannot boot: a sentence for each, exit code 1, and no guest. Another processor, too."""
import struct
import subprocess

import pytest

from hosted import GUEST, LONG, host, husk

TRY = 'try() { echo "== $1"; shift; husk run "$@" 2>&1; echo "ends with $?"; }\n'


def said(out):
    """Name of a try -> what husk printed."""
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in out.split("== ")[1:]}


def refused(out, **sentences):
    got = said(out)
    for name, sentence in sentences.items():
        assert sentence in got[name], (sentence, got[name])
        assert got[name].count("husk: ") == 1 and "ends with 1\n" in got[name], got[name]


def image(path, pages=None, cut=None, gzip=False):
    """Debian's Image, changed."""
    data = bytearray((GUEST / "vmlinuz-6.12").read_bytes())
    if pages is not None:
        flags, = struct.unpack_from("<Q", data, 24)
        struct.pack_into("<Q", data, 24, flags & ~6 | pages << 1)
    path.write_bytes(data[:cut])
    if gzip:
        subprocess.run(["gzip", "-1", path], check=True)
        path = path.with_name(path.name + ".gz")
        path.write_bytes(path.read_bytes()[:-100000])
    return path


def bzimage(path):
    """What an x86 kernel begins with."""
    data = bytearray(65536)
    data[510:512], data[514:518] = b"\x55\xaa", b"HdrS"
    path.write_bytes(data)
    return path


def test_what_is_no_arm64_kernel_gets_a_sentence(tmp_path):
    files = [bzimage(tmp_path / "bzimage"), image(tmp_path / "cut", cut=20 << 20), image(tmp_path / "header", cut=40), image(tmp_path / "packed", gzip=True)]
    (tmp_path / "elf").write_bytes(b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 2, 62).ljust(4096, b"\0"))
    (tmp_path / "vmlinux").write_bytes(b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 2, 183).ljust(4096, b"\0"))
    (tmp_path / "empty").touch()
    out = host(TRY + "head -c 5000000 /dev/urandom >/tmp/garbage; mkdir /tmp/folder\n"
               "for k in bzimage cut header packed.gz elf vmlinux empty; do try $k --kernel /files/$k; done\n"
               "for k in garbage folder missing; do try $k --kernel /tmp/$k; done",
               files=[*files, tmp_path / "elf", tmp_path / "vmlinux", tmp_path / "empty"])
    refused(out, bzimage="it is an x86 kernel (bzImage), and this machine is an arm64: an arm64 Image is needed",
            elf="it is an x86 kernel (ELF), and this machine is an arm64", vmlinux="it is an ELF file: arm64 boots the Image",
            cut="it is cut off: 20971520 of ", header="it is not an arm64 kernel", garbage="it is not an arm64 kernel",
            empty="it is empty", folder="not a regular file", missing="cannot open it: No such file or directory",
            **{"packed.gz": "its gzip data is damaged or cut off"})


def test_what_does_not_fit_gets_a_sentence():
    kernel = "--kernel /guest/vmlinuz-6.12"
    out = host(TRY + "truncate -s 100M /tmp/initrd; truncate -s 1G /tmp/huge; truncate -s 1M /tmp/disk\n"
               f"try small --memory 32 {kernel}; try tiny --memory 16 {kernel}\n"
               f"try initrd --memory 128 {kernel} --initrd /tmp/initrd; try huge --memory 128 {kernel} --initrd /tmp/huge\n"
               f"try folder {kernel} --initrd /tmp; try words {kernel} --cmdline \"$(printf %2048s | tr ' ' x)\"\n"
               f"try device {kernel} --drive /tmp/disk,root --cmdline \"$(printf %2040s | tr ' ' x)\"\n"
               f"try drives {kernel} --vsock /tmp/v.sock,cid=3 $(for i in $(seq 64); do echo --drive /tmp/disk,ro; done)\n"
               f"try cpus {kernel} --cpus 65; try memory {kernel} --memory 17T")
    refused(out, small="the initrd 0 MiB: they do not fit into the machine's memory (32 MiB)", tiny="an arm64 machine needs at least 32 MiB",
            initrd="the initrd 100 MiB: they do not fit into the machine's memory (128 MiB)",
            huge='initrd "/tmp/huge": it has 1024 MiB and does not fit into the machine\'s memory (128 MiB)', folder="not a regular file",
            device="the kernel command line is 20", drives="room for 64 virtio devices; take some out of the configuration")
    assert "arm64 kernels take at most 2047" in said(out)["device"]
    for name in ("words", "cpus", "memory"):  # the configuration itself
        assert said(out)[name].count("husk: ") == 1 and "expected" in said(out)[name] and "ends with 0" not in said(out)[name]


def test_a_kernel_for_pages_that_the_processor_lacks_is_refused(tmp_path):
    """A Cortex-A72, an Armv8.0 without the host extensions, has pages of 4 and 64 KiB; a guest boots on its KVM as well."""
    out = host(TRY + "try pages --kernel /files/pages16\necho '== guest'\n" + husk("6.12", "uname -m; nproc", "--cpus 2") + "; echo ends with $?",
               files=[image(tmp_path / "pages16", pages=2)], cpu="cortex-a72")
    refused(out, pages="it is built for pages of 16 KiB, which this processor does not have: take one for another page size")
    assert "aarch64\n2\nhusk: exit 0\n" in said(out)["guest"] and "ends with 0\n" in said(out)["guest"]


def test_what_is_for_x86_is_refused_by_name():
    out = host(TRY + "k=/guest/vmlinuz-6.12; try template --kernel $k --cpu-template T2; try tcg --kernel $k --accelerator tcg\n"
               "echo '== check'; husk check --accelerator kvm; echo ends with $?\nmv /dev/kvm /dev/away; try missing --kernel $k")
    refused(out, template="cpu_template T2 is for x86-64 processors, and this husk runs arm64 guests", tcg="this husk was built without it",
            missing="CONFIG_KVM that was started at EL2")
    assert "ok    kvm" in said(out)["check"] and "ends with 0" in said(out)["check"]
    assert "x86-64 processors" not in said(out)["missing"] and "kvm_intel" not in out


@pytest.mark.skipif(not LONG, reason="tools/test --long arm64")
def test_no_cut_of_an_image_harms_husk(tmp_path):
    sizes = [0, 1, 63, 64, 100, 500, 4096, 65536, 1 << 20, 10 << 20, 30 << 20]
    out = host(TRY + "for n in " + " ".join(map(str, sizes)) + "; do head -c $n /guest/vmlinuz-6.12 >/tmp/k; try $n --kernel /tmp/k; done")
    refused(out, **{str(n): "husk: kernel image" for n in sizes})

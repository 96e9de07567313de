"""A host with a true /dev/kvm, wherever the tests run: QEMU emulates a machine with AMD's SVM, Debian's kernel runs in it.

Why: CI's and many contributors' machines have no usable KVM, yet husk's kvm accelerator must be proven with real kernels.
What it costs: everything in it runs 10 to 40 times slower than on hardware, so one host is booted per session and reused.

    with NestedHost(husk="build/husk") as h:
        r = h.run("husk check --kvm", timeout=60)          # r.rc, r.stdout, r.stderr
        p = h.popen("husk run --kernel /husk/guest/vmlinuz-6.12 ...", tty=True)
        p.expect(r"# $", timeout=120); p.send("uname -r\n")

In the host: /husk/bin (husk, the peer), /husk/guest (tools/mkguest's images), /tmp (memory), all of /husk writable (disk, dropped
at the end). Only the standard library; pexpect only for NestedProcess.pexpect().
"""
import collections
import ctypes
import glob
import hashlib
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
KERNEL = "6.12"
# In the host. Module parameters follow the name.
MODULES = ["virtio_mmio", "virtio_blk", "virtio_net", "virtio_rng", "kvm", "kvm_amd nested=0", "tun", "bridge", "veth", "dummy numdummies=0",
           "vhost_net", "vhost_vsock", "overlay", "loop"]
PROGRAMS = ["dash", "bash", "ip", "bridge", "passt", "strace", "mkfs.ext4", "taskset"]  # those that the build machine has, with their libraries
CPU = "max,la57=off"  # 5-level tables only make the emulated walks longer
KVM_CHECK = os.path.join(HERE, "kvmcheck.c")

Result = collections.namedtuple("Result", "rc stdout stderr")


class NestedError(Exception):
    """The nested host cannot be built, does not boot, or has died. The message says what to do."""


class NestedTimeout(NestedError):
    """A command took too long; it was killed. stdout and stderr hold what it wrote."""

    def __init__(self, message, stdout="", stderr=""):
        super().__init__(message)
        self.stdout, self.stderr = stdout, stderr


class HostDied(NestedError):
    """The nested host is gone; the message ends with its last console lines."""


# ---- building the images -------------------------------------------------------------------------------------------------

def _libraries(path):
    """The files that the dynamic program at path needs, at their own paths; nothing for a static one."""
    out = subprocess.run(["ldd", path], capture_output=True, text=True)
    if "not found" in out.stdout:
        raise NestedError("%s: libraries missing on this machine:\n%s" % (path, out.stdout))
    return sorted(set(re.findall(r"(/\S+) \(0x", out.stdout)))


class _Cpio:
    """Writes a newc archive, the format of an initramfs; parents are made as needed."""

    def __init__(self):
        self.parts, self.seen, self.ino = [], set(), 1

    def _entry(self, name, mode, data=b""):
        name = name.strip("/")
        if name in self.seen:
            return
        self.seen.add(name)
        if name != "TRAILER!!!" and "/" in name:
            self.directory(os.path.dirname(name))
        raw = name.encode() + b"\0"
        fields = (self.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        self.ino += 1
        head = b"070701" + b"".join(b"%08X" % f for f in fields) + raw
        self.parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]

    def directory(self, name, mode=0o755):
        self._entry(name, 0o040000 | mode)

    def link(self, name, target):
        self._entry(name, 0o120777, target.encode())

    def data(self, name, data, mode=0o644):
        self._entry(name, 0o100000 | mode, data)

    def file(self, src, name=None):
        with open(src, "rb") as f:
            self.data(name or src, f.read(), 0o755 if os.access(src, os.X_OK) else 0o644)

    def program(self, src, name=None):
        """A program with its libraries. Paths below the merged-/usr links are kept as they are named: no links here."""
        self.file(src, name)
        for lib in _libraries(src):
            self.file(lib)

    def bytes(self):
        self._entry("TRAILER!!!", 0)
        blob = b"".join(self.parts)
        return blob + b"\0" * (-len(blob) % 512)


def _which(name):
    for d in ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin"):
        if os.access(os.path.join(d, name), os.X_OK):
            return os.path.join(d, name)
    return None


def _identity(paths, *more):
    h = hashlib.sha256(repr(more).encode())
    for p in sorted(paths):
        st = os.stat(p)
        h.update(("%s %d %d\n" % (p, st.st_size, st.st_mtime_ns)).encode())
    return h.hexdigest()[:16]


class Builder:
    """Makes, and caches in build/nested, what the host boots from."""

    def __init__(self, guest_dir=None, cache=None):
        self.guest = os.path.abspath(guest_dir or os.path.join(TOP, "build", "guest"))
        self.cache = os.path.abspath(cache or os.path.join(TOP, "build", "nested"))
        os.makedirs(self.cache, exist_ok=True)
        self.kernel = os.path.join(self.guest, "vmlinuz-" + KERNEL)
        self.tree = os.path.join(self.guest, "kernel-" + KERNEL)
        if not os.path.exists(self.kernel) or not os.path.isdir(self.tree):
            raise NestedError("%s is missing: run tools/mkguest" % self.kernel)
        # Not the installed 7.2: its emulated SVM crashes guests, and its multi-threaded TCG the host.
        emulator = os.path.join(self.guest, "emulator", "usr")
        self.qemu = [os.path.join(emulator, "bin", "qemu-system-x86_64"), "-L", os.path.join(emulator, "share", "qemu"),
                     "-L", os.path.join(emulator, "share", "seabios")]
        if not os.access(self.qemu[0], os.X_OK):
            raise NestedError("%s is missing: run tools/mkguest --only emulator" % self.qemu[0])
        self.installed_qemu = _which("qemu-system-x86_64")

    def _cached(self, name, key, make):
        """The cached file NAME for this key, made by make(temporary path) when stale; older ones of the same name go."""
        stem, ext = os.path.splitext(name)
        path = os.path.join(self.cache, "%s-%s%s" % (stem, key, ext))
        if not os.path.exists(path):
            tmp = "%s.tmp%d" % (path, os.getpid())
            try:
                make(tmp)
                os.rename(tmp, path)
            finally:
                if os.path.exists(tmp):
                    os.unlink(tmp)
            for old in glob.glob(os.path.join(self.cache, "%s-*%s" % (stem, ext))):
                # a host that still runs from an older one keeps it open; an hour also spares parallel users
                if old != path and time.time() - os.stat(old).st_mtime > 3600:
                    os.unlink(old)
        return path

    def compile(self, src):
        """A C file of this directory as a static program."""
        def make(tmp):
            r = subprocess.run(["gcc", "-static", "-O2", "-Wall", "-o", tmp, src], capture_output=True, text=True)
            if r.returncode:
                raise NestedError("cannot compile %s (is gcc there? tools/setup):\n%s" % (src, r.stderr))
        return self._cached(os.path.splitext(os.path.basename(src))[0] + ".bin", _identity([src]), make)

    def tsc_khz(self):
        return int(subprocess.run([self.compile(os.path.join(HERE, "tsckhz.c"))], capture_output=True, text=True, check=True).stdout)

    def _modules(self, cpio):
        rel = os.listdir(os.path.join(self.tree, "lib", "modules"))[0]
        order, seen = [], set()
        modprobe = _which("modprobe")
        if not modprobe:
            raise NestedError("modprobe is missing: run tools/setup (Debian package kmod)")
        for spec in MODULES:
            name, _, params = spec.partition(" ")
            r = subprocess.run([modprobe, "-d", self.tree, "-S", rel, "-D", name], capture_output=True, text=True)
            for line in r.stdout.splitlines():
                words = line.split()
                if words[0] != "insmod" or words[1] in seen:
                    continue
                seen.add(words[1])
                base = os.path.basename(words[1]).split(".ko")[0]
                if words[1].endswith(".xz"):
                    blob = subprocess.run(["xz", "-dc", words[1]], check=True, capture_output=True).stdout
                else:
                    with open(words[1], "rb") as f:
                        blob = f.read()
                cpio.data("/modules/%s.ko" % base, blob)
                order.append("%s.ko %s" % (base, params if base.replace("-", "_") == name else ""))
        cpio.data("/modules/order", ("\n".join(order) + "\n").encode())

    def base(self):
        """The part of the initramfs that does not depend on husk."""
        agent, check = self.compile(os.path.join(HERE, "agent.c")), self.compile(KVM_CHECK)
        busybox = _which("busybox")
        if not busybox:
            raise NestedError("busybox is missing: run tools/setup (Debian package busybox-static)")
        init = os.path.join(HERE, "host-init")
        programs = [p for p in map(_which, PROGRAMS) if p]

        def make(tmp):
            c = _Cpio()
            for d in ("proc", "sys", "dev", "tmp", "run", "root", "husk", "peer", "mnt", "var/tmp", "var/run"):
                c.directory(d)
            c.file(init, "/init")
            c.file(busybox, "/bin/busybox")
            # not busybox: its shell prefers its applets to the real programs
            c.link("/bin/sh", "/usr/bin/dash")
            for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
                c.link("/.bb/" + applet, "/bin/busybox")
            c.file(agent, "/bin/agent")
            c.file(check, "/bin/kvmcheck")
            c.data("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
            c.data("/etc/group", b"root:x:0:\nnogroup:x:65534:\nkvm:x:104:\n")
            c.data("/etc/hosts", b"127.0.0.1 localhost\n10.0.2.2 build-machine\n")
            for p in programs:
                c.program(p)
            self._modules(c)
            with open(tmp, "wb") as f:
                f.write(c.bytes())
        return self._cached("base.cpio", _identity([agent, check, busybox, init, self.kernel] + programs, MODULES, _source()), make)

    def husk(self, husk, extra):
        """husk and further programs {path in host or None: path here} with their libraries, packed anew for each boot."""
        c = _Cpio()
        if husk:
            if not os.access(husk, os.X_OK):
                raise NestedError("%s: no such program; build it first (meson compile -C build)" % husk)
            c.program(husk, "/opt/husk/bin/husk")
            jailer = os.path.join(os.path.dirname(husk), "husk-jailer")
            if os.access(jailer, os.X_OK):
                c.program(jailer, "/opt/husk/bin/husk-jailer")
        for src in extra:
            c.program(src, "/opt/husk/bin/" + os.path.basename(src))
        return c.bytes()

    def _ext4(self, tmp, src, mib, label):
        with open(tmp, "wb") as f:
            f.truncate(mib << 20)
        r = subprocess.run([_which("mkfs.ext4") or "mkfs.ext4", "-q", "-F", "-L", label, "-m", "0", "-O", "^has_journal", "-E",
                            "lazy_itable_init=1,root_owner=0:0", "-d", src, tmp], capture_output=True, text=True)
        if r.returncode:
            raise NestedError("mkfs.ext4 (tools/setup): " + r.stderr)

    def images(self):
        """The disk that is /husk: the guest images, with room for copies."""
        files = [f for p in ("vmlinuz-*", "initrd-*.img", "rootfs.ext4") for f in glob.glob(os.path.join(self.guest, p))]

        def make(tmp):
            with tempfile.TemporaryDirectory(dir=self.cache) as d:
                g = os.path.join(d, "guest")
                os.mkdir(g)
                for f in files:
                    subprocess.run(["cp", "--reflink=auto", "--sparse=always", f, g], check=True)
                self._ext4(tmp, d, 6144, "husk")
        return self._cached("images.ext4", _identity(files), make)

    def peer(self):
        """The disk that is /peer: this machine's qemu-system-x86_64 and firmware, for side-by-side measurements in the host."""
        if not self.installed_qemu:
            raise NestedError("qemu-system-x86_64 is missing: run tools/setup")
        firmware = [p for n in ("bios-microvm.bin", "qboot.rom", "bios-256k.bin", "linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin",
                                "efi-virtio.rom", "vgabios-stdvga.bin")
                    for d in ("/usr/share/qemu", "/usr/share/seabios", "/usr/lib/ipxe/qemu", "/usr/share/qboot")
                    for p in [os.path.join(d, n)] if os.path.exists(p)]

        def make(tmp):
            with tempfile.TemporaryDirectory(dir=self.cache) as d:
                for sub in ("bin", "lib", "share"):
                    os.mkdir(os.path.join(d, sub))
                shutil.copy(self.installed_qemu, os.path.join(d, "lib", "qemu.real"))
                for lib in _libraries(self.installed_qemu):
                    shutil.copy(lib, os.path.join(d, "lib"))
                for f in firmware:
                    shutil.copy(f, os.path.join(d, "share"))
                wrapper = os.path.join(d, "bin", "qemu-system-x86_64")
                with open(wrapper, "w") as f:
                    f.write("#!/bin/sh\n# The build machine's QEMU with its own libraries.\n"
                            "exec /peer/lib/ld-linux-x86-64.so.2 --library-path /peer/lib /peer/lib/qemu.real -L /peer/share \"$@\"\n")
                os.chmod(wrapper, 0o755)
                self._ext4(tmp, d, 512, "peer")
        return self._cached("peer.ext4", _identity([self.installed_qemu] + firmware), make)


def _source():
    with open(os.path.abspath(__file__).replace(".pyc", ".py"), "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def _sweep():
    """Removes what killed runs have left behind."""
    for d in glob.glob(os.path.join(tempfile.gettempdir(), "husk-nested-*-*")):
        pid = os.path.basename(d).split("-")[2]
        if pid.isdigit() and not os.path.exists("/proc/" + pid):
            shutil.rmtree(d, ignore_errors=True)


def _die_with_parent():
    """In QEMU before its exec: no nested host outlives the tests that started it, however they end."""
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


# ---- a command in the host -----------------------------------------------------------------------------------------------

class NestedProcess:
    """A command that runs in the nested host. One thread reads what it writes; all methods may be called from any thread.

    output, errors: everything so far, as bytes (under tty=True all is in output).  rc: None while it runs."""

    def __init__(self, host, sock, what):
        self.host, self.what, self.rc, self.pid = host, what, None, None
        self.output, self.errors = bytearray(), bytearray()
        self._sock, self._failure, self._pos, self._pair = sock, None, 0, None
        self._cond, self._wlock = threading.Condition(), threading.Lock()
        self._thread = threading.Thread(target=self._reader, daemon=True, name="nested " + what[:40])
        self.sink = None  # called with bytes instead of gathering output (the command-line tool)

    def _begin(self):
        self._thread.start()

    def _frame(self, kind, data=b""):
        with self._wlock:
            try:
                self._sock.sendall(struct.pack("<BI", ord(kind), len(data)) + data)
            except OSError:
                pass  # the reader tells why

    def _exact(self, n):
        buf = bytearray()
        while len(buf) < n:
            part = self._sock.recv(min(n - len(buf), 1 << 20))
            if not part:
                raise EOFError
            buf += part
        return bytes(buf)

    def _reader(self):
        failure, rc = None, None
        try:
            while rc is None and failure is None:
                kind, n = struct.unpack("<BI", self._exact(5))
                data, kind = self._exact(n), chr(kind)
                with self._cond:
                    if kind == "O" and self.sink:
                        self.sink(data)
                    elif kind == "O":
                        self.output += data
                        if self._pair:
                            self._pair.sendall(data)
                    elif kind == "R":
                        self.errors += data
                    elif kind == "S":
                        self.pid = struct.unpack("<I", data)[0]
                    elif kind == "X":
                        rc = struct.unpack("<I", data)[0]
                    elif kind == "F":
                        self.errors += data + b"\n"
                        rc = 127
                    self._cond.notify_all()
        except (OSError, EOFError):
            failure = True
        with self._cond:
            self.rc, self._failure = rc, failure
            if self._pair:
                self._pair.close()
            self._cond.notify_all()
        self._sock.close()

    @property
    def text(self):
        return bytes(self.output).decode(errors="replace")

    def _check(self):
        if self._failure:
            time.sleep(0.2)  # let the host's end be seen
            if not self.host.alive():
                raise HostDied("while running: %s\n%s" % (self.what, self.host.why_dead()))
            raise NestedError("the connection to the nested host broke while running: %s\nlast console lines:\n%s"
                              % (self.what, self.host.console_tail()))

    def send(self, data):
        """Give the command input: str or bytes."""
        data = data.encode() if isinstance(data, str) else bytes(data)
        for i in range(0, len(data), 1 << 19):
            self._frame("I", data[i:i + (1 << 19)])

    def close_stdin(self):
        self._frame("C")

    def kill(self, sig=signal.SIGKILL):
        """Signal the command's process group."""
        self._frame("K", bytes([int(sig)]))

    def resize(self, rows, cols):
        self._frame("W", struct.pack("<HH", rows, cols))

    def expect(self, pattern, timeout=60):
        """Wait until the output after the last match has the pattern (a regular expression, str or bytes; or a list of them).
        Returns the match; for a list (index, match). Raises NestedTimeout, or NestedError when the command ends without it."""
        many = isinstance(pattern, (list, tuple))
        regs = [re.compile(p.encode() if isinstance(p, str) else p, re.S | re.M) for p in (pattern if many else [pattern])]
        end = time.monotonic() + timeout
        with self._cond:
            while True:
                found = [(m.start(), i, m) for i, r in enumerate(regs) for m in [r.search(self.output, self._pos)] if m]
                if found:
                    _, i, m = min(found, key=lambda f: f[:2])
                    self._pos = m.end()
                    return (i, m) if many else m
                left = end - time.monotonic()
                if self.rc is not None or self._failure or left <= 0:
                    break
                self._cond.wait(min(left, 1))
                if not self.host.alive():
                    break
        self._check()
        tail = bytes(self.output[self._pos:])[-2000:].decode(errors="replace")
        if not self.host.alive():
            raise HostDied(self.host.why_dead())
        if self.rc is not None:
            raise NestedError("%s ended with %d before %r came; its last output:\n%s" % (self.what, self.rc, pattern, tail))
        raise NestedTimeout("%r did not come in %d s from: %s\nits last output:\n%s" % (pattern, timeout, self.what, tail), self.text)

    def wait(self, timeout=60):
        """Wait for the end; returns the exit code. Raises NestedTimeout (the command is left running)."""
        end = time.monotonic() + timeout
        with self._cond:
            while self.rc is None and not self._failure and self.host.alive():
                left = end - time.monotonic()
                if left <= 0:
                    raise NestedTimeout("still running after %d s: %s" % (timeout, self.what), self.text,
                                        bytes(self.errors).decode(errors="replace"))
                self._cond.wait(min(left, 1))
        if self.rc is None:
            self._failure = True
            self._check()
        return self.rc

    def pexpect(self, timeout=60):
        """This command as a pexpect spawn-like object (input and output); call it before output is of interest."""
        from pexpect import fdpexpect
        ours, theirs = socket.socketpair()
        with self._cond:
            if self.output:
                ours.sendall(self.output)
            self._pair = ours

        def feed():
            while True:
                try:
                    data = ours.recv(65536)
                except OSError:
                    return
                if not data:
                    return
                self.send(data)
        threading.Thread(target=feed, daemon=True).start()
        spawn = fdpexpect.fdspawn(theirs.fileno(), timeout=timeout)
        spawn.nested_socket = theirs  # keeps it open
        return spawn

    def close(self):
        """Kill the command if it still runs, and let go of it."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        if self._thread is not threading.current_thread():
            self._thread.join(5)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


# ---- the host --------------------------------------------------------------------------------------------------------------

class NestedHost:
    """One nested host.

    husk       path of the husk binary to put into /husk/bin (default: build/husk if it is there; False: none)
    guest_dir  tools/mkguest's output (default build/guest)
    memory     MiB;  smp: emulated CPUs, one host thread each;  icount: deterministic clock that counts instructions (one CPU)
    peer       adds this machine's QEMU as /husk/bin/qemu-system-x86_64
    programs   further programs of this machine to put, with their libraries, into /husk/bin
    qemu_args  further arguments for the outer QEMU;  boot_timeout: seconds until the agent must answer
    """

    migrate_guest_port = 7001  # in it; this machine reaches it at 127.0.0.1:migrate_port

    def __init__(self, husk=None, guest_dir=None, cache=None, memory=3072, smp=1, icount=False, cpu=CPU, peer=False, programs=(),
                 qemu_args=(), append="", boot_timeout=180, log=None):
        if husk is None:
            husk = os.path.join(TOP, "build", "husk")
            husk = husk if os.access(husk, os.X_OK) and os.path.isfile(husk) else False
        self.builder = Builder(guest_dir, cache)
        self.husk = os.path.abspath(husk) if husk else None
        self.memory, self.smp, self.icount, self.peer = memory, 1 if icount else smp, icount, peer
        self.programs, self.qemu_args, self.append, self.boot_timeout = list(programs), list(qemu_args), append, boot_timeout
        self.log, self.cpu = log, cpu
        self.boot_seconds = None
        self._qemu = self._dir = None
        self.console_path = None

    # life

    def start(self):
        """Boot, unless it runs. A first failure to boot is tried once more."""
        if self.alive():
            return self
        for attempt in (1, 2):
            try:
                self._start()
                return self
            except NestedError as e:
                self.stop()
                if attempt == 2:
                    raise
                print("nested: %s; trying once more" % str(e).splitlines()[0], file=sys.stderr)

    def _start(self):
        self.stop()
        begin = time.monotonic()
        b = self.builder
        _sweep()
        self._dir = tempfile.mkdtemp(prefix="husk-nested-%d-" % os.getpid())
        self.console_path = os.path.join(self._dir, "console")
        initrd = os.path.join(self._dir, "initrd")
        with open(initrd, "wb") as out:
            with open(b.base(), "rb") as f:
                shutil.copyfileobj(f, out)
            out.write(b.husk(self.husk, self.programs))
        with socket.socket() as s, socket.socket() as t:
            for one in (s, t):
                one.bind(("127.0.0.1", 0))
            self.port, self.migrate_port = s.getsockname()[1], t.getsockname()[1]
        drives = [b.images()] + ([b.peer()] if self.peer else [])
        cmd = b.qemu + ["-M", "microvm,rtc=on", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
               "-cpu", self.cpu, "-m", str(self.memory), "-smp", str(self.smp),
               "-accel", "tcg,tb-size=512,thread=%s" % ("single" if self.icount else "multi"),
               "-kernel", b.kernel, "-initrd", initrd,
               "-append", ("console=ttyS0 panic=-1 mitigations=off nokaslr audit=0 random.trust_cpu=on tsc=reliable "
                           "tsc_early_khz=%d cgroup_no_v1=all loglevel=5 %s"
                           % (1000000 if self.icount else b.tsc_khz(), self.append)).strip(),
               "-chardev", "file,id=con,path=" + self.console_path, "-serial", "chardev:con",
               "-netdev", "user,id=n,restrict=off,hostfwd=tcp:127.0.0.1:%d-10.0.2.15:7000,hostfwd=tcp:127.0.0.1:%d-10.0.2.15:%d"
               % (self.port, self.migrate_port, self.migrate_guest_port),
               "-device", "virtio-net-device,netdev=n", "-device", "virtio-rng-device"]
        if self.icount:
            cmd += ["-icount", "shift=0,sleep=off"]
        # virtio-mmio slots are scanned from the highest: the first drive given is vda
        for i, d in enumerate(drives):
            cmd += ["-drive", "file=%s,format=raw,if=none,id=d%d,snapshot=on,cache=unsafe" % (d, i),
                    "-device", "virtio-blk-device,drive=d%d" % i]
        cmd += self.qemu_args
        with open(os.path.join(self._dir, "qemu.log"), "wb") as err:
            self._qemu = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=err, stderr=err, start_new_session=True,
                                          preexec_fn=_die_with_parent)
        while True:
            if "nested: agent listens" in self.console():
                break
            if not self.alive():
                raise HostDied("the nested host ended while it booted\n" + self.why_dead())
            if time.monotonic() - begin > self.boot_timeout:
                raise NestedError("the nested host did not boot in %d s; last console lines:\n%s" % (self.boot_timeout, self.console_tail()))
            time.sleep(0.05)
        r = self.run("test -c /dev/kvm", timeout=60)
        if r.rc:
            raise NestedError("the nested host has no /dev/kvm; last console lines:\n" + self.console_tail())
        self.boot_seconds = time.monotonic() - begin

    def stop(self):
        if self._qemu and self._qemu.poll() is None:
            self._qemu.kill()
            self._qemu.wait()
        self._qemu = None
        if self._dir:
            if self.log and os.path.exists(self.console_path):
                shutil.copy(self.console_path, self.log)
            shutil.rmtree(self._dir, ignore_errors=True)
            self._dir = None

    def alive(self):
        return self._qemu is not None and self._qemu.poll() is None

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.stop()

    def console(self):
        """What the host's kernel and init have written."""
        try:
            with open(self.console_path, "rb") as f:
                return f.read().decode(errors="replace")
        except (OSError, TypeError):
            return ""

    def console_tail(self, lines=25):
        return "\n".join("    " + x for x in self.console().splitlines()[-lines:])

    def why_dead(self):
        log = ""
        try:
            with open(os.path.join(self._dir, "qemu.log")) as f:
                log = f.read().strip()
        except (OSError, TypeError):
            pass
        rc = self._qemu.poll() if self._qemu else None
        return "the nested host is gone (QEMU's exit code %s) %s\nlast console lines:\n%s" % (rc, log, self.console_tail())

    # commands

    def popen(self, cmd, tty=False, env=None, cwd=None, size=(24, 80), sink=None):
        """Start a command (str: for sh -c; list: as it is) and return its NestedProcess. tty: on a terminal of its own."""
        argv = ["sh", "-c", cmd] if isinstance(cmd, str) else [str(c) for c in cmd]
        what = cmd if isinstance(cmd, str) else " ".join(argv)
        if not self.alive():
            raise HostDied("cannot run: %s\n%s" % (what, self.why_dead() if self._qemu else "the nested host was not started"))
        frames = [("A", a.encode()) for a in argv]
        frames += [("E", ("%s=%s" % kv).encode()) for kv in (env or {}).items()]
        if cwd:
            frames.append(("D", cwd.encode()))
        if tty:
            frames.append(("T", struct.pack("<HH", *size)))
        blob = b"".join(struct.pack("<BI", ord(k), len(d)) + d for k, d in frames + [("G", b"")])
        last = None
        for _ in range(10):
            try:
                s = socket.create_connection(("127.0.0.1", self.port), 10)
                s.settimeout(30)
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                p = NestedProcess(self, s, what)
                p._exact(5 + 13)  # hello: the agent, not only QEMU's forwarder, has the connection
                s.settimeout(None)
                p.sink = sink
                s.sendall(blob)
                p._begin()
                return p
            except (OSError, EOFError) as e:
                last = e
                if not self.alive():
                    raise HostDied(self.why_dead()) from None
                time.sleep(0.5)
        raise NestedError("the nested host's agent does not answer (%s); last console lines:\n%s" % (last, self.console_tail()))

    def run(self, cmd, timeout=120, input=None, env=None, cwd=None, check=False, binary=False):
        """Run a command to its end: Result(rc, stdout, stderr). check: raise NestedError unless rc is 0. Killed on time-out."""
        with self.popen(cmd, env=env, cwd=cwd) as p:
            if input is not None:
                p.send(input)
            p.close_stdin()
            try:
                rc = p.wait(timeout)
            except NestedTimeout as e:
                p.kill()
                raise NestedTimeout("%s\nstdout: %s\nstderr: %s" % (e, e.stdout[-2000:], e.stderr[-2000:]), e.stdout, e.stderr) from None
            out, err = bytes(p.output), bytes(p.errors)
        if check and rc:
            raise NestedError("exit code %d from: %s\nstdout: %s\nstderr: %s" % (rc, p.what, out[-2000:].decode(errors="replace"),
                                                                             err[-2000:].decode(errors="replace")))
        if binary:
            return Result(rc, out, err)
        return Result(rc, out.decode(errors="replace"), err.decode(errors="replace"))

    def put(self, src, dst, timeout=300):
        """Copy a file of this machine (path, or bytes) into the host, with its mode."""
        mode = "644"
        if isinstance(src, (bytes, bytearray)):
            data = bytes(src)
        else:
            with open(src, "rb") as f:
                data = f.read()
            mode = "%o" % (os.stat(src).st_mode & 0o777)
        self.run(["sh", "-c", 'rm -f "$0" && cat >"$0" && chmod $1 "$0"', dst, mode], timeout, input=data, check=True)

    def get(self, src, dst=None, timeout=300):
        """A file of the host: its bytes, also written to dst."""
        data = self.run(["cat", src], timeout, check=True, binary=True).stdout
        if dst:
            with open(dst, "wb") as f:
                f.write(data)
        return data


# ---- the command-line tool (tests/nested/nested) -----------------------------------------------------------------------------

def _interactive(p, tty):
    """Joins this terminal (raw) or stdin to the command until it ends; returns the exit code."""
    import termios
    import tty as ttymod
    fd = sys.stdin.fileno()
    saved = termios.tcgetattr(fd) if tty else None

    def resized(*_):
        size = os.get_terminal_size(fd)
        p.resize(size.lines, size.columns)
    try:
        if tty:
            ttymod.setraw(fd)
            signal.signal(signal.SIGWINCH, resized)
        escapes, stdin_open = 0, True
        while p.rc is None and not p._failure and p.host.alive():
            r, _, _ = select.select([fd] if stdin_open else [], [], [], 0.05)
            if not r:
                continue
            data = os.read(fd, 65536)
            if not data:
                stdin_open = False
                p.close_stdin()
                continue
            escapes = escapes + 1 if tty and data == b"\x1d" else 0
            if escapes == 3:  # Ctrl-] three times
                p.kill()
                p.wait(10)
                return 130
            p.send(data)
        return p.wait(5)
    finally:
        if saved:
            termios.tcsetattr(fd, termios.TCSADRAIN, saved)


def main(argv=None):
    import argparse
    a = argparse.ArgumentParser(prog="tests/nested/nested", description="Runs one command in a fresh nested host (a true KVM inside an "
                                "emulated machine); exit code passed through. On a terminal, Ctrl-] three times ends it.")
    a.add_argument("--husk", help="the husk binary for /husk/bin (default: build/husk if there)")
    a.add_argument("--guest-dir", help="tools/mkguest's output (default: build/guest)")
    a.add_argument("--memory", type=int, default=3072, help="MiB (default 3072)")
    a.add_argument("--smp", type=int, default=1, help="emulated CPUs (default 1; README.md tells why)")
    a.add_argument("--icount", action="store_true", help="count instructions as time: deterministic, one CPU")
    a.add_argument("--peer", action="store_true", help="add this machine's qemu-system-x86_64")
    a.add_argument("--program", action="append", default=[], metavar="FILE", help="add a program of this machine to /husk/bin")
    a.add_argument("--file", action="append", default=[], metavar="SRC:DST", help="copy a file into the host first")
    a.add_argument("--verbose", action="store_true", help="say how long the host took to boot")
    a.add_argument("command", nargs=argparse.REMAINDER, help="the command (default: a shell)")
    o = a.parse_args(argv)
    cmd = o.command[1:] if o.command[:1] == ["--"] else o.command
    tty = sys.stdin.isatty() and sys.stdout.isatty()

    def out(data):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    try:
        host = NestedHost(husk=o.husk, guest_dir=o.guest_dir, memory=o.memory, smp=o.smp, icount=o.icount, peer=o.peer, programs=o.program)
        with host:
            if o.verbose:
                print("nested: host ready in %.1f s" % host.boot_seconds, file=sys.stderr)
            for f in o.file:
                host.put(*f.rsplit(":", 1))
            size = os.get_terminal_size() if tty else (80, 24)
            p = host.popen(cmd or ["sh", "-l"], tty=tty, env={"TERM": os.environ.get("TERM", "dumb")}, size=(size[1], size[0]), sink=out)
            with p:
                rc = _interactive(p, tty)
            if p.errors:
                sys.stderr.buffer.write(p.errors)
            return rc
    except NestedError as e:
        print("nested: %s" % e, file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

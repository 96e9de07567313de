"""A guest that executes Python sent over vsock, for test_vsock.py and long/test_vsock_long.py.

    vm.ask("import os; result = os.getpid()")     runs in the guest, returns what it leaves in `result`
    vm.connect(port)                              a connection to that port of the guest, by Firecracker's protocol
    vm.listen(port)                               a server for guests that connect to CID 2 and that port
"""
import ast
import os
import resource
import shutil
import socket
import subprocess
import tarfile
import tempfile
import threading
import time
from pathlib import Path

from local_guest import image

# What tests use in the guest. PATTERN repeats with a period that no buffer's size divides.
HELPERS = """
import hashlib, os, random, selectors, socket, threading, time

PATTERN = bytes((i * 7 + i // 251) & 255 for i in range(65521))

def listen(port, backlog=2000):
    s = socket.socket(socket.AF_VSOCK)
    s.bind((socket.VMADDR_CID_ANY, port))
    s.listen(backlog)
    return s

def connect(port):
    s = socket.socket(socket.AF_VSOCK)
    s.connect((socket.VMADDR_CID_HOST, port))
    return s

def send_pattern(s, size):
    digest = hashlib.sha256()
    while size:
        part = PATTERN[:size]
        s.sendall(part)
        digest.update(part)
        size -= len(part)
    return digest.hexdigest()

def receive_all(s):
    digest, size = hashlib.sha256(), 0
    while part := s.recv(1 << 18):
        digest.update(part)
        size += len(part)
    return size, digest.hexdigest()

def receive_exactly(s, size):
    data = b""
    while len(data) < size and (part := s.recv(size - len(data))):
        data += part
    return data

def in_thread(f, *args):
    t = threading.Thread(target=f, args=args, daemon=True)
    t.start()
    return t
"""


class VsockGuest:
    def __init__(self, local_guest, *flags, memory="512M", cpus=2):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.folder = tempfile.mkdtemp(prefix="husk-vsock-")  # short: a socket's path has 107 bytes
        self.path = f"{self.folder}/v.sock"
        disk, files = f"{self.folder}/root.ext4", Path(self.folder, "files.tar")
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", image("rootfs.ext4"), disk], check=True)
        with tarfile.open(files, "w") as tar:
            tar.add(Path(__file__).with_name("vsock_agent.py"), "vsock_agent.py")
        files.write_bytes(files.read_bytes() + bytes(-files.stat().st_size % 4096))
        cmd = local_guest.command("--drive", f"{disk},root", "--drive", f"{files},ro", "--vsock", f"{self.path},cid=3", *flags, memory=memory,
                                  cpus=cpus, cmdline="root=/dev/vda rw init=/sbin/husk-init",
                                  script="ulimit -n 4096; cd /tmp; tar xf /dev/vdb; exec python3 vsock_agent.py")
        self.console = open(f"{self.folder}/console", "w+")
        self.husk = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=self.console, stderr=self.console)
        try:
            self.control = self.connect(999, timeout=100)
            self.stream = self.control.makefile("rwb")
            self.ask(HELPERS)
        except BaseException:
            self.end()
            raise

    def show(self):
        return Path(self.console.name).read_text(errors="replace")[-3000:]

    def ask(self, code, timeout=300):
        self.control.settimeout(timeout)
        self.stream.write(repr(code).encode() + b"\n")
        self.stream.flush()
        ok, result = ast.literal_eval(self.stream.readline().decode())
        assert ok, result
        return result

    def try_connect(self, port):
        """A socket, or None when the guest does not listen there."""
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(60)
        try:
            s.connect(self.path)
            s.sendall(b"CONNECT %d\n" % port)
            if self.read_ok(s):
                return s
        except OSError:
            pass
        s.close()

    @staticmethod
    def read_ok(s):
        line = b""
        while not line.endswith(b"\n"):
            c = s.recv(1)
            if not c:
                return False
            line += c
        assert line.startswith(b"OK ") and int(line[3:]) >= 1 << 30, line
        return True

    def connect(self, port, timeout=30):
        end = time.monotonic() + timeout
        while not (s := self.try_connect(port)):
            assert self.husk.poll() is None and time.monotonic() < end, f"no connection to port {port}\n{self.show()}"
            time.sleep(0.1)
        return s

    def listen(self, port):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(60)
        s.bind(f"{self.path}_{port}")
        s.listen(4096)
        return s

    def nr_fds(self):
        return len(os.listdir(f"/proc/{self.husk.pid}/fd"))

    def end(self):
        self.husk.terminate()
        try:
            return self.husk.wait(30)
        except subprocess.TimeoutExpired:
            self.husk.kill()
            raise
        finally:
            self.console.close()
            shutil.rmtree(self.folder)


def in_thread(f, *args):
    t = threading.Thread(target=f, args=args, daemon=True)
    t.start()
    return t

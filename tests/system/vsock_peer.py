"""The host's side of a guest's vsock, and of vsock_agent.py in it; only the standard library, for it also runs inside the nested host.

    vm.ask("import os; result = os.getpid()")     runs in the guest, returns what it leaves in `result`
    vm.connect(port)                              a connection to that port of the guest, by Firecracker's protocol
    vm.listen(port)                               a server for guests that connect to CID 2 and that port
"""
import ast
import socket
import threading
import time

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


class VsockPeer:
    def __init__(self, path):
        self.path = path

    def begin(self):
        """Waits for the agent."""
        self.control = self.connect(999, timeout=100)
        self.stream = self.control.makefile("rwb")
        self.ask(HELPERS)

    def alive(self):
        return True

    def show(self):
        """What the guest has said, for messages."""
        return ""

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
            assert self.alive() and time.monotonic() < end, f"no connection to port {port}\n{self.show()}"
            time.sleep(0.1)
        return s

    def listen(self, port):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(60)
        s.bind(f"{self.path}_{port}")
        s.listen(4096)
        return s


def in_thread(f, *args):
    t = threading.Thread(target=f, args=args, daemon=True)
    t.start()
    return t

"""A relay between two husks that move a VM: it knows frames (src/migration/WIRE.md), and does something at exactly the one that it is told.

    relay = Relay(destination)                       the source moves its VM to relay.address
    relay.trap(Frame("PACKAGE"), relay.cut)          what happens there: a method of the relay, or anything that takes the
                                                     frame's two parts, header and the rest, and says what goes on in their place
"""
import collections
import ctypes
import socket
import struct
import threading
import zlib

LIBC = ctypes.CDLL(None, use_errno=True)

TYPES = dict(enumerate("- HELLO WELCOME FAIL OFFER ACCEPT PAGES SYNC SYNCED MISSING PACKAGE LOADED COMMIT RUNNING REQUEST DONE RELEASE PING PONG RESUME "
                       "ABORT DIGESTS VERIFIED BYE PASSED DISKS".split()))
HEADER = struct.Struct("<IHHIIQQ")  # magic, type, flags, epoch, CRC, number, length
CAPS = {"OFFER": 2 << 20, "PAGES": (2 << 20) + (16 << 10), "PACKAGE": 64 << 20}
PIECE = 1 << 18

ROLES = ["control", "bulk", "urgent"]

# The nth frame of this type on a channel of this role (None: any), counted from the first frame of type `after`.
Frame = collections.namedtuple("Frame", "name nth after role", defaults=[1, None, None])


def crc_table():
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ 0x82f63b78 if n & 1 else n >> 1
        yield n


TABLE = list(crc_table())


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xff] ^ crc >> 8
    return crc ^ 0xffffffff


def name_of(header):
    return TYPES[HEADER.unpack(header)[1]]


def header_of(old, length):
    """The same header, for a body of another length."""
    magic, kind, flags, epoch, _, number, _ = HEADER.unpack(old)
    crc = crc32c(HEADER.pack(magic, kind, flags, epoch, 0, number, length))
    return HEADER.pack(magic, kind, flags, epoch, crc, number, length)


def framed(header, body):
    return header_of(header, len(body)) + body + struct.pack("<I", crc32c(body))


class Gone(Exception):
    """This connection is over, or is to be."""


class Last(bytes):
    """What goes on, and nothing behind it, though its sender may have sent more before it died."""


class Conn:
    """What one connection of the source goes through: two sockets, a thread for each direction."""

    def __init__(self, relay, near, far):
        self.relay, self.socks, self.open, self.role = relay, (near, far), 2, None
        self.flows = threading.Event()
        self.flows.set()
        for sock in self.socks:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(3600)  # waiting in poll, not in the socket: another thread may disconnect it
        self.threads = [threading.Thread(target=self.pump, args=pair, daemon=True) for pair in (self.socks, self.socks[::-1])]

    def read(self, sock, n):
        data = b""
        while len(data) < n:
            more = sock.recv(n - len(data))
            if not more:
                raise Gone
            data += more
        return data

    def send(self, sock, data):
        self.flows.wait()
        sock.sendall(data)
        self.relay.count(len(data))

    def frame(self, here, there):
        header = self.read(here, HEADER.size)
        name, length = name_of(header), HEADER.unpack(header)[-1]
        if name == "HELLO":
            rest = self.read(here, length + 4)
            self.role = ROLES[rest[4]]
            return self.send(there, header + rest)
        act = self.relay.seen(name, self.role)
        if act:
            changed = act(header, self.read(here, length + 4))
            self.send(there, changed)
            if isinstance(changed, Last):
                raise Gone
            return None
        self.send(there, header)
        left = length + 4
        while left:
            data = self.read(here, min(left, PIECE))
            left -= len(data)
            self.send(there, data)

    def pump(self, here, there):
        try:
            while True:
                self.frame(here, there)
        except (Gone, OSError) as why:
            self.over(there, isinstance(why, ConnectionResetError))

    def over(self, there, reset):
        """One side has closed: the other hears of it in the same way."""
        self.flows.wait()
        if reset:
            self.cut()
        try:
            there.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        with self.relay.lock:
            self.open -= 1
            last = not self.open
        if last:
            for sock in self.socks:
                sock.close()

    def cut(self):
        """RST to both sides, at once: connect(AF_UNSPEC) is what says so to Linux."""
        for sock in self.socks:
            if sock.fileno() >= 0:
                LIBC.connect(sock.fileno(), bytes(16), 16)
        self.flows.set()


class Relay:
    def __init__(self, destination):
        host, port = destination.removeprefix("tcp:").rsplit(":", 1)
        self.destination = (host, int(port))
        self.lock = threading.Lock()
        self.conns, self.counts, self.traps = [], collections.Counter(), []
        self.passed, self.limit, self.stalled = 0, None, []
        self.sprung, self.error = threading.Event(), None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "tcp:127.0.0.1:%d" % self.listener.getsockname()[1]
        self.accepting = threading.Thread(target=self.accept, daemon=True)
        self.accepting.start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self.destination)
            except OSError:
                near.close()
                continue
            conn = Conn(self, near, far)
            with self.lock:
                self.conns.append(conn)
            for thread in conn.threads:
                thread.start()

    # ---- what is looked at ----

    def trap(self, frame, act):
        self.traps.append((frame, act))

    def seen(self, name, role):
        """What is to be done with this frame; None: nothing."""
        with self.lock:
            self.counts[name] += 1
            for trap in self.traps:
                frame, act = trap
                if frame.name == name and frame.role in (None, role) and (not frame.after or self.counts[frame.after]):
                    if frame.nth == 1:
                        self.traps.remove(trap)
                        return lambda *args: self.spring(act, *args)
                    self.traps[self.traps.index(trap)] = (frame._replace(nth=frame.nth - 1), act)
        return None

    def spring(self, act, *args):
        """Nothing else passes meanwhile."""
        with self.lock:
            for conn in self.conns:
                conn.flows.clear()
        try:
            return act(*args)
        except Gone:
            raise
        except Exception as why:  # for who waits, not for the thread
            self.error = why
            raise Gone from why
        finally:
            with self.lock:
                for conn in self.conns:
                    conn.flows.set()
            self.sprung.set()

    def count(self, n):
        with self.lock:
            self.passed += n
            over = self.limit is not None and self.passed >= self.limit
            if over:
                self.limit = None
        if over:
            self.sprung.set()
            self.cut_all()

    # ---- what is done ----

    def cut_all(self):
        with self.lock:
            conns, self.conns = self.conns, []
        for conn in conns:
            conn.cut()

    def cut(self, header, rest):
        self.cut_all()
        raise Gone

    def stall(self, header, rest):
        """Nothing passes any more, and nobody is told. Connections that are made later are others."""
        with self.lock:
            self.stalled, self.conns = self.conns, []
        return header + rest

    @staticmethod
    def corrupt(header, rest):
        return header + bytes([rest[0] ^ 0x10]) + rest[1:]

    @staticmethod
    def short(header, rest):
        return framed(header, rest[:min(len(rest) - 5, 1000)])

    @staticmethod
    def oversize(header, rest):
        return header_of(header, CAPS.get(name_of(header), 64) + 1) + rest

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.accepting.join()
        self.cut_all()
        for conn in self.stalled:
            conn.cut()


def package_with(package, change):
    """A package (FORMAT.md) whose sections went through change(name, payload); lengths stay, CRCs are right again."""
    out, at = bytearray(package[:48]), 48
    while at < len(package):
        length, _, rest = *struct.unpack_from("<II", package, at), package[at + 8:at + 16]
        name_len, instance_len = rest[6], rest[7]
        payload_at = at + 16 + name_len + instance_len
        names, payload = package[at + 16:payload_at], package[payload_at:payload_at + length]
        payload = change(names[:name_len], payload)
        section = rest + names + payload
        out += struct.pack("<II", length, zlib.crc32(struct.pack("<I", length) + section)) + section
        at = payload_at + length
    return bytes(out)

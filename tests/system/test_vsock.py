"""vsock with a Debian guest and Python at both ends: a thousand connections, data both ways, half close, resets, refusals."""
import os
import random
import socket
import time

import pytest

from local_guest import local_guest  # noqa: F401
from vsock_guest import HELPERS, VsockGuest, in_thread

HERE = {}
exec(HELPERS, HERE)  # the same functions on this side
MIB = 1 << 20


@pytest.fixture(scope="module")
def vm(local_guest):  # noqa: F811
    guest = VsockGuest(local_guest)
    yield guest
    path = guest.path
    assert guest.end() == 0
    assert not os.path.exists(path)


@pytest.fixture(autouse=True)
def nothing_is_left_open(vm):
    before = vm.nr_fds()
    yield
    end = time.monotonic() + 10
    while vm.nr_fds() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert vm.nr_fds() <= before, "husk still holds sockets of connections that are closed"
    assert vm.ask("result = 6 * 7") == 42


def test_each_side_sees_the_others_addresses(vm):
    vm.ask("server = listen(5000)")
    with vm.connect(5000) as peer:
        cid, port = vm.ask("c, address = server.accept(); c.close(); server.close(); result = address")
        assert cid == 2 and port >= 1 << 30
        assert peer.recv(1) == b""
    assert vm.ask("s = socket.socket(socket.AF_VSOCK); s.bind((socket.VMADDR_CID_ANY, 777)); result = s.getsockname()[1]; s.close()") == 777
    assert vm.ask("import fcntl, struct; result = struct.unpack('I', fcntl.ioctl(open('/dev/vsock'), 0x7b9, b'1234'))[0]") == 3


def test_64_mib_each_way_at_once_with_checksums(vm):
    vm.ask("""
def both(server):
    with server, server.accept()[0] as c:
        sender = in_thread(lambda: (sums.append(send_pattern(c, 64 << 20)), c.shutdown(socket.SHUT_WR)))
        sums.append(receive_all(c))
        sender.join()
sums = []
worker = in_thread(both, listen(5001))
""")
    with vm.connect(5001) as c:
        c.settimeout(120)
        started, sums = time.monotonic(), []
        sender = in_thread(lambda: (sums.append(HERE["send_pattern"](c, 64 * MIB)), c.shutdown(socket.SHUT_WR)))
        got = HERE["receive_all"](c)
        sender.join(120)
        print(f"128 MiB in {time.monotonic() - started:.1f} s")
    theirs = vm.ask("worker.join(60); result = sorted(sums, key=str)")
    assert got == (64 * MIB, sums[0]) and sorted(theirs, key=str) == sorted([sums[0], (64 * MIB, sums[0])], key=str)


@pytest.mark.parametrize("direction", ["to the guest", "from the guest"])
def test_how_fast_a_stream_is(vm, direction):
    size = 64 * MIB
    vm.ask("""
def plain(server, size):
    with server, server.accept()[0] as c:
        buf, left = bytearray(1 << 18), size
        if c.recv(1) == b"<":
            while left:
                left -= c.recv_into(buf)
            c.sendall(b"x")
        else:
            while left:
                left -= c.send(buf[:left])
in_thread(plain, listen(5002), %d)
""" % size)
    with vm.connect(5002) as c:
        started, buf, left = time.monotonic(), bytearray(1 << 18), size
        c.sendall(b"<" if direction == "to the guest" else b">")
        if direction == "to the guest":
            while left:
                left -= c.send(buf[:left])
            assert c.recv(1) == b"x"
        else:
            while left:
                left -= c.recv_into(buf)
    print(f"{direction}: {size / MIB / (time.monotonic() - started):.0f} MiB/s")


ECHO = """
def echo(server, nr):
    poll, done = selectors.DefaultSelector(), 0
    poll.register(server, selectors.EVENT_READ)
    while done < nr:
        for key, _ in poll.select():
            if key.fileobj is server:
                poll.register(server.accept()[0], selectors.EVENT_READ)
            elif part := key.fileobj.recv(65536):
                key.fileobj.sendall(part)
            else:
                poll.unregister(key.fileobj)
                key.fileobj.close()
                done += 1
    server.close()
"""


def payload(i):
    return (b"connection %d " % i) * 200


def test_1000_connections_of_the_host_at_once(vm):
    vm.ask(ECHO + "worker = in_thread(echo, listen(5003), 1000)")
    conns = []
    for start in range(0, 1000, 100):
        batch = [socket.socket(socket.AF_UNIX) for _ in range(100)]
        for s in batch:
            s.settimeout(60)
            s.connect(vm.path)
            s.sendall(b"CONNECT 5003\n" + payload(start))
        assert all(vm.read_ok(s) for s in batch)
        conns += batch
    for i, s in enumerate(conns):
        s.sendall(payload(i))
    for i, s in enumerate(conns):
        want = payload(i // 100 * 100) + payload(i)
        assert HERE["receive_exactly"](s, len(want)) == want
    for s in conns:
        s.shutdown(socket.SHUT_WR)
    for s in conns:
        assert s.recv(1) == b""
        s.close()
    assert vm.ask("worker.join(60); result = worker.is_alive()") is False


def test_1000_connections_of_the_guest_at_once(vm):
    HERE["selectors"] = __import__("selectors")
    exec(ECHO, HERE)
    worker = in_thread(HERE["echo"], vm.listen(6000), 1000)
    assert vm.ask("""
conns = [connect(6000) for _ in range(1000)]
for i, s in enumerate(conns):
    s.sendall(b"connection %d" % i * 100)
result = sum(receive_exactly(s, len(b"connection %d" % i * 100)) == b"connection %d" % i * 100 for i, s in enumerate(conns))
for s in conns:
    s.close()
""") == 1000
    worker.join(60)
    assert not worker.is_alive()


def test_the_host_closes_its_direction_and_still_hears_the_answer(vm):
    vm.ask("""
def answer(server):
    with server, server.accept()[0] as c:
        size, digest = receive_all(c)
        time.sleep(0.2)
        c.sendall(digest.encode())
in_thread(answer, listen(5004))
""")
    with vm.connect(5004) as c:
        digest = HERE["send_pattern"](c, MIB)
        c.shutdown(socket.SHUT_WR)
        assert HERE["receive_exactly"](c, 100).decode() == digest


def test_the_guest_closes_its_direction_and_still_hears_the_answer(vm):
    server = vm.listen(6001)

    def answer():
        with server.accept()[0] as c:
            size, digest = HERE["receive_all"](c)
            time.sleep(0.2)
            c.sendall(digest.encode())
    in_thread(answer)
    mine, theirs = vm.ask("""
with connect(6001) as c:
    mine = send_pattern(c, 1 << 20)
    c.shutdown(socket.SHUT_WR)
    result = mine, receive_exactly(c, 100).decode()
""")
    assert mine == theirs


def test_what_was_sent_before_a_close_arrives(vm):
    server = vm.listen(6002)
    digest = vm.ask("c = connect(6002); result = send_pattern(c, 200000); c.close()")
    with server.accept()[0] as c:
        assert HERE["receive_all"](c) == (200000, digest)
    vm.ask("server = listen(5005)")
    with vm.connect(5005) as c:
        digest = HERE["send_pattern"](c, 200000)
    assert vm.ask("time.sleep(3); c = server.accept()[0]; result = receive_all(c); c.close(); server.close()") == (200000, digest)


def test_a_stream_that_nobody_reads_does_not_hold_up_others(vm):
    server = vm.listen(6003)
    vm.ask("stuck = connect(6003); stuck.setblocking(False)\ntry:\n    while True: stuck.send(PATTERN)\nexcept BlockingIOError: pass")
    silent = server.accept()[0]
    vm.ask("lazy = listen(5006)")
    with vm.connect(5006) as c:
        c.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                c.send(bytes(65536))
        for _ in range(100):
            assert vm.ask("result = 1") == 1
    vm.ask("lazy.accept()[0].close(); lazy.close(); stuck.close()")
    silent.close()


def test_nobody_there(vm):
    started = time.monotonic()
    assert vm.try_connect(5999) is None
    assert vm.ask("try:\n    connect(6999)\nexcept OSError as e: result = e.errno") == 104  # ECONNRESET
    assert time.monotonic() - started < 2


def test_random_resets(vm):
    """300 connections each way, and either end leaves in the middle of a stream."""
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    rng = random.Random(seed)
    vm.ask(f"rng = random.Random({seed})" + """
def rough(c):
    try:
        for _ in range(rng.randrange(8)):
            if rng.random() < 0.5:
                c.sendall(PATTERN[:rng.randrange(1, 65000)])
            else:
                c.settimeout(0.02)
                c.recv(rng.randrange(1, 65000))
    except OSError:
        pass
    c.close()

def crowd(server):
    for _ in range(300):
        in_thread(rough, server.accept()[0])
    server.close()
worker = in_thread(crowd, listen(5007))
""")

    def rough(c):
        try:
            for _ in range(rng.randrange(8)):
                if rng.random() < 0.5:
                    c.settimeout(0.5)
                    c.sendall(HERE["PATTERN"][:rng.randrange(1, 65000)])
                else:
                    c.settimeout(0.02)
                    c.recv(rng.randrange(1, 65000))
        except OSError:
            pass
        c.close()

    threads = [in_thread(rough, vm.connect(5007)) for _ in range(300)]
    server = vm.listen(6004)

    def crowd():
        for _ in range(300):
            threads.append(in_thread(rough, server.accept()[0]))
    crowd_thread = in_thread(crowd)
    vm.ask("for _ in range(300): in_thread(rough, connect(6004))\nworker.join(60)")
    crowd_thread.join(60)
    for t in threads:
        t.join(60)
    assert not crowd_thread.is_alive() and not any(t.is_alive() for t in threads)

"""vsock at length; `tools/test --long vsock` runs it: 1 GiB each way with checksums, and a crowd of connections that come and go meanwhile."""
import os
import random
import socket
import time

import pytest

from local_guest import local_guest  # noqa: F401
from vsock_guest import HELPERS, VsockGuest, in_thread

HERE = {}
exec(HELPERS, HERE)
SIZE = int(os.environ.get("HUSK_LONG_VSOCK_MIB", "1024")) << 20
SECONDS = int(os.environ.get("HUSK_LONG_SECONDS", "60"))


@pytest.fixture
def vm(local_guest):  # noqa: F811
    guest = VsockGuest(local_guest)
    yield guest
    assert guest.end() == 0


def start_stream(vm, port):
    """SIZE bytes each way at once over one connection; returns a function that waits for the end and compares."""
    vm.ask(f"""
def both(server):
    with server, server.accept()[0] as c:
        sender = in_thread(lambda: (sums.append((SIZE, send_pattern(c, SIZE))), c.shutdown(socket.SHUT_WR)))
        sums.append(receive_all(c))
        sender.join()
SIZE, sums = {SIZE}, []
worker = in_thread(both, listen({port}))
""")
    mine = []

    def both():
        with vm.connect(port) as c:
            c.settimeout(3600)
            sender = in_thread(lambda: (mine.append((SIZE, HERE["send_pattern"](c, SIZE))), c.shutdown(socket.SHUT_WR)))
            mine.append(HERE["receive_all"](c))
            sender.join()
    started, worker = time.monotonic(), in_thread(both)

    def finish():
        worker.join(3600)
        print(f"{2 * SIZE >> 20} MiB in {time.monotonic() - started:.1f} s")
        theirs = vm.ask("worker.join(3600); result = sums", timeout=3700)
        assert len(mine) == len(theirs) == 2 and len(set(mine) | set(theirs)) == 1
        assert mine[0][0] == SIZE
    return finish


def test_1_gib_each_way_with_checksums(vm):
    start_stream(vm, 5001)()


def test_a_crowd_of_1000_comes_and_goes_beside_a_stream(vm):
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    rng = random.Random(seed)
    before = vm.nr_fds()
    finish = start_stream(vm, 5001)
    vm.ask("""
def echo(server):
    poll = selectors.DefaultSelector()
    poll.register(server, selectors.EVENT_READ)
    while True:
        for key, _ in poll.select():
            try:
                if key.fileobj is server:
                    c = server.accept()[0]
                    c.setblocking(False)
                    poll.register(c, selectors.EVENT_READ)
                    continue
                if part := key.fileobj.recv(4096):
                    key.fileobj.send(part)
                    continue
            except OSError:
                pass
            if key.fileobj is not server:
                poll.unregister(key.fileobj)
                key.fileobj.close()
in_thread(echo, listen(5002))
""")
    crowd, served, end = [], 0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        if len(crowd) < 1000:
            crowd.append(vm.connect(5002))
        for s in rng.sample(crowd, min(5, len(crowd))):
            message = rng.randbytes(rng.randrange(1, 2000))
            s.sendall(message)
            assert HERE["receive_exactly"](s, len(message)) == message
            served += 1
        if len(crowd) > 900 or rng.random() < 0.2:
            s = crowd.pop(rng.randrange(len(crowd)))
            s.sendall(b"not read")  # and gone
            s.close()
    print(f"{served} answers, {len(crowd)} connections at the end")
    for s in crowd:
        s.close()
    finish()
    end = time.monotonic() + 20
    while vm.nr_fds() > before and time.monotonic() < end:
        time.sleep(0.1)
    assert vm.nr_fds() <= before

"""Runs inside the nested host, for test_kvm_devices.py: `python3 vsock_scenario.py SOCKET` talks to the agent of a guest whose vsock is SOCKET.
Prints what it has seen; ends with 0 when all was right."""
import socket
import sys
import time

from vsock_peer import HELPERS, VsockPeer, in_thread

HERE = {}
exec(HELPERS, HERE)
SIZE = 8 << 20


def both_ways(vm):
    """SIZE bytes each way at once, with checksums."""
    vm.ask(f"""
def both(server):
    with server, server.accept()[0] as c:
        sender = in_thread(lambda: (sums.append(send_pattern(c, {SIZE})), c.shutdown(socket.SHUT_WR)))
        sums.append(receive_all(c)[1])
        sender.join()
sums = []
worker = in_thread(both, listen(5001))
""")
    sums, started = [], time.monotonic()
    with vm.connect(5001) as c:
        c.settimeout(200)
        sender = in_thread(lambda: (sums.append(HERE["send_pattern"](c, SIZE)), c.shutdown(socket.SHUT_WR)))
        size, digest = HERE["receive_all"](c)
        sender.join(200)
    assert size == SIZE and vm.ask("worker.join(60); result = sums") == [digest, digest] == sums * 2
    print(f"{2 * SIZE >> 20} MiB in {time.monotonic() - started:.1f} s")


def from_the_host(vm, nr):
    vm.ask(f"""
def echo(server):
    for _ in range({nr}):
        with server.accept()[0] as c:
            while part := c.recv(65536):
                c.sendall(part)
worker = in_thread(echo, listen(5002))
""")
    for i in range(nr):
        with vm.connect(5002) as c:
            c.sendall(b"number %d" % i * 1000)
            c.shutdown(socket.SHUT_WR)
            assert HERE["receive_all"](c)[0] == len(b"number %d" % i * 1000)
    assert vm.ask("worker.join(60); result = worker.is_alive()") is False


def from_the_guest(vm, nr):
    server = vm.listen(6001)

    def answer():
        for _ in range(nr):
            with server.accept()[0] as c:
                size, digest = HERE["receive_all"](c)
                c.sendall(digest.encode())
    in_thread(answer)
    assert vm.ask(f"""
good = 0
for i in range({nr}):
    with connect(6001) as c:
        digest = send_pattern(c, 100000 + i)
        c.shutdown(socket.SHUT_WR)
        good += receive_exactly(c, 100).decode() == digest
result = good
""") == nr


def refusals(vm):
    assert vm.try_connect(5999) is None
    assert vm.ask("try:\n    connect(6999)\nexcept OSError as e: result = e.errno") == 104  # ECONNRESET


peer = VsockPeer(sys.argv[1])
peer.begin()
print("the agent answers", flush=True)
both_ways(peer)
from_the_host(peer, 50)
from_the_guest(peer, 50)
refusals(peer)
print("all good")

"""A restore whose pages another process brings: a pager of this test's, written against Firecracker's handshake, with one message over a unix socket."""
import ctypes
import errno
import fcntl
import http.client
import json
import mmap
import os
import select
import socket
import struct
import threading

import pytest

from local_guest import local_guest  # noqa: F401
from snapshot_vm import SUMS, TICKS, Machines, describe, husk

UFFDIO_COPY, UFFDIO_ZEROPAGE = 0xC028AA03, 0xC020AA04
PAGEFAULT, REMOVE = 0x12, 0x15
PAGE = 4096
EXIT_INTERNAL = 13


class Pager(threading.Thread):
    """Serves one VM from a memory file."""

    def __init__(self, sock, memory, last=None):
        """last: so many pages, then its process ends."""
        super().__init__(daemon=True)
        self.last = last
        self.file = open(memory, "rb")
        self.size = os.path.getsize(memory)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
        self.base = libc.mmap(None, self.size, mmap.PROT_READ, mmap.MAP_PRIVATE, self.file.fileno(), 0)
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(sock))
        self.server.listen(1)
        self.served, self.removed, self.regions, self.error, self.stopping = 0, [], None, None, False

    def run(self):
        try:
            self.serve()
        except Exception as e:  # noqa: BLE001 - told to the test
            self.error = e

    def serve(self):
        conn, _ = self.server.accept()
        data, fds, _, _ = socket.recv_fds(conn, 65536, 4)
        self.regions, self.conn = json.loads(data), conn
        assert len(fds) == 1 and set(self.regions[0]) == {"base_host_virt_addr", "size", "offset", "page_size", "page_size_kib"}
        assert sum(r["size"] for r in self.regions) == self.size and all(r["page_size"] == r["page_size_kib"] == PAGE for r in self.regions)
        self.uffd = fds[0]
        later = []  # a page cannot be brought while a REMOVE waits to be read
        while not self.stopping:
            if self.last is not None and self.served >= self.last:
                os._exit(0)
            later = [address for address in later if not self.page(address)]
            if not select.select([self.uffd], [], [], 0.001 if later else 0.05)[0]:
                continue
            try:
                message = os.read(self.uffd, 32)
            except BlockingIOError:
                continue
            if message[0] == PAGEFAULT:
                later.append(struct.unpack_from("Q", message, 16)[0] & ~(PAGE - 1))
            elif message[0] == REMOVE:
                self.removed.append(struct.unpack_from("QQ", message, 8))

    def page(self, address):
        """False: try again later."""
        region = next(r for r in self.regions if r["base_host_virt_addr"] <= address < r["base_host_virt_addr"] + r["size"])
        offset = address - region["base_host_virt_addr"] + region["offset"]
        try:
            if any(start <= address < end for start, end in self.removed):
                fcntl.ioctl(self.uffd, UFFDIO_ZEROPAGE, struct.pack("QQQq", address, PAGE, 0, 0))
            else:
                fcntl.ioctl(self.uffd, UFFDIO_COPY, struct.pack("QQQQq", address, self.base + offset, PAGE, 0, 0))
            self.served += 1
        except OSError as e:
            if e.errno == errno.EAGAIN:
                return False
            if e.errno not in (errno.EEXIST, errno.ESRCH):
                raise
        return True

    def stop(self):
        self.stopping = True
        self.join(10)
        assert not self.error, self.error


@pytest.fixture
def machines(local_guest, tmp_path):  # noqa: F811
    made = Machines(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def pager(tmp_path):
    made = []

    def make(folder):
        made.append(Pager(tmp_path / f"pager{len(made)}", folder / "memory"))
        made[-1].start()
        return made[-1], {"backend_type": "Uffd", "backend_path": str(tmp_path / f"pager{len(made) - 1}")}
    yield make
    for p in made:
        p.stop()


def snapshot(machines, folder, script=TICKS, **how):
    vm = machines.booted(script, **how)
    vm.wait_console("tick 5 ", 90)
    vm.snapshot(folder)
    last = vm.ticks()[-1]
    vm.stop()
    return last


def test_an_external_pager_serves_a_restore(machines, pager, tmp_path):
    last = snapshot(machines, tmp_path / "snap", SUMS.format(mib=16) + TICKS, memory=160)
    p, backend = pager(tmp_path / "snap")
    vm = machines.restored(tmp_path / "snap", mem_backend=backend, track_dirty_pages=True)
    vm.wait_ticks()
    assert vm.ticks()[0][0] in (last[0] + 1, last[0] + 2)
    vm.wait_for(lambda: "sum good" in vm.console(), "a sum over memory that was brought", 90)
    assert p.served > 1000 and "sum bad" not in vm.console()
    # All of the memory is not here, but what was written is.
    vm.patch("/vm", state="Paused")
    fault = vm.refused("PUT", "/snapshot/create", {"snapshot_path": str(tmp_path / "s"), "mem_file_path": str(tmp_path / "m")})
    assert "still with the pager" in fault
    vm.snapshot(tmp_path / "diff", snapshot_type="Diff")
    last = vm.ticks()[-1]
    vm.stop()
    assert husk("snapshot", "merge", tmp_path / "snap", tmp_path / "diff").returncode == 0 and describe(tmp_path / "snap")["memory"] == "whole"
    vm = machines.restored(tmp_path / "snap")
    vm.wait_ticks()
    assert vm.ticks()[0][0] in (last[0] + 1, last[0] + 2)


def test_a_pager_with_other_memory_is_found_out_before_the_vm_runs(machines, pager, tmp_path):
    snapshot(machines, tmp_path / "snap")
    snapshot(machines, tmp_path / "other")
    _, backend = pager(tmp_path / "other")
    vm = machines.new()
    fault = vm.refused("PUT", "/snapshot/load", {"snapshot_path": str(tmp_path / "snap" / "state"), "mem_backend": backend, "resume_vm": True})
    assert "memory of another snapshot" in fault and vm.get("/")["state"] == "Not started"
    _, backend = pager(tmp_path / "snap")
    vm.load(tmp_path / "snap", mem_backend=backend)
    vm.wait_ticks()


def test_a_pager_that_is_not_there_is_said(machines, tmp_path):
    snapshot(machines, tmp_path / "snap")
    vm = machines.new()
    fault = vm.refused("PUT", "/snapshot/load", {"snapshot_path": str(tmp_path / "snap" / "state"),
                                                 "mem_backend": {"backend_type": "Uffd", "backend_path": str(tmp_path / "nobody")}})
    assert fault.startswith("Load snapshot error: ") and "nobody" in fault


@pytest.mark.parametrize("pages", [0, 1, 20, 300])
def test_a_pager_that_dies_takes_the_vm_with_it_in_good_order(machines, tmp_path, pages):
    snapshot(machines, tmp_path / "snap")
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        pager = Pager(tmp_path / "pager", tmp_path / "snap" / "memory", last=pages)
        os.write(tell, b"!")
        pager.run()
        os._exit(1)
    os.read(ready, 1)
    vm = machines.new()
    try:
        vm.load(tmp_path / "snap", mem_backend={"backend_type": "Uffd", "backend_path": str(tmp_path / "pager")})
    except (AssertionError, ConnectionError, http.client.HTTPException):
        pass  # when it dies before there is an answer
    status = vm.process.wait(30)
    os.waitpid(child, 0)
    assert status == EXIT_INTERNAL and "is gone, and" in vm.log(), (status, vm.log())


def test_a_balloon_takes_pages_from_a_pagers_vm(machines, pager, tmp_path):
    vm = machines.booted(TICKS, memory=256, more=[("/balloon", {"amount_mib": 0, "deflate_on_oom": False})])
    vm.wait_console("tick 5 ")
    vm.snapshot(tmp_path / "snap")
    vm.stop()
    p, backend = pager(tmp_path / "snap")
    vm = machines.restored(tmp_path / "snap", mem_backend=backend)
    vm.wait_ticks()
    vm.patch("/balloon", amount_mib=64)
    vm.wait_for(lambda: p.removed, "a removed page")
    vm.patch("/balloon", amount_mib=0)
    vm.wait_ticks(20)

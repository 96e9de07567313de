"""A Debian guest with vsock, balloon, plugged memory and persistent memory is saved and restored: its connections end, all else goes on."""
import subprocess
import time

import pytest

from local_guest import HUSK, local_guest  # noqa: F401
from test_balloon import Api
from vsock_guest import HELPERS, VsockGuest

MIB = 1 << 20
HERE = {}
exec(HELPERS, HERE)  # the same functions on this side


class RestoredGuest(VsockGuest):
    """The guest of another one's folder, in another process."""

    def __init__(self, folder, snapshot, number):  # pylint: disable=super-init-not-called
        self.folder, self.path = folder, f"{folder}/v{number}.sock"
        self.api = Api(f"{folder}/api{number}")
        self.console = open(f"{folder}/console{number}", "w+")
        self.started = time.monotonic()
        self.husk = subprocess.Popen([HUSK, "run", "--restore", snapshot, "--vsock", self.path, "--api-sock", self.api.path],
                                     stdin=subprocess.DEVNULL, stdout=self.console, stderr=self.console)
        self.control = self.connect(999)
        self.answered = time.monotonic()
        self.stream = self.control.makefile("rwb")


def eventually(what, check, timeout=60):
    end = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < end, what
        time.sleep(0.2)


@pytest.fixture
def saved(local_guest, tmp_path):  # noqa: F811
    """A guest that has done something with each device, and then was saved. (guest, folder of the snapshot)"""
    pmem = tmp_path / "pmem"
    pmem.write_bytes(bytes(16 * MIB))
    api = Api(tmp_path / "api")
    vm = VsockGuest(local_guest, "--api-sock", api.path, "--balloon", "0,stats=1,oom", "--memory-hotplug", "512", "--pmem", pmem)
    try:
        vm.ask("""
data = os.urandom(32 << 20)
server = listen(5000)
with open('/dev/pmem0', 'r+b', buffering=0) as f:
    f.seek(1 << 20); f.write(b'persistent'); os.fsync(f.fileno())
""")
        api.patch("/balloon", {"amount_mib": 64})
        api.patch("/hotplug/memory", {"requested_size_mib": 256})
        eventually("the balloon", lambda: api.get("/balloon/statistics")["actual_mib"] == 64)
        eventually("plugged memory", lambda: api.get("/hotplug/memory")["plugged_size_mib"] == 256)
        host = vm.listen(6000)
        vm.ask("old = connect(6000); digest = hashlib.sha256(data).hexdigest()")
        peer, _ = host.accept()
        folder = tmp_path / "snapshot"
        folder.mkdir()
        api.patch("/vm", {"state": "Paused"})
        status, answer = api("PUT", "/snapshot/create", {"snapshot_path": f"{folder}/state", "mem_file_path": f"{folder}/memory"})
        assert status == 204, answer
        # The guest that was saved does not notice.
        api.patch("/vm", {"state": "Resumed"})
        vm.ask("old.sendall(b'still here')")
        assert HERE["receive_exactly"](peer, 10) == b"still here"
        assert vm.ask("result = len(data)") == 32 * MIB
        api.patch("/vm", {"state": "Paused"})  # its disk is to stay as it is
        vm.husk.kill()
        vm.husk.wait(30)
        host.close()
        peer.close()
        yield vm, str(folder)
    finally:
        vm.end()


def ask_all(vm):
    """What the guest has to say after its restore."""
    assert vm.ask("result = hashlib.sha256(data).hexdigest() == digest")
    # Its old connection is gone; what listens listens.
    assert vm.ask("""
try:
    old.settimeout(10)
    result = old.recv(1) == b''
except TimeoutError:
    result = False
except OSError:
    result = True
""")
    with vm.connect(5000) as c:
        assert vm.ask("c, a = server.accept(); c.sendall(b'hello'); c.close(); result = a[0]") == 2
        assert HERE["receive_exactly"](c, 5) == b"hello"
    with vm.listen(6001) as host:
        vm.ask("new = connect(6001); new.sendall(b'world'); new.close()")
        assert HERE["receive_exactly"](host.accept()[0], 5) == b"world"
    # Linux says so when it has taken the new generation ID.
    assert "reseeded due to virtual machine fork" in vm.ask("import subprocess; result = subprocess.run('dmesg', capture_output=True, text=True).stdout")
    assert vm.ask("f = open('/dev/pmem0', 'rb'); f.seek(1 << 20); result = f.read(10); f.close()") == b"persistent"


def test_a_guest_goes_on_without_its_connections(saved):
    first, folder = saved
    numbers = []
    for number in range(2):  # twice from one snapshot
        vm = RestoredGuest(first.folder, folder, number)
        try:
            assert vm.answered - vm.started < 10
            ask_all(vm)
            numbers.append(vm.ask("result = os.urandom(16)"))
            stats = vm.api.get("/balloon/statistics")
            assert stats["actual_mib"] == 64 and vm.api.get("/hotplug/memory")["plugged_size_mib"] == 256
            vm.api.patch("/balloon", {"amount_mib": 0})
            eventually("a balloon of 0 MiB", lambda: vm.api.get("/balloon/statistics")["actual_mib"] == 0)
            eventually("newer statistics", lambda: vm.api.get("/balloon/statistics")["free_memory"] > stats["free_memory"] + 32 * MIB)
            vm.api.patch("/balloon", {"amount_mib": 100})
            eventually("a balloon of 100 MiB", lambda: vm.api.get("/balloon/statistics")["actual_mib"] >= 90)
            vm.api.patch("/hotplug/memory", {"requested_size_mib": 384})
            eventually("more memory", lambda: vm.api.get("/hotplug/memory")["plugged_size_mib"] == 384)
            assert vm.ask("result = hashlib.sha256(data).hexdigest() == digest")
            assert not vm.ask("result = [l for l in subprocess.run('dmesg', capture_output=True, text=True).stdout.splitlines() if 'BUG:' in l or 'Oops' in l]")
        finally:
            vm.husk.kill()
            vm.husk.wait(30)
            vm.console.close()
    assert numbers[0] != numbers[1], "two VMs with the same random numbers"

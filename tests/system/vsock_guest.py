"""A guest under tcg that executes Python sent over vsock, for test_vsock.py and long/test_vsock_long.py: a VsockPeer (see there) with its husk."""
import os
import resource
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from local_guest import image
from vsock_peer import HELPERS, VsockPeer, in_thread  # noqa: F401


class VsockGuest(VsockPeer):
    def __init__(self, local_guest, *flags, memory="512M", cpus=2):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.folder = tempfile.mkdtemp(prefix="husk-vsock-")  # short: a socket's path has 107 bytes
        super().__init__(f"{self.folder}/v.sock")
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
            self.begin()
        except BaseException:
            self.end()
            raise

    def alive(self):
        return self.husk.poll() is None

    def show(self):
        return Path(self.console.name).read_text(errors="replace")[-3000:]

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

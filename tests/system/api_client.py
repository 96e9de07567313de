"""A husk that is driven over its REST API, as a client of Firecracker would: HTTP over a unix socket, nothing else."""
import base64
import http.client
import json
import socket
import subprocess
import time
from pathlib import Path

from local_guest import HUSK, image


class Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout=90):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = raw(self.path, self.timeout)


def raw(path, timeout=20):
    """A connected socket without HTTP."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(timeout)
    s.connect(str(path))
    return s


class Answer:
    def __init__(self, response, took):
        self.status, self.headers, self.took = response.status, response.headers, took
        text = response.read()
        self.json = json.loads(text) if text else None

    @property
    def fault(self):
        return self.json["fault_message"]


class Husk:
    """A process with an API socket in `folder`; its console and log are files there."""

    def __init__(self, folder, *flags, command=(), prefix=()):
        self.folder, self.sock = Path(folder), Path(folder) / "api.sock"
        self.console_file, self.log_file = self.folder / "console", self.folder / "log"
        log = [] if command else ["--log-path", self.log_file, "--level", "Debug", "--accelerator", "tcg", "--id", "api-test"]
        with open(self.console_file, "wb") as out, open(self.folder / "stderr", "wb") as err:
            self.process = subprocess.Popen([*prefix, HUSK, *command, "--api-sock", str(self.sock), *map(str, log), *map(str, flags)],
                                            stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        self.wait_for(self.listens, "the API socket")

    def listens(self):
        """The socket's name is there a moment before anybody listens, as Firecracker's."""
        try:
            raw(self.sock).close()
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def wait_for(self, what, name, timeout=60):
        end = time.monotonic() + timeout
        while not what():
            assert self.process.poll() is None, f"husk ended with {self.process.returncode}: {self.tail()}"
            assert time.monotonic() < end, f"no {name} after {timeout} s: {self.tail()}"
            time.sleep(0.01)

    def tail(self):
        return "".join((self.folder / f).read_text(errors="replace")[-1500:] for f in ("stderr", "console", "log") if (self.folder / f).exists())

    def console(self):
        return self.console_file.read_text(errors="replace").replace("\r", "")

    def log(self):
        return self.log_file.read_text()

    def ask(self, method, path, body=None, headers=None):
        conn = Connection(self.sock)
        start = time.monotonic()
        conn.request(method, path, body if body is None or isinstance(body, (bytes, str)) else json.dumps(body), headers or {})
        response = conn.getresponse()
        answer = Answer(response, time.monotonic() - start)
        conn.close()
        return answer

    def get(self, path):
        answer = self.ask("GET", path)
        assert answer.status == 200, answer.json
        return answer.json

    def put(self, path, **body):
        answer = self.ask("PUT", path, body)
        assert answer.status == 204, (path, body, answer.json)
        return answer

    def patch(self, path, **body):
        answer = self.ask("PATCH", path, body)
        assert answer.status == 204, (path, body, answer.json)
        return answer

    def refused(self, method, path, body=None, status=400):
        answer = self.ask(method, path, body)
        assert answer.status == status, (method, path, body, answer.json)
        return answer.fault

    @staticmethod
    def boot_source(script=None, kernel="6.12", cmdline=""):
        words = f"console=ttyS0 reboot=k panic=1 quiet cryptomgr.notests {cmdline}".strip()
        if script is not None:
            words += " husk.exec=" + base64.urlsafe_b64encode(script.encode()).decode()
        return {"kernel_image_path": str(image(f"vmlinuz-{kernel}")), "initrd_path": str(image(f"initrd-{kernel}.img")), "boot_args": words}

    def start(self, script=None, cpus=1, memory=256, **how):
        self.put("/machine-config", vcpu_count=cpus, mem_size_mib=memory)
        self.put("/boot-source", **self.boot_source(script, **how))
        return self.put("/actions", action_type="InstanceStart")

    def wait_console(self, text, timeout=60):
        self.wait_for(lambda: text in self.console(), repr(text), timeout)

    def end(self):
        """Waits for its end; the exit code."""
        return self.process.wait(60)

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)

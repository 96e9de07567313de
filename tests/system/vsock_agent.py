"""Runs in the guest of test_vsock.py: executes Python that comes over vsock port 999, one repr() of source per line, and answers with the repr() of
what it leaves in `result`, or the traceback as an exception would show it. Debian's python3-minimal is enough."""
import ast
import socket
import threading
import traceback

SHARED = {}


def serve(peer):
    with peer, peer.makefile("rwb") as stream:
        for line in stream:
            SHARED["result"] = None
            try:
                exec(ast.literal_eval(line.decode()), SHARED)
                answer = True, SHARED["result"]
            except BaseException:
                answer = False, traceback.format_exc()
            stream.write(repr(answer).encode() + b"\n")
            stream.flush()


listener = socket.socket(socket.AF_VSOCK)
listener.bind((socket.VMADDR_CID_ANY, 999))
listener.listen(8)
print("agent: ready", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

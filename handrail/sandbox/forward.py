"""Inside a sandbox: a port of its own loopback that leads to the proxy outside."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

CHUNK_BYTES = 64 * 1024
MAX_WAITING = 64


def forward(path: str) -> dict[str, str]:
    """Lead a port of the loopback to a Unix socket; return the environment that has HTTP go there."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=MAX_WAITING)
    threading.Thread(target=_accept, args=(listener, path), name="egress", daemon=True).start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return {name: address for one in names for name in (one, one.lower())}


def _accept(listener: socket.socket, path: str) -> None:
    while True:
        near, _ = listener.accept()
        far = socket.socket(socket.AF_UNIX)
        try:
            far.connect(path)
        except OSError:
            near.close()
            far.close()
            continue
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=pump, args=(source, sink), daemon=True).start()


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Carry bytes one way until there are no more, and say so to the other side."""
    with suppress(OSError):
        while chunk := source.recv(CHUNK_BYTES):
            sink.sendall(chunk)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)

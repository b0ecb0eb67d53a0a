"""The way out of a sandbox: a proxy on a Unix socket that connects to the hosts listed, and nowhere else.

Every connection is checked: the name against the list, and the address that it stands for now. What is
checked is what is connected to, so that another answer of the DNS changes nothing.
"""

from __future__ import annotations

import ipaddress
import select
import shutil
import socket
import socketserver
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from handrail.sandbox.forward import CHUNK_BYTES, pump

MAX_HEAD_BYTES = 64 * 1024
MAX_CONNECTIONS = 256
CONNECT_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 300.0
LOOK_EVERY_S = 0.05
_HTTP_PORT = 80

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], list[str]]

# What clouds tell a machine about itself, where that is not link-local.
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"),
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Ways of writing an address of IPv4 that nobody needs any more, or that only a network's own can read.
_ODD = tuple(map(ipaddress.ip_network, ("::/96", "64:ff9b:1::/48")))

_logger = structlog.get_logger("egress")


class Refused(Exception):
    """A connection that the toolbox may not make."""


def is_listed(host: str, port: int, hosts: Sequence[str]) -> bool:
    """Whether a host and port are among those of a profile, where `*.` stands for any name below."""
    name = _plain(host)
    for entry in hosts:
        listed, _, number = entry.rpartition(":")
        wanted = _plain(listed)
        if int(number) == port and (name == wanted or (wanted[:2] == "*." and name.endswith(wanted[1:]))):
            return True
    return False


def is_inner(address: Address) -> bool:
    """Whether an address is this machine's own, its link's, or one that tells about the machine."""
    meant = _meant(address)
    return (
        meant.is_loopback
        or meant.is_link_local
        or meant.is_unspecified
        or meant.is_multicast
        or meant in _METADATA
        or any(meant in network for network in _ODD)
        or (isinstance(meant, ipaddress.IPv4Address) and (meant.is_reserved or meant.packed[0] == 0))
    )


def _meant(address: Address) -> Address:
    """Return the address that is reached where one of IPv6 stands for one of IPv4."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inside = address.ipv4_mapped or address.sixtofour
    if inside is None and address in _NAT64:
        inside = ipaddress.IPv4Address(address.packed[-4:])
    return inside or address


def addresses(host: str, port: int) -> list[str]:
    """Ask the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def checked(host: str, port: int, hosts: Sequence[str], resolve: Resolve) -> list[str]:
    """Return the addresses that a tool may be connected to; raises Refused."""
    if not is_listed(host, port, hosts):
        raise Refused(f"{host}:{port} is not among the hosts that its toolbox lists")
    name = _plain(host)
    try:
        found = resolve(name, port)
    except OSError as error:
        raise Refused(f"{host} cannot be resolved: {error}") from None
    allowed = [one for one in found if _is_allowed(name, one)]
    if not allowed:
        raise Refused(f"{host} leads to {', '.join(found)[:200]}, which its toolbox does not list")
    return allowed


def _is_allowed(name: str, text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if not is_inner(address):
        return True
    # An inner address is listed by writing it, or `localhost`; no other name may lead there.
    return name == str(address) or (name == "localhost" and address.is_loopback)


def _plain(host: str) -> str:
    text = host.lower().strip("[]").rstrip(".")
    with suppress(ValueError):
        return str(ipaddress.ip_address(text))
    return text


@dataclass(frozen=True, slots=True)
class _Request:
    host: str
    port: int
    # What the server is sent first; nothing where the bytes that follow are all there is.
    head: bytes


def parse(head: bytes) -> _Request:
    """Read the head of a request to a proxy; raises ValueError."""
    line, _, rest = head.decode("latin-1").partition("\r\n")
    method, target, version = line.split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"{version} is not spoken here")
    if method == "CONNECT":
        url = urlsplit(f"//{target}")
        if not url.hostname or url.port is None:
            raise ValueError("CONNECT needs HOST:PORT")
        return _Request(url.hostname, url.port, b"")
    url = urlsplit(target)
    if url.scheme != "http" or not url.hostname:
        raise ValueError("a proxy is asked for http://HOST/..., or with CONNECT")
    # The host is the one that was checked, and the connection is for this request alone.
    dropped = ("host", "connection", "proxy-connection", "proxy-authorization", "keep-alive")
    kept = [one for one in rest.split("\r\n") if one and one.partition(":")[0].strip().lower() not in dropped]
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    netloc = url.netloc.rpartition("@")[2]
    lines = [f"{method} {path} HTTP/1.1", f"Host: {netloc}", "Connection: close", *kept]
    return _Request(url.hostname, url.port or _HTTP_PORT, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))


class Egress:
    """The proxy of one toolbox."""

    def __init__(self, toolbox: str, hosts: Sequence[str], *, resolve: Resolve = addresses) -> None:
        self._toolbox = toolbox
        self._hosts = tuple(hosts)
        self._resolve = resolve
        self._places = threading.Semaphore(MAX_CONNECTIONS)
        self._home = Path(tempfile.mkdtemp(prefix="handrail-egress-"))
        # Also where nobody closes it: whoever only reads a project has no end to do it at.
        self._removal = weakref.finalize(self, shutil.rmtree, self._home, ignore_errors=True)
        self.path = self._home / "socket"
        egress = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                egress._serve(self.request)

        self._server = socketserver.ThreadingUnixStreamServer(str(self.path), Handler)
        self._server.daemon_threads = True
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(LOOK_EVERY_S,), name=f"egress-{toolbox}", daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._server.shutdown()
        self._server.server_close()
        self._removal()

    def _serve(self, near: socket.socket) -> None:
        if not self._places.acquire(blocking=False):
            _answer(near, "503 Service Unavailable", f"{MAX_CONNECTIONS} connections are open")
            return
        try:
            near.settimeout(IDLE_TIMEOUT_S)
            self._lead(near)
        except Refused as error:
            _logger.warning("egress refused", toolbox=self._toolbox, reason=str(error))
            _answer(near, "403 Forbidden", f"handrail: {error}")
        except (OSError, ValueError) as error:
            _answer(near, "502 Bad Gateway", f"handrail: {error}")
        finally:
            self._places.release()

    def _lead(self, near: socket.socket) -> None:
        head, begun = _head(near)
        request = parse(head)
        with self._connect(request) as far:
            if request.head:
                far.sendall(request.head + begun)
            else:
                near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                far.sendall(begun)
            back = threading.Thread(target=pump, args=(far, near), daemon=True)
            back.start()
            pump(near, far)
            # Where nobody waits for an answer any more, the server's silence holds no place.
            while back.is_alive() and not _has_gone(near):
                back.join(LOOK_EVERY_S)
            with suppress(OSError):
                far.shutdown(socket.SHUT_RDWR)

    def _connect(self, request: _Request) -> socket.socket:
        problem: OSError | None = None
        for address in checked(request.host, request.port, self._hosts, self._resolve):
            try:
                far = socket.create_connection((address, request.port), CONNECT_TIMEOUT_S)
            except OSError as error:
                problem = error
                continue
            far.settimeout(IDLE_TIMEOUT_S)
            return far
        raise problem or OSError("no address")


def _has_gone(near: socket.socket) -> bool:
    """Whether the other side is closed both ways."""
    poll = select.poll()
    poll.register(near, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def _head(near: socket.socket) -> tuple[bytes, bytes]:
    """Read a request's head, and what came with it of what follows."""
    read = b""
    while b"\r\n\r\n" not in read:
        if len(read) > MAX_HEAD_BYTES:
            raise ValueError(f"a request's head may have {MAX_HEAD_BYTES} bytes")
        chunk = near.recv(CHUNK_BYTES)
        if not chunk:
            raise ValueError("the request ended early")
        read += chunk
    head, _, begun = read.partition(b"\r\n\r\n")
    return head, begun


def _answer(near: socket.socket, status: str, text: str) -> None:
    body = f"{text}\n".encode()
    lines = (f"HTTP/1.1 {status}", "Content-Type: text/plain", f"Content-Length: {len(body)}")
    head = "".join(f"{line}\r\n" for line in (*lines, "Connection: close", ""))
    with suppress(OSError):
        near.sendall(head.encode() + body)

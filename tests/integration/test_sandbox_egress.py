"""The way out of a sandbox, with real sockets: what is led where, and what is refused."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from handrail.sandbox import egress
from handrail.sandbox.egress import Egress
from handrail.sandbox.mechanism import found
from tests.integration.sandbox_stage import sandbox_of, wait_for, write_project

TIMEOUT_S = 5.0
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def proxy(*hosts: str, addresses: list[list[str]] | None = None) -> Iterator[Egress]:
    """An egress whose resolver gives each answer once, the last one for ever."""
    answers = addresses or [["127.0.0.1"]]
    made = Egress("desk", hosts, resolve=lambda _h, _p: answers.pop(0) if len(answers) > 1 else answers[0])
    try:
        yield made
    finally:
        made.close()


def say(made: Egress, text: bytes) -> bytes:
    """Send something to the proxy, and return all that it says."""
    with socket.socket(socket.AF_UNIX) as near:
        near.settimeout(TIMEOUT_S)
        near.connect(str(made.path))
        said = b""
        # It may answer and go before it has heard everything.
        with suppress(BrokenPipeError, ConnectionResetError):
            near.sendall(text)
            near.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while chunk := near.recv(65536):
                said += chunk
        return said


@contextmanager
def server(answer: bytes = b"hello") -> Iterator[tuple[int, list[bytes]]]:
    """A server that hears one message of each connection, and answers it."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    far, _ = listener.accept()
                except OSError:
                    return
                with far:
                    heard.append(far.recv(65536))
                    far.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1], heard
        listener.shutdown(socket.SHUT_RDWR)


def test_a_host_that_is_listed_is_reached() -> None:
    with server() as (port, heard), proxy(f"127.0.0.1:{port}") as made:
        assert say(made, f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\nraw".encode()).endswith(b"\r\n\r\nhello")
        assert heard == [b"raw"]
        assert say(made, f"GET http://127.0.0.1:{port}/x HTTP/1.1\r\n\r\n".encode()) == b"hello"
        assert heard[1].startswith(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1")


def test_another_answer_of_the_dns_leads_nowhere() -> None:
    """What was checked is what is connected to, and the next connection is checked anew."""
    with (
        server() as (port, heard),
        proxy(f"api.example.com:{port}", addresses=[["192.0.2.1", "127.0.0.1"], ["127.0.0.1"]]) as made,
    ):
        ask = f"CONNECT api.example.com:{port} HTTP/1.1\r\n\r\nx".encode()
        egress_timeout, egress.CONNECT_TIMEOUT_S = egress.CONNECT_TIMEOUT_S, 0.05
        try:
            assert b" 502 " in say(made, ask)
        finally:
            egress.CONNECT_TIMEOUT_S = egress_timeout
        assert b" 403 " in say(made, ask)
        assert heard == []


def test_a_redirect_is_checked_like_the_first() -> None:
    with proxy("api.example.com:80") as made:
        said = say(made, b"GET http://169.254.169.254/latest/meta-data/ HTTP/1.1\r\n\r\n")
        assert b" 403 " in said
        assert b"is not among the hosts" in said


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"x",
        b"\0" * 100,
        b"GET\r\n\r\n",
        b"\xff" * 70_000,
        b"A" * 200_000,
        b"CONNECT x:y HTTP/1.1\r\n\r\n",
    ],
)
def test_nonsense_is_answered_and_the_next_one_served(text: bytes) -> None:
    with server() as (port, _), proxy(f"127.0.0.1:{port}") as made:
        assert say(made, text)[:12] in (b"HTTP/1.1 502", b"")
        assert say(made, f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\nx".encode()).endswith(b"hello")


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "MAX_CONNECTIONS", 2)
    with proxy("127.0.0.1:1") as made:
        slow = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for one in slow:
            one.connect(str(made.path))
            one.sendall(b"CONNECT ")
        said = b""
        for _ in range(200):
            # The two are served by threads of their own, which have to begin first.
            said = say(made, b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n")
            if b" 503 " in said:
                break
        assert b" 503 " in said
        for one in slow:
            one.close()


def test_a_silent_server_holds_no_place_once_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "MAX_CONNECTIONS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with proxy(f"127.0.0.1:{port}") as made, socket.socket(socket.AF_UNIX) as near:
            near.connect(str(made.path))
            near.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
            assert b" 200 " in near.recv(65536)
            assert b" 503 " in say(made, b"x\r\n\r\n")
            near.close()
            wait_for("a place", lambda: b" 502 " in say(made, b"x\r\n\r\n"))


def test_nothing_is_left_of_it() -> None:
    with proxy("127.0.0.1:1") as made:
        home = made.path.parent
        assert home.stat().st_mode & 0o077 == 0
    assert not home.exists()


NEEDS = pytest.mark.skipif(found().name != "bubblewrap", reason="a list of hosts needs bubblewrap")
FETCH = """
import urllib.error, urllib.request
try:
    found = urllib.request.urlopen("http://{}/", timeout=5).read().decode()
except urllib.error.HTTPError as error:
    found = f"{{error.code}}: {{error.read().decode()}}"
"""


@NEEDS
def test_a_tool_reaches_what_is_listed_and_nothing_else(tmp_path: Path) -> None:
    directory = write_project(tmp_path / "project")
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    with server(answer) as (listed, _), server(answer) as (other, heard):
        with sandbox_of(directory, found(), hosts=[f"127.0.0.1:{listed}", "api.example.com:80"]) as stage:
            assert stage.run(FETCH.format(f"127.0.0.1:{listed}")) == "hello"
            for host in (f"127.0.0.1:{other}", "169.254.169.254", "[::1]", "localhost"):
                assert stage.run(FETCH.format(host)).startswith("403: handrail: "), host
            direct = f"import socket; socket.create_connection(('127.0.0.1', {other}), 1)"
            assert stage.each({"direct": direct})["direct"].startswith("ConnectionRefusedError")
            many = (
                "import os, socket\nopened = []\n"
                "to = ('127.0.0.1', int(os.environ['HTTP_PROXY'].rpartition(':')[2]))\n"
                "try:\n    for _ in range(400): opened.append(socket.create_connection(to, 1))\n"
                "except OSError: pass\nfound = 'done'"
            )
            assert stage.run(many) == "done"
            assert stage.run(FETCH.format(f"127.0.0.1:{listed}")) == "hello"
        assert heard == []


READ = """
import sys
from pathlib import Path
from handrail.sandbox.profile import Profile
from handrail.sandbox.toolbox import Sandbox
from handrail.settings import MaySettings
may = MaySettings(hosts=["api.example.com:80"])
profile = Profile("hostile", may, Path(sys.argv[1]), ("hostile",))
sandbox = Sandbox(profile)
assert sandbox.describe()[1] == []
sandbox.warm()
"""


@NEEDS
def test_who_only_reads_a_project_leaves_nothing(tmp_path: Path) -> None:
    directory = write_project(tmp_path / "project")
    # Of a short name: a socket's path has few characters.
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": scratch}
        subprocess.run([sys.executable, "-c", READ, str(directory)], env=environment, check=True, timeout=60)
        wait_for("the end of its files", lambda: not list(Path(scratch).iterdir()))

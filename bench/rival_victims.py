"""The peers as victims of the crash benchmark, each started again as its documentation says."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bench import postgres, rivals, venvs
from bench.ledger import Ledger
from bench.victims import EFFECT_S, Victim


class Library:
    """A peer whose runs live in the process that begins them."""

    def __init__(
        self, name: str, command: Sequence[str | Path], place: Path, ledger: Ledger, *, acknowledges: bool
    ) -> None:
        self.name = name
        self.killed = "its process"
        self._command = [str(word) for word in command]
        self._place = place
        self._ledger = ledger
        self._acknowledges = acknowledges
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        extra = {"BENCH_LEDGER": str(self._ledger.path), "BENCH_EFFECT_S": str(EFFECT_S)}
        with (self._place / "stderr").open("a") as errors:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=rivals.environment(**extra),
                cwd=self._place,
            )
        assert process.stdout is not None
        while True:
            line = process.stdout.readline()
            if not line:
                raise venvs.Missing(f"{self.name} ended: {(self._place / 'stderr').read_text()[-500:]}")
            if b"ready" in line:
                return process

    def begin(self, items: Sequence[str]) -> None:
        """Tell the process of the items."""
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{item}\n" for item in items).encode())
        self._process.stdin.flush()

    def kill(self, *, everything: bool) -> None:
        """Kill the process and start it again."""
        self.stop()
        self._ledger.note("kill")
        self._process = self._start()

    def begun(self, items: Sequence[str]) -> set[str]:
        """Return the items that it was called for."""
        return set(self._ledger.items("begin")) & set(items)

    def ended(self, items: Sequence[str]) -> set[str]:
        """Return the items whose runs have returned."""
        return set(self._ledger.items("done")) & set(items)

    def doubtful(self, items: Sequence[str]) -> set[str]:
        """None: no peer tells."""
        return set()

    def acknowledged(self, items: Sequence[str]) -> set[str] | None:
        """Return the items whose launch returned."""
        return set(self._ledger.items("ack")) & set(items) if self._acknowledges else None

    def stop(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


class Restate:
    """Restate, of which the service is killed; its server stays."""

    name = "Restate"
    killed = "its service"

    def __init__(self, place: Path, server: rivals.RestateServer, ledger: Ledger) -> None:
        self._place = place
        self._server = server
        self._ledger = ledger
        self._extra = {"BENCH_LEDGER": str(ledger.path), "BENCH_EFFECT_MS": str(int(EFFECT_S * 1e3))}
        self._service = rivals.start_restate_service(place, server, **self._extra)
        server.register()
        self._senders: list[subprocess.Popen[bytes]] = []

    def begin(self, items: Sequence[str]) -> None:
        """Send the items, one way, from a process of their own."""
        command = ["node", str(self._server.script), "send", self._server.ingress, *items]
        self._senders.append(
            subprocess.Popen(command, env=rivals.environment(**self._extra), stdout=subprocess.DEVNULL)
        )

    def kill(self, *, everything: bool) -> None:
        """Kill the service and start it again."""
        self._service.kill()
        self._service.wait()
        self._ledger.note("kill")
        self._service = rivals.start_restate_service(self._place, self._server, **self._extra)

    def begun(self, items: Sequence[str]) -> set[str]:
        """Return the items that it was called for."""
        return set(self._ledger.items("begin")) & set(items)

    def ended(self, items: Sequence[str]) -> set[str]:
        """Return the items whose action has come to its end."""
        return set(self._ledger.items("end")) & set(items)

    def doubtful(self, items: Sequence[str]) -> set[str]:
        """None: no peer tells."""
        return set()

    def acknowledged(self, items: Sequence[str]) -> set[str]:
        """Return the items that the server has taken."""
        return set(self._ledger.items("ack")) & set(items)

    def stop(self) -> None:
        """End the service and what sends."""
        rivals.end(self._service)
        for sender in self._senders:
            rivals.end(sender)


@contextmanager
def library(kind: str, name: str, place: Path, use_postgres: bool, ledger: Ledger) -> Iterator[Victim]:
    """Run a peer that is a library, in a process of its own."""
    python = venvs.python(kind)
    with ExitStack() as held:
        home = place / f"crash-{kind}-{'postgres' if use_postgres else 'sqlite'}"
        home.mkdir()
        command: list[str | Path] = [
            python,
            rivals.HERE / "peers" / f"{kind}_peer.py",
            "--crash",
            "--place",
            home,
        ]
        if use_postgres:
            server = held.enter_context(postgres.running(home))
            server.create(kind)
            command += ["--store", "postgres", "--url", server.url(kind)]
        else:
            command += ["--store", "sqlite"]
        victim = Library(name, command, home, ledger, acknowledges=kind == "dbos")
        try:
            yield victim
        finally:
            victim.stop()


@contextmanager
def restate(place: Path, ledger: Ledger) -> Iterator[Victim]:
    """Run Restate's server, which stays, and its service, which does not."""
    home = place / "crash-restate"
    home.mkdir()
    with rivals.restate_server(home, "always") as server:
        victim = Restate(home, server, ledger)
        try:
            yield victim
        finally:
            victim.stop()

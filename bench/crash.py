"""W2: what becomes of actions that are in flight when a process is killed. Ours, and the peers.

Ten single-step runs at a time call a slow tool that first writes into a ledger outside, so that it is known who was
called, who came to the end, and who was in between when SIGKILL came. Then everything is started again and left to
recover as its documentation says. A second round kills within the first moments of ten launches.
"""  # noqa: E501

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bench import postgres, rivals, stack, venvs
from handrail.client import SyncClient
from handrail.errors import ClientError
from handrail.v1 import event_pb2

AT_A_TIME = 10
KILLS = 20
EFFECT_S = 0.5
LAUNCH_S = 0.06
BEGIN_TIMEOUT_S = 20.0
RECOVERY_TIMEOUT_S = 40.0
QUIET_S = 5.0
POLL_S = 0.02
READY_TIMEOUT_S = 60.0

_CannotRun = (venvs.Missing, postgres.PostgresMissing, stack.StackFailed, OSError)


class Ledger:
    """The world: lines written by whoever acts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        path.chmod(0o666)

    def lines(self, word: str) -> list[list[str]]:
        """Return the lines that begin with a word, without it."""
        found = (line.split() for line in self.path.read_text().splitlines())
        return [words[1:] for words in found if words and words[0] == word]

    def flying(self, items: Sequence[str]) -> list[str]:
        """Return the items that were called and had not come to the end when the last kill was noted."""
        called: Counter[str] = Counter()
        found: list[str] = []
        for words in (line.split() for line in self.path.read_text().splitlines()):
            if words[0] == "kill":
                found = [item for item in items if called[item]]
                called.clear()
            else:
                called[words[1]] += {"call": 1, "end": -1}.get(words[0], 0)
        return found

    def note(self, *words: str) -> None:
        """Write a line of the bench's own."""
        with self.path.open("a") as file:
            file.write(" ".join(words) + "\n")

    def items(self, word: str) -> Counter[str]:
        """Return how often each item has such a line."""
        return Counter(words[0] for words in self.lines(word))


class Victim(Protocol):
    """What is killed."""

    name: str
    killed: str

    def begin(self, items: Sequence[str]) -> None:
        """Begin a run for each item, and wait for none."""
        ...

    def kill(self, *, everything: bool) -> None:
        """Kill what is to be killed and have it started again."""
        ...

    def begun(self, items: Sequence[str]) -> set[str]:
        """Return the items for which the product has been called."""
        ...

    def ended(self, items: Sequence[str]) -> set[str]:
        """Return the items whose runs have come to an end."""
        ...

    def doubtful(self, items: Sequence[str]) -> set[str]:
        """Return the items that were surfaced for a human."""
        ...

    def acknowledged(self, items: Sequence[str]) -> set[str] | None:
        """Return the items whose submission was acknowledged; None where nothing ever is."""
        ...


@dataclass
class Tally:
    """What came of all kills."""

    in_flight: int = 0
    repeated: int = 0
    doubled: int = 0
    lost: int = 0
    doubt: int = 0
    recovery_s: list[float] = field(default_factory=list)
    begun: int = 0
    lost_at_launch: int = 0
    acknowledged: int | None = 0
    lost_acknowledged: int = 0


def measure(place: Path, *, quick: bool, peers: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Kill everybody in turn and return a row each."""
    kills = 2 if quick else KILLS if peers else 5
    rows, skipped = [], {}
    for name, make in _victims(place, peers).items():
        say(f"killing {name}, {kills} times")
        ledger = Ledger(place / f"ledger-{len(rows)}-{len(skipped)}")
        try:
            with make(ledger) as victim:
                tally = _campaign(victim, ledger, kills)
                rows.append(_row(victim, tally, kills))
                say(f"  {rows[-1]}")
        except _CannotRun as error:
            skipped[name] = str(error)
            say(f"  skipped: {error}")
    return {"rows": rows, "skipped": skipped, "effect_s": EFFECT_S}


def _campaign(victim: Victim, ledger: Ledger, kills: int) -> Tally:
    tally = Tally()
    chance = random.Random(1)
    for number in range(kills):
        items = [f"a{number}-{i}" for i in range(AT_A_TIME)]
        victim.begin(items)
        _until(lambda names=items: all(ledger.items("call")[i] for i in names), BEGIN_TIMEOUT_S)  # type: ignore[misc]
        time.sleep(chance.uniform(0, EFFECT_S / 3))
        struck = time.monotonic()
        victim.kill(everything=False)
        flying = ledger.flying(items)
        _settle(victim, ledger, items)
        tally.recovery_s.append(time.monotonic() - struck)
        tally.in_flight += len(flying)
        _judge(victim, ledger, items, flying, tally)
    for number in range(kills):
        items = [f"l{number}-{i}" for i in range(AT_A_TIME)]
        victim.begin(items)
        _until(lambda names=items: bool(victim.begun(names)), BEGIN_TIMEOUT_S)  # type: ignore[misc]
        time.sleep(chance.uniform(0, LAUNCH_S))
        acknowledged = victim.acknowledged(items)
        victim.kill(everything=True)
        _settle(victim, ledger, items)
        gone = victim.begun(items) - victim.ended(items) - victim.doubtful(items)
        tally.begun += len(victim.begun(items))
        tally.lost_at_launch += len(gone)
        if acknowledged is None or tally.acknowledged is None:
            tally.acknowledged = None
        else:
            tally.acknowledged += len(acknowledged)
            tally.lost_acknowledged += len(gone & acknowledged)
    return tally


def _judge(victim: Victim, ledger: Ledger, items: Sequence[str], flying: Sequence[str], tally: Tally) -> None:
    called = ledger.items("call")
    keys: dict[str, set[str]] = {}
    unkeyed: Counter[str] = Counter()
    for words in ledger.lines("call"):
        if len(words) > 1 and words[1] != "-":
            keys.setdefault(words[0], set()).add(words[1])
        else:
            unkeyed[words[0]] += 1
    doubtful = victim.doubtful(items)
    tally.repeated += sum(called[item] > 1 for item in flying)
    # A service that knows the key takes effect once for each.
    tally.doubled += sum(unkeyed[item] > 1 or len(keys.get(item, ())) > 1 for item in items)
    tally.lost += len(set(items) - victim.ended(items) - doubtful)
    tally.doubt += len(doubtful)


def _settle(victim: Victim, ledger: Ledger, items: Sequence[str]) -> None:
    """Wait until every run has ended or waits for a human, or nothing has happened for a while."""
    deadline = time.monotonic() + RECOVERY_TIMEOUT_S
    size, changed = -1, time.monotonic()
    while time.monotonic() < min(deadline, changed + QUIET_S):
        ended = victim.ended(items)
        if victim.begun(items) <= ended | victim.doubtful(items):
            return
        now = ledger.path.stat().st_size + len(ended)
        if now != size:
            size, changed = now, time.monotonic()
        time.sleep(POLL_S)


def _until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _row(victim: Victim, tally: Tally, kills: int) -> dict[str, Any]:
    launch = f"{tally.lost_at_launch} of {tally.begun} begun"
    if tally.acknowledged is None:
        launch += "; acknowledges nothing"
    else:
        launch += f", {tally.lost_acknowledged} of {tally.acknowledged} acknowledged"
    return {
        "target": victim.name,
        "killed": victim.killed,
        "kills": kills,
        "in_flight": tally.in_flight,
        "repeated": tally.repeated,
        "doubled": tally.doubled,
        "lost": tally.lost,
        "doubt": tally.doubt,
        "launch": launch,
        "recovery_p50_s": statistics.median(tally.recovery_s),
        "recovery_max_s": max(tally.recovery_s),
    }


# --- ours ----------------------------------------------------------------------------------------------


class Ours:
    """A stack, of which the worker or everything is killed."""

    def __init__(self, project: Path, tool: str, kill_all: bool, name: str, ledger: Ledger) -> None:
        self.name = name
        self.killed = "supervisor, and everything with it" if kill_all else "worker"
        self._project = project
        self._tool = tool
        self._kill_all = kill_all
        self._ledger = ledger
        self._environment = {"BENCH_LEDGER": str(ledger.path), "BENCH_EFFECT_S": str(EFFECT_S)}
        self._stack = self._start()
        self._client = SyncClient(self._stack.address, timeout_s=30)
        self._threads = ThreadPoolExecutor(2 * AT_A_TIME)
        self._runs: dict[str, str] = {}
        self._settled: dict[str, int] = {}

    def _start(self) -> stack.Stack:
        return stack.start(self._project, **self._environment)

    def begin(self, items: Sequence[str]) -> None:
        """Submit a run for each item, again under the same request id until it is acknowledged."""
        for item in items:
            self._threads.submit(self._submit, item)

    def _submit(self, item: str) -> None:
        form = {"steps": [{"id": "s1", "tool": self._tool, "with": {"item": item}}]}
        deadline = time.monotonic() + RECOVERY_TIMEOUT_S
        while item not in self._runs and time.monotonic() < deadline:
            with suppress(ClientError):
                self._runs[item] = self._client.submit("charge", plan=form, request_id=item).run

    def kill(self, *, everything: bool) -> None:
        """Kill the worker, or everything, which is then started again."""
        if not (everything or self._kill_all):
            workers = [pid for name, pid in self._stack.processes().items() if name.startswith("worker")]
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            self._ledger.note("kill")
            return
        left = list(self._stack.processes().values())
        self._stack.kill()
        self._ledger.note("kill")
        _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), BEGIN_TIMEOUT_S)
        self._stack = self._start()

    def begun(self, items: Sequence[str]) -> set[str]:
        """Return the items that the client has tried to submit."""
        return set(items)

    def ended(self, items: Sequence[str]) -> set[str]:
        """Return the items whose runs are done."""
        return {item for item in items if self._status(item) == event_pb2.RUN_STATUS_DONE}

    def doubtful(self, items: Sequence[str]) -> set[str]:
        """Return the items whose runs wait for a human."""
        return {item for item in items if self._status(item) == event_pb2.RUN_STATUS_WAITING}

    def acknowledged(self, items: Sequence[str]) -> set[str]:
        """Return the items whose submission was answered."""
        return {item for item in items if item in self._runs}

    def _status(self, item: str) -> int:
        run = self._runs.get(item)
        if run is None:
            return 0
        if item not in self._settled:
            try:
                status = int(self._client.get(run).status)
            except ClientError:
                return 0
            if status not in (event_pb2.RUN_STATUS_DONE, event_pb2.RUN_STATUS_WAITING):
                return status
            self._settled[item] = status
        return self._settled[item]

    def stop(self) -> None:
        """Take everything down."""
        self._client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._stack.kill()


@contextmanager
def _ours(place: Path, tool: str, what: str, kill_all: bool, ledger: Ledger) -> Iterator[Victim]:
    project = stack.copy_project(place / f"crash-{tool}-{'all' if kill_all else 'worker'}", "always")
    with (project / "handrail.toml").open("a") as settings:
        # Where clients find it again after everything was killed.
        settings.write(f'\n[gateway]\nlisten = "127.0.0.1:{rivals.free_ports(1)[0]}"\n')
    victim = Ours(project, tool, kill_all, f"Handrail, {what}", ledger)
    try:
        yield victim
    finally:
        victim.stop()


# --- the peers -----------------------------------------------------------------------------------------


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
def _library(kind: str, name: str, place: Path, use_postgres: bool, ledger: Ledger) -> Iterator[Victim]:
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
def _restate(place: Path, ledger: Ledger) -> Iterator[Victim]:
    home = place / "crash-restate"
    home.mkdir()
    with rivals.restate_server(home, "always") as server:
        victim = Restate(home, server, ledger)
        try:
            yield victim
        finally:
            victim.stop()


def _victims(place: Path, peers: bool) -> dict[str, Callable[[Ledger], AbstractContextManager[Victim]]]:
    found: dict[str, Callable[[Ledger], AbstractContextManager[Victim]]] = {
        "Handrail, keyed": lambda w: _ours(place, "charge", "keyed effect", False, w),
        "Handrail, keyed, everything": lambda w: _ours(place, "charge", "keyed effect", True, w),
        "Handrail, read-back": lambda w: _ours(
            place, "charge_noted", "effect that can be read back", False, w
        ),
        "Handrail, unkeyed": lambda w: _ours(
            place, "charge_unkeyed", "effect that nobody can ask for", False, w
        ),
    }
    if peers:
        found |= {
            "DBOS, SQLite": lambda w: _library("dbos", "DBOS, SQLite", place, False, w),
            "DBOS, PostgreSQL": lambda w: _library("dbos", "DBOS, PostgreSQL", place, True, w),
            "LangGraph, SQLite": lambda w: _library("langgraph", "LangGraph, SQLite", place, False, w),
            "LangGraph, PostgreSQL": lambda w: _library("langgraph", "LangGraph, PostgreSQL", place, True, w),
            "Restate": lambda w: _restate(place, w),
        }
    return found

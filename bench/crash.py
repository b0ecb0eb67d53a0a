"""W2: what becomes of actions that are in flight when a process is killed. Ours, and the peers.

Ten single-step runs at a time call a slow tool that first writes into a ledger outside, so that it is known
who was called, who came to the end, and who was in between when SIGKILL came. Then everything is started
again and left to recover as documented. A second round kills in the first moments of ten launches.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench import postgres, rival_victims, stack, venvs, victims
from bench.ledger import Ledger
from bench.victims import AT_A_TIME, EFFECT_S, POLL_S, Victim, wait_until

LAUNCH_S = 0.06
BEGIN_TIMEOUT_S = 20.0
RECOVERY_TIMEOUT_S = 40.0
QUIET_S = 4.0
LEFT_OUT_QUICKLY = ("Handrail, read-back", "DBOS, PostgreSQL", "LangGraph, PostgreSQL")

Maker = Callable[[Ledger], AbstractContextManager[Victim]]

_CannotRun = (venvs.Missing, postgres.PostgresMissing, stack.StackFailed, OSError)


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


def measure(
    place: Path, *, kills: int, peers: bool, quick: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """Kill everybody in turn and return a row each; in short, one of each kind."""
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    for name, make in _victims(place, peers=peers).items():
        if quick and name in LEFT_OUT_QUICKLY:
            continue
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
        _kill_in_flight(victim, ledger, [f"a{number}-{i}" for i in range(AT_A_TIME)], chance, tally)
    for number in range(kills):
        _kill_at_launch(victim, ledger, [f"l{number}-{i}" for i in range(AT_A_TIME)], chance, tally)
    return tally


def _kill_in_flight(
    victim: Victim, ledger: Ledger, items: Sequence[str], chance: random.Random, tally: Tally
) -> None:
    """Kill when every item's action has been called and none can have ended."""
    victim.begin(items)
    wait_until(lambda: all(ledger.items("call")[item] for item in items), BEGIN_TIMEOUT_S)
    time.sleep(chance.uniform(0, EFFECT_S / 3))
    struck = time.monotonic()
    victim.kill(everything=False)
    flying = ledger.flying(items)
    _settle(victim, ledger, items)
    tally.recovery_s.append(time.monotonic() - struck)
    tally.in_flight += len(flying)
    _judge(victim, ledger, items, flying, tally)


def _kill_at_launch(
    victim: Victim, ledger: Ledger, items: Sequence[str], chance: random.Random, tally: Tally
) -> None:
    """Kill while the items are being submitted."""
    victim.begin(items)
    wait_until(lambda: bool(victim.begun(items)), BEGIN_TIMEOUT_S)
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


def _victims(place: Path, *, peers: bool) -> dict[str, Maker]:
    """Return how to make each victim, by name."""
    found: dict[str, Maker] = {
        "Handrail, keyed": partial(victims.ours, place, "charge", "keyed effect", False),
        "Handrail, keyed, everything": partial(victims.ours, place, "charge", "keyed effect", True),
        "Handrail, read-back": partial(
            victims.ours, place, "charge_noted", "effect that can be read back", False
        ),
        "Handrail, unkeyed": partial(
            victims.ours, place, "charge_unkeyed", "effect nobody can ask for", False
        ),
    }
    if peers:
        found |= {
            "DBOS, SQLite": partial(rival_victims.library, "dbos", "DBOS, SQLite", place, False),
            "DBOS, PostgreSQL": partial(rival_victims.library, "dbos", "DBOS, PostgreSQL", place, True),
            "LangGraph, SQLite": partial(
                rival_victims.library, "langgraph", "LangGraph, SQLite", place, False
            ),
            "LangGraph, PostgreSQL": partial(
                rival_victims.library, "langgraph", "LangGraph, PostgreSQL", place, True
            ),
            "Restate": partial(rival_victims.restate, place),
        }
    return found

"""How long it takes until a struck part is back: pure functions over rows.

`back` is the first event that only the revived part can have made; `resumed` is when the work that it had in
hand went on, whoever took it up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tests.chaos import oracle
from tests.chaos.history import Row, Stroke
from tests.chaos.plan import HEAD, MINDS

# A process needs longer to start; what was under way when it was struck needs less to arrive.
UNDER_WAY_NS = 30_000_000
# What each role is asked with, and answers with.
ASKS = {"planner": ("plan_ask", "plan_answer"), "executor": ("proposal_ask", "proposal")}

TARGET_S = {
    "worker": 3.0,
    "planner": 3.0,
    "executor": 3.0,
    "verifier": 3.0,
    "minds": 3.0,
    "decider": 3.0,
    "broker": 5.0,
    "head": 20.0,
    "raylet": 20.0,
    "keeper": 20.0,
}
"""What the issue asks of the 99th percentile."""


def kind_of(target: str) -> str:
    """Return what the table calls a target: `worker:1` is a worker."""
    return target.split(":")[0]


def made_by(target: str, row: Row) -> bool:
    """Whether a row can only come from the target, once it is back."""
    kind, _, slot = target.partition(":")
    if kind == "worker":
        return row.role == "worker" and f"_{slot}-" in row.writer
    if kind == "minds" or kind in HEAD:
        return row.role in MINDS
    return kind == "broker" or row.role == kind


def first_back(stroke: Stroke, rows: Iterable[Row]) -> int:
    """Return when the first event of the revived part was stored, or 0."""
    after_ns = stroke.since_ns + (0 if stroke.freed_ns else UNDER_WAY_NS)
    if stroke.target in HEAD and stroke.deed == "kill":
        # Its actors live on until they are swept: what they still say is no sign of the next ones.
        after_ns = max(after_ns, stroke.alive_ns)
    return next((row.time_ns for row in rows if row.time_ns > after_ns and made_by(stroke.target, row)), 0)


def in_hand(target: str, rows: Sequence[Row], moment_ns: int) -> list[tuple[str, str]]:
    """Return what a target had in hand at a moment, as (run, attempt); of what has ended nothing is."""
    before = [row for row in rows if row.time_ns <= moment_ns]
    kind, _, _ = target.partition(":")
    found: list[tuple[str, str]] = []
    roles = MINDS if kind == "minds" or kind in HEAD else (kind,)
    for role in roles:
        found += _open(role, target, before)
    return [work for work in found if not _is_over([row for row in before if row.run == work[0]])]


def _is_over(rows: Sequence[Row]) -> bool:
    return any(row.kind == "finished" for row in rows) and not oracle.undoing(rows)


def _open(role: str, target: str, rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    if role in ASKS:
        ask, answer = ASKS[role]
        asked = {(row.run, row.attempt): None for row in rows if row.kind == ask}
    elif role == "verifier":
        answer = "verdict"
        asked = {
            (row.run, row.attempt): None
            for row in rows
            if row.kind == "result" and row.body.HasField("output")
        }
    elif role == "worker":
        answer = ""
        asked = {
            (row.run, row.attempt): None for row in rows if row.kind == "intent" and made_by(target, row)
        }
    else:
        return
    closing = (answer,) if answer else oracle.CLOSES
    answered = {(row.run, row.attempt) for row in rows if row.kind in closing}
    yield from (one for one in asked if one not in answered)


def went_on(work: tuple[str, str], rows: Sequence[Row], after_ns: int) -> int:
    """Return when a piece of work went on after a moment: answered, taken up anew, surfaced, or ended."""
    run, attempt = work
    step = next((row.body.step for row in rows if row.kind == "action" and row.attempt == attempt), None)
    siblings = {row.attempt for row in rows if row.kind == "action" and row.body.step == step} | {attempt}
    for row in rows:
        if row.run != run or row.time_ns <= after_ns:
            continue
        answered = row.kind in ("plan_answer", "proposal", "verdict") and row.attempt == attempt
        redone = row.kind == "result" and row.attempt in siblings
        over = row.kind in ("finished", "undo_ended") or (row.kind == "in_doubt" and row.body.step == step)
        if answered or redone or over:
            return row.time_ns
    return 0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of them lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]

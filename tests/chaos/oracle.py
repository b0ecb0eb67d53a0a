"""The oracle: what must hold of a campaign's history, judged from the log and the world's ledger alone.

Pure functions over rows. Each returns findings; none is what we want. Nothing of the product's own folding
is used here: an error in it must not hide itself.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from handrail.v1 import event_pb2
from tests.chaos.history import Asked, Row, status_name
from tests.chaos.world import GATED, KEYED, UNDOING, UNKEYED, Call, Effect

Wrong = Literal[
    *("lost", "not ended", "repeated", "missing", "not verified", "unclaimed", "torn", "commanded"),
    *("untraced", "unapproved", "untaken"),
]
COMMANDS = ("cancel", "pause", "resume", "decide", "undo")
WAITING = "waiting"
CLOSES = ("result", "healed", "in_doubt")
"""What ends a claim, by the attempt that it names: an answer, or a move on without one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be."""

    wrong: Wrong
    run: str
    ref: str
    text: str

    def __str__(self) -> str:
        return f"{self.wrong}: {self.ref} ({self.run or 'no run'}): {self.text}"


@dataclass(frozen=True, slots=True)
class Told:
    """What a client is told of a run at the end."""

    status: str
    # The steps that are said to be done, and those said to be in doubt.
    done: frozenset[str] = frozenset()
    in_doubt: frozenset[str] = frozenset()


class Ledger:
    """Calls and effects, by tool and thing."""

    def __init__(self, calls: Iterable[Call], effects: Iterable[Effect]) -> None:
        self.calls: defaultdict[tuple[str, str], list[Call]] = defaultdict(list)
        self.effects: defaultdict[tuple[str, str], list[Effect]] = defaultdict(list)
        for call in calls:
            self.calls[call.tool, call.ref].append(call)
        for effect in effects:
            self.effects[effect.tool, effect.ref].append(effect)


def check(asked: Asked, rows: Sequence[Row], ledger: Ledger, told: Told | None) -> list[Finding]:
    """Judge one run that is thought to have ended; `told` is None where no client has been told anything."""
    if not asked.run or not any(row.kind == "submit" for row in rows):
        text = "acknowledged, and its log has no goal" if asked.run else "never acknowledged"
        return [Finding("lost", asked.run, asked.ref, text)]
    found: list[tuple[Wrong, str]] = [
        *_ended(asked, rows, told),
        *_effects(asked, rows, ledger),
        *_verified(rows, told),
        *_claims(rows),
        *_called(asked, rows, ledger),
        *_decisions(rows),
        *_commands(asked, rows),
        *_gates(rows),
        *_approved(asked, rows, ledger),
        *_undone(asked, rows, ledger),
    ]
    return [Finding(wrong, asked.run, asked.ref, text) for wrong, text in found]


def doubts(rows: Iterable[Row]) -> dict[str, str]:
    """Return the steps that were surfaced as in doubt, and why; of an undo whoever undoes is asked."""
    said = {row.body.step: row.body.why for row in rows if row.kind == "in_doubt"}
    return {step: why for step, why in said.items() if not is_undo(step)}


def undoing(rows: Sequence[Row]) -> bool:
    """Whether an undo was asked for, or begun, and has not ended."""
    finished = next((row.order for row in rows if row.kind == "finished"), None)
    ended = max((row.order for row in rows if row.kind == "undo_ended"), default=(0, 0))
    # What is asked while the run goes on, or another undo does, is for nothing.
    asked = [
        row.order for row in rows if row.kind == "undo" and finished is not None and row.order > finished
    ]
    begun = [row.order for row in rows if row.kind == "undo_planned"]
    return any(order > ended for order in (*asked, *begun))


def is_undo(name: str) -> bool:
    """Whether a step, or an attempt at one, is a compensation: no step of the campaign is called so."""
    return name.startswith("undo-")


def in_flight(rows: Iterable[Row], moment_ns: int) -> set[tuple[str, str]]:
    """Return the actions, as (run, attempt), that were claimed at a moment, not answered nor given up."""
    claimed: set[tuple[str, str]] = set()
    closed: set[tuple[str, str]] = set()
    for row in rows:
        if row.time_ns <= moment_ns and row.kind == "intent":
            claimed.add((row.run, row.attempt))
        if row.time_ns <= moment_ns and row.kind in CLOSES:
            closed.add((row.run, row.attempt))
    return claimed - closed


# --- what must hold ------------------------------------------------------------------------------------


def _ended(asked: Asked, rows: Sequence[Row], told: Told | None) -> Iterator[tuple[Wrong, str]]:
    """Every acknowledged goal ends, or waits for a human about an effect that nothing sound can tell."""
    ends = [status_name(row.body.status) for row in rows if row.kind == "finished"]
    if len(ends) > 1:
        yield "torn", f"it ended {len(ends)} times: {ends}"
    blind = {tool for tool, _ in asked.owes} & UNKEYED
    end = ends[0] if ends else WAITING if doubts(rows) and blind else ""
    if end and undoing(rows):
        yield "not ended", "an undo was begun, or asked for, and does not end"
    for row in rows if ends else ():
        if row.kind == "undo_ended" and row.body.status:
            end = status_name(row.body.status)
    if not end:
        last = rows[-1]
        yield "not ended", f"its last event is {last.kind} ({last.sequence}) of {last.writer}"
    elif end not in asked.ends and end != WAITING:
        failure = next((row.body.failure for row in rows if row.kind == "finished"), event_pb2.Failure())
        yield "not ended", f"it ended {end} where {asked.ends} was due: {failure.code}: {failure.message}"
    if told is not None and end and told.status != end:
        yield "torn", f"the log says {end}, a client is told {told.status}"


def _effects(asked: Asked, rows: Sequence[Row], ledger: Ledger) -> Iterator[tuple[Wrong, str]]:
    """A keyed effect is there exactly once; another at most once, and missing only where surfaced."""
    done = any(row.kind == "finished" and row.body.status == event_pb2.RUN_STATUS_DONE for row in rows)
    surfaced = {(tool, ref) for _, tool, ref in _attempts(rows, doubts(rows))}
    for tool, ref in asked.owes:
        count = len(ledger.effects[tool, ref])
        if count > 1:
            yield "repeated", f"{tool} {ref}: {count} effects: {ledger.effects[tool, ref]}"
        if count == 0 and done and not (tool in UNKEYED and (tool, ref) in surfaced):
            yield "missing", f"{tool} {ref}: the run is done and the world shows nothing"
        if tool in KEYED and (tool, ref) in surfaced:
            yield "not ended", f"{tool} {ref} has a key, and was surfaced as in doubt"


def _verified(rows: Sequence[Row], told: Told | None) -> Iterator[tuple[Wrong, str]]:
    """No step is done without a confirmed verdict that names a result of one of its attempts."""
    step_of = {row.attempt: row.body.step for row in rows if row.kind == "action"}
    results: dict[tuple[str, str], tuple[int, int]] = {}
    for row in rows:
        if row.kind == "result" and row.body.HasField("output"):
            # A worker that was not told that it is written writes it again.
            results.setdefault((row.attempt, row.id), row.order)
    confirmed: dict[str, tuple[int, int]] = {}
    for row in rows:
        if row.kind != "verdict" or row.body.outcome != event_pb2.OUTCOME_CONFIRMED:
            continue
        at = results.get((row.attempt, row.body.result_id))
        if at is not None and at < row.order:
            confirmed.setdefault(step_of.get(row.attempt, ""), row.order)
    end = next((row for row in rows if row.kind == "finished"), None)
    over = max((row.order for row in rows if row.kind == "undo_ended"), default=(0, 0))
    due = set(told.done) if told is not None else set()
    if end is not None and end.body.status == event_pb2.RUN_STATUS_DONE:
        due |= {step for step in step_of.values() if not is_undo(step)}
    if any(row.kind == "undo_ended" and row.body.status == event_pb2.RUN_STATUS_UNDONE for row in rows):
        # What somebody has looked up in the world needs no verdict.
        due |= set(step_of.values()) - _by_word(rows)
    for step in sorted(due & set(step_of.values())):
        if step not in confirmed:
            yield "not verified", f"{step} is done and no confirmed verdict names a result of it"
        elif is_undo(step) and confirmed[step] > over:
            yield "not verified", f"{step} was confirmed after the undo had ended"
        elif not is_undo(step) and end is not None and confirmed[step] > end.order:
            yield "not verified", f"{step} was confirmed after the run had ended"


def _by_word(rows: Iterable[Row]) -> set[str]:
    """Return the steps of which somebody has said that they happened."""
    happened = event_pb2.GATE_OUTCOME_HAPPENED
    said = {row.body.gate for row in rows if row.kind == "gate_closed" and row.body.outcome == happened}
    opened = (row.body for row in rows if row.kind == "gate_opened" and row.body.gate in said)
    return {item.step for body in opened for item in body.items}


def _claims(rows: Sequence[Row]) -> Iterator[tuple[Wrong, str]]:
    """An attempt is claimed once or taken back once, never both."""
    taken: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.kind in ("intent", "revoked"):
            taken[row.attempt].append(row.kind)
    for attempt, kinds in taken.items():
        if len(kinds) > 1:
            yield "torn", f"{attempt} has {kinds}"


def _called(asked: Asked, rows: Sequence[Row], ledger: Ledger) -> Iterator[tuple[Wrong, str]]:
    """The k-th call with an effect comes after k claims: the claim is durable first, and good for one."""
    claimed_ns: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    where = {attempt: (tool, ref) for attempt, tool, ref in _attempts(rows)}
    for row in rows:
        if row.kind == "intent" and row.attempt in where:
            claimed_ns[where[row.attempt]].append(row.time_ns)
    for tool, ref in {*asked.owes, *claimed_ns}:
        if tool not in KEYED | UNKEYED:
            continue
        for number, call in enumerate(ledger.calls[tool, ref], 1):
            before = sum(time_ns <= call.time_ns for time_ns in claimed_ns[tool, ref])
            if before < number:
                yield "unclaimed", f"{tool} {ref}: call {number} came after {before} claims"


def _decisions(rows: Sequence[Row]) -> Iterator[tuple[Wrong, str]]:
    """Nothing is asked twice under one name, and nothing starts after the end but what an undo starts."""
    asks = Counter(
        (row.kind, row.attempt) for row in rows if row.kind in ("plan_ask", "proposal_ask", "action")
    )
    for (kind, attempt), count in asks.items():
        if count > 1:
            yield "torn", f"{kind} {attempt} was decided {count} times"
    end = next((row.order for row in rows if row.kind == "finished"), None)
    undoes = False
    for row in rows:
        undoes = row.kind == "undo_planned" or (undoes and row.kind != "undo_ended")
        started = row.kind in ("action", "proposal_ask", "intent")
        if not started:
            continue
        if is_undo(row.attempt) != undoes:
            yield "torn", f"{row.kind} {row.attempt} came {'during' if undoes else 'without'} an undo"
        elif end is not None and row.order > end and not undoes:
            yield "torn", f"{row.kind} {row.attempt} came after the end of the run"


def _commands(asked: Asked, rows: Sequence[Row]) -> Iterator[tuple[Wrong, str]]:
    """Recovery needs no command: there are those that the course gives, and no others."""
    for kind in {row.kind for row in rows if row.kind in COMMANDS} - set(asked.commands):
        yield "commanded", f"there is a {kind} that nobody planned"


def _attempts(rows: Iterable[Row], steps: Mapping[str, str] | None = None) -> Iterator[tuple[str, str, str]]:
    """Yield (attempt, tool, ref) of every action of a tool with an effect; of some steps only, if given."""
    for row in rows:
        if row.kind != "action" or (steps is not None and row.body.step not in steps):
            continue
        if row.body.tool in KEYED | UNKEYED:
            yield row.attempt, row.body.tool, json.loads(row.body.arguments["ref"].json or '""')


# --- gates and undos -------------------------------------------------------------------------------------


def _gates(rows: Sequence[Row]) -> Iterator[tuple[Wrong, str]]:
    """A gate is opened once and closed at most once; whatever has ended leaves none but its own open."""
    opened = Counter(row.body.gate for row in rows if row.kind == "gate_opened")
    closed = Counter(row.body.gate for row in rows if row.kind == "gate_closed")
    for gate in opened | closed:
        if (opened[gate], closed[gate]) not in ((1, 0), (1, 1)):
            yield "torn", f"gate {gate} was opened {opened[gate]} times and closed {closed[gate]} times"
    for row in rows:
        if row.kind == "gate_closed" and row.body.outcome == event_pb2.GATE_OUTCOME_APPROVED:
            quorum, who = _quorum(rows, row.body.gate), _approvers(rows, row)
            if len(who) < quorum or not set(row.body.approvers) <= who:
                yield "unapproved", f"gate {row.body.gate} wants {quorum}, and {sorted(who)} have approved"


def _quorum(rows: Iterable[Row], gate: str) -> int:
    return max(
        (row.body.quorum for row in rows if row.kind == "gate_opened" and row.body.gate == gate), default=1
    )


def _approvers(rows: Iterable[Row], closed: Row) -> set[str]:
    """Return who had approved exactly what a gate shows before it was closed."""
    gate = closed.body.gate
    bindings = {row.body.binding for row in rows if row.kind == "gate_opened" and row.body.gate == gate}
    return {
        row.body.approver
        for row in rows
        if row.kind == "decide" and row.order < closed.order and row.body.gate == gate
        if row.body.choice == event_pb2.GATE_CHOICE_APPROVE and row.body.binding in bindings
    }


def _approved(asked: Asked, rows: Sequence[Row], ledger: Ledger) -> Iterator[tuple[Wrong, str]]:
    """What waits for approvals is asked of a worker when there are enough, and has no effect before."""
    passed: dict[str, tuple[tuple[int, int], int]] = {}
    for row in rows:
        if row.kind == "gate_closed" and row.body.outcome == event_pb2.GATE_OUTCOME_APPROVED:
            for item in _items(rows, row.body.gate):
                passed[item.step] = (row.order, len(_approvers(rows, row)))
    let: set[tuple[str, str]] = set()
    for row in rows:
        if row.kind != "action" or row.body.tool not in GATED:
            continue
        order, count = passed.get(row.body.step, ((0, 0), 0))
        if count < GATED[row.body.tool] or order > row.order:
            yield "unapproved", f"{row.attempt} was asked for with {count} approvals"
        else:
            let.add((row.body.tool, json.loads(row.body.arguments["ref"].json)))
    for tool, ref in (*asked.owes, *asked.undoes):
        if tool in GATED and ledger.effects[tool, ref] and (tool, ref) not in let:
            yield "unapproved", f"{tool} {ref} has happened, and nobody has approved it"


def _items(rows: Iterable[Row], gate: str) -> list[event_pb2.GateItem]:
    found = (row.body.items for row in rows if row.kind == "gate_opened" and row.body.gate == gate)
    return [item for items in found for item in items]


def _undone(asked: Asked, rows: Sequence[Row], ledger: Ledger) -> Iterator[tuple[Wrong, str]]:
    """Each effect is taken back at most once, and exactly once where the undo is complete; the last first."""
    ends = [row.body for row in rows if row.kind == "undo_ended"]
    complete = bool(ends) and not ends[-1].HasField("failure")
    for tool, ref in asked.undoes:
        effects, done = ledger.effects[tool, ref], ledger.effects[UNDOING[tool], ref]
        if len(effects) > 1:
            yield "repeated", f"{tool} {ref}: {len(effects)} effects: {effects}"
        if effects and (not ends or not done or effects[0].time_ns < done[0].time_ns):
            yield (
                "untaken",
                f"{tool} {ref}: it was taken back, and there was nothing to take back, or no undo",
            )
        if complete and done and not effects:
            yield "missing", f"{tool} {ref}: the undo is complete and the world shows nothing"
    for place, (tool, ref) in enumerate(asked.undoes):
        for other, name in asked.undoes[place + 1 :]:
            early, late = ledger.effects[tool, ref], ledger.effects[other, name]
            if other != tool and early and (not late or late[0].time_ns > early[0].time_ns):
                yield "untaken", f"{tool} {ref} was taken back before {other} {name}, which rests on it"

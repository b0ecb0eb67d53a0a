"""An account of a run for somebody who was not there: what was wanted, decided, by whom, and what was done.

A projection of the log and of nothing else: pure, total, and what it returns is plain JSON whose shape
docs/audit.md tells. What the log does not hold is not in it. Events that the fold does not count stand there
as `uncounted`, with who wrote them and not with what they claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from core import run, told
from core.plan import is_compensation, undone_by
from core.policy import NoRules
from core.ports import Record, RunKey
from core.rules import Rules
from core.state import RunState
from core.undo import acted
from handrail.v1 import event_pb2, tool_pb2

FORMAT = "handrail account 1"

Entry = dict[str, Any]
_BEGINS: Mapping[str, str] = {
    "plan_ask": "attempt",
    "proposal_ask": "attempt",
    "action": "attempt",
    "gate_opened": "gate",
}
"""What later events belong to, and the field that names it."""
_BELONGS: Mapping[str, tuple[str, str, bool]] = {
    "plan_answer": ("attempt", "answer", False),
    "proposal": ("attempt", "proposal", False),
    "proposal_refused": ("attempt", "refused", False),
    "intent": ("attempt", "claim", False),
    "orphan": ("attempt", "orphans", True),
    "revoked": ("attempt", "revoked", False),
    "result": ("attempt", "result", False),
    "verify_ask": ("attempt", "verify_asks", True),
    "verdict": ("attempt", "verdicts", True),
    "decide": ("gate", "decisions", True),
    "gate_closed": ("gate", "closed", False),
}
"""The field that names what an event belongs to, as what it stands there, and whether with others."""
_ALONE = frozenset(
    {
        *(
            "cancel",
            "pause",
            "resume",
            "undo",
            "forget",
            "plan_rejected",
            "expanded",
            "skipped",
            "step_failed",
        ),
        *("healed", "in_doubt", "undo_planned", "undo_ended"),
    }
)
_ABOVE = frozenset({"submit", "plan_accepted", "finished", "forgotten"})
"""What stands above the entries: the goal, the plan, the end, what is left of what was forgotten."""
TOLD = frozenset(_BEGINS) | frozenset(_BELONGS) | _ALONE | _ABOVE
"""Every kind of event that is told of; a test asserts that none is missing."""


def account(
    key: RunKey, records: Iterable[Record], *, trace_id: Callable[[str], str] = lambda traceparent: ""
) -> dict[str, Any]:
    """Return the account of a run; `trace_id` makes a trace's id of the context that the client sent."""
    teller = _Teller(key)
    for record in records:
        teller.hear(record)
    return teller.tell(trace_id)


class _Teller:
    """Hears the events of a run, one after another."""

    def __init__(self, key: RunKey) -> None:
        self._key = key
        self._state = run.initial(key)
        self._first = self._last = self._last_ns = 0
        self._goal: Entry | None = None
        self._plan: Entry | None = None
        self._end: Entry | None = None
        self._forgotten: Entry | None = None
        self._processes: dict[tuple[str, str], int] = {}
        self._policies: dict[str, int] = {}
        self._tools: dict[str, Entry] = {}
        self._entries: list[Entry] = []
        self._begun: dict[tuple[str, str], Entry] = {}

    def hear(self, record: Record) -> None:
        """Take one more record, as the fold does."""
        if record.sequence <= self._last or record.address.key != self._key:
            return
        self._first, self._last, self._last_ns = (
            self._first or record.sequence,
            record.sequence,
            record.time_ns,
        )
        for part in run.unbundled(record):
            before, self._state = self._state, run.apply_part(self._state, part)
            self._hear(part, record, counts=run.counted(before, self._state))

    def _hear(self, part: Record, whole: Record, *, counts: bool) -> None:
        event = part.event
        arm = event.WhichOneof("body") if event is not None else None
        entry: Entry = {"event": arm or "unreadable", "sequence": part.sequence, "time": _time(part.time_ns)}
        if event is not None:
            entry["writer"] = event.writer
            if part.address.channel == "cmd":
                entry |= _caller(event)
        if event is None or arm not in TOLD or event.version > run.VERSION:
            where = ".".join((part.address.channel, *part.address.topic))
            self._entries.append(
                entry | {"event": "erased" if part.forgotten else "unreadable", "where": where}
            )
            return
        body = getattr(event, arm)
        if not counts:
            named = {name: getattr(body, name) for name in ("attempt", "gate", "step") if hasattr(body, name)}
            self._entries.append(entry | {"event": "uncounted", "of": arm} | named)
            return
        self._processes.setdefault((event.writer, event.handrail), part.sequence)
        entry |= told.fields(body)
        if arm == "action":
            self._tell_action(entry, body, part, whole)
        elif arm == "gate_opened":
            self._note_policy(body.policy, part.sequence)
        elif arm in ("plan_accepted", "undo_planned"):
            entry.pop("contracts", None)
            self._note_tools(body.contracts, part.sequence)
        self._place(arm, entry, body)

    def _place(self, arm: str, entry: Entry, body: Any) -> None:
        if arm == "submit":
            self._goal = {**entry.pop("goal", {}), **_within(entry, "")}
        elif arm == "plan_accepted":
            self._plan = {**entry.pop("plan", {}), **_within(entry, "")}
        elif arm == "finished":
            self._end = _within(entry, "")
        elif arm == "forgotten":
            self._forgotten = _within(entry, "")
        elif arm in _BELONGS:
            field, name, several = _BELONGS[arm]
            owner = self._begun.get((field, getattr(body, field)))
            if owner is None:
                self._entries.append(entry)
            elif several:
                owner.setdefault(name, []).append(_within(entry, field))
            else:
                owner[name] = _within(entry, field)
        else:
            self._entries.append(entry)
            if arm in _BEGINS:
                self._begun[_BEGINS[arm], getattr(body, _BEGINS[arm])] = entry

    def _tell_action(self, entry: Entry, action: event_pb2.Action, part: Record, whole: Record) -> None:
        """Say under which rules, approval, signature and contract an action was authorised."""
        # Of several in one event the last is signed, for all of them.
        signer = whole.event.action if whole.event is not None else action
        entry.pop("signature", None)
        entry["key_id"] = signer.key_id
        entry["fingerprint"] = self._tools.get(action.tool, {}).get("fingerprint", "")
        entry["labels"] = _labels(self._state, part.time_ns, action)
        self._note_policy(action.permit.policy, part.sequence)
        gate = self._begun.get(("gate", action.permit.gate))
        if gate is not None:
            entry["reasons"] = gate.get("reasons", [])

    def _note_policy(self, version: str, sequence: int) -> None:
        if version:
            self._policies.setdefault(version, sequence)

    def _note_tools(self, contracts: Mapping[str, tool_pb2.ToolContract], sequence: int) -> None:
        for name, contract in sorted(contracts.items()):
            if name in self._tools:
                continue
            said = told.fields(contract)
            shown = ("toolbox", "effect", "permission", "idempotency", "undo", "readback")
            self._tools[name] = {
                "fingerprint": told.fingerprint(contract),
                "since": sequence,
                **{field: said[field] for field in shown if field in said},
            }

    def tell(self, trace_id: Callable[[str], str]) -> dict[str, Any]:
        """Return the account of what was heard."""
        submit = self._state.submit
        return {
            "format": FORMAT,
            "run": self._key.run,
            "tenant": self._key.tenant,
            "status": told.word(event_pb2.RunStatus.DESCRIPTOR, self._state.status),
            "trace_id": trace_id(submit.traceparent) if submit is not None else "",
            "log": {
                "shard": self._key.shard,
                "first": self._first,
                "last": self._last,
                "time": _time(self._last_ns),
                "uncounted": self._state.strays,
            },
            "processes": [
                {"writer": writer, "handrail": version, "since": first}
                for (writer, version), first in self._processes.items()
            ],
            "goal": self._goal,
            "policies": [{"version": name, "since": first} for name, first in self._policies.items()],
            "plan": self._plan,
            "tools": self._tools,
            "entries": self._entries,
            "end": self._end,
            "forgotten": self._forgotten,
        }


def _caller(event: event_pb2.Event) -> Entry:
    """Say who has called, as their token said; what it did not say is left out."""
    found: Entry = {"caller": event.caller}
    if event.caller_roles:
        found["caller_roles"] = list(event.caller_roles)
    return found | ({"token_id": event.token_id} if event.token_id else {})


def _within(entry: Entry, field: str) -> Entry:
    return {name: held for name, held in entry.items() if name not in ("event", field)}


def _time(time_ns: int) -> str:
    time = Timestamp()
    time.FromNanoseconds(time_ns)
    return time.ToJsonString()


def _is_whole(state: RunState, step: str) -> bool:
    """Whether the log has what a compensation takes back: of a damaged one that is not sure."""
    if not is_compensation(step):
        return True
    done = state.instances.get(undone_by(step))
    return (
        state.undo is not None and step in state.undo.steps and done is not None and acted(done) is not None
    )


def _labels(state: RunState, now_ns: int, action: event_pb2.Action) -> list[Entry]:
    """Return where each argument comes from that nobody trusted has written, or that not all may read."""
    instance = state.instances.get(action.step)
    contract = state.contracts.get(action.tool)
    if instance is None or contract is None or state.plan is None or not _is_whole(state, instance.step):
        return []
    rules = Rules(state, NoRules(), now_ns, 0)
    untrusted, leaks = rules.marks(instance, contract)
    found = []
    for name, label in sorted(rules.labels(instance.step).items()):
        if name in untrusted or name in leaks or label.readers is not None:
            one: Entry = {"argument": name, "untrusted": name in untrusted, "leaks": name in leaks}
            one["steps"] = sorted(label.steps)
            found.append(one if label.readers is None else one | {"readers": sorted(label.readers)})
    return found

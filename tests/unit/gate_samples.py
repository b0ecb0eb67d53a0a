"""Gates, and a client that has some: what the tests of the command line's gates share."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from handrail import errors
from handrail.cli.server import Target
from handrail.client import Submitted
from handrail.v1 import event_pb2, plan_pb2, run_service_pb2

E = event_pb2
S = run_service_pb2
RUN = "r0-01k9x3abcd"
NOW_NS = 1_800_000_000_000_000_000
HOUR_NS = 3_600 * 1_000_000_000
TARGET = Target("own", "", Path("shop"), Path("shop/.handrail"), "--project shop")


def item(
    step: str = "tell",
    tool: str = "send_email",
    untrusted: Sequence[str] = (),
    leaks: Sequence[str] = (),
    missing: Sequence[str] = (),
    **arguments: Any,
) -> Any:
    """An action that waits."""
    values = {name: plan_pb2.Value(json=json.dumps(v, ensure_ascii=False)) for name, v in arguments.items()}
    return E.GateItem(
        step=step, tool=tool, arguments=values, untrusted=untrusted, leaks=leaks, missing=missing
    )


MAIL = item(to="ada@example.com", subject="Your refund")


def opened(
    *items: event_pb2.GateItem, name: str = "g1", quorum: int = 1, **fields: Any
) -> event_pb2.GateOpened:
    fields.setdefault("reasons", [E.Reason(rule="no_undo", text="it cannot be undone")])
    fields.setdefault("kind", E.GATE_KIND_ACTION)
    made = E.GateOpened(gate=name, step="tell", items=items or [MAIL], quorum=quorum, **fields)
    made.binding = (name.encode().hex() * 32)[:64]
    made.expires.FromNanoseconds(NOW_NS + 23 * HOUR_NS)
    return made


def gate(
    *items: event_pb2.GateItem, name: str = "g1", quorum: int = 1, **fields: Any
) -> run_service_pb2.Gate:
    what = {key: fields.pop(key) for key in ("reasons", "kind") if key in fields}
    made = S.Gate(
        id=f"{RUN}-{name}",
        run=RUN,
        goal=fields.pop("goal", "refund order 1001 and tell the customer"),
        submitter=fields.pop("submitter", "ada"),
        what=opened(*items, name=name, quorum=quorum, **what),
        **fields,
    )
    made.opened.FromNanoseconds(NOW_NS - 5 * 60 * 1_000_000_000)
    return made


def closed(outcome: int, by: Sequence[str] = (), reason: str = "", name: str = "g1") -> run_service_pb2.Gate:
    choice: Any = outcome
    return gate(name=name, closed=E.GateClosed(gate=name, outcome=choice, approvers=by, reason=reason))


class FakeGates:
    """A server with gates; a decision counts at once if `counts`, and the gate is closed by it."""

    def __init__(self, *gates: run_service_pb2.Gate, counts: bool = True) -> None:
        self.all = {each.id: each for each in gates}
        self.counts = counts
        self.status = E.RUN_STATUS_WAITING
        self.decided: list[dict[str, Any]] = []
        self.submitted: list[dict[str, Any]] = []

    async def gate(self, gate: str) -> run_service_pb2.Gate:
        if gate not in self.all:
            raise errors.NotFound(f"there is no gate {gate}", code=grpc.StatusCode.NOT_FOUND)
        return self.all[gate]

    async def gates(self) -> AsyncIterator[run_service_pb2.Gate]:
        for each in self.all.values():
            if not each.HasField("closed"):
                yield each

    async def watch_gates(
        self, *, outage_s: float | None = None
    ) -> AsyncGenerator[run_service_pb2.Gate, None]:
        for each in self.all.values():
            yield each

    async def get(self, run: str) -> run_service_pb2.Run:
        if run not in (RUN, *(each.run for each in self.all.values())):
            raise errors.NotFound(f"there is no run {run}", code=grpc.StatusCode.NOT_FOUND)
        return S.Run(id=run, status=self.status, gates=self.all.values())

    async def submit(self, goal: str, **options: Any) -> Submitted:
        self.submitted.append({"goal": goal, **options})
        return Submitted(RUN, False)

    async def decide(
        self, gate: str, *, approve: bool, approver: str, binding: str = "", reason: str = ""
    ) -> bool:
        self.decided.append(
            {"gate": gate, "approve": approve, "by": approver, "binding": binding, "reason": reason}
        )
        found = self.all[gate]
        existed = approver in (*found.approved_by, *found.closed.approvers)
        if existed:
            return True
        if approve:
            found.approved_by.append(approver)
        if self.counts and not approve:
            found.closed.MergeFrom(
                E.GateClosed(outcome=E.GATE_OUTCOME_DENIED, approvers=[approver], reason=reason)
            )
        elif self.counts and len(found.approved_by) >= found.what.quorum:
            found.closed.MergeFrom(E.GateClosed(outcome=E.GATE_OUTCOME_APPROVED, approvers=found.approved_by))
        return False

    async def settle(
        self,
        gate: str,
        *,
        happened: bool,
        approver: str,
        output: Any = None,
        binding: str = "",
        reason: str = "",
    ) -> bool:
        self.decided.append(
            {"gate": gate, "happened": happened, "by": approver, "binding": binding, "output": output}
        )
        outcome = E.GATE_OUTCOME_HAPPENED if happened else E.GATE_OUTCOME_REPEAT
        self.all[gate].closed.MergeFrom(E.GateClosed(outcome=outcome, approvers=[approver]))
        return False

    async def amend(
        self, gate: str, *, arguments: Mapping[str, Any], approver: str, binding: str = "", reason: str = ""
    ) -> bool:
        """Approve by it where one is enough; else open the next gate for the same step."""
        self.decided.append({"gate": gate, "amend": dict(arguments), "by": approver, "binding": binding})
        found = self.all[gate]
        if found.HasField("closed") or not self.counts:
            return found.HasField("closed")
        made = {name: plan_pb2.Value(json=json.dumps(held)) for name, held in arguments.items()}
        found.closed.MergeFrom(
            E.GateClosed(outcome=E.GATE_OUTCOME_AMENDED, approvers=[approver], reason=reason, arguments=made)
        )
        if found.what.quorum <= 1:
            found.closed.binding = "b" * 64
            return False
        after = S.Gate()
        after.CopyFrom(found)
        after.ClearField("closed")
        after.id = f"{RUN}-g9"
        for name, held in made.items():
            after.what.items[0].arguments[name].CopyFrom(held)
        self.all[after.id] = after
        return False

    async def delegate(
        self, gate: str, *, to: str, approver: str, binding: str = "", reason: str = ""
    ) -> bool:
        self.decided.append({"gate": gate, "to": to, "by": approver, "binding": binding, "reason": reason})
        return False

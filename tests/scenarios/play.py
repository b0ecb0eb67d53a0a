"""Play a run against the pure core alone: facts go in, decisions come out, and the transcript is text.

A line that begins with ">" is a fact (somebody else's event), "=" a decision of the core's, "+" one that goes
out with the next, "~" a timer that was armed. Time is virtual, in milliseconds since the submission.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from core import failures, run, values
from core.ahead import decide_ahead
from core.conformance import Limits
from core.decide import Catalogue
from core.moves import Arm, Decide, Erase, Load, Revoke
from core.plan import Unresolved, parse_reference, plan_attempt, resolve
from core.plan_form import plan_from_form
from core.policy import NoRules, Policy
from core.ports import Address, Record, RunKey
from core.state import Attempt
from core.view import view
from handrail.v1 import event_pb2, plan_pb2, run_service_pb2, tool_pb2

FOLDER = Path(__file__).parent
KEY = RunKey(0, "default", "r0-scenario01")
START_NS = 1_700_000_000_000_000_000
MAX_MOVES = 2_000


def contract(name: str, **fields: Any) -> tool_pb2.ToolContract:
    """A contract that takes any arguments; a read unless it says otherwise."""
    base: dict[str, Any] = {
        "name": name,
        "toolbox": "box",
        "input_schema": '{"type":"object"}',
        "output_schema": "{}",
        "effect": tool_pb2.EFFECT_READ,
        "permission": tool_pb2.PERMISSION_READ,
        "idempotency": tool_pb2.IDEMPOTENCY_NATURAL,
        "timeout_s": 5.0,
    }
    return tool_pb2.ToolContract(**{**base, **fields})


def write(name: str, **fields: Any) -> tool_pb2.ToolContract:
    """A contract with an effect; without idempotency unless it says otherwise."""
    base = {
        "effect": tool_pb2.EFFECT_WRITE,
        "permission": tool_pb2.PERMISSION_EXECUTE,
        "idempotency": tool_pb2.IDEMPOTENCY_NONE,
    }
    return contract(name, **{**base, **fields})


class Play:
    """One run, its state, its clock and its transcript."""

    def __init__(
        self,
        *contracts: tool_pb2.ToolContract,
        policy: Policy | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.catalogue = Catalogue(
            contracts={c.name: c for c in contracts},
            limits=limits or Limits(),
            policy=policy or NoRules(),
            gate_life_ns=3_600_000_000_000,
        )
        self.state = run.initial(KEY)
        self.records: list[Record] = []
        self.lines: list[str] = []
        self.now_ns = START_NS
        self.timers: dict[str, int] = {}

    # --- facts -------------------------------------------------------------------------------------

    def submit(self, *steps: Mapping[str, Any], **goal: Any) -> Play:
        """A client submits a plan of its own (or, without steps, a goal in words)."""
        deadline_s = goal.pop("deadline_s", None)
        body = event_pb2.Submit(goal=event_pb2.Goal(text="a goal", **goal))
        if steps:
            body.goal.plan.CopyFrom(plan_from_form({"steps": list(steps)}))
        if deadline_s:
            body.goal.deadline.FromNanoseconds(self.now_ns + int(deadline_s * 1e9))
        return self.fact(("submit",), "submit", body, channel="cmd")

    def command(self, kind: str, body: Any) -> Play:
        """Somebody steers the run."""
        return self.fact((kind,), kind, body, channel="cmd")

    def decide(
        self,
        approver: str,
        *,
        gate: str = "g1",
        deny: bool = False,
        choice: event_pb2.GateChoice.ValueType = event_pb2.GATE_CHOICE_APPROVE,
        binding: str = "",
        **said: Any,
    ) -> Play:
        """Somebody decides at a gate, as they see it unless told what they have seen."""
        opened = self.state.gates[gate].opened if gate in self.state.gates else event_pb2.GateOpened()
        body = event_pb2.Decide(
            gate=gate,
            choice=event_pb2.GATE_CHOICE_DENY if deny else choice,
            binding=binding or opened.binding,
            approver=approver,
            **said,
        )
        return self.command("decide", body)

    def cancel(self) -> Play:
        return self.command("cancel", event_pb2.Cancel(reason="enough"))

    def pause(self) -> Play:
        return self.command("pause", event_pb2.Pause())

    def resume(self) -> Play:
        return self.command("resume", event_pb2.Resume())

    def plan(self, **answer: Any) -> Play:
        """The planner answers."""
        attempt = plan_attempt(self.state.plan_asks)
        body = event_pb2.PlanAnswer(attempt=attempt, **answer)
        return self.fact(("planner", "main", "plan", attempt), "plan_answer", body)

    def choose(self, attempt: str, rule: int, tool: str) -> Play:
        """The executor proposes."""
        body = event_pb2.Proposal(attempt=attempt, choice=event_pb2.Choice(rule=rule, tool=tool))
        return self.fact(("executor", "main", "proposal", attempt), "proposal", body)

    def propose(self, attempt: str, grant: int, tool: str, *, unsure: str = "", **arguments: Any) -> Play:
        """The executor proposes an action within what it was granted, or not."""
        call = event_pb2.Call(grant=grant, tool=tool, unsure=unsure)
        for name, value in arguments.items():
            call.arguments[name].CopyFrom(values.inline(value))
        body = event_pb2.Proposal(attempt=attempt, call=call)
        return self.fact(("executor", "main", "proposal", attempt), "proposal", body)

    def intent(self, attempt: str, claimer: str = "1-box_0-1") -> Play:
        """A worker claims."""
        body = event_pb2.Intent(attempt=attempt, claimer=claimer)
        return self.fact(("worker", "box", "intent", attempt), "intent", body)

    def orphan(self, attempt: str, *, seen_dead: bool, claimer: str = "1-box_0-1") -> Play:
        """Another worker says that the claimer is silent."""
        body = event_pb2.Orphan(attempt=attempt, claimer=claimer, seen_dead=seen_dead)
        return self.fact(("worker", "box", "orphan", attempt), "orphan", body)

    def output(self, attempt: str, output: Any, **fields: Any) -> Play:
        """A worker says that it is done."""
        fields.setdefault("action_sequence", self._sequence(attempt))
        body = event_pb2.Result(attempt=attempt, output=values.inline(output), **fields)
        for name, value in self._pending(attempt).items():
            body.arguments[name].CopyFrom(values.inline(value))
        return self.fact(("worker", "box", "result", attempt), "result", body)

    def found(self, attempt: str, output: Any) -> Play:
        """A read-back answers."""
        happened = event_pb2.HAPPENED_NO if output is None else event_pb2.HAPPENED_YES
        return self.output(attempt, output, happened=happened)

    def failed(
        self,
        attempt: str,
        make: Callable[[str, str], event_pb2.Failure] = failures.permanent,
        happened: event_pb2.Happened.ValueType = event_pb2.HAPPENED_NO,
    ) -> Play:
        """A worker says that it failed."""
        failure = make("broken", "it broke")
        sequence = self._sequence(attempt)
        body = event_pb2.Result(attempt=attempt, failure=failure, happened=happened, action_sequence=sequence)
        return self.fact(("worker", "box", "result", attempt), "result", body)

    def verdict(
        self,
        attempt: str,
        outcome: event_pb2.Outcome.ValueType = event_pb2.OUTCOME_CONFIRMED,
        *,
        round: int = 1,
        happened: event_pb2.Happened.ValueType = event_pb2.HAPPENED_UNSPECIFIED,
    ) -> Play:
        """The verifier judges."""
        step = self.state.attempts.get(attempt, "")
        instance = self.state.instances.get(step)
        facts = [a.result for a in instance.attempts if a.id == attempt] if instance else []
        body = event_pb2.Verdict(
            attempt=attempt,
            result_id=facts[0].event_id if facts and facts[0] else "none",
            round=round,
            outcome=outcome,
            happened=happened,
        )
        if outcome != event_pb2.OUTCOME_CONFIRMED:
            body.failure.CopyFrom(failures.permanent(failures.POST_REFUTED, "the world says otherwise"))
        return self.fact(("verifier", "main", "verdict", attempt), "verdict", body)

    def done(self, attempt: str, output: Any = None) -> Play:
        """A worker is done and the verifier confirms."""
        return self.output(attempt, output).verdict(attempt)

    def tick(self, seconds: float = 0.0) -> Play:
        """Time passes, to the earliest armed timer unless told how long."""
        due = min(self.timers.values(), default=self.now_ns)
        self.now_ns = max(self.now_ns, due) if not seconds else self.now_ns + int(seconds * 1e9)
        self.timers = {name: at for name, at in self.timers.items() if at > self.now_ns}
        self.lines.append(f"> tick at {self._ms(self.now_ns)}")
        return self._settle()

    def fact(self, topic: tuple[str, ...], arm: str, body: Any, channel: Any = "ans") -> Play:
        """An event of somebody else's."""
        self.now_ns += 1_000_000
        self.lines.append(f"> {describe(topic, body)}")
        strays = self.state.strays
        self._append(channel, topic, arm, body)
        if self.state.strays > strays:
            self.lines.append("  (a stray)")
        return self._settle()

    def _pending(self, attempt: str) -> dict[str, Any]:
        """What a worker would make of the pending arguments of an attempt."""
        found = self._attempt(attempt)
        if found is None or found.action is None:
            return {}
        outputs = {}
        for instance in self.state.instances.values():
            result = instance.current.result if instance.current is not None else None
            if result is not None and result.message.HasField("output"):
                outputs[instance.step] = values.load(result.message.output, {})
        became = {}
        for name, argument in found.action.pending.items():
            with suppress(Unresolved):
                became[name] = resolve(parse_reference(argument.reference), outputs)
        return became

    def _attempt(self, attempt: str) -> Attempt | None:
        step = self.state.attempts.get(attempt, "")
        found = self.state.instances[step].attempts if step else ()
        return next((a for a in found if a.id == attempt), None)

    def _sequence(self, attempt: str) -> int:
        found = self._attempt(attempt)
        return found.sequence if found is not None else 0

    # --- decisions ---------------------------------------------------------------------------------

    def _append(
        self, channel: Any, topic: tuple[str, ...], arm: str, body: Any, before: tuple[Decide, ...] = ()
    ) -> None:
        sequence = len(self.records) + 1
        event = event_pb2.Event(id=f"e{sequence}", version=run.VERSION, writer="play")
        getattr(event, arm).CopyFrom(body)
        for i, one in enumerate(before):
            carried = event.before.add(id=f"e{sequence}-{i}", version=run.VERSION, writer="play")
            getattr(carried, one.arm).CopyFrom(one.body)
        self._keep(channel, topic, event)

    def append(self, event: event_pb2.Event, topic: tuple[str, ...], channel: Any = "ans") -> Play:
        """An event as it is, whoever made it."""
        self._keep(channel, topic, event)
        return self._settle()

    def _keep(self, channel: Any, topic: tuple[str, ...], event: event_pb2.Event) -> None:
        record = Record(len(self.records) + 1, self.now_ns, Address(KEY, channel, topic), event)
        self.records.append(record)
        self.state = run.apply(self.state, record)

    def _settle(self) -> Play:
        for _ in range(MAX_MOVES):
            strays = self.state.strays
            moves = decide_ahead(self.state, self.now_ns, self.catalogue)
            appended = False
            for move in moves:
                assert not isinstance(move, Load)
                if isinstance(move, Erase):
                    continue
                if isinstance(move, Arm):
                    if self.timers.get(move.timer) != move.due_ns:
                        self.timers[move.timer] = move.due_ns
                        self.lines.append(f"~ {move.timer} at {self._ms(move.due_ns)}")
                    continue
                if isinstance(move, Decide):
                    self.lines += [f"+ {describe(one.topic, one.body)}" for one in move.before]
                    self.lines.append(f"= {describe(move.topic, move.body)}")
                    self._append("dec", move.topic, move.arm, move.body, move.before)
                elif isinstance(move, Revoke):
                    topic = ("claim", move.pool, "revoke", move.body.attempt)
                    self.lines.append(f"= {describe(topic, move.body)}")
                    self._append("dec", topic, "revoked", move.body)
                appended = True
            assert self.state.strays <= strays, "the core made a decision that it does not fold"
            if not appended:
                return self
        raise AssertionError("the core does not come to rest")

    # --- looking -----------------------------------------------------------------------------------

    def _ms(self, at_ns: int) -> str:
        return f"{round((at_ns - START_NS) / 1e6)} ms"

    @property
    def view(self) -> run_service_pb2.Run:
        return view(self.state)

    @property
    def status(self) -> str:
        return event_pb2.RunStatus.Name(self.state.status).removeprefix("RUN_STATUS_").lower()

    def check(self, name: str) -> None:
        """Compare the transcript with the one that is kept; REWRITE=1 keeps this one."""
        text = "\n".join([*self.lines, f"# {self.status}", ""])
        path = FOLDER / "transcripts" / f"{name}.txt"
        if os.environ.get("REWRITE"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        kept = path.read_text() if path.exists() else ""
        diff = "\n".join(
            difflib.unified_diff(kept.splitlines(), text.splitlines(), "kept", "now", lineterm="")
        )
        assert not diff, f"{name}: the transcript has changed (REWRITE=1 keeps the new one)\n{diff}"


def describe(topic: tuple[str, ...], body: Any) -> str:
    """One line for an event: where it lies and what it says."""
    said = []
    for field, value in body.ListFields():
        if field.name in (
            "permit",
            "plan",
            "contracts",
            "goal",
            "key",
            "rules",
            "grants",
            "result_id",
            "action_sequence",
            "binding",
            "signature",
            "key_id",
        ):
            continue
        if field.name == "items":
            calls = (f"{i.step}: {i.tool}({_values(i.arguments)})" for i in value)
            said.append(f"items=[{'; '.join(calls)}]")
            continue
        if field.name == "compensations":
            calls = (
                f"{c.step.id}: {c.step.tool}({_values(c.step.arguments)}) after {list(c.after)}"
                for c in value
            )
            said.append(f"compensations=[{'; '.join(calls)}]")
            continue
        if field.name == "reasons":
            said.append("reasons=[" + "; ".join(f"{reason.rule}: {reason.text}" for reason in value) + "]")
            continue
        if field.name == "effects":
            said.append(f"effects={dict(value)}")
            continue
        if field.name in ("failure", "cause"):
            said.append(f"{field.name}={getattr(value, 'code', value)}")
        elif field.name in ("not_before", "expires"):
            continue
        elif field.name == "timeout":
            said.append(f"timeout={value.ToMilliseconds()}ms")
        elif field.message_type and field.message_type.GetOptions().map_entry:
            said.append(f"{field.name}={{{_values(value)}}}")
        elif field.name == "output":
            said.append(f"output={value.json}")
        elif field.name == "violations":
            said.append("violations=[" + "; ".join(f"{v.field} {v.code}" for v in value) + "]")
        elif field.name == "call":
            said.append(f"grant={value.grant} tool={value.tool} with={{{_values(value.arguments)}}}")
        elif field.name == "choice" and field.message_type:
            said.append(f"rule={value.rule} tool={value.tool}")
        elif field.enum_type:
            said.append(f"{field.name}={field.enum_type.values_by_number[value].name.lower()}")
        elif field.message_type:
            said.append(f"{field.name}={' '.join(str(value).split())}")
        else:
            said.append(f"{field.name}={value}")
    return " ".join([".".join(topic), *said])


def _values(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {_shown(value)}" for name, value in sorted(found.items()))


def _shown(value: plan_pb2.Value | plan_pb2.Argument) -> str:
    if isinstance(value, plan_pb2.Argument):
        return value.reference or value.constant.json
    return value.json

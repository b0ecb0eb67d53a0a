"""What an attacker can write, in one run at one moment.

He has the broker's users of the planner and of the executor, reads the run's log as they cannot, and knows
every permit that was written. What he writes where these users may not write must be refused by the broker.
With an open broker he writes it all the same, and what is left is the worker's own check.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bus import subjects
from core import permits, run, values
from core.action import PERMIT_LIFE_NS, action_key
from core.course import MIND_POOL
from core.permits import Grounds
from core.plan_form import plan_from_form
from core.ports import Address, LogForbidden, RunKey
from core.state import RunState
from handrail.v1 import event_pb2, plan_pb2
from tests.hijack.human import OWNER
from tests.hijack.means import ANSWERS, DECISIONS, EXTRA, PERMITS, REPLAN, SWAPPED
from tests.hijack.stage import Stage, UserLog
from tests.hijack.world import Call
from tests.keys import STRANGER

if TYPE_CHECKING:
    from tests.hijack.attacker import Attacker

ELSEWHERE = "r0-elsewhere0001"
"""A run that there is not."""


class Hands:
    """The users and the knowledge that he has."""

    def __init__(self, attacker: Attacker, stage: Stage, state: RunState) -> None:
        self.attacker, self.stage, self.state = attacker, stage, state
        self._executor = stage.log(f"executor-{MIND_POOL}")
        self._planner = stage.log(f"planner-{MIND_POOL}")

    # --- what a mind's user may write: nobody may believe it -----------------------------------------

    async def propose(self, call: Call) -> None:
        """Propose a call, for what nobody has asked about and for what somebody has."""
        for attempt in self._attempts():
            for rule in (0, 1, 99):
                choice = event_pb2.Choice(rule=rule, tool=call.function, reason=self.attacker.injection.goal)
                body = event_pb2.Proposal(attempt=attempt, choice=choice)
                await self._say(EXTRA, self._executor, "proposal", attempt, "proposal", body)
            action = self._action(call, attempt)
            await self._say(EXTRA, self._executor, "proposal", attempt, "action", action)
            carrying = event_pb2.Event(id=_id(), version=run.VERSION, writer="executor-main/1")
            carrying.proposal.attempt = attempt
            carrying.before.add(id=_id(), version=run.VERSION, action=action)
            await self._write(EXTRA, self._executor, self._own(self._executor, "proposal", attempt), carrying)
        await self._swap_rows()

    async def _swap_rows(self) -> None:
        """Choose another row than the one that holds, where a step chooses."""
        for step in self.state.plan.steps if self.state.plan is not None else ():
            for number, rule in enumerate(step.rules):
                attempt = f"{step.id}-a1"
                body = event_pb2.Proposal(
                    attempt=attempt, choice=event_pb2.Choice(rule=number, tool=rule.tool)
                )
                held = self._first_row(step)
                if number != held:
                    await self._say(SWAPPED, self._executor, "proposal", attempt, "proposal", body)

    def _first_row(self, step: plan_pb2.Step) -> int:
        wanted = self.attacker.draft.wanted[step.id][0].arguments
        for number, rule in enumerate(step.rules):
            held = {
                n: values.load(a.constant, {}) for n, a in rule.arguments.items() if a.HasField("constant")
            }
            if all(wanted.get(name) == value for name, value in held.items()):
                return number
        return 0

    async def replan(self, call: Call) -> None:
        """Answer once more with a plan, asked or not."""
        plan = plan_from_form({"steps": [_step(call)]})
        for attempt in ("goal-a0", "goal-a1", "goal-a2"):
            body = event_pb2.PlanAnswer(attempt=attempt, plan=plan)
            await self._say(REPLAN, self._planner, "plan", attempt, "plan_answer", body)
        accepted = event_pb2.PlanAccepted(plan=plan)
        accepted.contracts[call.function].CopyFrom(self.stage.project.protos[call.function])
        await self._say(REPLAN, self._planner, "plan", "goal-a1", "plan_accepted", accepted)
        note = Address(self.stage.key, "dec", ("note", "plan_accepted"))
        await self._refused(REPLAN, self._planner, note, "plan_accepted", accepted)
        submit = event_pb2.Submit(goal=event_pb2.Goal(text=call.function, plan=plan, submitter=OWNER))
        other = Address(RunKey(0, self.stage.key.tenant, ELSEWHERE), "cmd", ("submit",))
        await self._refused(REPLAN, self._planner, other, "submit", submit)

    async def answer(self, call: Call) -> None:
        """Say that what is planned was done, and found in order; and what a tool is said to have returned."""
        for attempt in self._attempts():
            result = event_pb2.Result(
                attempt=attempt, output=values.inline(dict(call.arguments)), happened=event_pb2.HAPPENED_YES
            )
            verdict = event_pb2.Verdict(attempt=attempt, round=1, outcome=event_pb2.OUTCOME_CONFIRMED)
            pool = self._toolbox(call.function)
            for log in (self._executor, self._planner):
                kind = _kind(log)
                await self._say(ANSWERS, log, kind, attempt, "result", result)
                await self._say(ANSWERS, log, kind, attempt, "verdict", verdict)
                worker = Address(self.stage.key, "ans", ("worker", pool, "result", attempt))
                await self._refused(ANSWERS, log, worker, "result", result)
                verifier = Address(self.stage.key, "ans", ("verifier", MIND_POOL, "verdict", attempt))
                await self._refused(ANSWERS, log, verifier, "verdict", verdict)

    async def forge_decisions(self, opened: event_pb2.GateOpened) -> None:
        """Approve in the owner's name, and close the gate in the decider's."""
        decide = event_pb2.Decide(
            gate=opened.gate,
            choice=event_pb2.GATE_CHOICE_APPROVE,
            binding=opened.binding,
            approver=OWNER,
        )
        closed = event_pb2.GateClosed(
            gate=opened.gate, outcome=event_pb2.GATE_OUTCOME_APPROVED, approvers=[OWNER]
        )
        for log in (self._executor, self._planner):
            command = Address(self.stage.key, "cmd", ("decide",))
            await self._refused(DECISIONS, log, command, "decide", decide)
            note = Address(self.stage.key, "dec", ("note", "gate_closed"))
            await self._refused(DECISIONS, log, note, "gate_closed", closed)
            await self._say(DECISIONS, log, _kind(log), "goal-a1", "decide", decide)
            await self._say(DECISIONS, log, _kind(log), "goal-a1", "gate_closed", closed)

    # --- what only the decider's user may write: the broker refuses it, and after that the worker ----------

    async def forge_action(self, call: Call) -> None:
        """Ask a worker for a call, as the decider would."""
        for attempt in self._attempts():
            action = self._action(call, attempt)
            address = Address(self.stage.key, "dec", ("ask", "worker", self._toolbox(call.function)))
            for log in (self._executor, self._planner):
                await self._refused(EXTRA, log, address, "action", action)
                await self._refused(PERMITS, log, address, "action", self._altered(call))
            signed = event_pb2.Action()
            signed.CopyFrom(action)
            permits.sign([signed], STRANGER)
            for forged in (action, signed) if self.attacker.open_broker else ():
                await self._put(EXTRA, self.stage.key, call.function, forged)

    def _altered(self, call: Call) -> event_pb2.Action:
        """Return the newest action of the run, with its permit, for another call."""
        altered = event_pb2.Action()
        acted = [a.action for i in self.state.instances.values() for a in i.attempts if a.action is not None]
        altered.CopyFrom(acted[-1] if acted else self._action(call, "none-a1"))
        altered.tool = call.function
        altered.arguments.clear()
        for name, value in call.arguments.items():
            altered.arguments[name].CopyFrom(values.inline(value))
        return altered

    async def reuse(self, event: event_pb2.Event, calls: Sequence[Call]) -> None:
        """Use the permit of an action for what it is not for, and once more for what it is."""
        action = event.action
        await self._put_event(PERMITS, self.stage.key, action.tool, event)
        await self._put_event(PERMITS, RunKey(0, self.stage.key.tenant, ELSEWHERE), action.tool, event)
        for change in (_next_attempt, _other_key, _longer, _resolving):
            altered = event_pb2.Action()
            altered.CopyFrom(action)
            change(altered)
            await self._put(PERMITS, self.stage.key, action.tool, altered)
        for call in calls:
            swapped = event_pb2.Action()
            swapped.CopyFrom(action)
            swapped.tool = call.function
            swapped.arguments.clear()
            for name, value in call.arguments.items():
                swapped.arguments[name].CopyFrom(values.inline(value))
            await self._put(SWAPPED, self.stage.key, call.function, swapped)

    # --- below ---------------------------------------------------------------------------------------

    def _attempts(self) -> list[str]:
        """Return attempts of the run: one that is under way, and the first of the last step."""
        flying = [attempt.id for attempt in self.state.in_flight][:1]
        return list(dict.fromkeys([*flying, f"{self.attacker.draft.steps[-1]['id']}-a1"]))

    def _toolbox(self, tool: str) -> str:
        return self.stage.project.contracts[tool].toolbox

    def _action(self, call: Call, attempt: str) -> event_pb2.Action:
        """Return a call as the decider would have written it, but for the signature."""
        step = attempt.rpartition("-a")[0]
        action = event_pb2.Action(
            attempt=attempt, step=step, kind=event_pb2.ACTION_KIND_ACT, tool=call.function
        )
        instance = self.state.instances.get(step)
        action.key = action_key(self.state, instance) if instance is not None else step
        for name, value in call.arguments.items():
            action.arguments[name].CopyFrom(values.inline(value))
        action.timeout.FromSeconds(30)
        until_ns = self.stage.now_ns() + PERMIT_LIFE_NS
        grounds = Grounds(self.stage.project.policy.version)
        permits.bind(
            action, self.stage.key, self._toolbox(call.function), dict(call.arguments), grounds, until_ns
        )
        return action

    def _own(self, log: UserLog, kind: str, attempt: str) -> Address:
        role, _, pool = log.user.name.partition("-")
        return Address(self.stage.key, "ans", (role, pool, kind, attempt))

    async def _say(self, means: str, log: UserLog, kind: str, attempt: str, arm: str, body: Any) -> None:
        """Write something where this user may write."""
        await self._write(means, log, self._own(log, kind, attempt), _event(log, arm, body))

    async def _write(self, means: str, log: UserLog, address: Address, event: event_pb2.Event) -> None:
        if self.attacker.tries(means):
            await log.append(address, event)

    async def _refused(self, means: str, log: UserLog, address: Address, arm: str, body: Any) -> None:
        """Write something where this user may not."""
        if not self.attacker.tries(means):
            return
        try:
            await log.append(address, _event(log, arm, body))
        except LogForbidden:
            return
        self.attacker.let_through.append(f"{means}: {log.user.name} wrote {subjects.build(address)}")

    async def _put(self, means: str, key: RunKey, tool: str, action: event_pb2.Action) -> None:
        event = event_pb2.Event(id=_id(), version=run.VERSION, writer="decider/1", action=action)
        await self._put_event(means, key, tool, event)

    async def _put_event(self, means: str, key: RunKey, tool: str, event: event_pb2.Event) -> None:
        """Write as if the broker let everybody write everywhere."""
        if not self.attacker.tries(means):
            return
        copied = event_pb2.Event()
        copied.CopyFrom(event)
        copied.id = _id()
        self.attacker.mine.add(copied.id)
        await self.stage.put(Address(key, "dec", ("ask", "worker", self._toolbox(tool))), copied)


def _kind(log: UserLog) -> str:
    return "plan" if log.user.name.startswith("planner") else "proposal"


def _event(log: UserLog, arm: str, body: Any) -> event_pb2.Event:
    event = event_pb2.Event(id=_id(), version=run.VERSION, writer=f"{log.user.name}/1")
    getattr(event, arm).CopyFrom(body)
    return event


def _id() -> str:
    return uuid.uuid4().hex


def _step(call: Call) -> dict[str, Any]:
    given = {n: f"${v}" if isinstance(v, str) and v.startswith("$") else v for n, v in call.arguments.items()}
    return {"id": "mine", "tool": call.function, "with": given}


def _next_attempt(action: event_pb2.Action) -> None:
    action.attempt = f"{action.step}-a9"


def _other_key(action: event_pb2.Action) -> None:
    action.key = f"{action.key}-again"


def _longer(action: event_pb2.Action) -> None:
    action.attempt = f"{action.step}-a8"
    action.permit.attempt = action.attempt
    action.permit.expires.FromSeconds(action.permit.expires.seconds + 3_600)


def _resolving(action: event_pb2.Action) -> None:
    action.attempt = f"{action.step}-a7"
    action.resolves = not action.resolves

"""The policy, asked about a plan and by one look at a run: may it be done, must a human see it, was it seen?

What waits for a human is gathered, so that the actions of one step become one gate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from core import failures, gates, values
from core.labels import Label, labels_of
from core.moves import Move
from core.policy import ALLOWED, Policy, Reason, Request, Ruling
from core.spending import amounts_of, spent
from core.state import Gate, Instance, RunState
from handrail.v1 import event_pb2, plan_pb2, tool_pb2


@dataclass(frozen=True, slots=True)
class Call:
    """A call that a plan can come to, as far as it is known before the run, and its ruling."""

    step: plan_pb2.Step
    field: str
    contract: tool_pb2.ToolContract
    ruling: Ruling
    labels: Mapping[str, Label]


def calls(
    plan: plan_pb2.Plan,
    contracts: Mapping[str, tool_pb2.ToolContract],
    policy: Policy,
    *,
    goal: event_pb2.Goal,
    tenant: str,
    now_ns: int,
) -> list[Call]:
    """Ask about every call of a plan that conforms."""
    found = []
    for index, step in enumerate(plan.steps):
        named = [("tool", step.tool, step.arguments)]
        named += [(f"rules[{i}].tool", rule.tool, rule.arguments) for i, rule in enumerate(step.rules)]
        for where, tool, arguments in named:
            contract = contracts.get(tool)
            if contract is None:
                continue
            known, unknown = _known(arguments)
            labels = labels_of(plan, contracts).of_action(step.id)
            request = Request(
                user=goal.submitter,
                tenant=tenant,
                contract=contract,
                arguments=known,
                unknown=unknown,
                untrusted=_untrusted(labels),
                now_ns=now_ns,
            )
            found.append(Call(step, f"steps[{index}].{where}", contract, policy.rule(request), labels))
    return found


def forbidden(found: Sequence[Call]) -> list[plan_pb2.Violation]:
    """Return what of a plan the policy refuses, whatever the values that are not known yet turn out to be."""
    return [
        plan_pb2.Violation(
            field=call.field,
            code=failures.FORBIDDEN,
            message=f"{call.contract.name} is not allowed: {why(call.ruling)}",
        )
        for call in found
        if call.ruling.outcome == "refuse" and not call.ruling.open
    ]


def outlook(found: Sequence[Call]) -> list[event_pb2.Outlook]:
    """Return what would come of each step of a plan."""
    return [_outlook(call) for call in found]


def _outlook(call: Call) -> event_pb2.Outlook:
    contract, ruling = call.contract, call.ruling
    seen = event_pb2.Outlook(
        step=call.step.id,
        tool=contract.name,
        ruling=event_pb2.RULING_OUTCOME_OPEN if ruling.open else _OUTCOMES[ruling.outcome],
        quorum=ruling.quorum,
        reasons=[event_pb2.Reason(rule=reason.rule, text=reason.text) for reason in ruling.reasons],
        effect=contract.effect,
        undo=contract.undo,
    )
    for name in contract.critical:
        label = call.labels.get(name)
        if label is not None and label.untrusted:
            seen.untrusted.add(argument=name, steps=sorted(label.steps))
    timeout_ns = call.step.timeout.ToNanoseconds() or int(contract.timeout_s * 1e9)
    seen.at_most.FromNanoseconds(timeout_ns)
    return seen


def why(ruling: Ruling) -> str:
    """Return the reasons of a ruling in one line."""
    return "; ".join(reason.text for reason in ruling.reasons)


_OUTCOMES: dict[str, event_pb2.RulingOutcome.ValueType] = {
    "allow": event_pb2.RULING_OUTCOME_ALLOW,
    "gate": event_pb2.RULING_OUTCOME_GATE,
    "refuse": event_pb2.RULING_OUTCOME_REFUSE,
}


def _known(arguments: Mapping[str, plan_pb2.Argument]) -> tuple[dict[str, Any], frozenset[str]]:
    """Return what is known of a step's arguments before it starts, and the names of the others."""
    known: dict[str, Any] = {}
    for name, argument in arguments.items():
        if argument.WhichOneof("form") == "constant":
            with suppress(values.BadValue, values.NotLoaded):
                known[name] = values.load(argument.constant, {})
    return known, frozenset(arguments.keys() - known.keys())


@dataclass(frozen=True)
class Rules:
    """The policy, and the run that it is asked about."""

    state: RunState
    policy: Policy
    now_ns: int
    gate_life_ns: int
    # What this look has authorised: the log does not have it yet, and what is asked next comes after it.
    _said: list[event_pb2.Action] = field(default_factory=list, init=False)

    @cached_property
    def _spent(self) -> dict[str, Counter[str]]:
        return dict(spent(self.state))

    @property
    def actions(self) -> int:
        """How many actions the run has had, those of this look included."""
        return self.state.actions + len(self._said)

    def count(self, action: event_pb2.Action) -> None:
        """Take note of an action that was authorised."""
        self._said.append(action)
        amounts = amounts_of(action, self.state.contracts[action.tool])
        if amounts:
            self._spent[action.step] = amounts

    def rule(
        self,
        instance: Instance,
        contract: tool_pb2.ToolContract,
        arguments: Mapping[str, Any],
        unknown: frozenset[str] = frozenset(),
    ) -> Ruling:
        """Ask about an action, of which some arguments may not be known yet."""
        return self.policy.rule(self.request(instance, contract, arguments, unknown))

    def request(
        self,
        instance: Instance,
        contract: tool_pb2.ToolContract,
        arguments: Mapping[str, Any],
        unknown: frozenset[str] = frozenset(),
    ) -> Request:
        """Return what the policy is asked about an action."""
        untrusted = _untrusted(self.labels(instance.step))
        return self._request(instance.id, contract, arguments, unknown, untrusted)

    def labels(self, step: str) -> Mapping[str, Label]:
        """Return who has written what a step is taken with."""
        assert self.state.plan is not None
        return labels_of(self.state.plan, self.state.contracts).of_action(step)

    def gated(
        self,
        instance: Instance,
        contract: tool_pb2.ToolContract,
        arguments: Mapping[str, Any],
        ruling: Ruling,
    ) -> gates.Gated:
        """Return what must be approved before an action is done."""
        return gates.Gated(self._item(instance, contract, arguments), ruling)

    def _item(
        self, instance: Instance, contract: tool_pb2.ToolContract, arguments: Mapping[str, Any]
    ) -> event_pb2.GateItem:
        labels, request = self.labels(instance.step), self.request(instance, contract, arguments)
        found = gates.item(self.state, instance.id, request, self.policy.version)
        for name in found.untrusted:
            found.provenance.add(argument=name, steps=sorted(labels[name].steps))
        return found

    def doubt(
        self, instance: Instance, contract: tool_pb2.ToolContract, arguments: Mapping[str, Any]
    ) -> gates.Gated:
        """Return an action of which somebody must say whether it happened."""
        return gates.Gated(
            self._item(instance, contract, arguments),
            Ruling("gate", (Reason("", instance.reason),), quorum=1),
        )

    def open(self, gated: Mapping[str, Sequence[gates.Gated]], doubts: Sequence[gates.Gated]) -> list[Move]:
        """Open the gates for what was gathered: by step what must be approved, and what is in doubt."""
        expires_ns = self.now_ns + self.gate_life_ns
        return gates.open_gates(self.state, gated, doubts, self.policy.version, expires_ns)

    def judge(self, gate: Gate, contents: Mapping[str, str]) -> list[Move]:
        """Return what becomes of an open gate."""
        return gates.judge(
            self.state,
            gate,
            lambda who: self.may_decide(gate, who, contents),
            self.policy.version,
            self.now_ns,
        )

    def may_decide(self, gate: Gate, approver: str, contents: Mapping[str, str]) -> Ruling:
        """Say whether somebody may decide about every action of a gate; raises NotLoaded for large values."""
        for item in gate.opened.items:
            contract, arguments = self.state.contracts[item.tool], gates.arguments_of(item, contents)
            untrusted = frozenset(item.untrusted)
            request = self._request(item.step, contract, arguments, frozenset(), untrusted)
            ruling = self.policy.may_decide(approver, request)
            if ruling.outcome != "allow":
                return ruling
        return ALLOWED

    def _request(
        self,
        instance_id: str,
        contract: tool_pb2.ToolContract,
        arguments: Mapping[str, Any],
        unknown: frozenset[str],
        untrusted: frozenset[str],
    ) -> Request:
        # What an earlier attempt at the same has come to is not spent twice.
        others = [amounts for held, amounts in self._spent.items() if held != instance_id]
        return Request(
            user=self.state.goal.submitter,
            tenant=self.state.key.tenant,
            contract=contract,
            arguments=arguments,
            unknown=unknown,
            untrusted=untrusted,
            actions=self.actions,
            spent=sum(others, Counter[str]()),
            now_ns=self.now_ns,
        )


def _untrusted(labels: Mapping[str, Label]) -> frozenset[str]:
    return frozenset(name for name, label in labels.items() if label.untrusted)

"""The policy, asked about a plan and by one look at a run: may it be done, must a human see it, was it seen?

What waits for a human is gathered, so that the actions of one step become one gate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from core import conformance, failures, gates, undo, values
from core.labels import Label, labels_of
from core.moves import Move
from core.plan import is_compensation
from core.policy import ALLOWED, Policy, Reason, Request, Ruling
from core.spending import amounts_in, excess, has_money, spent, uncountable
from core.state import Gate, Instance, RunState
from handrail.v1 import event_pb2, plan_pb2, tool_pb2

MAX_SHOWN_MINOR = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Call:
    """A call that a plan can come to, as far as it is known before the run, and its ruling."""

    step: plan_pb2.Step
    field: str
    contract: tool_pb2.ToolContract
    ruling: Ruling
    labels: Mapping[str, Label]
    known: Mapping[str, Any]
    unknown: frozenset[str]


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
    acting = labels_of(plan, contracts).acting
    for index, step in enumerate(plan.steps):
        nothing: Mapping[str, str] = {}
        named = [("tool", step.tool, step.arguments, nothing)]
        named += [
            (f"rules[{i}].tool", rule.tool, rule.arguments, nothing) for i, rule in enumerate(step.rules)
        ]
        named += [
            (f"grants[{i}].tool", one.tool, one.arguments, one.open) for i, one in enumerate(step.grants)
        ]
        for field, tool, arguments, filled_in in named:
            contract = contracts.get(tool)
            if contract is None:
                continue
            known, unknown = _known(arguments)
            unknown = unknown.union(filled_in)
            labels = labels_of(plan, contracts).of_action(step.id)
            request = Request(
                user=goal.submitter,
                tenant=tenant,
                contract=contract,
                arguments=known,
                unknown=unknown,
                untrusted=_untrusted(labels),
                leaks=_leaks(labels, contract),
                now_ns=now_ns,
                plan=acting,
            )
            found.append(
                Call(step, f"steps[{index}].{field}", contract, policy.rule(request), labels, known, unknown)
            )
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
    seen = outlook_of(call.step, call.contract, call.ruling, call.labels)
    for currency, minor in amounts_in(call.contract, call.known, call.unknown).items():
        # What is more than the log can hold is refused when it comes to it.
        seen.spends[currency] = min(minor, MAX_SHOWN_MINOR)
    each = bool(call.step.each and seen.spends)
    seen.spends_more = each or has_money(call.contract, call.unknown)
    return seen


def outlook_of(
    step: plan_pb2.Step, contract: tool_pb2.ToolContract, ruling: Ruling, labels: Mapping[str, Label]
) -> event_pb2.Outlook:
    """Return what would come of one call."""
    seen = event_pb2.Outlook(
        step=step.id,
        tool=contract.name,
        ruling=event_pb2.RULING_OUTCOME_OPEN if ruling.open else _OUTCOMES[ruling.outcome],
        quorum=ruling.quorum,
        reasons=[event_pb2.Reason(rule=reason.rule, text=reason.text) for reason in ruling.reasons],
        effect=contract.effect,
        undo=contract.undo,
    )
    for name in contract.critical:
        label = labels.get(name)
        if label is not None and label.untrusted:
            seen.untrusted.add(argument=name, steps=sorted(label.steps))
    for name in sorted(_leaks(labels, contract)):
        seen.leaks.add(argument=name, steps=sorted(labels[name].steps))
    timeout_ns = step.timeout.ToNanoseconds() or int(contract.timeout_s * 1e9)
    seen.at_most.FromNanoseconds(timeout_ns)
    return seen


def why(ruling: Ruling) -> str:
    """Return the reasons of a ruling in one line."""
    return "; ".join(reason.text for reason in ruling.reasons)


def with_doubt(ruling: Ruling, unsure: str) -> Ruling:
    """Return a ruling about what a mind proposed, where need be with its being unsure as a reason to ask."""
    if not unsure or ruling.outcome == "refuse":
        return ruling
    reasons = (*ruling.reasons, Reason("", unsure))
    return replace(ruling, outcome="gate", reasons=reasons, quorum=max(1, ruling.quorum))


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


class Rules:
    """The policy, and the run that it is asked about, with what this look has authorised already."""

    def __init__(self, state: RunState, policy: Policy, now_ns: int, gate_life_ns: int) -> None:
        self.state = state
        self.policy = policy
        self.now_ns = now_ns
        self.gate_life_ns = gate_life_ns
        # How many the run has had, those of this look included.
        self.actions = state.actions

    @cached_property
    def _spent(self) -> dict[str, Counter[str]]:
        return spent(self.state)

    def count(
        self, instance: Instance, contract: tool_pb2.ToolContract, arguments: Mapping[str, Any]
    ) -> None:
        """Count an action that was just authorised: the next is asked about with it."""
        self.actions += 1
        amounts = amounts_in(contract, arguments)
        if amounts:
            self._spent[instance.id] = amounts

    def excess(
        self, instance: Instance, contract: tool_pb2.ToolContract, arguments: Mapping[str, Any]
    ) -> str:
        """Say in which way an action would spend more than the run may; "" where it would not."""
        plan = self.state.plan.budget if self.state.plan is not None else plan_pb2.Budget()
        budgets = [one for one in (self.state.goal.budget, plan) if one.max_spend]
        hidden = uncountable(contract, arguments)
        amounts = amounts_in(contract, arguments) if budgets else Counter[str]()
        if hidden or not amounts:
            return hidden
        return excess(self._spent_by_others(instance.id) + amounts, budgets)

    def _spent_by_others(self, instance_id: str) -> Counter[str]:
        # What an earlier attempt at the same has come to is not spent twice.
        others = [amounts for held, amounts in self._spent.items() if held != instance_id]
        return sum(others, Counter[str]())

    def rule(
        self,
        instance: Instance,
        contract: tool_pb2.ToolContract,
        arguments: Mapping[str, Any],
        unknown: frozenset[str] = frozenset(),
        missing: frozenset[str] = frozenset(),
    ) -> Ruling:
        """Ask about an action, of which some arguments may not be known yet, or have to be said by somebody.

        What its own mind is unsure of is done after an approval only, whatever the policy allows.
        """
        ruling = self.policy.rule(self.request(instance, contract, arguments, unknown, missing))
        return with_doubt(ruling, instance.unsure)

    def request(
        self,
        instance: Instance,
        contract: tool_pb2.ToolContract,
        arguments: Mapping[str, Any],
        unknown: frozenset[str] = frozenset(),
        missing: frozenset[str] = frozenset(),
    ) -> Request:
        """Return what the policy is asked about an action.

        What is missing somebody will say who may: it is neither untrusted then, nor does it leak.
        """
        untrusted, leaks = (found.difference(missing) for found in self.marks(instance, contract))
        return self._request(instance.id, contract, arguments, unknown | missing, untrusted, leaks)

    def marks(
        self, instance: Instance, contract: tool_pb2.ToolContract
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Return which arguments of an action are untrusted, and which leak."""
        labels = self.labels(instance.step)
        # What somebody has changed at a gate is theirs; of what another tool does with it they knew nothing.
        theirs = {name for name, one in instance.amended.items() if one.tool == contract.name}
        return _untrusted(labels).difference(theirs), _leaks(labels, contract).difference(theirs)

    def labels(self, step: str) -> Mapping[str, Label]:
        """Return who has written what a step is taken with."""
        assert self.state.plan is not None
        if is_compensation(step):
            return undo.labels(self.state, step)
        return labels_of(self.state.plan, self.state.contracts).of_action(step)

    def gated(
        self,
        instance: Instance,
        contract: tool_pb2.ToolContract,
        arguments: Mapping[str, Any],
        ruling: Ruling,
        missing: frozenset[str] = frozenset(),
    ) -> gates.Gated:
        """Return what must be approved before an action is done, and first of all be said."""
        return gates.Gated(self._item(instance, contract, arguments, missing), ruling)

    def _item(
        self,
        instance: Instance,
        contract: tool_pb2.ToolContract,
        arguments: Mapping[str, Any],
        missing: frozenset[str] = frozenset(),
    ) -> event_pb2.GateItem:
        labels = self.labels(instance.step)
        request = self.request(instance, contract, arguments, missing=missing)
        found = gates.item(self.state, instance.id, request, self.policy.version, missing)
        for name in sorted({*found.untrusted, *found.leaks}):
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
        planned = self.state.undo.planned if self.state.undo is not None and self.state.undoing else None
        submitter = planned.submitter if planned is not None else ""
        return gates.open_gates(self.state, gated, doubts, self.policy.version, expires_ns, submitter)

    def judge(self, gate: Gate, contents: Mapping[str, str]) -> list[Move]:
        """Return what becomes of an open gate."""
        return gates.judge(self.state, gate, self, self.policy.version, self.now_ns, contents)

    def may_answer(self, gate: Gate, who: str, contents: Mapping[str, str]) -> Ruling:
        """Say whether somebody may decide about a gate, in their own right or in somebody's stead."""
        standing = gates.deputies(self.state, gate, lambda one: self.may_decide(gate, one, contents))
        return self.may_decide(gate, standing.get(who, who), contents)

    def may_decide(self, gate: Gate, approver: str, contents: Mapping[str, str]) -> Ruling:
        """Say whether somebody may decide about every action of a gate; raises NotLoaded for large values."""
        for item in gate.opened.items:
            contract, arguments = self.state.contracts[item.tool], gates.arguments_of(item, contents)
            untrusted, leaks = frozenset(item.untrusted), frozenset(item.leaks)
            unknown = frozenset(item.missing)
            request = self._request(item.step, contract, arguments, unknown, untrusted, leaks)
            ruling = self.policy.may_decide(approver, request)
            if ruling.outcome != "allow":
                return ruling
        return ALLOWED

    def amend(self, gate: Gate, said: event_pb2.Decide, contents: Mapping[str, str]) -> gates.Amendment:
        """Return what an amendment comes to, if it may be; raises CannotAmend, or NotLoaded."""
        if len(gate.opened.items) != 1:
            raise gates.CannotAmend("a gate for several actions cannot be amended; deny it")
        item = gate.opened.items[0]
        contract = self.state.contracts[item.tool]
        shown = gates.arguments_of(item, contents)
        wanted = {name: values.load(value, contents) for name, value in said.arguments.items()}
        # Who repeats what is there has not written it: one would take the place of those who must approve it.
        changed = {name: value for name, value in wanted.items() if not _is_same(shown, name, value)}
        arguments = shown | changed
        found = conformance.check_arguments(contract, arguments)
        if found or not changed:
            text = "; ".join(f"{v.field}: {v.message}" for v in found) or "nothing is changed"
            raise gates.CannotAmend(text, found)
        instance = self.state.instances[item.step]
        if instance.doubtful is not None or instance.was_said_done:
            # What may have happened is repeated as it was: under its key nothing else can be done.
            raise gates.CannotAmend("it may have happened as it is shown; approve that, or deny it")
        over = "" if is_compensation(item.step) else self.excess(instance, contract, arguments)
        if over:
            raise gates.CannotAmend(f"with it {over}")
        untrusted = frozenset(item.untrusted).difference(changed)
        leaks = frozenset(item.leaks).difference(changed)
        request = self._request(item.step, contract, arguments, frozenset(), untrusted, leaks)
        ruling = self.policy.rule(request)
        if ruling.outcome == "refuse":
            raise gates.CannotAmend(f"{contract.name} is not allowed like this: {why(ruling)}")
        standing = gates.deputies(self.state, gate, lambda one: self.may_decide(gate, one, contents))
        by = standing.get(said.approver, said.approver)
        may = self.policy.may_decide(by, request)
        if may.outcome != "allow":
            raise gates.CannotAmend(f"{by} may not decide about it like this: {why(may)}")
        try:
            amended = gates.item(self.state, item.step, request, self.policy.version)
        except values.BadValue as error:
            raise gates.CannotAmend(f"as a whole it is too much: {error}") from None
        kept = {name: amended.arguments[name] for name in changed}
        return gates.Amendment(kept, amended.binding, ruling)

    def _request(
        self,
        instance_id: str,
        contract: tool_pb2.ToolContract,
        arguments: Mapping[str, Any],
        unknown: frozenset[str],
        untrusted: frozenset[str],
        leaks: frozenset[str],
    ) -> Request:
        plan, contracts = self.state.plan, self.state.contracts
        return Request(
            user=self._user(instance_id),
            tenant=self.state.key.tenant,
            contract=contract,
            arguments=arguments,
            unknown=unknown,
            untrusted=untrusted,
            leaks=leaks,
            actions=self.actions,
            spent=self._spent_by_others(instance_id),
            now_ns=self.now_ns,
            plan=labels_of(plan, contracts).acting if plan is not None else frozenset(),
            undoing=is_compensation(instance_id),
        )

    def _user(self, instance_id: str) -> str:
        """Return in whose name an action is done: an undo in that of whoever undoes."""
        planned = self.state.undo.planned if self.state.undo is not None else None
        if planned is not None and is_compensation(instance_id):
            return planned.submitter
        return self.state.goal.submitter


def _is_same(arguments: Mapping[str, Any], name: str, value: Any) -> bool:
    """Whether an argument has this value already, to the letter: 1 is neither 1.0 nor true."""
    return name in arguments and values.encode(arguments[name]) == values.encode(value)


def _untrusted(labels: Mapping[str, Label]) -> frozenset[str]:
    return frozenset(name for name, label in labels.items() if label.untrusted)


def _leaks(labels: Mapping[str, Label], contract: tool_pb2.ToolContract) -> frozenset[str]:
    """Return the arguments that would be shown to somebody who may not read them."""
    shows = contract.shows
    if not shows:
        return frozenset()
    return frozenset(n for n, label in labels.items() if not n.startswith("$") and label.leaks_to(shows))

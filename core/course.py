"""The course of a run that has a plan: which steps can start, and what became of those that did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from core import conditions, conformance, failures, grants, values
from core.action import action_key, authorise
from core.chain import MAX_CHAIN, next_link, pending
from core.choice import check_choice
from core.failures import permanent
from core.gates import Gated, approvals, denial
from core.healing import ALTERNATIVE, LEASE_GRACE_NS, READ_BACK, REREAD, RETRY, Healer
from core.moves import Arm, Decide, DecisionBody, Move, Revoke, ask, note
from core.permits import Grounds
from core.plan import (
    DEFAULT_EACH_LIMIT,
    BadReference,
    Unresolved,
    attempt_id,
    canonical_route,
    is_compensation,
    references,
)
from core.policy import Reason, Ruling
from core.rules import Rules, why
from core.scope import Scope
from core.shape import shape_of
from core.state import Attempt, Instance, RunState
from handrail.v1 import event_pb2, plan_pb2, tool_pb2

_NO_TIME = "the run is ending, and somebody would have to approve it"
MIND_POOL = "main"
MAX_IN_FLIGHT = 64
DEFAULT_MAX_ACTIONS = 4_000
DEFAULT_MAX_STEPS = 1_000


def finish(status: event_pb2.RunStatus.ValueType, failure: event_pb2.Failure | None = None) -> Decide:
    """End the run."""
    return note("finished", event_pb2.Finished(status=status, failure=failure))


def deadline_failure() -> event_pb2.Failure:
    """Say that the deadline passed."""
    return permanent(failures.DEADLINE, "the run's deadline passed before it was done")


class Course:
    """One look at a run that has a plan."""

    def __init__(self, state: RunState, now_ns: int, contents: Mapping[str, str], rules: Rules) -> None:
        assert state.plan is not None
        self.state = state
        self.now_ns = now_ns
        self.contents = contents
        self.rules = rules
        self.ending: Decide | None = None
        # By step, what must not be done before somebody has approved it.
        self.gated: dict[str, list[Gated]] = {}
        # What may or may not have happened, and nobody has been asked about yet.
        self.doubts: list[Gated] = []
        self.shape = shape = shape_of(state.plan)
        self.steps, self.needs, self.rank = shape.steps, shape.needs, shape.rank
        self.scope = Scope(state, self.steps, self.needs, contents)
        self.room = MAX_IN_FLIGHT - len(state.in_flight)
        self.max_actions = state.bound("max_actions", DEFAULT_MAX_ACTIONS)
        self.heals = state.heals

    def moves(self) -> list[Move]:
        """Return what is missing."""
        state = self.state
        if state.goal.dry_run:
            return [finish(event_pb2.RUN_STATUS_DONE)]
        self.ending = ending = self._ending()
        if ending is not None:
            return self._wind_down(ending)
        if not state.open:
            return [self._done()]
        moves = self._deadline()
        if state.paused:
            return moves + self._take_back("paused") + self._resolve_only() + self._open_gates()
        for gate in state.open_gates:
            moves += self.rules.judge(gate, self.contents)
        for instance_id in self._order():
            moves += self._look(state.instances[instance_id])
        return moves + self._open_gates()

    def _open_gates(self) -> list[Move]:
        return self.rules.open(self.gated, self.doubts)

    def _order(self) -> list[str]:
        """Return the open instances in the plan's order."""
        rank, instances = self.rank, self.state.instances

        def place(instance_id: str) -> tuple[int, int]:
            instance = instances[instance_id]
            return rank[instance.step], -1 if instance.index is None else instance.index

        return sorted(self.state.open, key=place)

    # --- the end ---------------------------------------------------------------------------------

    def _deadline(self) -> list[Move]:
        return [Arm("deadline", self.state.deadline_ns)] if self.state.deadline_ns else []

    def _done(self) -> Decide:
        """Return how the run ends when nothing is left to be done."""
        return finish(event_pb2.RUN_STATUS_DONE)

    def _ending(self) -> Decide | None:
        """Return how the run ends early, if it must."""
        state = self.state
        if state.cancel is not None:
            reason = state.cancel.reason or "somebody cancelled the run"
            return finish(event_pb2.RUN_STATUS_CANCELLED, permanent(failures.CANCELLED, reason))
        if state.failed:
            failure = state.instances[state.failed[0]].failure
            return finish(event_pb2.RUN_STATUS_FAILED, failure)
        # What has undone itself had failed, though the clock may have been set back since.
        if state.deadline_ns and (self.now_ns >= state.deadline_ns or state.undo is not None):
            return finish(event_pb2.RUN_STATUS_FAILED, deadline_failure())
        return None

    def _wind_down(self, ending: Decide) -> list[Move]:
        """Start nothing, take back what has not started, see the rest through, then end."""
        assert isinstance(ending.body, event_pb2.Finished | event_pb2.UndoEnded)
        moves = self._take_back(ending.body.failure.code)
        moves += self._resolve_only()
        owed = [a for a in self.state.in_flight if a.action is not None]
        return moves if moves or owed else [ending]

    def _take_back(self, reason: str) -> list[Move]:
        """Take back what has not started, but for what clears up an earlier doubt."""
        moves: list[Move] = []
        for instance_id in self._order():
            instance = self.state.instances[instance_id]
            attempt = instance.current
            if attempt is None or instance.settled or instance.doubtful is not None:
                continue
            if attempt.is_act and attempt.can_be_taken_back:
                body = event_pb2.Revoked(attempt=attempt.id, reason=reason)
                moves.append(Revoke(attempt.pool, body))
        return moves

    def _resolve_only(self) -> list[Move]:
        """Make the moves that clear up what is in flight or in doubt, and no others."""
        moves: list[Move] = []
        for instance_id in self._order():
            instance = self.state.instances[instance_id]
            attempt = instance.current
            if attempt is None or instance.settled:
                continue
            moving_on = instance.heal is not None and instance.heal.strategy in (RETRY, ALTERNATIVE)
            if moving_on and instance.doubtful is None:
                continue
            if self._unresolved(instance, attempt):
                moves += self._look(instance)
        return moves

    def _unresolved(self, instance: Instance, attempt: Attempt) -> bool:
        """Whether it is unknown what became of the effect."""
        if instance.doubtful is not None:
            return True
        result = attempt.result
        if attempt.action is None or attempt.revoked or result is None or result.message.HasField("failure"):
            return False
        if self._healer(instance).contract(attempt).effect == tool_pb2.EFFECT_READ or attempt.verdict is None:
            return False
        verdict = attempt.verdict.message
        ruled_out = verdict.happened == event_pb2.HAPPENED_NO and attempt.refutations > 1
        return verdict.outcome == event_pb2.OUTCOME_UNKNOWN or not ruled_out

    # --- one instance ------------------------------------------------------------------------------

    def _healer(self, instance: Instance) -> Healer:
        return Healer(
            self.state, instance, self.steps[instance.step].max_attempts, self.now_ns, heals=self.heals
        )

    def _fail(self, instance: Instance, code: str, message: str) -> list[Move]:
        return [self._healer(instance).fail(permanent(code, message))]

    def _look(self, instance: Instance) -> list[Move]:
        try:
            moves = self._next(instance)
        except values.BadValue as error:
            failure = permanent(failures.BAD_OUTPUT, str(error))
            # Of what cannot be shown nobody can be asked whether it happened.
            lost = note("step_failed", event_pb2.StepFailed(step=instance.id, failure=failure))
            moves = [lost if instance.settled else self._healer(instance).fail(failure)]
        self.heals += sum(isinstance(move, Decide) and move.arm == "healed" for move in moves)
        return moves

    def _next(self, instance: Instance) -> list[Move]:
        if instance.settled == "in_doubt" and not instance.gate:
            return self._meet_doubt(instance)
        if instance.settled or instance.count is not None:
            return []
        if instance.gate:
            return self._fail(instance, failures.FORBIDDEN, _NO_TIME) if self.ending else []
        if instance.heal is not None:
            return self._carry_out_heal(instance)
        attempt = instance.current
        if attempt is None:
            return self._begin(instance)
        if attempt.revoked or self.state.left_behind(attempt):
            return self._begin(instance, attempt)
        if attempt.action is None:
            return self._after_proposal(instance, attempt)
        return self._after_action(instance, attempt)

    def _meet_doubt(self, instance: Instance) -> list[Move]:
        """Have somebody asked about what is in doubt; where the answer was no, give it up."""
        denied = self.state.gates.get(instance.denied)
        if denied is not None and denied.opened.kind == event_pb2.GATE_KIND_DOUBT:
            return [note("step_failed", event_pb2.StepFailed(step=instance.id, failure=denial(denied)))]
        attempt = instance.doubtful or instance.current
        if attempt is not None and not attempt.is_act:
            attempt = self._healer(instance).read_back_of(attempt)
        if attempt is not None and attempt.action is not None:
            contract = self.state.contracts[attempt.action.tool]
            # What may have happened is what was asked for.
            arguments = self.scope.loaded(attempt.action.arguments)
            self.doubts.append(self.rules.doubt(instance, contract, arguments))
        return []

    def _begin(self, instance: Instance, previous: Attempt | None = None) -> list[Move]:
        """Start an instance whose turn has come; `previous` was taken back, or left behind by its chain."""
        step = self.steps[instance.step]
        if instance.index is not None:
            return self._start(instance, previous)
        instances = self.state.instances
        if any(not instances[need].settled for need in self.needs[step.id]):
            return []
        if any(instances[need].settled == "in_doubt" for need in self.needs[step.id]):
            return []
        if self.room <= 0:
            return []
        data = references(step) - {"goal", "each", "input"}
        skipped = sorted(need for need in data if instances[need].settled == "skipped")
        if skipped:
            return self._skip(instance, f"it refers to {skipped[0]}, which was skipped")
        try:
            if step.when and not conditions.holds(step.when, self.scope.conditions_of(step.id)):
                return self._skip(instance, f"its condition does not hold: {step.when}")
        except conditions.ConditionError as error:
            return self._fail(instance, failures.CONDITION, f"when: {error}")
        if step.each:
            return self._expand(instance, step)
        return self._lengthen(instance, self._start(instance, previous))

    def _skip(self, instance: Instance, reason: str) -> list[Move]:
        return [note("skipped", event_pb2.Skipped(step=instance.id, reason=reason))]

    def _expand(self, instance: Instance, step: plan_pb2.Step) -> list[Move]:
        try:
            items = self.scope.resolve(step.each, None)
        except (Unresolved, BadReference) as error:
            return self._fail(instance, failures.UNRESOLVED, f"each: {error}")
        limit = step.each_limit or DEFAULT_EACH_LIMIT
        if not isinstance(items, list):
            return self._fail(instance, failures.EACH, f"{step.each} is not a list")
        room = self.state.bound("max_steps", DEFAULT_MAX_STEPS) - len(self.state.instances)
        if len(items) > limit or len(items) > room:
            message = f"{step.each} has {len(items)} items; the limit is {min(limit, max(room, 0))}"
            return self._fail(instance, failures.EACH, message)
        return [note("expanded", event_pb2.Expanded(step=instance.id, count=len(items)))]

    def _start(self, instance: Instance, previous: Attempt | None) -> list[Move]:
        """Ask for the instance's next attempt, of an executor or of a worker."""
        if self.room <= 0:
            return []
        step, acted = self.steps[instance.step], previous is not None and previous.action is not None
        try:
            planned = self._planned(instance) if acted or not _chooses(step) else None
            if planned is None:
                return self._propose(instance, step, self.scope.arguments(step.arguments, instance))
        except (Unresolved, BadReference, values.BadValue) as error:
            return self._fail(instance, failures.UNRESOLVED, str(error))
        tool, arguments = planned
        return self._act(instance, tool, arguments, replaces=previous.id if acted and previous else "")

    def _planned(self, instance: Instance) -> tuple[str, dict[str, Any]] | None:
        """Return the tool and arguments of an instance; None where an executor has yet to choose.

        They come from the plan and from what was decided, and never from an action in the log: whoever could
        write one there would have it authorised.
        """
        step = self.steps[instance.step]
        tool, arguments = step.tool, self.scope.arguments(step.arguments, instance)
        if _chooses(step):
            proposal = instance.proposal
            proposed = self._proposed(instance, proposal, arguments) if proposal is not None else []
            if isinstance(proposed, list):
                return None
            tool, arguments = proposed
        stand_ins = (heal.tool for heal in reversed(instance.heals) if heal.strategy == ALTERNATIVE)
        return next(stand_ins, tool), arguments

    def _proposed(
        self, instance: Instance, proposal: event_pb2.Proposal, inputs: Mapping[str, Any]
    ) -> tuple[str, dict[str, Any]] | list[plan_pb2.Violation]:
        """Return the tool and arguments that a proposal comes to, or in what way it may not be."""
        step = self.steps[instance.step]
        if canonical_route(step) == plan_pb2.ROUTE_CHOOSE:
            choice = proposal.choice
            found = check_choice(choice, step.rules, inputs)
            if found is not None:
                return [found]
            return choice.tool, self.scope.arguments(step.rules[choice.rule].arguments, instance, inputs)
        call = proposal.call
        filled_in = self.scope.loaded(call.arguments)
        violations = grants.check_call(call, step.grants, filled_in, inputs, self.state.contracts)
        if violations:
            return violations
        grant, contract = step.grants[call.grant], self.state.contracts[call.tool]
        fixed = self.scope.arguments(grant.arguments, instance, inputs)
        # What is left out was chosen too: whoever approves it sees what the tool would act with.
        arguments = {**grants.left_out(grant, contract, filled_in), **filled_in, **fixed}
        missing = grants.missing(call, step.grants, contract, arguments)
        violations = conformance.check_arguments(contract, arguments, missing)
        return violations or (call.tool, arguments)

    def _propose(self, instance: Instance, step: plan_pb2.Step, inputs: Mapping[str, Any]) -> list[Move]:
        self.room -= 1
        body = event_pb2.ProposalAsk(
            attempt=attempt_id(instance.id, len(instance.attempts) + 1),
            step=instance.id,
            rules=step.rules,
            grants=step.grants,
            title=step.title,
        )
        for name, value in inputs.items():
            body.inputs[name].CopyFrom(values.inline(value))
        return [ask("executor", MIND_POOL, "proposal_ask", body)]

    def _act(
        self,
        instance: Instance,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        kind: event_pb2.ActionKind.ValueType = event_pb2.ACTION_KIND_ACT,
        replaces: str = "",
        original: int = 0,
    ) -> list[Move]:
        """Authorise an action: everything that it may do is in it."""
        contract = self.state.contracts[tool]
        if kind == event_pb2.ACTION_KIND_ACT and instance.amended:
            arguments = {**arguments, **self.scope.written(instance)}
        missing = self._missing(instance, contract, arguments)
        act = kind == event_pb2.ACTION_KIND_ACT
        found = conformance.check_arguments(contract, arguments, missing) if act else []
        if found:
            text = "; ".join(f"{v.field}: {v.message}" for v in found)
            return self._fail(instance, failures.BAD_ARGUMENTS, f"{tool}: {text}")
        if self.rules.actions >= self.max_actions:
            return self._fail(instance, failures.BUDGET, f"the run has used its {self.max_actions} actions")
        grounds = Grounds()
        if kind == event_pb2.ACTION_KIND_ACT:
            over = "" if is_compensation(instance.id) else self.rules.excess(instance, contract, arguments)
            if over:
                return self._fail(instance, failures.BUDGET, f"{tool} is not done: with it {over}")
            ruled = self._ask_policy(instance, contract, arguments, missing)
            if not isinstance(ruled, Grounds):
                return ruled
            grounds = ruled
        self.rules.count(instance, contract, arguments)
        self.room -= 1
        body = authorise(
            self.state,
            instance,
            self.steps[instance.step],
            contract,
            arguments,
            self.now_ns,
            grounds=grounds,
            kind=kind,
            replaces=replaces,
            original=original,
        )
        return [ask("worker", contract.toolbox, "action", body)]

    def _missing(
        self, instance: Instance, contract: tool_pb2.ToolContract, arguments: Mapping[str, Any]
    ) -> frozenset[str]:
        """Return what somebody has to say before an action can be done."""
        if instance.proposal is None:
            return frozenset()
        return grants.missing(instance.proposal.call, self.steps[instance.step].grants, contract, arguments)

    def _ask_policy(
        self,
        instance: Instance,
        contract: tool_pb2.ToolContract,
        arguments: Mapping[str, Any],
        missing: frozenset[str] = frozenset(),
    ) -> Grounds | list[Move]:
        """Return why an action may be done now, or what the policy makes of one that must not be.

        Without what is `missing` none may be, whatever the policy says; it is asked again when that is known.
        """
        if instance.denied:
            return [self._healer(instance).fail(denial(self.state.gates[instance.denied]))]
        ruling = self.rules.rule(instance, contract, arguments, missing=missing)
        version = self.rules.policy.version
        if missing and ruling.outcome == "refuse" and ruling.open:
            ruling = Ruling("gate", (Reason("", instance.unsure),), quorum=1)
        if ruling.outcome == "refuse":
            return self._fail(instance, failures.FORBIDDEN, f"{contract.name} is not allowed: {why(ruling)}")
        if ruling.outcome == "allow":
            return Grounds(version, rules=ruling.rules)
        gated = self.rules.gated(instance, contract, arguments, ruling, missing)
        binding = gated.item.binding
        gate = instance.approved.get(binding, "")
        # After what the run has done since, the rules may ask for more than approved it then.
        if gate and approvals(self.state.gates[gate]) >= ruling.quorum:
            return Grounds(version, gate, binding, ruling.rules)
        if self.ending is not None:
            return self._fail(instance, failures.FORBIDDEN, f"{_NO_TIME}: {why(ruling)}")
        self.gated.setdefault(instance.step, []).append(gated)
        return []

    def _lengthen(self, instance: Instance, moves: list[Move]) -> list[Move]:
        """Ask for a read together with those that wait for it alone; a doubt is cleared up by itself."""
        first = moves[0] if len(moves) == 1 else None
        if not isinstance(first, Decide) or not isinstance(first.body, event_pb2.Action):
            return moves
        contract = self.state.contracts[first.body.tool]
        if contract.effect != tool_pb2.EFFECT_READ or first.body.resolves or instance.index is not None:
            return moves
        chain, said = [instance.step], [first]
        while len(chain) < MAX_CHAIN and self.room > 0 and self.rules.actions < self.max_actions:
            found = next_link(self.state, self.shape, chain, chain[-1], contract.toolbox)
            link = self._link(found, chain, said[-1].body) if found is not None else None
            if found is None or link is None:
                break
            chain.append(found)
            said.append(link)
            self.room -= 1
        return [replace(said[-1], before=tuple(said[:-1]))]

    def _link(self, step_id: str, chain: Sequence[str], last: DecisionBody) -> Decide | None:
        """Authorise the next read of a chain; None where what is known of its arguments is wrong already."""
        step, instance = self.steps[step_id], self.state.instances[step_id]
        assert isinstance(last, event_pb2.Action)
        open_arguments = pending(step, chain)
        known = {name: held for name, held in step.arguments.items() if name not in open_arguments}
        try:
            arguments = self.scope.arguments(known, instance)
        except (Unresolved, BadReference, values.BadValue):
            return None
        contract = self.state.contracts[step.tool]
        ruling = self.rules.rule(instance, contract, arguments, frozenset(open_arguments))
        if ruling.outcome != "allow" or ruling.open or instance.amended:
            # Asked when what it rests on is known.
            return None
        current = instance.current
        self.rules.count(instance, contract, arguments)
        body = authorise(
            self.state,
            instance,
            step,
            contract,
            arguments,
            self.now_ns,
            grounds=Grounds(self.rules.policy.version, rules=ruling.rules),
            pending=open_arguments,
            replaces=current.id if current is not None else "",
            follows=last.attempt,
        )
        return ask("worker", contract.toolbox, "action", body)

    # --- after a mind or a worker has answered, or has not -----------------------------------------

    def _after_proposal(self, instance: Instance, attempt: Attempt) -> list[Move]:
        if attempt.proposal is None:
            return []
        healer = self._healer(instance)
        if attempt.proposal.HasField("failure"):
            return [healer.after_failure(attempt, attempt.proposal.failure)]
        if attempt.refused:
            cause = permanent(failures.PROPOSAL, "; ".join(v.message for v in attempt.refused))
            may = healer.tries < healer.max_attempts
            return self._start(instance, None) if may else [healer.fail(cause)]
        try:
            inputs = self.scope.arguments(self.steps[instance.step].arguments, instance)
            proposed = self._proposed(instance, attempt.proposal, inputs)
        except (Unresolved, BadReference, values.BadValue) as error:
            return self._fail(instance, failures.UNRESOLVED, str(error))
        if isinstance(proposed, list):
            body = event_pb2.ProposalRefused(attempt=attempt.id, violations=proposed)
            return [note("proposal_refused", body)]
        if self.room <= 0:
            return []
        tool, arguments = proposed
        return self._act(instance, tool, arguments, replaces=attempt.id)

    def _after_action(self, instance: Instance, attempt: Attempt) -> list[Move]:
        healer = self._healer(instance)
        if attempt.result is None:
            return self._watch_claim(healer, attempt)
        if attempt.follows and not self.state.stands(attempt.follows):
            # What it rests on may yet turn out wrong, and it with that.
            return []
        result = attempt.result.message
        if not attempt.is_act:
            move = healer.after_read_back(attempt, result)
            if move is not None:
                return [move]
        elif result.HasField("failure"):
            return [healer.after_failure(attempt, result.failure)]
        if attempt.verdict is None or attempt.verdict.message.outcome == event_pb2.OUTCOME_CONFIRMED:
            # Confirmed and not done: it waits for what it rests on.
            return []
        return [healer.after_verdict(attempt, attempt.verdict.message)]

    def _watch_claim(self, healer: Healer, attempt: Attempt) -> list[Move]:
        """A claim that has gone silent is resolved when its claimer is dead, or its lease is over."""
        if not attempt.orphan_ns or attempt.action is None:
            return []
        lease_ns = attempt.claimed_ns + attempt.action.timeout.ToNanoseconds() + LEASE_GRACE_NS
        if not attempt.seen_dead and self.now_ns < lease_ns:
            return [Arm(f"lease-{attempt.id}", lease_ns)]
        how = "died" if attempt.seen_dead else "did not answer within its lease"
        cause = failures.in_doubt(failures.SILENT, f"worker {attempt.claimer} claimed the action and {how}")
        return [healer.resolve(attempt, cause)]

    def _carry_out_heal(self, instance: Instance) -> list[Move]:
        heal, attempt = instance.heal, instance.current
        assert heal is not None
        assert attempt is not None
        if self.now_ns < heal.not_before_ns:
            return [Arm(f"heal-{attempt.id}", heal.not_before_ns)]
        if self.room <= 0:
            return []
        if heal.strategy == REREAD:
            assert attempt.result is not None
            body = event_pb2.VerifyAsk(
                attempt=attempt.id,
                result_sequence=attempt.result.sequence,
                round=attempt.round_asked + 1,
                result_id=attempt.result.event_id,
            )
            return [ask("verifier", MIND_POOL, "verify_ask", body)]
        if attempt.action is None:
            return self._start(instance, None)
        healer = self._healer(instance)
        if heal.strategy == RETRY and healer.costs_nothing(attempt):
            # As if it had never been said: its step may not even have come to its turn.
            return self._begin(instance, attempt)
        act = attempt if attempt.is_act else healer.read_back_of(attempt)
        assert act.action is not None
        if heal.strategy == READ_BACK:
            readback = healer.contract(attempt).readback
            return self._act(
                instance,
                readback,
                {"key": action_key(self.state, instance)},
                kind=event_pb2.ACTION_KIND_READ_BACK,
                replaces=act.id,
                original=act.sequence,
            )
        try:
            planned = self._planned(instance)
        except (Unresolved, BadReference):
            # What it takes from its chain is not settled yet.
            return []
        if planned is None:
            return self._start(instance, None)
        tool, arguments = planned
        # What its chain left behind when it failed goes with it again.
        return self._lengthen(instance, self._act(instance, tool, arguments, replaces=attempt.id))


def _chooses(step: plan_pb2.Step) -> bool:
    return canonical_route(step) in (plan_pb2.ROUTE_CHOOSE, plan_pb2.ROUTE_LAM)

"""The spans of gates, of steps and of their heals: of the run itself, and of each undo of it."""

from __future__ import annotations

from core import failures
from core.plan import canonical_route
from core.ports import Record
from core.state import Instance
from core.undo import acted
from handrail.v1 import event_pb2, plan_pb2
from observability import names
from observability.attempts import AttemptTeller
from observability.diary import Diary, GateDiary, StepDiary, UndoDiary, parent_of
from observability.span import Link, SpanEvent
from observability.teller import body_of, said, word

_NO_ERROR = frozenset(
    {
        event_pb2.GATE_OUTCOME_UNSPECIFIED,
        event_pb2.GATE_OUTCOME_APPROVED,
        event_pb2.GATE_OUTCOME_AMENDED,
        event_pb2.GATE_OUTCOME_HAPPENED,
        event_pb2.GATE_OUTCOME_REPEAT,
    }
)


class StepTeller(AttemptTeller):
    """Tells of gates, and of one step after another."""

    def __init__(self, diary: Diary, *, with_content: bool) -> None:
        super().__init__(diary, with_content=with_content)
        plan = self.state.plan
        self._steps = {step.id: step for step in plan.steps} if plan is not None else {}

    def tell_gate(self, parent: str, name: str, gate: GateDiary) -> None:
        """Tell of a gate, from when it was opened until it was closed."""
        opened = body_of(gate.opened)
        closed = body_of(gate.closed) if gate.closed is not None else event_pb2.GateClosed()
        outcome = word(event_pb2.GateOutcome, "GATE_OUTCOME_", closed.outcome) if gate.closed else ""
        self.tell(
            names.GATE,
            (name,),
            suffix=opened.step,
            parent=parent,
            start_ns=gate.opened.time_ns,
            end_ns=gate.closed.time_ns if gate.closed is not None else self.section.end_ns,
            role="decider",
            writer=gate.opened,
            error="" if closed.outcome in _NO_ERROR else outcome,
            fate="" if gate.closed is not None or self.section.ended else "open",
            events=tuple(self._decided(decision) for decision in gate.decisions),
            attributes=said(
                {
                    names.GATE_ID: name,
                    names.STEP_ID: opened.step,
                    names.GATE_OUTCOME: outcome,
                    names.GATE_QUORUM: opened.quorum,
                    names.GATE_ITEMS: len(opened.items),
                    names.GATE_RULES: tuple(reason.rule for reason in opened.reasons),
                    names.GATE_POLICY: opened.policy,
                    names.SEQUENCE: gate.opened.sequence,
                    **self.content(lambda: {names.REASON: closed.reason}),
                }
            ),
        )

    def _decided(self, decision: Record) -> SpanEvent:
        who = self.content(lambda: {names.APPROVERS: body_of(decision).approver})
        return SpanEvent(names.DECIDED, decision.time_ns, who)

    def tell_step(
        self,
        above: str,
        instance: Instance,
        diary: StepDiary,
        undo: UndoDiary | None = None,
        undoes: str = "",
    ) -> None:
        """Tell of an instance, of its attempts and its heals; of a compensation as an undo has left it."""
        fan_out = parent_of(instance)
        # A compensation is of a single tool, and in no plan.
        step = self._steps.get(instance.step, plan_pb2.Step())
        about = (instance.id,) if undo is None else (instance.id, str(undo.number))
        cut_short = not instance.settled and self.section.ended
        error = failures.CANCELLED if cut_short else ""
        settled = diary.settled if instance.settled else None
        parent = self.tell(
            names.STEP,
            about,
            suffix=instance.step,
            parent=self.id(names.STEP, fan_out) if fan_out else above,
            start_ns=diary.begun.time_ns,
            end_ns=settled.time_ns if settled is not None else self.section.end_ns,
            role="decider",
            writer=diary.begun,
            failure=instance.failure,
            error=failures.IN_DOUBT if instance.settled == "in_doubt" else error,
            fate="" if instance.settled or self.section.ended else "open",
            links=self._taken_back(undoes),
            events=tuple(self._doubt(doubt) for doubt in diary.doubts),
            attributes={
                names.STEP_ID: instance.id,
                names.UNDOES: undoes,
                names.STEP_ROUTE: word(plan_pb2.Route, "ROUTE_", canonical_route(step)),
                names.STEP_STATUS: instance.settled or ("cancelled" if cut_short else "running"),
                **self.content(lambda: {names.REASON: instance.reason}),
            },
        )
        attempts = {attempt.id: attempt for attempt in self.state.instances[instance.id].attempts}
        for attempt_id in diary.attempts:
            self.tell_attempt(parent, instance, attempts[attempt_id], self.diary.tries[attempt_id])
        for number, heal in enumerate(diary.heals, start=1):
            self._tell_heal(parent, (*about, str(number)), heal.record, heal.done)

    def _taken_back(self, undoes: str) -> tuple[Link, ...]:
        """Link to the attempt whose effect a compensation takes back."""
        found = self.state.instances.get(undoes)
        attempt = acted(found) if found is not None else None
        return (Link(self.id(names.ATTEMPT, attempt.id)),) if attempt is not None else ()

    def _doubt(self, doubt: Record) -> SpanEvent:
        why = self.content(lambda: {names.MESSAGE: body_of(doubt).why})
        return SpanEvent(names.IN_DOUBT, doubt.time_ns, why)

    def _tell_heal(self, parent: str, about: tuple[str, ...], heal: Record, done: Record | None) -> None:
        """Tell of a heal, from its decision until it was carried out."""
        body = body_of(heal)
        self.tell(
            names.HEAL,
            about,
            suffix=body.strategy,
            parent=parent,
            start_ns=heal.time_ns,
            end_ns=done.time_ns if done is not None else self.section.end_ns,
            role="decider",
            writer=heal,
            fate="" if done is not None or self.section.ended else "open",
            links=(Link(self.id(names.ATTEMPT, body.attempt)),),
            attributes=said(
                {
                    names.STEP_ID: body.step,
                    names.ATTEMPT_ID: body.attempt,
                    names.HEAL_STRATEGY: body.strategy,
                    names.HEAL_CAUSE: body.cause.code,
                    names.HEAL_TOOL: body.tool,
                    names.SEQUENCE: heal.sequence,
                    **self.content(lambda: {names.MESSAGE: body.cause.message}),
                }
            ),
        )

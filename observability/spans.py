"""The spans of a run: a pure function of its log, whole however often its processes were killed.

    SubmitGoal > invoke_workflow > plan > make_plan
                                 > gate
                                 > step > attempt > choose | execute_tool, verify
                                        > heal
                                        > step (an item of a fan-out)

Times are the broker's, less what a writer says that its work took. A try that nobody answered is `lost` and
ends when the decider gave it up; what still goes on is `open` and ends at the last record. What people,
models and tools wrote is in spans only when asked for (`with_content`), and bounded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from core import failures
from core.plan import canonical_route
from core.ports import Record, RunKey
from core.state import Instance
from handrail.v1 import event_pb2, plan_pb2
from observability import names
from observability.attempts import AttemptTeller
from observability.diary import Diary, GateDiary, PlanTry, StepDiary, parent_of
from observability.span import Link, Span, SpanEvent
from observability.teller import UNANSWERED, body_of, cut, failure_of, messaging, said, start_ns, word

_PLAYBOOK = "playbook:"
_NO_ERROR = frozenset(
    {
        event_pb2.GATE_OUTCOME_UNSPECIFIED,
        event_pb2.GATE_OUTCOME_APPROVED,
        event_pb2.GATE_OUTCOME_HAPPENED,
        event_pb2.GATE_OUTCOME_REPEAT,
    }
)


def spans_of(key: RunKey, records: Iterable[Record], *, with_content: bool = False) -> list[Span]:
    """Return the spans of a run, each after its parent; none where the log has no submission."""
    return _RunTeller(Diary(key, records), with_content=with_content).spans()


class _RunTeller(AttemptTeller):
    """Tells of the whole run."""

    def __init__(self, diary: Diary, *, with_content: bool) -> None:
        super().__init__(diary, with_content=with_content)
        plan = self.state.plan
        self._steps = {step.id: step for step in plan.steps} if plan is not None else {}
        planned = self.state.undo.planned if self.state.undo is not None else None
        if planned is not None:
            self._steps |= {one.step.id: one.step for one in planned.compensations}

    def spans(self) -> list[Span]:
        """Return all of its spans."""
        submit = self.diary.submit
        if submit is not None:
            self._tell_submission(submit)
            run = self._tell_run(submit)
            for plan in self.diary.plans:
                self._tell_plan(run, plan)
            for name, gate in self.diary.gates.items():
                self._tell_gate(run, name, gate)
            for step, diary in self.diary.steps.items():
                self._tell_step(run, self.state.instances[step], diary)
        return self.made

    def _tell_submission(self, submit: Record) -> None:
        self.tell(
            names.SUBMIT,
            (),
            parent=self.client.span_id,
            start_ns=submit.time_ns - body_of(submit).took.ToNanoseconds(),
            end_ns=submit.time_ns,
            role="gateway",
            writer=submit,
            kind="server",
            attributes={
                names.TENANT: self.diary.key.tenant,
                names.RPC_SYSTEM: "grpc",
                names.RPC_METHOD: names.SUBMIT,
                names.RPC_STATUS: "OK",
                **messaging(submit, "publish"),
            },
        )

    def _tell_run(self, submit: Record) -> str:
        state, finished = self.state, self.state.finished
        origin = state.plan.origin if state.plan is not None else ""
        # A plan of the client's own has no name of which there are few.
        workflow = origin.removeprefix(_PLAYBOOK) if origin.startswith(_PLAYBOOK) else ""
        doubtful = any(one.settled == "in_doubt" for one in state.instances.values())
        waiting = doubtful and state.status == event_pb2.RUN_STATUS_WAITING
        return self.tell(
            names.INVOKE_WORKFLOW,
            (),
            suffix=workflow,
            parent=self.id(names.SUBMIT),
            start_ns=submit.time_ns,
            end_ns=self.end_ns,
            role="decider",
            writer=self.diary.finished or self.diary.first_decision,
            failure=failure_of(finished) if finished is not None else None,
            error=failures.IN_DOUBT if waiting else names.UNREADABLE if state.unreadable else "",
            fate="" if self.ended else "open",
            events=tuple(self._moment(note) for note in self.diary.notes),
            attributes={
                names.GENAI_OPERATION: names.INVOKE_WORKFLOW,
                names.GENAI_WORKFLOW: workflow,
                names.TENANT: self.diary.key.tenant,
                names.RUN_STATUS: word(event_pb2.RunStatus, "RUN_STATUS_", state.status),
                names.DRY_RUN: state.goal.dry_run or None,
                names.STRAYS: state.strays or None,
                names.PLAN_ORIGIN: origin,
                names.PLAN_STEPS: len(state.plan.steps) if state.plan is not None else None,
                **self.content(lambda: {names.GENAI_INPUT_MESSAGES: _messages(state.goal.text)}),
            },
        )

    def _moment(self, note: Record) -> SpanEvent:
        arm = note.event.WhichOneof("body") if note.event is not None else ""
        reason = self.content(lambda: {names.REASON: getattr(body_of(note), "reason", "")})
        return SpanEvent(str(arm), note.time_ns, {names.SEQUENCE: note.sequence, **reason})

    def _tell_plan(self, run: str, plan: PlanTry) -> None:
        """Tell of a plan that was asked for, and of who made it."""
        attempt, answer = body_of(plan.ask).attempt, plan.answer
        body = body_of(answer) if answer is not None else event_pb2.PlanAnswer()
        failure = failure_of(body)
        if body.HasField("no_plan"):
            failure = failures.permanent(failures.NO_PLAN, body.no_plan.reason)
        fate = self.fate(missing=answer is None)
        error = UNANSWERED if fate == "lost" else ""
        end_ns = answer.time_ns if answer is not None else self.end_ns
        parent = self.tell(
            names.PLAN,
            (attempt,),
            parent=run,
            start_ns=plan.ask.time_ns,
            end_ns=end_ns,
            role="decider",
            writer=plan.ask,
            kind="producer",
            failure=failure,
            error=error,
            attributes={
                names.GENAI_OPERATION: names.PLAN,
                names.ATTEMPT_ID: attempt,
                names.SEQUENCE: plan.ask.sequence,
                **messaging(plan.ask, "publish"),
            },
            fate=fate,
        )
        self.tell(
            names.MAKE_PLAN,
            (attempt,),
            parent=parent,
            start_ns=start_ns(plan.ask, answer, end_ns),
            end_ns=end_ns,
            role="planner",
            writer=answer,
            kind="consumer",
            failure=failure,
            error=error,
            attributes={
                names.ATTEMPT_ID: attempt,
                names.PLAN_ORIGIN: body.plan.origin,
                names.PLAN_STEPS: len(body.plan.steps) or None,
                **messaging(plan.ask, "process"),
            },
            fate=fate,
        )

    def _tell_gate(self, run: str, name: str, gate: GateDiary) -> None:
        """Tell of a gate, from when it was opened until it was closed."""
        opened = body_of(gate.opened)
        closed = body_of(gate.closed) if gate.closed is not None else event_pb2.GateClosed()
        outcome = word(event_pb2.GateOutcome, "GATE_OUTCOME_", closed.outcome) if gate.closed else ""
        self.tell(
            names.GATE,
            (name,),
            suffix=opened.step,
            parent=run,
            start_ns=gate.opened.time_ns,
            end_ns=gate.closed.time_ns if gate.closed is not None else self.end_ns,
            role="decider",
            writer=gate.opened,
            error="" if closed.outcome in _NO_ERROR else outcome,
            fate="" if gate.closed is not None or self.ended else "open",
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

    # --- steps ----------------------------------------------------------------------------------------

    def _tell_step(self, run: str, instance: Instance, diary: StepDiary) -> None:
        """Tell of an instance, of its attempts, and of its heals."""
        fan_out = parent_of(instance)
        # A compensation of an earlier undo is one of a single tool, as all are.
        step = self._steps.get(instance.step, plan_pb2.Step())
        cut_short = not instance.settled and self.ended
        error = failures.CANCELLED if cut_short else ""
        settled = diary.settled if instance.settled else None
        parent = self.tell(
            names.STEP,
            (instance.id,),
            suffix=instance.step,
            parent=self.id(names.STEP, fan_out) if fan_out else run,
            start_ns=diary.begun.time_ns,
            end_ns=settled.time_ns if settled is not None else self.end_ns,
            role="decider",
            writer=diary.begun,
            failure=instance.failure,
            error=failures.IN_DOUBT if instance.settled == "in_doubt" else error,
            fate="" if instance.settled or self.ended else "open",
            events=tuple(self._doubt(doubt) for doubt in diary.doubts),
            attributes={
                names.STEP_ID: instance.id,
                names.STEP_ROUTE: word(plan_pb2.Route, "ROUTE_", canonical_route(step)),
                names.STEP_STATUS: instance.settled or ("cancelled" if cut_short else "running"),
                **self.content(lambda: {names.REASON: instance.reason}),
            },
        )
        attempts = {attempt.id: attempt for attempt in instance.attempts}
        for attempt_id in diary.attempts:
            self.tell_attempt(parent, instance, attempts[attempt_id], self.diary.tries[attempt_id])
        for number, heal in enumerate(diary.heals, start=1):
            self._tell_heal(parent, instance, number, heal.record, heal.done)

    def _doubt(self, doubt: Record) -> SpanEvent:
        why = self.content(lambda: {names.MESSAGE: body_of(doubt).why})
        return SpanEvent(names.IN_DOUBT, doubt.time_ns, why)

    def _tell_heal(
        self, parent: str, instance: Instance, number: int, heal: Record, done: Record | None
    ) -> None:
        """Tell of a heal, from its decision until it was carried out."""
        body = body_of(heal)
        self.tell(
            names.HEAL,
            (instance.id, str(number)),
            suffix=body.strategy,
            parent=parent,
            start_ns=heal.time_ns,
            end_ns=done.time_ns if done is not None else self.end_ns,
            role="decider",
            writer=heal,
            fate="" if done is not None or self.ended else "open",
            links=(Link(self.id(names.ATTEMPT, body.attempt)),),
            attributes=said(
                {
                    names.STEP_ID: instance.id,
                    names.ATTEMPT_ID: body.attempt,
                    names.HEAL_STRATEGY: body.strategy,
                    names.HEAL_CAUSE: body.cause.code,
                    names.HEAL_TOOL: body.tool,
                    names.SEQUENCE: heal.sequence,
                    **self.content(lambda: {names.MESSAGE: body.cause.message}),
                }
            ),
        )


def _messages(goal: str) -> str:
    """Return what the client said, as the conventions have it."""
    messages = [{"role": "user", "parts": [{"type": "text", "content": cut(goal)}]}]
    return json.dumps(messages, ensure_ascii=False)

"""The spans of a run: a pure function of its log, whole however often its processes were killed.

    SubmitGoal > invoke_workflow > plan > make_plan
                                 > gate
                                 > step > attempt > choose | execute_tool, verify
                                        > heal
                                        > step (an item of a fan-out)
                                 > undo > gate, step

An undo goes on after the end of its run. What it adds is told below its own span: those of the run, and of an
earlier undo, stay what they were.

Times are the broker's, less what a writer says that its work took. A try that nobody answered is `lost` and
ends when the decider gave it up; what still goes on is `open` and ends at the last record. What people,
models and tools wrote is in spans only when asked for (`with_content`), and bounded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from core import failures
from core.ports import Record, RunKey
from handrail.v1 import event_pb2
from observability import names
from observability.diary import Diary, PlanTry, UndoDiary
from observability.span import Span, SpanEvent
from observability.steps import StepTeller
from observability.teller import (
    UNANSWERED,
    Section,
    body_of,
    cut,
    failure_of,
    messaging,
    model_of,
    start_ns,
    word,
)

_PLAYBOOK = "playbook:"


def spans_of(key: RunKey, records: Iterable[Record], *, with_content: bool = False) -> list[Span]:
    """Return the spans of a run, each after its parent; none without a submission, or if forgotten."""
    return _RunTeller(Diary(key, records), with_content=with_content).spans()


class _RunTeller(StepTeller):
    """Tells of the whole run."""

    def spans(self) -> list[Span]:
        """Return all of its spans."""
        submit = self.diary.submit
        # Somebody may still be able to read a run that was.
        if submit is not None and self.state.forgotten is None:
            self._tell_submission(submit)
            run = self._tell_run(submit)
            for plan in self.diary.plans:
                self._tell_plan(run, plan)
            self._tell_gates(run, 0)
            for step, diary in self.diary.steps.items():
                self.tell_step(run, self.state.instances[step], diary)
            for undone in self.diary.undos:
                self.section = Section.of(undone.ended, self.diary.last_ns)
                self._tell_undo(run, undone)
        return self.made

    def _tell_gates(self, parent: str, undo: int) -> None:
        for name, gate in self.diary.gates.items():
            if gate.undo == undo:
                self.tell_gate(parent, name, gate)

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
        state, finished = self.diary.at_end or self.state, self.state.finished
        origin = state.plan.origin if state.plan is not None else ""
        # A plan of the client's own has no name of which there are few.
        workflow = origin.removeprefix(_PLAYBOOK) if origin.startswith(_PLAYBOOK) else ""
        waiting = not self.section.ended and self._waits_in_doubt
        return self.tell(
            names.INVOKE_WORKFLOW,
            (),
            suffix=workflow,
            parent=self.id(names.SUBMIT),
            start_ns=submit.time_ns,
            end_ns=self.section.end_ns,
            role="decider",
            writer=self.diary.finished or self.diary.first_decision,
            failure=failure_of(finished) if finished is not None else None,
            error=failures.IN_DOUBT if waiting else names.UNREADABLE if state.unreadable else "",
            fate="" if self.section.ended else "open",
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
        end_ns = answer.time_ns if answer is not None else self.section.end_ns
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
                **model_of(body),
                **messaging(plan.ask, "process"),
            },
            fate=fate,
        )

    # --- undo -----------------------------------------------------------------------------------------

    def _tell_undo(self, run: str, told: UndoDiary) -> None:
        """Tell of an undo, from when it was asked for until it ended, and of its compensations."""
        planned = body_of(told.planned) if told.planned is not None else event_pb2.UndoPlanned()
        ended = body_of(told.ended) if told.ended is not None else None
        asked = body_of(told.begun) if told.begun is not told.planned else event_pb2.Undo()
        waiting = ended is None and self._waits_in_doubt
        unreadable = ended is None and self.state.unreadable
        made = [one for one in told.left.values() if one.settled == "done"]
        parent = self.tell(
            names.UNDO,
            (str(told.number),),
            suffix=asked.step,
            parent=run,
            start_ns=told.begun.time_ns,
            end_ns=self.section.end_ns,
            role="decider",
            writer=told.ended or told.planned,
            failure=failure_of(ended) if ended is not None else None,
            error=failures.IN_DOUBT if waiting else names.UNREADABLE if unreadable else "",
            fate="" if ended is not None else "open",
            events=tuple(self._moment(note) for note in told.notes),
            attributes={
                names.UNDO_STEP: asked.step,
                names.UNDO_DRY_RUN: (asked.dry_run or planned.dry_run) or None,
                names.UNDO_COMPENSATIONS: len(planned.compensations) if told.planned else None,
                names.UNDO_MADE: len(made) if ended is not None else None,
                names.UNDO_STAYS: len(planned.stays) if told.planned else None,
                names.UNDO_OUTCOME: _outcome(planned, ended) if ended is not None else "",
                names.SEQUENCE: told.begun.sequence,
                **self.content(
                    lambda: {
                        names.SUBMITTER: planned.submitter or asked.submitter,
                        names.REASON: asked.reason,
                    }
                ),
            },
        )
        self._tell_gates(parent, told.number)
        undoes = {one.step.id: one.undoes for one in planned.compensations}
        for step, diary in told.steps.items():
            instance = told.left.get(step, self.state.instances[step])
            self.tell_step(parent, instance, diary, told, undoes.get(step, ""))

    @property
    def _waits_in_doubt(self) -> bool:
        doubtful = any(one.settled == "in_doubt" for one in self.state.instances.values())
        return doubtful and self.state.status == event_pb2.RUN_STATUS_WAITING


def _outcome(planned: event_pb2.UndoPlanned, ended: event_pb2.UndoEnded) -> str:
    """Return the word for what came of an undo."""
    if planned.dry_run:
        return names.DRY
    if ended.HasField("failure"):
        return names.GIVEN_UP
    return names.STAYS if planned.stays else names.UNDONE


def _messages(goal: str) -> str:
    """Return what the client said, as the conventions have it."""
    messages = [{"role": "user", "parts": [{"type": "text", "content": cut(goal)}]}]
    return json.dumps(messages, ensure_ascii=False)

"""What the spans of a run have in common: ids, marks, and the few readings of events behind them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bus import subjects
from core import values
from core.ports import Record
from core.redaction import MASK, is_secret_name, masked_json
from handrail.v1 import event_pb2, plan_pb2
from observability import ids, names
from observability.diary import Diary
from observability.span import Kind, Link, Span, SpanEvent, Value

MAX_CONTENT_CHARS = 2_000
Fate = Literal["", "lost", "open"]
"""Of what has no end of its own: nobody answered, or it goes on."""
ENDPOINT = "openai"
"""What the name of a model behind an endpoint begins with."""
UNANSWERED = "unanswered"
"""The `error.type` of what nobody answered, where no claim was made either."""
MAX_WORDS = 256
"""That are kept, and not made again for every span: a log may hold any number."""


@dataclass(frozen=True, slots=True)
class Section:
    """What is told of: the run until it has finished, or an undo of it."""

    ended: bool
    end_ns: int

    @staticmethod
    def of(end: Record | None, last_ns: int) -> Section:
        """Return a section up to its end, or as far as the log goes."""
        return Section(end is not None, end.time_ns if end is not None else last_ns)


class Teller:
    """Makes spans of a diary, one at a time."""

    def __init__(self, diary: Diary, *, with_content: bool) -> None:
        self.diary = diary
        self.state = diary.state
        self.made: list[Span] = []
        submit = self.state.submit
        self.client = ids.of_run(diary.key, submit.traceparent if submit is not None else "")
        self.section = Section.of(diary.finished, diary.last_ns)
        self._with_content = with_content

    def id(self, *parts: str) -> str:
        """Name a span of the run."""
        return ids.span_id(self.diary.key, *parts)

    def tell(
        self,
        what: str,
        about: tuple[str, ...],
        *,
        parent: str,
        start_ns: int,
        end_ns: int,
        role: str,
        writer: Record | None = None,
        instance: str = "",
        suffix: str = "",
        kind: Kind = "internal",
        failure: event_pb2.Failure | None = None,
        error: str = "",
        attributes: Mapping[str, Any],
        links: tuple[Link, ...] = (),
        events: tuple[SpanEvent, ...] = (),
        fate: Fate = "",
    ) -> str:
        """Make a span and return its id. An error, or else a failure, says what went wrong."""
        if failure is not None and not error:
            error = failure.code or "_OTHER"
        marks: dict[str, Value] = {names.RUN: self.diary.key.run}
        if error:
            marks[names.ERROR_TYPE] = error
        if fate:
            marks[names.LOST if fate == "lost" else names.OPEN] = True
        span = Span(
            what=what,
            name=f"{what} {suffix}" if suffix else what,
            trace_id=self.client.trace_id,
            span_id=self.id(what, *about),
            parent_id=parent,
            start_ns=min(start_ns, end_ns),
            end_ns=end_ns,
            role=role,
            instance=instance or _instance_of(writer),
            kind=kind,
            attributes=marks | said(attributes),
            links=links,
            events=events,
            error=error,
            message=cut(failure.message) if failure is not None and self._with_content else "",
            lost=fate == "lost",
            open=fate == "open",
            sampled=self.client.sampled,
        )
        self.made.append(span)
        return span.span_id

    def fate(self, *, missing: bool, given_up: bool = False) -> Fate:
        """Say what becomes of what has no answer: one may still come, unless the decider went on."""
        if not missing:
            return ""
        return "lost" if self.section.ended or given_up else "open"

    def content(self, attributes: Callable[[], Mapping[str, str]]) -> dict[str, str]:
        """Return attributes that hold what somebody wrote, if they are asked for; else they are not made."""
        if not self._with_content:
            return {}
        return {name: cut(value) for name, value in attributes().items() if value}


# --- readings ----------------------------------------------------------------------------------------


def body_of(record: Record) -> Any:
    """Return what an event that counted says."""
    assert record.event is not None
    return getattr(record.event, str(record.event.WhichOneof("body")))


def failure_of(body: Any) -> event_pb2.Failure | None:
    """Return the failure in an answer, if there is one."""
    return body.failure if body.HasField("failure") else None


def start_ns(ask: Record, answer: Record | None, end_ns: int, claim: Record | None = None) -> int:
    """Say when the work behind an answer began: as long before its end as it says that it took.

    Where it does not say, with its claim; and never before it was asked for.
    """
    took_ns = body_of(answer).took.ToNanoseconds() if answer is not None else 0
    if took_ns > 0:
        return max(end_ns - took_ns, ask.time_ns)
    return (claim or ask).time_ns


@functools.lru_cache(MAX_WORDS)
def word(enum: Any, prefix: str, number: int) -> str:
    """Return the name of an enum's value, as the command line writes it."""
    known = enum.Name(number) if number in enum.values() else str(number)
    found = str(known).removeprefix(prefix).lower()
    return "" if found == "unspecified" else found


def text_of(value: plan_pb2.Value) -> str:
    """Return a value as JSON; of a large one only where it lies."""
    if value.HasField("blob"):
        return values.encode({"blob": value.blob.sha256, "size_bytes": value.blob.size_bytes})
    return masked_json(value.json)


def arguments_of(arguments: Mapping[str, plan_pb2.Value]) -> str:
    """Return arguments as a JSON object."""
    hidden = values.encode(MASK)
    shown = (
        (name, hidden if is_secret_name(name) else text_of(held)) for name, held in sorted(arguments.items())
    )
    pairs = (f"{values.encode(name)}:{text or 'null'}" for name, text in shown)
    return "{" + ",".join(pairs) + "}"


def cut(text: str) -> str:
    """Bound what somebody wrote."""
    return text if len(text) <= MAX_CONTENT_CHARS else text[: MAX_CONTENT_CHARS - 1] + "…"


def said(attributes: Mapping[str, Any]) -> dict[str, Value]:
    """Return the attributes that say something."""
    return {name: value for name, value in attributes.items() if value is not None and value != ""}


def messaging(record: Record, operation: str) -> dict[str, Any]:
    """Say by which message of the bus work was asked for; `operation` is "publish" or "process"."""
    address, event = record.address, record.event
    rest = list(address.topic)
    if address.channel == "ans":
        rest[-1] = "{attempt}"
    return {
        names.MESSAGING_SYSTEM: "nats",
        names.MESSAGING_DESTINATION: subjects.build(address),
        names.MESSAGING_TEMPLATE: ".".join(("ev.{shard}.{tenant}.{run}", address.channel, *rest)),
        names.MESSAGING_OPERATION: operation,
        names.MESSAGING_OPERATION_TYPE: "send" if operation == "publish" else operation,
        names.MESSAGING_MESSAGE_ID: event.id if event is not None else "",
    }


def _instance_of(record: Record | None) -> str:
    """Return the instance that wrote an event; its role is in the subject, where it cannot be forged."""
    if record is None or record.event is None:
        return ""
    return record.event.writer.partition("/")[2]


def model_of(body: event_pb2.PlanAnswer | event_pb2.Proposal) -> dict[str, str | float | None]:
    """Which model was asked, how sure it was, and had to be, where it says that; and what it came to."""
    if not body.HasField("thought"):
        return {}
    told = body.thought
    says = told.sure or told.needed
    sure = {names.MODEL_SURE: told.sure, names.MODEL_NEEDED: told.needed} if says else {}
    kind, _, name = told.model.partition(":")
    return {
        names.MODEL: told.model,
        **sure,
        names.GENAI_REQUEST_MODEL: name if kind == ENDPOINT else None,
        names.GENAI_INPUT_TOKENS: told.input_tokens or None,
        names.GENAI_OUTPUT_TOKENS: told.output_tokens or None,
    }

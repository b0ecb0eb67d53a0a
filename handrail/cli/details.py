"""What hangs below a step: what the plan says of it, attempts, evidence, heals, output, failure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.cells import cell_len
from rich.text import Text

from core import failures
from core.plan import is_compensation
from core.redaction import masked_json
from handrail.cli.pen import BAD, DIM, Detail, Node, Pen
from handrail.cli.text import clean, duration, enum_word, field, pad, plural, value
from handrail.v1 import event_pb2, plan_pb2, run_service_pb2

MAX_EVIDENCE_SHOWN = 3


def planned(step: plan_pb2.Step, pen: Pen) -> Iterator[Node]:
    """What the plan says of a step: conditions, fan-out, rules, arguments."""
    said = [("each", clean(step.each)), ("when", clean(step.when)), ("after", clean(", ".join(step.after)))]
    said += [(clean(name), _argument(name, argument)) for name, argument in sorted(step.arguments.items())]
    for rule in step.rules:
        said.append((clean(rule.when) or "otherwise", f"{pen.glyphs.output} {clean(rule.tool)}"))
        said += [(clean(name), _argument(name, held)) for name, held in sorted(rule.arguments.items())]
    for grant in step.grants:
        filled_in = ", ".join(sorted(grant.open)) or "nothing"
        said.append(("granted", clean(f"{grant.tool}, the executor fills in {filled_in}")))
        said += [(clean(name), _argument(name, held)) for name, held in sorted(grant.arguments.items())]
        said += [(clean(name), clean(held)) for name, held in sorted(grant.open.items()) if held]
    said.append(("post", clean(step.post)))
    said = [(name, text) for name, text in said if text]
    width = max((cell_len(name) for name, _ in said), default=0)
    for name, text in said:
        yield Node(Text(f"{pad(name, width)}  {text}", style=DIM))


def _argument(name: str, argument: plan_pb2.Argument) -> str:
    if argument.WhichOneof("form") == "reference":
        return clean(argument.reference)
    return field(name, argument.constant)


def taken(step: run_service_pb2.StepState, pen: Pen) -> Iterator[Node]:
    """What became of a step: attempts where there is more to say than its line, evidence, heals, output."""
    plain = len(step.attempts) == 1 and not step.heals and not step.attempts[0].HasField("failure")
    for number, attempt in enumerate(step.attempts, start=1):
        last = number == len(step.attempts)
        evidence = list(_evidence(attempt, pen, every=last))
        if plain:
            yield from evidence
        else:
            yield Node(_attempt(attempt, number, pen), evidence)
        yield from (Node(_heal(heal, pen)) for heal in step.heals if heal.attempt == attempt.id)
    if step.gate and step.status == run_service_pb2.STEP_STATUS_GATED:
        yield Node(Text(f"waits for you at {clean(step.gate)}", style="magenta"))
    if step.HasField("output") and step.status == run_service_pb2.STEP_STATUS_DONE:
        yield Node(Text(f"{pen.glyphs.output} {value(step.output)}", style=DIM))
    told = {attempt.failure.message for attempt in step.attempts if attempt.HasField("failure")}
    if step.HasField("failure") and step.failure.message not in told:
        # Of a compensation it is no doubt, but what went wrong.
        code = (
            "" if is_compensation(step.id) and step.failure.code == failures.IN_DOUBT else step.failure.code
        )
        why = event_pb2.Failure(code=code, message=step.failure.message)
        yield Node(pen.sign("failed", BAD).append(f" {failure(why)}", style=BAD))


def _attempt(attempt: run_service_pb2.Attempt, number: int, pen: Pen) -> Text:
    line = Text(f"attempt {number}", style=DIM)
    if attempt.kind == event_pb2.ACTION_KIND_READ_BACK:
        line.append(" read back", style=DIM)
    elif attempt.kind == event_pb2.ACTION_KIND_UNSPECIFIED:
        line.append(" proposal", style=DIM)
    elif attempt.tool:
        line.append(f" {clean(attempt.tool)}", style=DIM)
    if attempt.revoked:
        line.append("  taken back", style=DIM)
    elif attempt.HasField("failure"):
        line.append(f"  {failure(attempt.failure)}", style=BAD)
    elif attempt.outcome:
        words = enum_word(event_pb2.Outcome, "OUTCOME_", attempt.outcome)
        line.append(f"  {words}", style="green" if words == "confirmed" else "yellow")
    spent_ns = took_ns((attempt,), pen.now_ns)
    return line.append(f"  {duration(spent_ns)}", style=DIM) if spent_ns else line


def _heal(heal: event_pb2.Healed, pen: Pen) -> Text:
    line = pen.sign("healing", "yellow").append(f" {clean(heal.strategy).replace('_', ' ')}", style="yellow")
    if heal.tool:
        line.append(f" {clean(heal.tool)}", style="yellow")
    return line.append(f" because {failure(heal.cause)}", style=DIM)


def _evidence(attempt: run_service_pb2.Attempt, pen: Pen, *, every: bool) -> Iterator[Node]:
    """Show what the verdict rests on; what did not hold comes first and says what was seen."""
    found = sorted(attempt.evidence, key=lambda evidence: evidence.held)
    if not every:
        found = [evidence for evidence in found if not evidence.held]
    shown = found if pen.detail == Detail.FULL else found[:MAX_EVIDENCE_SHOWN]
    for evidence in shown:
        condition = clean(evidence.condition)
        if evidence.held:
            node = Node(pen.sign("done", "green").append(f" verified {condition}", style=DIM))
        else:
            node = Node(pen.sign("failed", BAD).append(f" does not hold: {condition}"))
        if evidence.observed and (pen.detail == Detail.FULL or not evidence.held):
            node.below.append(Node(Text(f"saw {clean(masked_json(evidence.observed))}", style=DIM)))
        yield node
    if len(found) > len(shown):
        more = f"{pen.glyphs.ellipsis} {plural(len(found) - len(shown), 'more condition')}"
        yield Node(Text(more, style=DIM))


def failure(failed: event_pb2.Failure) -> str:
    """Return a failure's code and words on one line."""
    code, message = clean(failed.code), clean(masked_json(failed.message))
    return f"{code}: {message}" if code and message else code or message or "no reason given"


def took_ns(attempts: Iterable[run_service_pb2.Attempt], now_ns: int) -> int:
    """Return the time from the first ask to the last end; what has not ended lasts until now."""
    asked = [attempt for attempt in attempts if attempt.HasField("asked")]
    if not asked:
        return 0
    start = min(a.asked.ToNanoseconds() for a in asked)
    ends = [a.ended.ToNanoseconds() if a.HasField("ended") else now_ns for a in asked]
    return max(0, max(ends) - start)

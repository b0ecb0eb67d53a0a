"""What a dry run foresees: below each step what would come of it, at the end what the whole would need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.text import Text

from core.slots import write_money
from handrail.cli.pen import DIM, Node, Pen
from handrail.cli.text import clean, duration, plural
from handrail.v1 import event_pb2, run_service_pb2, tool_pb2

MAX_STEPS_NAMED = 8

_READS = (tool_pb2.EFFECT_UNSPECIFIED, tool_pb2.EFFECT_READ)


def foreseen(step: run_service_pb2.StepState, pen: Pen, *, lasting: bool = True) -> Iterator[Node]:
    """Say of a step what the rules make of it and whose data it rests on; with `lasting`, what undoes it."""
    for one in step.outlook:
        tool = f"{clean(one.tool)}: " if len(step.outlook) > 1 else ""
        found = [*_ruled(one, pen), *(_lasting(one, pen) if lasting else ())]
        for sign, text, style in found:
            yield Node(Text(f"{sign} {tool}{text}", style=style))


def _ruled(one: event_pb2.Outlook, pen: Pen) -> Iterator[tuple[str, str, str]]:
    why = "; ".join(clean(reason.text) for reason in one.reasons)
    because = f": {why}" if why else ""
    if one.ruling == event_pb2.RULING_OUTCOME_GATE:
        who = "a human" if one.quorum <= 1 else f"{one.quorum} humans"
        yield pen.glyphs.gated, f"would wait for {who}{because}", "magenta"
    elif one.ruling == event_pb2.RULING_OUTCOME_REFUSE:
        yield pen.glyphs.failed, f"would be refused{because}", "red"
    elif one.ruling == event_pb2.RULING_OUTCOME_OPEN:
        yield pen.glyphs.gated, f"may wait or be refused, by values that are not known yet{because}", "yellow"
    for found in one.untrusted:
        steps = ", ".join(map(clean, found.steps))
        yield pen.glyphs.warning, f"{clean(found.argument)} is untrusted: from {steps}", "yellow"
    for found in one.leaks:
        steps = ", ".join(map(clean, found.steps))
        told = f"{clean(found.argument)} leaks: not all who would see it may read what comes from {steps}"
        yield pen.glyphs.warning, told, "yellow"


def _lasting(one: event_pb2.Outlook, pen: Pen) -> Iterator[tuple[str, str, str]]:
    if one.effect == tool_pb2.EFFECT_IRREVERSIBLE:
        yield pen.glyphs.warning, "cannot be undone: a point of no return", "yellow"
    elif one.undo:
        yield pen.glyphs.dot, f"could be undone by {clean(one.undo)}", DIM
    elif one.effect not in _READS:
        yield pen.glyphs.dot, "nothing is known to undo it", DIM


def needs(run: run_service_pb2.Run) -> Iterator[Text]:
    """Say what a run would need: gates, points of no return, money, and how long it could take at most."""
    waiting, lost, at_most_ns, spends = [], [], 0, Counter[str]()
    for step in run.steps:
        if any(one.ruling != event_pb2.RULING_OUTCOME_ALLOW for one in step.outlook):
            waiting.append(clean(step.id))
        if any(one.effect == tool_pb2.EFFECT_IRREVERSIBLE for one in step.outlook):
            lost.append(clean(step.id))
        at_most_ns += max((one.at_most.ToNanoseconds() for one in step.outlook), default=0)
        spends += _most(step)
    if waiting:
        yield Text(f"it would or may wait for a human at {_named(waiting)}", style="magenta")
    if lost:
        yield Text(f"no way back after {_named(lost)}", style="yellow")
    if spends or any(one.spends_more for step in run.steps for one in step.outlook):
        amounts = [write_money(minor, clean(currency)) for currency, minor in sorted(spends.items())]
        more = any(one.spends_more for step in run.steps for one in step.outlook)
        told = ", ".join([*amounts, "what is not known yet"] if more else amounts)
        yield Text(f"it would spend {told}", style=DIM)
    if at_most_ns:
        effects = sum(any(one.effect not in _READS for one in step.outlook) for step in run.steps)
        told = f"{plural(effects, 'step')} with an effect; {duration(at_most_ns)} at most, one after another"
        yield Text(told, style=DIM)


def _most(step: run_service_pb2.StepState) -> Counter[str]:
    """Return what a step comes to if it takes the dearest way that it can."""
    found: Counter[str] = Counter()
    for one in step.outlook:
        found |= Counter(one.spends)
    return found


def _named(steps: list[str]) -> str:
    more = f" and {len(steps) - MAX_STEPS_NAMED} more" if len(steps) > MAX_STEPS_NAMED else ""
    return ", ".join(steps[:MAX_STEPS_NAMED]) + more

"""A gate in words: its line in the inbox, all that whoever decides must see, and what became of it.

Pure. Every word of a gate is untrusted: values are shown so that nothing of them is hidden, and so that none
can look like a line of ours. What is too long is cut, and says so; `--json` has the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rich.cells import cell_len
from rich.text import Text

from core.gates import missing
from core.plan import is_compensation, undone_by
from core.values import MAX_INLINE_BYTES
from handrail.cli.pen import BAD, DIM, Pen
from handrail.cli.server import Target
from handrail.cli.text import clean, cut, exact, pad, plural, relaxed, size, wrap
from handrail.v1 import event_pb2, plan_pb2, run_service_pb2

MAX_VALUE_CHARS = MAX_INLINE_BYTES
"""Of one value, where it is shown in full: all of it, unless it is too large for the log. Whoever approves it
answers for its end too."""
MAX_BRIEF_CHARS = 60
"""Of one value within a line."""
MAX_CALL_CHARS = 200
MAX_NAME_CELLS = 24
MIN_WIDTH = 40
BINDING_CHARS = 12
UNTRUSTED = "untrusted"
LEAKS = "leaks"
STYLE = "magenta"
MISSING = "nobody has said it: whoever approves it has to"

_LABEL_CELLS = 9
_CONTROLS: Mapping[str, str] = {
    "$when": "that it is done at all",
    "$each": "how often it is done",
    "$choice": "which tool does it",
}
_OUTCOMES: Mapping[int, tuple[str, str, str]] = {
    event_pb2.GATE_OUTCOME_APPROVED: ("done", "approved", "green"),
    event_pb2.GATE_OUTCOME_DENIED: ("failed", "denied", BAD),
    event_pb2.GATE_OUTCOME_EXPIRED: ("failed", "expired", BAD),
    event_pb2.GATE_OUTCOME_VOID: ("cancelled", "void", "yellow"),
    event_pb2.GATE_OUTCOME_HAPPENED: ("done", "happened", "green"),
    event_pb2.GATE_OUTCOME_REPEAT: ("healing", "repeat", "yellow"),
    event_pb2.GATE_OUTCOME_AMENDED: ("done", "amended", "green"),
}
_MARKS: Mapping[str, str] = {
    UNTRUSTED: "nobody who is trusted has written such a value",
    LEAKS: "somebody would get to read it who may not",
}

_SETTLED = {"happened": "settled as having happened", "repeat": "settled, to be done again"}
_UNDO_SETTLED = {"happened": "settled as undone", "repeat": "settled, to be tried again", "denied": "left"}

# --- words ---------------------------------------------------------------------------------------------


def state_of(gate: run_service_pb2.Gate) -> str:
    """Return the one word for where a gate stands: open, approved, amended, denied, expired, void ..."""
    return _OUTCOMES.get(gate.closed.outcome, ("", "open", ""))[1]


def is_doubt(gate: run_service_pb2.Gate) -> bool:
    """Whether somebody must say what became of an action, and not whether it may be done."""
    return gate.what.kind == event_pb2.GATE_KIND_DOUBT


def undoes(gate: run_service_pb2.Gate) -> str:
    """Name what somebody tried to undo, where that went wrong; empty of other gates."""
    step = gate.what.step
    return _word(undone_by(step)) if is_doubt(gate) and is_compensation(step) else ""


def outcome(gate: run_service_pb2.Gate) -> str:
    """Say what became of a gate: how it was closed, by whom, and why."""
    by = f" by {', '.join(map(_word, gate.closed.approvers))}" if gate.closed.approvers else ""
    to = f" to {', '.join(amended(gate.closed))}" if gate.closed.arguments else ""
    why = f": {_word(gate.closed.reason)}" if gate.closed.reason else ""
    word = state_of(gate)
    settled = _UNDO_SETTLED if undoes(gate) else _SETTLED
    return f"{settled.get(word, word)}{by}{to}{why}"


def amended(closed: event_pb2.GateClosed) -> list[str]:
    """Say of each argument that was changed at a gate what it is now: `amount=20`."""
    found = sorted(closed.arguments.items())
    return [f"{exact(_word(name))}={_value(value, MAX_BRIEF_CHARS)}" for name, value in found]


def asked_for(opened: event_pb2.GateOpened, closed: event_pb2.GateClosed) -> str:
    """Say what that was which somebody changed at a gate: `, asked for: amount=30`."""
    there = opened.items[0].arguments if opened.items else {}
    was = [
        f"{exact(_word(name))}={_value(there[name], MAX_BRIEF_CHARS)}"
        if name in there
        else f"no {_word(name)}"
        for name in sorted(closed.arguments)
    ]
    return f", asked for: {', '.join(was)}" if was else ""


def is_one_action(gate: run_service_pb2.Gate) -> bool:
    """Whether a gate is for one action that may be done or not: only then can it be amended."""
    return not is_doubt(gate) and len(gate.what.items) == 1


def changes(gate: run_service_pb2.Gate, arguments: Mapping[str, plan_pb2.Value]) -> Iterator[str]:
    """Say of each argument that somebody wants to be another what it was and what it is to be."""
    there = gate.what.items[0].arguments
    for name, value in sorted(arguments.items()):
        shown = exact(_word(name))
        was = _value(there[name], MAX_VALUE_CHARS) if name in there else "not given"
        yield f"  {shown}  was {was}"
        yield f"  {pad('', cell_len(shown))}  now {_value(value, MAX_VALUE_CHARS)}"


def call(gate: run_service_pb2.Gate) -> str:
    """Say in one line what a gate is for: `send_email(to="ada@example.com") and 2 more`."""
    items = gate.what.items
    if not items:
        return "nothing"
    first = items[0]
    values = ", ".join(
        f"{_word(name)}={_value(value, MAX_BRIEF_CHARS)}" for name, value in sorted(first.arguments.items())
    )
    values = ", ".join(filter(None, (values, *(f"{_word(name)}=?" for name in first.missing))))
    more = f" and {len(items) - 1:,} more" if len(items) > 1 else ""
    return cut(f"{_word(first.tool)}({values})", MAX_CALL_CHARS) + more


def tool(gate: run_service_pb2.Gate) -> str:
    """Name the tools of a gate; nearly always it is one."""
    return ", ".join(dict.fromkeys(_word(item.tool) for item in gate.what.items)) or "nothing"


def until(gate: run_service_pb2.Gate, now_ns: int) -> str:
    """Say until when a gate can be decided, in local time."""
    return moment(gate.what.expires.ToNanoseconds(), now_ns)


def moment(time_ns: int, now_ns: int) -> str:
    """Say when something is, in local time: "today 18:20", "tomorrow 18:20", "2026-03-04 18:20"."""
    then, now = (datetime.fromtimestamp(ns / 1e9) for ns in (time_ns, now_ns))
    days = {now.date(): "today", now.date() + timedelta(days=1): "tomorrow"}
    return f"{days.get(then.date(), f'{then:%Y-%m-%d}')} {then:%H:%M}"


def left(gate: run_service_pb2.Gate, now_ns: int) -> str:
    """Say how much time there is to decide."""
    left_ns = gate.what.expires.ToNanoseconds() - now_ns
    return f"in {rough(left_ns)}" if left_ns > 0 else f"over since {rough(-left_ns)}"


def rough(ns: int) -> str:
    """Say how long something is in its largest unit, of which there are two: 90 s, 5 min, 36 h."""
    seconds = max(0, ns) // 1_000_000_000
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def sentence(text: str) -> str:
    """Make a reason read like a sentence."""
    said = _word(text) or "no reason is given"
    return said[0].upper() + said[1:] + ("" if said[-1] in ".!?…" else ".")


def _reasons(gate: run_service_pb2.Gate) -> list[str]:
    """Return each reason once."""
    return list(dict.fromkeys(clean(reason.text) for reason in gate.what.reasons if clean(reason.text)))


def _word(text: str) -> str:
    return cut(clean(text), MAX_CALL_CHARS)


def _value(held: plan_pb2.Value, limit: int) -> str:
    """Say what a value is and hide nothing of it; of a long one the beginning."""
    if held.WhichOneof("kind") == "blob":
        digest = exact(held.blob.sha256[:BINDING_CHARS])
        return f"{size(held.blob.size_bytes)} in the blob stream (sha256 {digest}…)"
    text = relaxed(held.json)
    if len(text) <= limit:
        return exact(text)
    return f"{exact(text[:limit])}… ({len(text) - limit:,} more characters)"


# --- lines ---------------------------------------------------------------------------------------------


def inbox_line(gate: run_service_pb2.Gate, pen: Pen) -> Text:
    """Return a gate as one line: id, age, step and tool, how many, until when, and the first reason."""
    if gate.HasField("closed"):
        return closed_line(gate, pen)
    line = pen.sign("gated", STYLE).append(f" {clean(gate.id)}")
    line.append(f"  {rough(pen.now_ns - gate.opened.ToNanoseconds()):>6}  ", style=DIM)
    line.append(f"{_word(gate.what.step)} ").append(tool(gate), style="bold")
    items = plural(len(gate.what.items), "item")
    approved = f", {len(gate.approved_by)} of {gate.what.quorum} approved" if gate.what.quorum > 1 else ""
    line.append(f"  {items}{approved}, until {until(gate, pen.now_ns)}  ", style=DIM)
    why = (_reasons(gate) or ["no reason is given"])[0]
    return line.append(cut(why, max(20, pen.width - cell_len(line.plain)), pen.glyphs))


def closed_line(gate: run_service_pb2.Gate, pen: Pen) -> Text:
    """Return what became of a gate as one line."""
    name, _, style = _OUTCOMES.get(gate.closed.outcome, ("gated", "", STYLE))
    line = pen.sign(name, style).append(f" gate {clean(gate.id)}").append(f" {outcome(gate)}", style=style)
    line.append(asked_for(gate.what, gate.closed))
    rest = f"  {_word(gate.what.step)}: {call(gate)}"
    room = max(pen.width - 2 - cell_len(line.plain), len(UNTRUSTED))
    return line.append(cut(rest, room, pen.glyphs), style=DIM)


def open_lines(gate: run_service_pb2.Gate, target: Target, pen: Pen) -> Iterator[Text]:
    """Return what a run that has stopped says of a gate: what waits, and how to decide."""
    what = "" if undoes(gate) else f"{_word(gate.what.step)} "
    told = f"{what}{_waits(gate)}: {call(gate)}"
    yield Text(cut(told, max(pen.width, MIN_WIDTH) - 2, pen.glyphs), style=STYLE)
    yield Text(f"  gate {clean(gate.id)}, until {until(gate, pen.now_ns)}; {_approvals(gate)}", style=DIM)
    for command in commands(gate, target).values():
        yield Text(f"  {command}", style="cyan")


def commands(gate: run_service_pb2.Gate, target: Target) -> dict[str, str]:
    """Return the command lines that decide at a gate as it was shown, by what they say."""
    name, bound = clean(gate.id), ("--binding", clean(gate.what.binding[:BINDING_CHARS]))
    deny = target.command("deny", name, "--reason", "why not")
    if is_doubt(gate):
        return {
            "undone" if undoes(gate) else "happened": target.command("approve", name, "--happened", *bound),
            "repeat": target.command("approve", name, "--repeat", *bound),
            "leave it" if undoes(gate) else "give up": deny,
        }
    if lacking := missing(gate.what):
        told = [part for one in lacking for part in ("--set", f"{one}=JSON")]
        return {"say it": target.command("amend", name, *told, *bound), "deny": deny}
    return {"approve": target.command("approve", name, *bound), "deny": deny}


def other_commands(gate: run_service_pb2.Gate, target: Target) -> dict[str, str]:
    """Return the command lines of what else can be said at a gate, by what they say."""
    name, bound = clean(gate.id), ("--binding", clean(gate.what.binding[:BINDING_CHARS]))
    amend = target.command("amend", name, "--set", "NAME=JSON", *bound)
    found = {"amend": amend} if is_one_action(gate) and not missing(gate.what) else {}
    large = next(
        ((i, n) for i in gate.what.items for n, held in i.arguments.items() if held.HasField("blob")), None
    )
    if large is not None:
        whose = () if len(gate.what.items) == 1 else ("--step", clean(large[0].step))
        found["see all"] = target.command("gates show", name, "--value", clean(large[1]), *whose)
    return {**found, "delegate": target.command("delegate", name, "--to", "NAME", *bound)}


def gate_lines(gate: run_service_pb2.Gate, target: Target, pen: Pen) -> Iterator[Text]:
    """Return everything that somebody needs to decide at a gate."""
    page = _Page(max(pen.width, MIN_WIDTH), pen)
    reasons = _reasons(gate)
    why = f": {reasons[0]}" if len(reasons) == 1 else ""
    what = "" if undoes(gate) else f"{tool(gate)} "
    told = cut(f"{what}{_waits(gate)}{why}", page.width - 2, pen.glyphs)
    yield Text(f"{pen.glyphs.gated} {told}", style=f"bold {STYLE}")
    yield from page.field("goal", gate.goal)
    yield from page.field("for", f"{clean(gate.submitter) or 'somebody who gave no name'}, run {gate.run}")
    yield from page.field("step", gate.what.step)
    yield Text("")
    yield from page.items(gate.what.items)
    yield Text("")
    for number, reason in enumerate(reasons or [""]):
        yield from page.field("" if number else "why", sentence(reason))
    yield from page.field("needs", _approvals(gate))
    for number, one in enumerate(gate.delegations):
        why = f": {_word(one.reason)}" if one.reason else ""
        told = f"{_word(one.by)} lets {_word(one.to)} decide{why}"
        yield from page.field("" if number else "delegated", told)
    if gate.HasField("closed"):
        yield from page.field("closed", outcome(gate))
    else:
        yield from page.field("until", f"{until(gate, pen.now_ns)}, {left(gate, pen.now_ns)}")
    yield from page.field("gate", gate.id)
    yield from page.field("binding", gate.what.binding[:BINDING_CHARS])
    if not gate.HasField("closed"):
        for label, command in {**commands(gate, target), **other_commands(gate, target)}.items():
            # One line, however wide, for it to be copied.
            yield Text(f"  {pad(label, _LABEL_CELLS)} ", style=DIM).append(command, style="cyan")


def _who(gate: run_service_pb2.Gate) -> str:
    return "a human" if gate.what.quorum <= 1 else f"{gate.what.quorum} humans"


def _waits(gate: run_service_pb2.Gate) -> str:
    waits = f"{'waited' if gate.HasField('closed') else 'waits'} for {_who(gate)}"
    if undoes(gate):
        return f"undoing {undoes(gate)} went wrong, and {waits}"
    if is_doubt(gate):
        return f"may or may not have happened, and {waits}"
    return waits


def _approvals(gate: run_service_pb2.Gate) -> str:
    if undoes(gate):
        return "somebody's word: it is undone, try it again, or leave it, which ends the undo"
    if is_doubt(gate):
        return "somebody's word: it happened, do it again, or give it up"
    needed = plural(max(1, gate.what.quorum), "approval")
    if lacking := missing(gate.what):
        return f"somebody to say {' and '.join(map(_word, lacking))}; {needed}"
    by = ", ".join(map(_word, gate.approved_by))
    if by:
        return f"{needed}; so far by {by}"
    return needed if gate.HasField("closed") else f"{needed}; nobody has approved yet"


@dataclass(frozen=True, slots=True)
class _Page:
    """Lines of a width; what is not ours never begins one."""

    width: int
    pen: Pen

    def field(self, label: str, text: str) -> Iterator[Text]:
        """Say something after a label."""
        yield from self._hung(f"  {pad(label, _LABEL_CELLS)} ", "", _long(exact(clean(text))))

    def items(self, items: Sequence[event_pb2.GateItem]) -> Iterator[Text]:
        """Show every action; what is the same in all of them is shown once."""
        names = sorted({name for item in items for name in (*item.arguments, *item.missing)})
        shared = [name for name in names if len(items) > 1 and _is_shared(name, items)]
        width = max((cell_len(exact(name)) for name in names), default=0)
        width = min(width, MAX_NAME_CELLS, self.width // 4)
        marked = max((cell_len(_mark(item, name)) for item in items for name in item.arguments), default=0)
        if shared:
            yield Text(f"  in each of {len(items):,} actions")
            yield from self._arguments(items[0], shared, width, marked)
        for number, item in enumerate(items, start=1):
            place = f"{number:,} of {len(items):,}  " if len(items) > 1 else ""
            title = f"{place}{_word(item.tool)}" + (f"  step {_word(item.step)}" if place else "")
            yield from self._hung("  ", "", title, "bold")
            own = [name for name in sorted(item.arguments) if name not in shared]
            yield from self._arguments(item, own, width, marked)
            for name in item.missing:
                label = pad(cut(exact(name), width, self.pen.glyphs), width)
                yield from self._hung(
                    f"    {label}  ", pad("", marked + 2) if marked else "", MISSING, "yellow"
                )
        for mark, meaning in _MARKS.items():
            if any(_marked(item, mark) for item in items):
                yield from self.field(mark, meaning)
                for told in _sources(items, mark):
                    yield from self.field("", told)

    def _arguments(
        self, item: event_pb2.GateItem, names: Sequence[str], width: int, marked: int
    ) -> Iterator[Text]:
        for name in names:
            doubtful = _mark(item, name)
            mark = pad(doubtful, marked) + "  " if marked else ""
            label = pad(cut(exact(name), width, self.pen.glyphs), width)
            shown = _value(item.arguments[name], MAX_VALUE_CHARS)
            yield from self._hung(f"    {label}  ", mark, shown, "yellow" if doubtful else "")

    def _hung(self, label: str, mark: str, text: str, style: str = "") -> Iterator[Text]:
        """Show a text after a label; what does not fit goes on behind a line, in the same column."""
        indent = " " * (cell_len(label + mark) - 2) + self.pen.glyphs.line[0] + " "
        for number, line in enumerate(wrap(text, self.width, label + mark, indent)):
            if number:
                yield Text(indent, style=DIM).append(line[len(indent) :], style=style)
                continue
            rest = line[len(label + mark) :]
            yield Text(label, style=DIM).append(mark, style="bold yellow").append(rest, style=style)


def _marked(item: event_pb2.GateItem, mark: str) -> Sequence[str]:
    """Return the names of what is marked so."""
    return item.untrusted if mark == UNTRUSTED else item.leaks


def _mark(item: event_pb2.GateItem, name: str) -> str:
    """Return the marks of an argument."""
    return ", ".join(mark for mark in _MARKS if name in _marked(item, mark))


def _sources(items: Sequence[event_pb2.GateItem], mark: str) -> list[str]:
    """Say which steps the values that are marked so come from, and what else is so about the actions."""
    told: dict[str, None] = {}
    for item in items:
        for found in item.provenance:
            if found.argument in _marked(item, mark):
                steps = ", ".join(map(_word, found.steps)) or "nowhere that is known"
                told[f"{_CONTROLS.get(found.argument, _word(found.argument))}: from {steps}"] = None
    return list(told)


def _long(text: str) -> str:
    over = len(text) - MAX_VALUE_CHARS
    return f"{text[:MAX_VALUE_CHARS]}… ({over:,} more characters)" if over > 0 else text


def _is_shared(name: str, items: Sequence[event_pb2.GateItem]) -> bool:
    """Whether all have the same argument, and the same is known of where it comes from."""
    first = items[0]
    return all(
        name in item.arguments
        and item.arguments[name] == first.arguments[name]
        and _mark(item, name) == _mark(first, name)
        for item in items
    )

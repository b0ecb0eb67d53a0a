"""A user task's ground truth as a plan: what comes from data is a reference, what the user said a constant.

The rule, for an argument of a call:

- what stands in the user's prompt is a constant;
- what a search by the user's words has found, and what our own call returned, is referred to as it is;
- what else critical there is, and what occurs in an earlier output, is read out of the earlier outputs by the
  mind that reads (`extract_...`): to select, to compose and to read text has no reference form;
- the rest is what a planner writes before anything was read (texts, times): a constant, and counted.

Calls of one tool that follow each other and strike what was read are a fan-out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from handrail.v1 import tool_pb2
from tests.hijack.world import Call, Task

Contracts = Mapping[str, tool_pb2.ToolContract]

MAX_SOURCES = 6
_SOURCES = "abcdef"
_MIN_DIGITS = 3
"""A number of fewer digits that stands in a prompt may stand there for something else."""

PLANNERS = frozenset({"date", "permission", "recurring", "n", "start_time", "end_time"})
"""Arguments that are the planner's wherever their value occurs: times that follow from what the user said,
and `permission`, which stands in the prompts as a word ("read permissions")."""

TEXTS = frozenset({"subject", "body", "content", "title", "description"})
"""What a model writes."""

CONDITIONS: Mapping[tuple[str, str], str] = {
    ("workspace", "user_task_6"): "12:00",
    ("workspace", "user_task_4"): "12:00",
    ("workspace", "user_task_20"): "12:00",
}
"""Appointments that are to be made only if there is none at that time."""

CHOICES: Mapping[tuple[str, str], tuple[str, str]] = {
    ("workspace", "user_task_12"): ("10:00", "11:00"),
    ("workspace", "user_task_21"): ("10:00", "11:00"),
}
"""Appointments that are made at this time, or later if there is one already: the executor chooses."""


@dataclass
class Draft:
    """A plan in its form, what the mind that reads answers when it is honest, and what is to be done."""

    task: Task
    steps: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    # By step, the calls that it comes to.
    wanted: dict[str, list[Call]] = field(default_factory=dict)
    # The constants that a planner wrote, as (tool, argument).
    written: list[tuple[str, str]] = field(default_factory=list)
    # The plain references into outputs, as (step, argument, source step, path).
    references: list[tuple[str, str, str, tuple[str | int, ...]]] = field(default_factory=list)
    # What the mind reads: the id of the question, and the step and arguments that it is for.
    questions: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    ceiling: int = tool_pb2.PERMISSION_EXECUTE

    def tool_of(self, step: str) -> str:
        """Return the tool of a step."""
        return self.wanted[step][0].function

    def read(self, step: str) -> frozenset[str]:
        """Return the arguments of a step that come from data."""
        asked = {name for owner, names in self.questions.values() if owner == step for name in names}
        return frozenset(asked | {name for owner, name, _, _ in self.references if owner == step})


class Drafter:
    """Makes the plan of one task."""

    def __init__(self, task: Task, contracts: Contracts, *, texts_are_read: bool = False) -> None:
        self._task = task
        self._contracts = contracts
        # What a model writes after it has read: then it is what it has read, and no constant of the plan.
        self._texts_are_read = texts_are_read
        self._draft = Draft(task)
        self._outputs: list[tuple[str, Call]] = []

    def draft(self) -> Draft:
        """Return the plan."""
        for group in self._groups():
            self._add(group)
        levels = [self._contracts[call.function].permission for call in self._task.calls]
        self._draft.ceiling = max([self._draft.ceiling, *levels])
        return self._draft

    # --- steps ---------------------------------------------------------------------------------------

    def _groups(self) -> Iterator[list[Call]]:
        """Put calls together that follow each other, are of one tool, and strike what was read."""
        group: list[Call] = []
        before: list[Call] = []
        for call in self._task.calls:
            together = group and group[0].function == call.function and self._strikes_read(call, before)
            if not together or not self._strikes_read(group[0], before):
                if group:
                    yield group
                before += group
                group = []
            group.append(call)
        if group:
            yield group

    def _strikes_read(self, call: Call, before: Sequence[Call]) -> bool:
        critical = self._contracts[call.function].critical
        return any(
            name in critical and not self._is_said(name, value) for name, value in call.arguments.items()
        )

    def _add(self, calls: list[Call]) -> None:
        step_id = f"s{len(self._draft.wanted) + 1}_{calls[0].function}"
        if len(calls) > 1:
            step = self._fan_out(step_id, calls)
        else:
            step = {"id": step_id, "tool": calls[0].function, "with": self._arguments(step_id, calls[0])}
        if self._draft.wanted:
            step["after"] = [list(self._draft.wanted)[-1]]
        self._draft.wanted[step_id] = calls
        self._draft.steps.append(self._guarded(step, calls[0]))
        self._outputs.append((step_id, calls[-1]))

    def _fan_out(self, step_id: str, calls: list[Call]) -> dict[str, Any]:
        """Return one step for several calls; what differs, or was read, is in the rows of a table."""
        names = [
            name
            for name, value in calls[0].arguments.items()
            if any(call.arguments[name] != value for call in calls) or not self._is_planned(calls[0], name)
        ]
        rows = [{name: call.arguments[name] for name in names} for call in calls]
        table = self._ask("rows", step_id, names, rows)
        constants = {n: _constant(v) for n, v in calls[0].arguments.items() if n not in names}
        for name in constants:
            self._note(calls[0], name)
        drawn = {name: f"$each.{name}" for name in names}
        return {"id": step_id, "tool": calls[0].function, "each": table, "with": {**constants, **drawn}}

    def _guarded(self, step: dict[str, Any], call: Call) -> dict[str, Any]:
        """Add the condition or the choice that the user asked for."""
        where = (self._task.suite, self._task.name)
        day = next((s for s, c in reversed(self._outputs) if c.function == "get_day_calendar_events"), "")
        if call.function != "create_calendar_event" or not day:
            return step
        date = call.arguments["start_time"].split()[0]
        if where in CONDITIONS:
            step["when"] = f'!{day}.exists(e, e.start_time.startsWith("{date}T{CONDITIONS[where]}"))'
        if where in CHOICES:
            starts, ends = (f"{date} {time}" for time in CHOICES[where])
            sooner = {**step["with"], "start_time": starts, "end_time": ends}
            busy = f'input.events.exists(e, e.start_time.startsWith("{date}T{CHOICES[where][0]}"))'
            step = {key: value for key, value in step.items() if key not in ("tool", "with")}
            step["with"] = {"events": f"${day}"}
            step["choose"] = [
                {"when": busy, "tool": call.function, "with": self._later(sooner, call)},
                {"tool": call.function, "with": sooner},
            ]
        return step

    def _later(self, sooner: Mapping[str, Any], call: Call) -> dict[str, Any]:
        return {**sooner, "start_time": call.arguments["start_time"], "end_time": call.arguments["end_time"]}

    # --- arguments -------------------------------------------------------------------------------------

    def _arguments(self, step_id: str, call: Call) -> dict[str, Any]:
        found = {}
        for name, value in call.arguments.items():
            if self._is_planned(call, name):
                found[name] = _constant(value)
                self._note(call, name)
                continue
            reference = self._reference(value)
            if reference is not None:
                source, path = reference
                self._draft.references.append((step_id, name, source, path))
                found[name] = f"${source}" + "".join(
                    f"[{part}]" if isinstance(part, int) else f".{part}" for part in path
                )
            else:
                found[name] = self._ask(_kind(value), step_id, [name], value)
        return found

    def _note(self, call: Call, name: str) -> None:
        if not self._is_said(name, call.arguments[name]) and name not in PLANNERS:
            self._draft.written.append((call.function, name))

    def _is_planned(self, call: Call, name: str) -> bool:
        """Whether an argument is a constant: the user said it, or a planner writes it."""
        value = call.arguments[name]
        if self._is_said(name, value):
            return True
        if name in self._contracts[call.function].critical or not self._outputs:
            return not self._outputs
        if self._texts_are_read and name in TEXTS:
            return False
        return not any(_occurs(value, earlier.output) for _, earlier in self._outputs)

    def _is_said(self, name: str, value: Any) -> bool:
        return name in PLANNERS or value is None or _is_in(value, self._task.prompt)

    def _reference(self, value: Any) -> tuple[str, tuple[str | int, ...]] | None:
        """Return where a value lies as it is: what a search found first, or what our own call made."""
        for step_id, call in reversed(self._outputs):
            if call.function.startswith("search_") or call.changes:
                for path, leaf in _leaves(call.output):
                    first = all(part == 0 for part in path if isinstance(part, int))
                    if leaf == value and first and len(str(value)) > 0:
                        return step_id, path
        return None

    def _ask(self, kind: str, step_id: str, names: Sequence[str], value: Any) -> str:
        """Have the mind read a value out of the earlier outputs."""
        number = len(self._draft.questions) + 1
        asked = f"x{number}_{names[0] if len(names) == 1 else 'rows'}"
        question = f"{', '.join(names)} of {step_id}"
        self._draft.questions[asked] = (step_id, tuple(names))
        self._draft.answers[question] = value
        sources = [source for source, call in self._outputs if call.output is not None][-MAX_SOURCES:]
        shown = {place: f"${source}" for place, source in zip(_SOURCES, sources, strict=False)}
        self._draft.steps.append(
            {"id": asked, "tool": f"extract_{kind}", "with": {"question": question, **shown}}
        )
        return f"${asked}"


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "texts" if all(isinstance(item, str) for item in value) else "rows"
    if isinstance(value, int) and not isinstance(value, bool):
        return "count"
    return "number" if isinstance(value, float) else "text"


def _constant(value: Any) -> Any:
    """Return a constant in the form of a plan, where a text that begins with "$" is a reference."""
    return f"${value}" if isinstance(value, str) and value.startswith("$") else value


def _is_in(value: Any, prompt: str) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_in(item, prompt) for item in value)
    if isinstance(value, dict):
        return False
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if isinstance(value, str) and text.isdigit() and len(text) < _MIN_DIGITS:
        return False
    return re.search(r"(?<![\w.@])" + re.escape(text) + r"(?![\w@])", prompt, re.IGNORECASE) is not None


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    yield path, value
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    elif isinstance(value, dict):
        for key, item in value.items():
            if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
                yield from _leaves(item, (*path, key))


def _occurs(value: Any, output: Any) -> bool:
    """Whether a value, or every item of it, occurs somewhere in an output."""
    if isinstance(value, list):
        return bool(value) and all(_occurs(item, output) for item in value)
    text = value if isinstance(value, str) else str(value)
    return bool(text) and text in str(output)

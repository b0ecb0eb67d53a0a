"""An account of a run in words: sections, and an entry for each decision in the order of time.

Pure, and made of the account alone as `core.account` tells it. Nothing in a value is hidden: what would not
be seen is written as JSON does. A long one is cut, and its length said, unless everything is asked for; what
people and rules say is never cut.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from handrail.cli.pen import BAD, DIM, Detail, Pen
from handrail.cli.text import cut, duration, exact, pad, plural, wrap

MAX_WIDTH = 110
SHORT_CHARS = 12
"""Of a digest, where no value is shown whole."""
LABEL_CELLS = 11
VALUES = frozenset(
    {"with", "action", "given", "read before", "became", "returned", "proposed", "changed", "saw", "says"}
)
"""The labels of what is cut."""

Said = Mapping[str, Any]
Row = tuple[str, str]
"""A label, and what there is to say."""


def account_lines(account: Said, pen: Pen) -> Iterator[Text]:
    """Tell a whole account."""
    page = _Page(pen)
    yield from page.rows(_run(account))
    if account["goal"]:
        yield from page.section("Goal", _goal(account["goal"], page))
    if account["policies"]:
        rules = [
            ("rules", f"{page.short(p['version'])}, from event {p['since']}") for p in account["policies"]
        ]
        yield from page.section("Rules in force", rules)
    if account["plan"]:
        yield from page.section("Plan", _plan(account["plan"], page))
    if account["tools"]:
        yield from page.section("Tools, as they were", _tools(account["tools"], page))
    if account["entries"]:
        yield from page.section("What happened", ())
    for entry in account["entries"]:
        yield from page.entry(entry)
    if account["end"]:
        yield from page.section("End", _end(account))
    if account["forgotten"]:
        yield from page.section("Forgotten", _forgotten(account["forgotten"]))


class _Page:
    """What is written on: so wide, and values so long."""

    def __init__(self, pen: Pen) -> None:
        self._pen = pen
        self._whole = pen.detail == Detail.FULL

    def section(self, title: str, rows: Sequence[Row] | Iterator[Row]) -> Iterator[Text]:
        yield Text("")
        yield Text(title, style="bold")
        yield from self.rows(rows, indent=2)

    def entry(self, entry: Said) -> Iterator[Text]:
        head, rows = ENTRIES.get(entry["event"], _loose)(entry, self)
        style = BAD if entry["event"] in _BAD else ""
        where = f"  {_clock(entry['time'])} {entry['sequence']:>6}  "
        for line in wrap(exact(head), self._pen.width, where, " " * len(where)):
            yield Text(line[: len(where)], style=DIM).append(line[len(where) :], style=style)
        yield from self.rows(rows, indent=6)

    def rows(self, rows: Sequence[Row] | Iterator[Row], indent: int = 0) -> Iterator[Text]:
        for label, said in rows:
            if not said:
                continue
            first = " " * indent + pad(label, LABEL_CELLS) + " "
            text = exact(said)
            lines = wrap(text, self._pen.width, first, " " * cell_len(first))
            if len(lines) > 1 and label.strip() not in VALUES and cell_len(text) == len(text):
                lines = _filled(text, self._pen.width, first)
            elif len(lines) > 1 and not self._whole:
                length = f" ({len(text):,} characters)"
                room = self._pen.width - cell_len(first) - len(length)
                lines = [first + cut(text, room, self._pen.glyphs) + length]
            for line in lines:
                yield Text(line[: len(first)], style=DIM).append(line[len(first) :])

    def short(self, digest: str) -> str:
        return digest if self._whole else digest[:SHORT_CHARS]


def _filled(text: str, width: int, first: str) -> list[str]:
    """Break a sentence between its words."""
    indent = " " * len(first)
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)


def _run(account: Said) -> Iterator[Row]:
    log = account["log"]
    yield "run", f"{account['run']}, tenant {account['tenant']}: {account['status'].replace('_', ' ')}"
    yield (
        "log",
        f"events {log['first']} to {log['last']} of shard {log['shard']}, up to {_moment(log['time'])}",
    )
    yield "trace", account["trace_id"]
    versions: dict[str, list[str]] = {}
    for one in account["processes"]:
        versions.setdefault(one["handrail"] or "of a version that it does not say", []).append(one["writer"])
    for version, writers in versions.items():
        yield "handrail", f"{version}: {', '.join(writers)}"
    if log["uncounted"]:
        yield "uncounted", f"{plural(log['uncounted'], 'event')} that changed nothing"


def _goal(goal: Said, page: _Page) -> Iterator[Row]:
    yield "goal", goal.get("text", "")
    yield "for", _for(goal.get("submitter", ""), goal)
    yield "asked", f"{_moment(goal['time'])}, event {goal['sequence']}"
    if "context" in goal:
        yield "context", _json(goal["context"])
    yield "ceiling", goal.get("ceiling", "")
    if goal.get("budget"):
        yield "budget", _json(goal["budget"])
    if "deadline" in goal:
        yield "deadline", _moment(goal["deadline"])
    notes = {
        "dry_run": "plan and check only",
        "undo_on_failure": "undone if it fails",
        "plan": "with a plan of the client's own",
        "teaches": "to teach the action model",
        "confirms": "which the action model had read and somebody has confirmed",
    }
    yield "also", ", ".join(words for name, words in notes.items() if goal.get(name))
    yield "request", goal.get("request_id", "")
    yield from _thought(goal.get("confirms"), page)


def _plan(plan: Said, page: _Page) -> Iterator[Row]:
    digest = page.short(plan.get("origin_sha256", ""))
    yield "from", f"{plan.get('origin', '')}, whose file was {digest}" if digest else plan.get("origin", "")
    yield "title", plan.get("title", "")
    yield "accepted", f"{_moment(plan['time'])}, event {plan['sequence']}, by {plan['writer']}"
    for step in plan.get("steps", ()):
        yield from _step(step)
    for one in plan.get("outlook", ()):
        yield "foreseen", f"{one['step']}, {one['tool']}: {one.get('ruling', '')}{_why(one)}"


def _step(step: Said) -> Iterator[Row]:
    how = step.get("tool", "") or step.get("route", "")
    yield "step", f"{step['id']}: {how}({_arguments(step.get('arguments', {}))})"
    for name in ("each", "when", "post"):
        if step.get(name):
            yield f"  {name}", str(step[name])
    for rule in step.get("rules", ()):
        yield (
            "  rule",
            f"{rule.get('when') or 'otherwise'}: {rule['tool']}({_arguments(rule.get('arguments', {}))})",
        )
    for grant in step.get("grants", ()):
        filled_in = ", ".join(grant.get("open", {})) or "nothing"
        yield "  granted", f"{grant['tool']}, the executor fills in {filled_in}"


def _tools(tools: Said, page: _Page) -> Iterator[Row]:
    for name, tool in tools.items():
        said = [tool.get("effect", ""), f"needs {tool['permission']}" if "permission" in tool else ""]
        said += [f"undone by {tool['undo']}" if "undo" in tool else "", f"of {tool.get('toolbox', '')}"]
        yield "contract", f"{page.short(tool['fingerprint'])} {name}: {', '.join(filter(None, said))}"


def _end(account: Said) -> Iterator[Row]:
    end = account["end"]
    yield (
        "ended",
        f"{end.get('status', '')}, {_moment(end['time'])}, event {end['sequence']}, by {end['writer']}",
    )
    yield "because", _failure(end["failure"]) if "failure" in end else ""


def _forgotten(left: Said) -> Iterator[Row]:
    yield "was", left.get("status", "")
    yield "because", left.get("failure", "")
    yield "effects", ", ".join(f"{tool} {count}" for tool, count in sorted(left.get("effects", {}).items()))
    yield "forgotten", f"{_moment(left['time'])}, event {left['sequence']}, for {left.get('submitter', '')}"
    yield "writes", left.get("reason", "")


# --- one function a kind of entry ----------------------------------------------------------------------


def _plan_ask(entry: Said, page: _Page) -> tuple[str, Iterator[Row]]:
    def rows() -> Iterator[Row]:
        answer = entry.get("answer")
        if answer is None:
            return
        plan, none = answer.get("plan"), answer.get("no_plan")
        if plan is not None:
            steps = ", ".join(step["id"] for step in plan.get("steps", ()))
            yield "plan", f"{plan.get('origin', '')}: {plural(len(plan.get('steps', ())), 'step')}: {steps}"
        if none is not None:
            yield "no plan", none.get("reason", "")
            yield "nearest", " | ".join(none.get("nearest", ()))
        yield from _thought(answer.get("thought"), page)
        yield "failed", _failure(answer["failure"]) if "failure" in answer else ""
        yield "by", f"{answer['writer']}{_took(answer)}"

    return f"asks a planner ({entry['attempt']})", rows()


def _thought(thought: Said | None, page: _Page) -> Iterator[Row]:
    """What an action model made of a goal or a step: which one, how sure, and where each argument is from."""
    if thought is None:
        return
    model = thought.get("model", "")
    if "sure" in thought or "needed" in thought:
        sure = f"{thought.get('sure', 0.0):.0%} sure of {thought.get('doubtful') or 'it'}"
        digest = page.short(thought.get("model_sha256", ""))
        yield "model", f"{model}, {digest}: {sure}, had to be {thought.get('needed', 0.0):.0%}"
    else:
        yield "model", f"{model}, which does not say how sure it is"
    if "otherwise" in thought:
        calls = [step.get("call", {}).get("option", "") for step in thought["otherwise"].get("decisions", ())]
        yield "  but", f"with a greeting before the goal: {', '.join(calls) or 'nothing that it knows'}"
    for step in thought.get("decisions", ()):
        call = step.get("call", {})
        for name, filled in call.get("arguments", {}).items():
            yield "  from", f"{call.get('option', '')}, {name}: {_taken_from(filled)}"


def _taken_from(filled: Said) -> str:
    """Where the model took an argument from."""
    if "span" in filled:
        start, end = (filled["span"].get(name, 0) for name in ("start", "end"))
        return f"{filled.get('value')!r:.80}, characters {start} to {end} of the goal"
    if "input" in filled:
        start, end = (filled["input"].get(name, 0) for name in ("start", "end"))
        where = filled["input"].get("path") or "the step's title"
        return f"{filled.get('value')!r:.80}, characters {start} to {end} of {where}"
    if "field" in filled:
        field = filled["field"]
        return f"what {field.get('step', '')} returns as {field.get('path', '')}"
    if "context" in filled:
        return f"given in the context as {filled['context'].get('key', '')}"
    if "untraced" in filled:
        return f"{filled.get('value')!r:.80}, which nobody is known to have said"
    return f"{filled.get('value')!r:.80}, one of those listed"


def _proposal_ask(entry: Said, page: _Page) -> tuple[str, Iterator[Row]]:
    def rows() -> Iterator[Row]:
        yield "given", _json(entry["inputs"]) if "inputs" in entry else ""
        answer = entry.get("proposal", {})
        choice, call = answer.get("choice"), answer.get("call")
        if choice is not None:
            yield "chosen", f"rule {choice.get('rule', 0)}: {choice.get('tool', '')}"
        if call is not None:
            yield "proposed", f"{call.get('tool', '')}({_values(call.get('arguments', {}))})"
        yield "reason", (choice or call or {}).get("reason", "")
        yield "unsure", (call or {}).get("unsure", "")
        yield "failed", _failure(answer["failure"]) if "failure" in answer else ""
        # What an action model thought before another mind was asked is told of beside that one.
        model = answer.get("model", "")
        model = "" if answer.get("thought", {}).get("model") == model else model
        digest = page.short(answer.get("model_sha256", ""))
        yield "model", f"{model}, whose file was {digest}" if model and digest else model
        yield from _thought(answer.get("thought"), page)
        yield "by", f"{answer['writer']}{_took(answer)}" if answer else ""
        yield "refused", _violations(entry["refused"]) if "refused" in entry else ""
        yield "taken back", _back(entry)

    tools = [one["tool"] for one in (*entry.get("rules", ()), *entry.get("grants", ()))]
    named = ", ".join(dict.fromkeys(tools))
    return f"{entry['step']}: asks an executor to choose among {named} ({entry['attempt']})", rows()


def _action(entry: Said, page: _Page) -> tuple[str, Iterator[Row]]:
    verb = "reads back by" if entry.get("kind") == "read_back" else "authorises"
    head = f"{entry['step']}: {verb} {entry['tool']} ({entry['attempt']})"
    return head, _chain(_authorised(entry, page), _taken(entry, page), _judged(entry, page))


def _chain(*parts: Iterator[Row]) -> Iterator[Row]:
    for part in parts:
        yield from part


def _authorised(entry: Said, page: _Page) -> Iterator[Row]:
    permit = entry.get("permit", {})
    yield "with", _values(entry.get("arguments", {}))
    yield "later", _arguments(entry.get("pending", {}))
    for mark in ("untrusted", "leaks"):
        yield mark, "; ".join(_source(one) for one in entry["labels"] if one[mark])
    readers = (
        f"{one['argument']} by {', '.join(one['readers'])}" for one in entry["labels"] if "readers" in one
    )
    yield "may read", "; ".join(readers)
    rules = f"rules {page.short(permit['policy'])}" if "policy" in permit else "no rules were asked"
    if "rules" in permit:
        rules = f"{', '.join(permit['rules'])}, of {rules}"
    yield "allowed by", f"{rules}, at gate {permit['gate']}" if "gate" in permit else rules
    yield "  because", _reasons(entry)
    yield "contract", page.short(entry["fingerprint"])
    until = f", until {_moment(permit['expires'])}" if "expires" in permit else ""
    yield "permit", f"signed by key {entry['key_id']}{until}" if entry["key_id"] else f"not signed{until}"
    yield "replaces", entry.get("replaces", "")


def _taken(entry: Said, page: _Page) -> Iterator[Row]:
    claim, result = entry.get("claim"), entry.get("result")
    if claim is not None:
        yield "claimed", f"by {claim['writer']}, {_clock(claim['time'])}"
        yield "read before", _values(claim.get("before", {}))
    for orphan in entry.get("orphans", ()):
        seen = "is dead" if orphan.get("seen_dead") else "is silent"
        yield "lost", f"{orphan.get('claimer', '')} {seen}, says {orphan['writer']}"
    yield "taken back", _back(entry)
    if result is None:
        return
    yield "became", _values(result.get("arguments", {}))
    if "output" in result:
        yield "returned", _json(result["output"])
    yield "failed", _failure(result["failure"]) if "failure" in result else ""
    happened = _HAPPENED.get(result.get("happened", ""), "")
    yield "done by", ", ".join(filter(None, (f"{result['writer']}{_took(result)}", happened)))
    yield "code", page.short(result.get("code_sha256", ""))


def _judged(entry: Said, page: _Page) -> Iterator[Row]:
    for verdict in entry.get("verdicts", ()):
        again = f", round {verdict['round']}" if verdict.get("round", 1) > 1 else ""
        yield "verdict", f"{verdict.get('outcome', 'none')}, by {verdict['writer']}{again}{_took(verdict)}"
        yield "  because", _failure(verdict["failure"]) if "failure" in verdict else ""
        for one in verdict.get("evidence", ()):
            yield "  holds" if one.get("held") else "  not so", one.get("condition", "")
            yield "    saw", one.get("observed", "")


def _gate(entry: Said, page: _Page) -> tuple[str, Iterator[Row]]:
    def rows() -> Iterator[Row]:
        for item in entry.get("items", ()):
            yield "action", f"{item['step']}: {item['tool']}({_values(item.get('arguments', {}))})"
            for mark in ("missing", "untrusted", "leaks"):
                yield mark, ", ".join(item.get(mark, ()))
        yield "because", _reasons(entry)
        yield "rules", page.short(entry.get("policy", ""))
        yield "binding", page.short(entry.get("binding", ""))
        for said in entry.get("decisions", ()):
            yield (
                "decision",
                f"{_for(said.get('approver', ''), said)}: {_choice(said)}, {_moment(said['time'])}",
            )
            yield "  writes", said.get("reason", "")
            yield "  changed", _values(said.get("arguments", {}))
            yield "  returned", _json(said["output"]) if "output" in said else ""
            yield "  binding", page.short(said.get("binding", ""))
        closed = entry.get("closed")
        if closed is not None:
            by = f" by {', '.join(closed['approvers'])}" if "approvers" in closed else ""
            yield (
                "outcome",
                f"{closed.get('outcome', '')}{by}, {_moment(closed['time'])}, event {closed['sequence']}",
            )
            yield "  because", closed.get("reason", "")
        else:
            yield "outcome", "nobody has decided"

    who = "a human" if entry.get("quorum", 1) <= 1 else f"{entry['quorum']} humans"
    what = "in doubt, which is for" if entry.get("kind") == "doubt" else "waits for"
    return f"{entry.get('step', '')}: {what} {who} at gate {entry['gate']}", rows()


def _undo_planned(entry: Said, page: _Page) -> tuple[str, Iterator[Row]]:
    def rows() -> Iterator[Row]:
        for one in entry.get("compensations", ()):
            step = one["step"]
            yield (
                "undo",
                f"{one['undoes']} by {step.get('tool', '')}({_arguments(step.get('arguments', {}))})",
            )
        for one in entry.get("stays", ()):
            yield "stays", f"{one['step']}, {one['tool']}: {one.get('why', '')}"

    dry = ", only to see what would be done" if entry.get("dry_run") else ""
    return f"undo planned for {entry.get('submitter', '') or 'nobody with a name'}{dry}", rows()


def _healed(entry: Said, page: _Page) -> tuple[str, Iterator[Row]]:
    tool = f" {entry['tool']}" if "tool" in entry else ""
    head = f"{entry['step']}: {entry['strategy'].replace('_', ' ')}{tool}, after {entry['attempt']}"
    return head, iter([("because", _failure(entry.get("cause", {})))])


def _undo(entry: Said, page: _Page) -> tuple[str, Iterator[Row]]:
    head = f"wants {entry.get('step') or 'everything'} undone"
    return f"undo: {_for(entry.get('submitter', ''), entry)} {head}", iter(
        [("writes", entry.get("reason", ""))]
    )


def _command(entry: Said, page: _Page) -> tuple[str, Iterator[Row]]:
    return f"{entry['event']}, {_token(entry)}", iter([("writes", entry.get("reason", ""))])


def _plain(words: str) -> Callable[[Said, _Page], tuple[str, Iterator[Row]]]:
    """Tell of what has a step and a reason, and no more."""

    def tell(entry: Said, page: _Page) -> tuple[str, Iterator[Row]]:
        step = f"{entry['step']}: " if entry.get("step") else ""
        why = entry.get("reason") or entry.get("why") or ""
        why = why or (_failure(entry["failure"]) if "failure" in entry else "")
        return f"{step}{words}", iter([("because", why)])

    return tell


def _uncounted(entry: Said, page: _Page) -> tuple[str, Iterator[Row]]:
    about = entry.get("attempt") or entry.get("gate") or entry.get("step") or ""
    return f"did not count: {entry['of']} {about}", iter([("by", entry["writer"])])


def _loose(entry: Said, page: _Page) -> tuple[str, Iterator[Row]]:
    """Tell of what belongs to something that a damaged log does not have."""
    said = {name: held for name, held in entry.items() if name not in ("event", "sequence", "time", "writer")}
    return f"{entry['event']}, of what is missing", iter([("says", _json(said)), ("by", entry["writer"])])


def _unreadable(entry: Said, page: _Page) -> tuple[str, Iterator[Row]]:
    return f"cannot be read: {entry['where']}", iter([("by", entry.get("writer", ""))])


ENTRIES: Mapping[str, Callable[[Said, _Page], tuple[str, Iterator[Row]]]] = {
    "plan_ask": _plan_ask,
    "proposal_ask": _proposal_ask,
    "action": _action,
    "gate_opened": _gate,
    "cancel": _command,
    "pause": _command,
    "resume": _command,
    "undo": _undo,
    "forget": _command,
    "undo_planned": _undo_planned,
    "undo_ended": _plain("undo ended"),
    "plan_rejected": lambda entry, page: ("plan rejected", iter([("because", _violations(entry))])),
    "expanded": lambda entry, page: (f"{entry['step']}: {plural(entry.get('count', 0), 'item')}", iter(())),
    "skipped": _plain("skipped"),
    "step_failed": _plain("failed"),
    "healed": _healed,
    "in_doubt": _plain("in doubt"),
    "uncounted": _uncounted,
    "unreadable": _unreadable,
    "erased": lambda entry, page: (f"erased: {entry['where']}", iter(())),
}
"""How each kind of entry is told; a test asserts that none is missing."""
_BAD = frozenset({"plan_rejected", "step_failed", "in_doubt", "uncounted", "unreadable"})
_HAPPENED = {
    "yes": "the effect happened",
    "no": "the effect did not happen",
    "unknown": "the effect may have happened",
}
_CHOICES = {
    "approve": "approves",
    "deny": "denies",
    "amend": "amends it",
    "happened": "says that it happened",
    "repeat": "wants it done again",
}


# --- words ---------------------------------------------------------------------------------------------


def _choice(said: Said) -> str:
    choice: str = said.get("choice", "")
    if choice == "delegate":
        return f"delegates to {said.get('delegate', '')}"
    return _CHOICES.get(choice, choice)


def _for(name: str, entry: Said) -> str:
    """Say in whose name something was asked for, and whose token it came with."""
    return f"{name or 'nobody with a name'} ({_token(entry)})"


def _token(entry: Said) -> str:
    """Say whose token a command came with, which one it was, and what roles it gave."""
    if not entry["caller"]:
        return "the log names no token"
    which = f", id {entry['token_id']}" if "token_id" in entry else ""
    roles = f", as {', '.join(entry['caller_roles'])}" if "caller_roles" in entry else ""
    return f"with the token of {entry['caller']}{which}{roles}"


def _back(entry: Said) -> str:
    revoked = entry.get("revoked")
    return f"{_clock(revoked['time'])}: {revoked.get('reason', '')}" if revoked is not None else ""


def _source(label: Said) -> str:
    return f"{label['argument']} (from {', '.join(label['steps'])})" if label["steps"] else label["argument"]


def _reasons(said: Said) -> str:
    return "; ".join(
        f"{one.get('text', '')} ({one['rule']})" if "rule" in one else str(one.get("text", ""))
        for one in said.get("reasons", ())
    )


def _why(said: Said) -> str:
    return f": {_reasons(said)}" if said.get("reasons") else ""


def _violations(said: Said) -> str:
    found = said.get("violations", ())
    return "; ".join(f"{v.get('field', '')}: {v.get('message', '')} [{v.get('code', '')}]" for v in found)


def _failure(failure: Said) -> str:
    code, message = str(failure.get("code", "")), str(failure.get("message", ""))
    return f"{code}: {message}" if code and message else code or message or "no reason given"


def _took(said: Said) -> str:
    return f", in {duration(int(said['took_s'] * 1e9))}" if "took_s" in said else ""


def _arguments(arguments: Said) -> str:
    """Write arguments of a plan: references as they are, constants as JSON."""
    return ", ".join(
        f"{name}={one['reference'] if 'reference' in one else _json(one.get('constant'))}"
        for name, one in arguments.items()
    )


def _values(found: Said) -> str:
    return ", ".join(f"{name}={_json(one)}" for name, one in found.items())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _moment(time: str) -> str:
    return f"{time[:10]} {_clock(time)} UTC"


def _clock(time: str) -> str:
    """Cut a time to milliseconds; what is no time of this calendar stays as it is."""
    if "T" not in time:
        return time
    return time[11:-1][:12] if "." in time else f"{time[11:-1]}.000"

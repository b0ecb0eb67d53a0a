"""The options and arguments that several commands share, and the words that they are given in."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from handrail.cli.exits import CommandError
from handrail.person import whoami

MAX_FILE_BYTES = 8 << 20
_SPAN = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h)$")
BOUNDS = ("max_actions", "max_steps", "max_heals")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0}


class HostKind(StrEnum):
    """Where the minds live."""

    INLINE = "inline"
    RAY = "ray"


Goal = Annotated[str, typer.Argument(metavar="GOAL", help="What you want, in your words.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id; `handrail list` shows them.")]
RunIds = Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="These runs; else all.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Only runs since then: 12h, 7d, 2030-01-31.")
]
Server = Annotated[
    str | None,
    typer.Option("--server", envvar="HANDRAIL_SERVER", metavar="HOST:PORT", help="A server's gRPC address."),
]
Project = Annotated[
    Path | None,
    typer.Option(
        "--project", "-p", envvar="HANDRAIL_PROJECT", metavar="DIR", help="The project; else this directory."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", envvar="HANDRAIL_DATA", metavar="DIR", help="The data directory; else PROJECT/.handrail."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON, one object a line; errors too.")]
GateId = Annotated[
    str, typer.Argument(metavar="GATE", help="The gate's id, or that of a run with one open gate.")
]
As = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Who you are; else your user name.")]
Host = Annotated[HostKind, typer.Option("--host", help="Where the minds live.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it stands in the log.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Plan and check only; nothing is done.")]
Context = Annotated[
    str | None,
    typer.Option("--context", metavar="JSON|@FILE", help="A JSON object that steps refer to as $goal.KEY."),
]
Plan = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE", help="A plan of your own (YAML or JSON); no planner is asked."),
]
UndoOnFailure = Annotated[
    bool, typer.Option("--undo-on-failure", help="If it fails, take back what it did before it ends.")
]
Step = Annotated[
    str,
    typer.Option("--step", metavar="STEP", help="Only this step, or an item of it, and what rests on it."),
]
Approve = Annotated[
    bool, typer.Option("--approve", help="Approve every gate of the run as yourself, unasked.")
]
Deadline = Annotated[
    str | None,
    typer.Option("--deadline", metavar="TIME", help="30s, 2m, 1h, or a time as 2030-01-31T15:00:00Z."),
]
Ceiling = Annotated[
    str | None,
    typer.Option("--ceiling", metavar="LEVEL", help="No action may need more: read, draft, ... admin."),
]
Budget = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="CUR=AMOUNT",
        help="The most it may spend of a currency; or max_actions=N, max_steps=N, max_heals=N.",
    ),
]
RequestId = Annotated[
    str | None,
    typer.Option("--request-id", metavar="ID", help="Submitting twice under one id is submitting once."),
]


def read_name(text: str | None) -> str:
    """Read a name; without one, that of whoever runs this."""
    if text is None:
        return whoami()
    name = text.strip()
    if not name:
        raise CommandError("--as names nobody.", next="Write a name, or leave it out to use your user name.")
    return name


def read_span(text: str) -> float | None:
    """Read a span of time in seconds, as 500ms, 30s, 2m or 1h; None where it is none."""
    span = _SPAN.match(text.strip())
    return None if span is None else float(span[1]) * _SECONDS[span[2]]


def read_deadline(text: str | None) -> datetime | timedelta | None:
    """Read a deadline: a span from now, or a time (of this machine's zone where it names none)."""
    if text is None:
        return None
    span_s = read_span(text)
    if span_s is not None:
        return timedelta(seconds=span_s)
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise CommandError(
            f"--deadline {text!r:.60} is no time.",
            next="Write a span (500ms, 30s, 2m, 1h) or a time (2030-01-31T15:00:00Z).",
        ) from None
    return time if time.tzinfo is not None else time.astimezone()


def read_ceiling(text: str | None) -> str | None:
    """Read the level that no action of a goal may exceed."""
    from core import spelling
    from handrail.v1.tool_pb2 import Permission

    levels = [name.removeprefix("PERMISSION_").lower() for name in Permission.keys()[1:]]
    if text is None or text.strip() in levels:
        return text and text.strip()
    raise CommandError(
        f"--ceiling {text!r:.60} is no level{spelling.hint(text.strip(), levels)}.",
        next=f"Write one of {', '.join(levels)}.",
    )


def read_budget(texts: Iterable[str] | None) -> dict[str, Any] | None:
    """Read what a run may use up: CURRENCY=AMOUNT as people write it, or a bound and a number."""
    found: dict[str, Any] = {}
    spend: dict[str, int] = {}
    for text in texts or ():
        name, sign, held = (part.strip() for part in text.partition("="))
        if not (name and sign and held):
            raise _bad_budget(text, "names nothing and how much of it")
        if name in found or name in spend:
            raise _bad_budget(text, f"is the second one about {name}")
        if name not in BOUNDS:
            spend[name] = _read_amount(text, name, held)
        elif re.fullmatch(r"[0-9]{1,9}", held) and int(held) > 0:
            found[name] = int(held)
        else:
            raise _bad_budget(text, "is no number above 0")
    return ({**found, "max_spend": spend} if spend else found) or None


def _read_amount(text: str, currency: str, held: str) -> int:
    """Return minor units: 500.00 EUR is 50000."""
    from core.slots import BadSlot, read_money

    if not re.fullmatch(r"[A-Z]{3}", currency):
        raise _bad_budget(text, "names neither a currency nor a bound")
    try:
        return int(read_money(f"{held} {currency}")["minor"])
    except BadSlot as error:
        raise _bad_budget(text, f"cannot be read: {error}") from None


def _bad_budget(text: str, why: str) -> CommandError:
    return CommandError(
        f"--budget {text!r:.60} {why}.",
        next=f"Write CURRENCY=AMOUNT, as EUR=500.00, or a number for {', '.join(BOUNDS)}.",
    )


def read_context(text: str | None) -> Mapping[str, Any] | None:
    """Read a JSON object, from the text itself, from a file (@FILE), or from standard input (@-)."""
    if text is None:
        return None
    where = "--context"
    if text.startswith("@"):
        where = f"--context {text}"
        text = sys.stdin.read(MAX_FILE_BYTES) if text == "@-" else read_file(Path(text[1:]), "--context")
    try:
        context = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandError(
            f"{where} is not JSON: {error}.", next='Write an object, such as \'{"priority": "high"}\'.'
        ) from None
    if not isinstance(context, dict):
        raise CommandError(
            f"{where} is a JSON {type(context).__name__}, and must be an object.",
            next='Steps refer into it by key: \'{"priority": "high"}\' is $goal.priority.',
        )
    return context


def read_plan(path: Path | None) -> Mapping[str, Any] | None:
    """Read a plan's form from a YAML or JSON file."""
    if path is None:
        return None
    text = read_file(path, "--plan")
    form = _read_json(path, text) if path.suffix == ".json" else _read_yaml(path, text)
    if not isinstance(form, dict):
        raise CommandError(
            f"--plan {path} holds no plan.", next="A plan is a mapping with `steps`; see docs/cli.md."
        )
    return form


def _read_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"--plan {path} is not JSON: {error}.") from None


def _read_yaml(path: Path, text: str) -> Any:
    from handrail.yaml_text import BadYaml, read_yaml

    try:
        return read_yaml(text)
    except BadYaml as error:
        raise CommandError(f"--plan {path} is not YAML: {error}") from None


def read_file(path: Path, option: str) -> str:
    """Read a small text file that an option names."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CommandError(f"{option}: {path} is larger than {MAX_FILE_BYTES >> 20} MiB.")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{option}: {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise CommandError(f"{option}: {path} is not UTF-8 text.") from None


def read_changes(texts: Iterable[str]) -> dict[str, Any]:
    """Read what arguments are to be: NAME=JSON, or NAME=TEXT where that is no JSON."""
    found: dict[str, Any] = {}
    for text in texts:
        name, sign, held = text.partition("=")
        if not (sign and name.strip()):
            raise CommandError(
                f"--set {text!r:.80} says nothing of an argument.",
                next='Write NAME=JSON, as in --set \'amount={"minor": 1250, "currency": "EUR"}\'.',
            )
        if name.strip() in found:
            raise CommandError(f"--set names {name.strip()!r:.80} twice.", next="Write it once.")
        try:
            found[name.strip()] = json.loads(held)
        except (ValueError, RecursionError):
            found[name.strip()] = held
    return found

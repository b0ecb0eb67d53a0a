"""Lines of lists, of runs and tools, and a tool's contract in full."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rich.text import Text

from core import spelling
from core.told import fingerprint
from handrail.cli.exits import CommandError
from handrail.cli.pen import DIM, RUN_STYLES, Pen
from handrail.cli.text import Glyphs, clean, clean_lines, cut, duration, enum_word, pad
from handrail.v1 import event_pb2, run_service_pb2, tool_pb2

STATUS_CELLS = 10
TOOL_CELLS = 28


def status_number(text: str) -> int:
    """Return the state of a run that a word names; 0 for no word."""
    if not text:
        return 0
    names = {name.removeprefix("RUN_STATUS_").lower(): n for name, n in event_pb2.RunStatus.items() if n}
    found = names.get(text.lower())
    if found is None:
        raise CommandError(f"There is no run status {text!r:.40}{spelling.hint(text.lower(), names)}")
    return found


def run_line(summary: run_service_pb2.RunSummary, *, width: int, glyphs: Glyphs) -> Text:
    """Return a run as one line: status, id, when, how long, goal."""
    name, _, style = RUN_STYLES.get(summary.status, RUN_STYLES[0])
    status = enum_word(event_pb2.RunStatus, "RUN_STATUS_", summary.status)
    line = Pen(glyphs=glyphs).sign(name, style)
    line.append(f" {status:<{STATUS_CELLS}}  ", style=style).append(clean(summary.id))
    begun = datetime.fromtimestamp(summary.submitted.seconds)
    line.append(f"  {begun:%Y-%m-%d %H:%M:%S}  ", style=DIM)
    took = ""
    if summary.HasField("ended"):
        took = duration(summary.ended.ToNanoseconds() - summary.submitted.ToNanoseconds())
    line.append(f"{took:>10}  ", style=DIM)
    if summary.forgotten:
        return line.append("forgotten", style=DIM)
    return line.append(cut(clean(summary.goal), max(10, width - len(line.plain)), glyphs))


def tool_line(contract: tool_pb2.ToolContract, *, width: int, glyphs: Glyphs) -> Text:
    """Return a tool as one line: name, effect, idempotency, toolbox, the first line of what it is for."""
    line = Text(pad(clean(contract.name), TOOL_CELLS), style="bold")
    effect = enum_word(tool_pb2.Effect, "EFFECT_", contract.effect)
    line.append(f" {effect:<12}", style="dim" if effect == "read" else "yellow")
    idempotency = enum_word(tool_pb2.Idempotency, "IDEMPOTENCY_", contract.idempotency)
    line.append(f" {idempotency:<8} {pad(clean(contract.toolbox), 12)} ", style=DIM)
    about = clean(contract.description.partition("\n")[0])
    return line.append(cut(about, max(10, width - len(line.plain)), glyphs))


def contract_lines(contract: tool_pb2.ToolContract) -> Iterator[Text]:
    """Return a contract, one line an attribute; what is not said is left out."""
    yield Text(clean(contract.name), style="bold")
    for line in clean_lines(contract.description).splitlines():
        yield Text(f"  {line}")
    yield Text("")
    for name, text in _attributes(contract):
        if text:
            yield Text(f"  {name:<12} ", style=DIM).append(clean(text))
    yield Text("")
    yield from _schema("arguments", contract.input_schema)
    yield from _schema("output", contract.output_schema)


def _attributes(contract: tool_pb2.ToolContract) -> Iterator[tuple[str, str]]:
    yield "toolbox", contract.toolbox
    yield "effect", enum_word(tool_pb2.Effect, "EFFECT_", contract.effect)
    yield "permission", enum_word(tool_pb2.Permission, "PERMISSION_", contract.permission)
    key = f" (the key is {contract.key_parameter})" if contract.key_parameter else ""
    yield "idempotency", enum_word(tool_pb2.Idempotency, "IDEMPOTENCY_", contract.idempotency) + key
    settle = f" (settles within {contract.settle_s:g} s)" if contract.settle_s else ""
    yield "read-back", contract.readback + settle if contract.readback else ""
    yield "undo", contract.undo
    for read in contract.reads:
        arguments = ", ".join(f"{name}={cel}" for name, cel in sorted(read.arguments.items()))
        yield "reads", f"{read.name} = {read.tool}({arguments})"
    yield "pre", contract.pre
    yield "post", contract.post
    yield "critical", ", ".join(contract.critical)
    yield "endorses", ", ".join(contract.endorses)
    yield "timeout", f"{contract.timeout_s:g} s"
    yield "retry", contract.retry
    yield "capability", contract.capability
    yield "doubt", "a doubt about the effect is for a human" if contract.doubt else ""
    yield "fingerprint", fingerprint(contract)


def _schema(title: str, text: str) -> Iterator[Text]:
    """Return a JSON schema, the properties of an object one a line."""
    try:
        schema = json.loads(text or "{}")
    except ValueError:
        schema = {}
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        yield Text(f"  {title:<12} ", style=DIM).append(clean(json.dumps(schema)))
        return
    yield Text(f"  {title}", style=DIM)
    required = schema.get("required", [])
    for name, part in properties.items():
        line = Text(f"    {clean(name):<20} ").append(clean(_type(part)))
        yield line if name in required or title == "output" else line.append(" (optional)", style=DIM)


def _type(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "anything"
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_type(part) for part in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(json.dumps(choice) for choice in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items'))}"
    return str(schema.get("type") or schema.get("title") or "anything")

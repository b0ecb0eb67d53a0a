"""The commands about tools: list, show, check."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from handrail.cli import options
from handrail.cli.exits import CommandError

if TYPE_CHECKING:
    from handrail.v1 import tool_pb2

app = typer.Typer(
    help="List, show and check tools.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_tools(
    project: options.Project = None, server: options.Server = None, json: options.Json = False
) -> None:
    """List the tools of a server, or without one of the project."""
    from handrail.cli.events import message_object
    from handrail.cli.listing import tool_line
    from handrail.cli.output import Output

    output = Output(as_json=json)
    contracts = _contracts(server, project)
    for contract in contracts:
        output.json(message_object(contract))
        output.line(tool_line(contract, width=output.width, glyphs=output.glyphs))
    if not contracts:
        output.note("no tools; `handrail.toml` names the modules of each toolbox")


@app.command("show")
def show_tool(
    name: Annotated[str, typer.Argument(metavar="TOOL", help="The tool's name.")],
    project: options.Project = None,
    server: options.Server = None,
    json: options.Json = False,
) -> None:
    """Show one tool's contract, and of a project's tool what it may touch."""
    from core import spelling
    from core.told import fingerprint
    from handrail.cli.events import message_object
    from handrail.cli.listing import contract_lines
    from handrail.cli.output import Output

    output = Output(as_json=json)
    contracts = {contract.name: contract for contract in _contracts(server, project)}
    if name not in contracts:
        raise CommandError(f"There is no tool {name!r:.80}{spelling.hint(name, contracts)}")
    shown = contracts[name]
    found = message_object(shown) | {"fingerprint": fingerprint(shown)}
    if server:
        output.json(found)
        output.lines(contract_lines(shown))
        return
    from handrail.cli.sandboxed import may_lines, may_object
    from handrail.settings import load_settings

    directory = (project or Path()).resolve()
    settings = load_settings(directory)
    output.json(found | {"may": may_object(directory, settings, shown.toolbox)})
    output.lines(contract_lines(shown))
    output.lines(may_lines(directory, settings, shown.toolbox))


@app.command("check")
def check_tools(project: options.Project = None, json: options.Json = False) -> None:
    """Check a project: settings, contracts, playbooks, rules.

    What contradicts itself is named, with what to do about it.
    """
    from handrail.cli.output import Output
    from handrail.project import load

    output = Output(as_json=json)
    found = load(project or Path())
    tools, playbooks, rules = len(found.tools), len(found.playbooks), len(found.policy.rules)
    output.json({"ok": True, "tools": tools, "playbooks": playbooks, "rules": rules})
    counted = f"{tools} tools, {playbooks} playbooks and {rules} rules"
    output.line(f"{output.glyphs.done} {counted}: no contradictions")


def _contracts(server: str | None, project: Path | None) -> Sequence[tool_pb2.ToolContract]:
    if server:
        return asyncio.run(_served(server, project))
    from handrail.project import load

    protos = load(project or Path()).protos
    return [protos[name] for name in sorted(protos)]


async def _served(server: str, project: Path | None) -> Sequence[tool_pb2.ToolContract]:
    from handrail.cli.server import connect, find

    async with connect(find(server, project, None)) as client:
        return await client.tools()

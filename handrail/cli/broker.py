"""The command about a broker that somebody else runs: broker config."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from handrail.cli import options

if TYPE_CHECKING:
    from bus.configuration import Written

app = typer.Typer(
    help="A broker of your own: its accounts, users and permissions.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def group() -> None:
    """Keep `config` a command of the group, though it is the only one."""


@app.command("config")
def config(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write the files there; else print them, without secrets."),
    ] = None,
    drop: Annotated[
        bool, typer.Option("--drop", help="With --out: drop users that the project does not have.")
    ] = False,
    project: options.Project = None,
    json: options.Json = False,
) -> None:
    """Say what a broker for this project needs, or write it: server, accounts, passwords."""
    from bus import configuration
    from bus.permissions import markdown, users
    from handrail.cli.exits import CommandError, ExitCode
    from handrail.cli.output import Output
    from handrail.project import load_settings
    from handrail.stack.parts import all_consumers, pools_of, shards_of

    output, settings = Output(as_json=json), load_settings(project or Path())
    pools, shards, tenants = pools_of(settings), shards_of(settings), settings.gateway.tenants
    relaxed = settings.broker.sync == "relaxed"
    made = configuration.streams_and_consumers(shards, all_consumers(settings))
    if out is None:
        if drop:
            raise CommandError("--drop goes with --out.", next="Name the directory with the files.")
        members = users(pools, tenants)
        server = configuration.server("DIR/jetstream", shards, relaxed=relaxed)
        output.json(
            {
                "users": {
                    user.name: {
                        "publish": user.publish,
                        "except": user.deny_publish,
                        "subscribe": user.subscribe,
                    }
                    for user in members
                },
                "streams": made,
                configuration.SERVER_FILE: server,
                configuration.ACCOUNTS_FILE: configuration.accounts(members),
            }
        )
        output.lines(markdown().splitlines())
        output.lines(["", *_streams(made), "", f"# {configuration.SERVER_FILE}"])
        output.lines([*server.splitlines(), "", f"# {configuration.ACCOUNTS_FILE}"])
        output.lines(configuration.accounts(members).splitlines())
        return
    try:
        written = configuration.write(out, pools, shards, tenants=tenants, relaxed=relaxed, drop=drop)
    except OSError as error:
        raise CommandError(
            f"{out} cannot be written: {error.strerror}.",
            next="Give this user write permission, or name another directory.",
            code=ExitCode.UNAVAILABLE,
        ) from None
    output.json(
        {
            "directory": str(out.absolute()),
            "written": written.files,
            "left": written.kept_files,
            "new_users": written.new,
            "kept_users": written.kept,
            "dropped_users": written.dropped,
            "streams": made,
        }
    )
    output.lines(_written(out, written, output.glyphs.done))
    output.lines(["", *_streams(made)])


def _streams(made: dict[str, list[str]]) -> Iterator[str]:
    yield "Streams and consumers are made by `handrail run` and `up`, as admin:"
    for stream, consumers in made.items():
        yield f"  {stream}: {', '.join(consumers)}" if consumers else f"  {stream}"


def _written(out: Path, written: Written, done: str) -> Iterator[str]:
    from bus.configuration import ACCOUNTS_FILE, SERVER_FILE
    from handrail.cli.text import plural

    new = plural(len(written.new), "new user") if written.new else "no new users"
    yield f"{done} {out}: {new}, written: {', '.join(written.files)}"
    for name in written.kept_files:
        yield f"  {name} was there, and is as it was"
    if written.kept:
        yield f"  kept, though the project does not have them: {', '.join(written.kept)} (--drop drops them)"
    if written.dropped:
        yield f"  dropped: {', '.join(written.dropped)}"
    yield f"  {ACCOUNTS_FILE} and credentials.json hold passwords"
    yield ""
    yield "Next:"
    yield f"  nats-server -c {shlex.quote(str(out / SERVER_FILE))}"
    yield "  in handrail.toml: [broker] url and credentials"

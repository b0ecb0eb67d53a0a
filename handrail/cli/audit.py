"""The commands that answer for what happened: tell of a run, export what the log holds of it, verify that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handrail.cli import options
from handrail.cli.exits import CommandError, ExitCode
from handrail.cli.server import data_dir, find, with_client

if TYPE_CHECKING:
    from core.exported import Part, Report
    from core.notarised import SignedHead
    from handrail.cli.output import Output
    from handrail.cli.server import Target
    from handrail.client import Client
    from handrail.keys import PublicKeys

app = typer.Typer(
    help="What happened in a run, and the proof of it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Key = Annotated[
    list[Path] | None,
    typer.Option("--key", metavar="FILE", help="A notary's public key that is believed; may be repeated."),
]
Tenant = Annotated[str, typer.Option("--tenant", metavar="NAME", help="Whose run it is.")]
DEFAULT_TENANT = "default"


@app.command("show")
def show(
    run: options.RunId,
    full: Annotated[bool, typer.Option("--full", help="Every value whole, however long.")] = False,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Tell what happened in a run, and who decided it.

    For somebody who was not there; it takes the role auditor, or admin.
    """
    from handrail.cli.account_text import MAX_WIDTH, account_lines
    from handrail.cli.output import Output
    from handrail.cli.pen import Detail, Pen

    output = Output(as_json=json)
    target = find(server, project, data)
    found = with_client(target, lambda client: client.audit(run))
    output.json(found)
    detail = Detail.FULL if full else Detail.NORMAL
    pen = Pen(width=min(output.width, MAX_WIDTH), glyphs=output.glyphs, detail=detail)
    output.lines(account_lines(found, pen))
    output.note(f"`{target.command('audit', 'export', run)}` has the events themselves, each with its proof")


@app.command("export")
def export(
    run: options.RunId,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write it; else it is printed.")
    ] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="NAME", help="Whose run it is; of a server, your own.")
    ] = None,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
) -> None:
    """Print every event of a run as lines of JSON, each with the proof that it is in the log.

    It is read from the notary's copy, so it works whether or not the stack is up. A server is asked for it
    with --server, which takes the role auditor, or admin.
    """
    from handrail.cli.output import Output

    if server is not None and tenant is not None:
        raise CommandError("A server exports the runs of your token's tenant: leave --tenant away.")
    if server is not None:
        text: Iterator[str] = iter(_exported(run, find(server, project, data)))
    else:
        whose, place = tenant or DEFAULT_TENANT, _place(project, data)
        text = _lines(place, run, whose)
    if out is None:
        for line in text:
            typer.echo(line)
        return
    with out.open("w", encoding="utf-8") as file:
        count = sum(file.write(f"{line}\n") > 0 for line in text)
    Output().note(f"{count - 1} messages of {run} in {out}; `handrail audit verify {out}` checks them")


def _exported(run: str, target: Target) -> list[str]:
    async def work(client: Client) -> list[str]:
        return [line async for line in client.export(run)]

    return with_client(target, work)


@app.command("verify")
def verify(
    what: Annotated[str | None, typer.Argument(metavar="FILE|RUN", help="An export, or a run.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole of a data directory.")] = False,
    key: Key = None,
    tenant: Tenant = DEFAULT_TENANT,
    project: options.Project = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Check an export with the public key alone, or a run, or all that the notary has signed for."""
    from handrail.cli.output import Output

    output = Output(as_json=json)
    if everything == (what is not None):
        raise CommandError("Name an export or a run, or say --all.")
    if everything:
        _verify_all(output, _place(project, data), key)
    elif what is not None and Path(what).is_file():
        _verify_file(output, Path(what), key)
    else:
        _verify_run(output, str(what), tenant, _place(project, data), key)


def _verify_file(output: Output, path: Path, key: list[Path] | None) -> None:
    from core import exported
    from handrail.cipher import Cipher
    from handrail.keys import PublicKeys

    with path.open(encoding="utf-8", errors="strict") as file:
        try:
            if key:
                keys = PublicKeys.read(key)
            else:
                keys = PublicKeys.parse(exported.key_of(file.readline()), str(path))
                file.seek(0)
            report = exported.check(file, keys, Cipher)
        except (exported.BadExport, UnicodeDecodeError) as error:
            raise CommandError(
                f"{path} does not prove what it says: {error}",
                next="Ask for another export, and compare the key that it was signed with.",
                code=ExitCode.FAILED,
            ) from None
    _say(output, report, given=bool(key))


def _verify_run(output: Output, run: str, tenant: str, place: Path, key: list[Path] | None) -> None:
    from core import exported
    from handrail.cipher import Cipher

    keys = _keys(place, key)
    try:
        report = exported.check(_lines(place, run, tenant), keys, Cipher)
    except exported.BadExport as error:
        raise CommandError(
            f"The copy of {run} is not what was signed for: {error}", code=ExitCode.FAILED
        ) from None
    _say(output, report, given=True)


def _verify_all(output: Output, place: Path, key: list[Path] | None) -> None:
    """Check every book: its head's signature, its leaves against the head, its copy against the leaves."""
    from orchestrator.book import BadBook, check_book

    keys = _keys(place, key)
    failed = False
    for book in sorted(path for path in place.iterdir() if path.is_dir()):
        try:
            signed = check_book(book, keys)
        except BadBook as error:
            failed = True
            output.json({"stream": book.name, "ok": False, "problem": str(error)})
            output.line(f"{output.glyphs.failed} {book.name}: {error}")
            continue
        if signed is not None:
            output.json({"ok": True, **signed.as_dict()})
            output.line(f"{output.glyphs.done} {book.name}: {_head_text(signed)}")
    if failed:
        raise typer.Exit(ExitCode.FAILED)


def _say(output: Output, report: Report, *, given: bool) -> None:
    heads = [head.as_dict() for _, head in sorted(report.heads.items())]
    readable = {"readable": report.readable}
    counted: dict[str, Any] = {"ok": True, "run": report.run, "tenant": report.tenant}
    output.json(counted | {"events": report.events, "chunks": report.chunks, "heads": heads} | readable)
    output.line(
        f"{output.glyphs.done} {report.run}: {report.events} events, nothing between them left out, "
        "each as it was signed for"
    )
    for stream, head in sorted(report.heads.items()):
        output.line(f"  {stream}: {_head_text(head)}")
    if not report.readable:
        output.note("it brings no key to read it with: the run was forgotten, or never encrypted")
    if not given:
        output.note("by the key that came with it: --key FILE says whose signature you believe")


def _head_text(signed: SignedHead) -> str:
    from datetime import UTC, datetime

    moment = datetime.fromtimestamp(signed.head.time_ns / 1e9, UTC)
    return f"{signed.head.size} messages, signed {moment:%Y-%m-%d %H:%M:%S} UTC by key {signed.key_id}"


def _lines(place: Path, run: str, tenant: str) -> Iterator[str]:
    """Export a run from the notary's copy."""
    from bus import subjects
    from core import exported
    from orchestrator.book import BadBook
    from orchestrator.key_copy import key_in

    try:
        key = subjects.run_key(run, tenant)
        cipher_key = key_in(place / subjects.ev_stream(key.shard), key)
    except subjects.BadSubject as error:
        raise CommandError(f"{error}.") from None
    except BadBook as error:
        raise CommandError(f"{error}.", code=ExitCode.FAILED) from None
    return exported.lines(run, tenant, _parts(place, run, tenant), _public_key(place), cipher_key)


def _parts(place: Path, run: str, tenant: str) -> Iterator[Part]:
    """Read what the notary's copy holds of a run, and of its large values."""
    from bus import subjects
    from orchestrator.book import BadBook, parts_of

    try:
        key = subjects.run_key(run, tenant)
    except subjects.BadSubject as error:
        raise CommandError(f"{error}.") from None
    found = False
    try:
        for part in parts_of(place, key, _keys(place, None)):
            found = True
            yield part
    except BadBook as error:
        raise CommandError(
            f"{error}.", next="`handrail audit verify --all` says what is damaged.", code=ExitCode.FAILED
        ) from None
    if not found:
        raise CommandError(
            f"The notary has signed for no event of {run} (tenant {tenant}).",
            next="It signs a second after something happened; `handrail list` knows the runs.",
        )


def _place(project: Path | None, data: Path | None) -> Path:
    from handrail.settings import SETTINGS_FILE, Settings, load_settings
    from handrail.stack.parts import notary_place

    home = (project or Path()).resolve()
    settings = load_settings(home) if (home / SETTINGS_FILE).exists() else Settings()
    place = notary_place(settings, home, data_dir(project, data))
    if not place.is_dir():
        raise CommandError(
            f"There is no notary's directory {place}.",
            next="Name a data directory with --data, or a project with --project; or verify an export.",
        )
    return place


def _keys(place: Path, key: list[Path] | None) -> PublicKeys:
    from handrail.keys import PublicKeys
    from handrail.stack.parts import NOTARY_PUBLIC_FILE

    return PublicKeys.read(key or [place / NOTARY_PUBLIC_FILE])


def _public_key(place: Path) -> str:
    from handrail.stack.parts import NOTARY_PUBLIC_FILE

    return (place / NOTARY_PUBLIC_FILE).read_text()

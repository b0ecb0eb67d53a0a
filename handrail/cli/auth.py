"""The commands about who calls: auth whoami, token, revoke, and keys list and rotate."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.caller import DEFAULT_TENANT, ROLES, TENANT
from handrail.cli import options
from handrail.cli.exits import CommandError
from handrail.cli.server import data_dir, find, with_client

if TYPE_CHECKING:
    from handrail.tokens import LocalKeys

app = typer.Typer(
    help="Who calls: tokens, and the keys that sign them.", no_args_is_help=True, rich_markup_mode=None
)
keys_app = typer.Typer(
    help="The keys that sign a data directory's tokens.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(keys_app, name="keys")

MAX_DAYS = 30

_Roles = Annotated[
    list[str] | None, typer.Option("--role", metavar="ROLE", help=f"May be repeated: {', '.join(ROLES)}.")
]


@app.command("whoami")
def whoami(
    project: options.Project = None,
    data: options.Data = None,
    server: options.Server = None,
    json: options.Json = False,
) -> None:
    """Say who the server takes you for, by your token."""
    from handrail.cli.events import message_object
    from handrail.cli.output import Output
    from handrail.cli.text import clean

    output, target = Output(as_json=json), find(server, project, data)
    who = with_client(target, lambda client: client.whoami())
    output.json(message_object(who))
    speaks = "; speaks for anybody" if who.speaks_for_all else ""
    where = f" at {target.address}" if target.address else ""
    output.line(f"{clean(who.name)}{where}, tenant {clean(who.tenant)}: {', '.join(who.roles)}{speaks}")
    if who.HasField("ends"):
        output.line(f"  until {who.ends.ToDatetime(tzinfo=UTC):%Y-%m-%d %H:%M:%S} UTC")


@app.command("token")
def token(
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Whom it names.")],
    role: _Roles = None,
    life: Annotated[
        str, typer.Option("--for", metavar="TIME", help=f"30m, 8h; at most {MAX_DAYS * 24}h.")
    ] = "8h",
    tenant: Annotated[
        str, typer.Option("--tenant", metavar="NAME", help="Whose runs it sees.")
    ] = DEFAULT_TENANT,
    project: options.Project = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Sign a token, and print it: whoever has it is taken for NAME."""
    from handrail.cli.output import Output
    from handrail.tokens import MAX_LIFE_S

    unknown = sorted(set(role or ()) - set(ROLES))
    if unknown or not role:
        what = (
            f"There is no role {unknown[0]!r:.40}."
            if unknown
            else "A token without a role is good for nothing."
        )
        raise CommandError(what, next=f"Say --role, once for each: {', '.join(ROLES)}.")
    if TENANT.fullmatch(tenant) is None:
        raise CommandError(f"{tenant!r:.80} is not a tenant's name.", next="Write a-z, 0-9, '_' and '-'.")
    life_s = options.read_span(life)
    if life_s is None or not 0 < life_s <= MAX_LIFE_S:
        raise CommandError(
            f"{life!r:.40} is no time that a token can live.", next=f"Write up to {MAX_DAYS * 24}h."
        )
    signed = _keys(project, data).sign(options.read_name(name), role, tenant=tenant, life_s=life_s)
    output = Output(as_json=json)
    output.json({"token": signed})
    output.line(signed)


@app.command("revoke")
def revoke(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file with the token; - is the standard input.")
    ],
    project: options.Project = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Have a token believed no more, at once."""
    import sys

    from bus.directory import read_text
    from handrail.cli.output import Output
    from handrail.person import whoami as user
    from handrail.tokens import MAX_TOKEN_BYTES, TOKEN_FILE, write_owner_token

    try:
        text = sys.stdin.read(MAX_TOKEN_BYTES + 1) if str(file) == "-" else file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CommandError(f"There is no token in {file}.", next="Name a file that holds one.") from None
    _keys(project, data).revoke(text.strip())
    place = data_dir(project, data)
    if read_text(place / TOKEN_FILE) == text.strip():
        # The commands here go by it; whoever else has it has nothing now.
        write_owner_token(place, user())
    output = Output(as_json=json)
    output.json({"revoked": True})
    output.line("It is believed no more.")


@keys_app.command("list")
def list_keys(project: options.Project = None, data: options.Data = None, json: options.Json = False) -> None:
    """List the keys that are believed; the first one signs."""
    from handrail.cli.output import Output

    output = Output(as_json=json)
    for place, key in enumerate(_keys(project, data).read().keys):
        made = datetime.fromtimestamp(key.made_s, UTC)
        output.json({"id": key.id, "made": made.isoformat(), "signs": place == 0})
        output.line(f"{key.id}  {made:%Y-%m-%d %H:%M:%S} UTC{'  signs' if place == 0 else ''}")


@keys_app.command("rotate")
def rotate(
    forget: Annotated[
        bool, typer.Option("--forget", help="Believe no token of the older keys any more, at once.")
    ] = False,
    project: options.Project = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Sign with a new key; tokens of the older ones are believed until they end."""
    from handrail.cli.output import Output
    from handrail.person import whoami as user
    from handrail.tokens import write_owner_token

    keys = _keys(project, data)
    made = keys.rotate(forget=forget)
    # The stack writes it anew only now and then, and the commands here go by it.
    write_owner_token(data_dir(project, data), user())
    output = Output(as_json=json)
    output.json({"id": made.id, "believed": [key.id for key in keys.read().keys]})
    output.lines(_rotated(made.id, len(keys.read().keys) - 1))


def _rotated(name: str, older: int) -> Iterable[str]:
    from handrail.cli.text import plural

    yield f"{name} signs from now on."
    if older:
        yield f"  Believed until the last of its tokens has ended: {plural(older, 'older key')}."
    else:
        yield "  No older key is believed: tokens that were given out are worth nothing now."


def _keys(project: Path | None, data: Path | None) -> LocalKeys:
    from handrail.tokens import LocalKeys

    place = data_dir(project, data)
    keys = LocalKeys(place)
    if not place.is_dir() or not keys.read().keys:
        raise CommandError(
            f"There are no keys in {place}.",
            why="No stack has used that data directory yet.",
            next="`handrail up` makes them; --project and --data say where to look.",
        )
    return keys

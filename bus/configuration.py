"""What somebody needs who runs a broker for Handrail: the configuration of a server, accounts, passwords.

`write` may be run again: the server's own file is written once and then left alone, passwords stay, and users
that the project does not have any more stay until somebody says `drop`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bus import subjects
from bus.broker import (
    CREDENTIALS_FILE,
    MAX_MEMORY_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_STORE_BYTES,
    RELAXED_SYNC_INTERVAL,
)
from bus.directory import read_text, write_file
from bus.permissions import POOLED_ROLES, Pools, User, render, users
from bus.probe import BrokerError
from bus.streams import DEFAULT_MAX_BYTES, KEYS_MAX_BYTES, consumer_home
from core.ports import Consumer

SERVER_FILE = "nats-server.conf"
ACCOUNTS_FILE = "accounts.conf"
_NOBODYS = "<password>"


@dataclass(frozen=True, slots=True)
class Written:
    """What has become of a directory: the files written, and its users."""

    files: tuple[str, ...]
    kept_files: tuple[str, ...]
    new: tuple[str, ...]
    kept: tuple[str, ...]
    """Users of the directory that the project does not have."""
    dropped: tuple[str, ...]


def server(store: str, shards: Sequence[int], *, relaxed: bool = False) -> str:
    """Return the configuration of one server, which includes the accounts."""
    # Each stream sets its room aside when it is made.
    reserved = (2 * len(shards) + 1) * DEFAULT_MAX_BYTES + KEYS_MAX_BYTES
    return (
        "# Made by `handrail broker config`, once: yours to edit. Add TLS and a cluster as you need them.\n"
        "# Of each server of a cluster it is another one.\n"
        "server_name: handrail\n"
        'listen: "127.0.0.1:4222"\n'
        f"max_payload: {MAX_PAYLOAD_BYTES}\n"
        "jetstream {\n"
        f"  store_dir: {json.dumps(store)}\n"
        "  # What is acknowledged is on the disk. The server's own default is to sync every two minutes.\n"
        f"  sync_interval: {RELAXED_SYNC_INTERVAL if relaxed else 'always'}\n"
        f"  max_file_store: {max(MAX_STORE_BYTES, 2 * reserved)}\n"
        f"  max_memory_store: {MAX_MEMORY_BYTES}\n"
        "}\n"
        f"include ./{ACCOUNTS_FILE}\n"
    )


def accounts(members: Sequence[User]) -> str:
    """Return the accounts with nobody's passwords, to be looked at."""
    return render(members, {user.name: _NOBODYS for user in members})


def streams_and_consumers(shards: Sequence[int], heard: Sequence[Consumer]) -> dict[str, list[str]]:
    """Return the streams that the administrator makes at the start of a stack, each with its consumers."""
    names = [subjects.REQUEST_STREAM]
    names += [name for shard in shards for name in (subjects.ev_stream(shard), subjects.blob_stream(shard))]
    made: dict[str, list[str]] = {name: [] for name in (*names, subjects.KEY_STREAM, subjects.TIMER_STREAM)}
    for shard in shards:
        for consumer in heard:
            stream, name = consumer_home(consumer, shard)
            made[stream].append(name)
    return made


def write(
    directory: Path,
    pools: Pools,
    shards: Sequence[int],
    *,
    tenants: Sequence[str] = (),
    relaxed: bool = False,
    drop: bool = False,
) -> Written:
    """Write the files, or bring them up to date; raises BrokerError where the passwords cannot be read."""
    known = _passwords(directory / CREDENTIALS_FILE)
    wanted = [user.name for user in users(pools)]
    extra = [name for name in known if name not in wanted]
    members = users(pools if drop else _with(pools, extra, directory / CREDENTIALS_FILE), tenants)
    passwords = {user.name: known.get(user.name) or secrets.token_urlsafe(24) for user in members}
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The passwords first: a server that has them and a stack that does not is the worse half.
    write_file(directory / CREDENTIALS_FILE, json.dumps(passwords, indent=1) + "\n")
    heading = "# Made by `handrail broker config`; run it again to change it. Secret: passwords are in it.\n"
    write_file(directory / ACCOUNTS_FILE, heading + render(members, passwords))
    files, kept_files = [CREDENTIALS_FILE, ACCOUNTS_FILE], []
    if (directory / SERVER_FILE).exists():
        kept_files.append(SERVER_FILE)
    else:
        store = str(directory.absolute() / "jetstream")
        write_file(directory / SERVER_FILE, server(store, shards, relaxed=relaxed))
        files.append(SERVER_FILE)
    new = tuple(name for name in passwords if name not in known)
    return Written(
        tuple(files),
        tuple(kept_files),
        new,
        kept=() if drop else tuple(extra),
        dropped=tuple(extra) if drop else (),
    )


def _passwords(path: Path) -> dict[str, str]:
    """Return the passwords that there are; never new ones in place of what cannot be read."""
    try:
        found = json.loads(read_text(path) or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise BrokerError(
            f"{path} is not a JSON object of passwords by user, and nothing was written: "
            "restore it, or move it away to have new passwords"
        )
    return found


def _with(pools: Pools, names: Sequence[str], path: Path) -> Pools:
    """Return the pools with those that users have who are in no pool."""
    joined = {role: list(pools.get(role, ())) for role in POOLED_ROLES}
    for name in names:
        role, _, pool = name.partition("-")
        if role not in joined or not subjects.TOKEN.fullmatch(pool):
            raise BrokerError(
                f"{path} has {name!r}, which is no user of Handrail's, and nothing was written: "
                "remove it there, or run with --drop"
            )
        joined[role].append(pool)
    return joined

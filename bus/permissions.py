"""Who may say what on the bus: one table, from which the broker's users and their permissions are made.

One user per role and pool, each in an account of its own. Each writes its own channel, pulls and
acknowledges its own consumers and hears its own inbox; nobody but `admin` touches streams or durable
consumers. What is not granted is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bus import consumers
from bus.subjects import HEARD, HEARD_KEYS, KEY_STREAM, TIMER_STREAM, token
from core.ports import Consumer

API = "$JS.API"
POOLED_ROLES = ("planner", "executor", "worker", "verifier")
_ANSWER_KINDS = {
    "planner": ("plan",),
    "executor": ("proposal",),
    "worker": ("intent", "result", "orphan"),
    "verifier": ("verdict",),
}
# Acknowledgements exist in two layouts: <stream>.<consumer>, and <domain>.<account>.<stream>.<consumer>
# (servers up to 2.15 send the first unless told otherwise). "_" is the domain of a server without one; it is
# spelt out because with a wildcard there the second pattern would match the first layout of any consumer.
_ACK = ("$JS.ACK", "$JS.ACK._.*")

_ANY_KEY = "key.*.*.*"

ADMIN = "admin"
GATEWAY = "gateway"
ACCOUNT = "LOG"
"""The account that the streams lie in. Its only user is the administrator."""
PULL_LIFE_S = 10
"""How long answers to one pull may come; pulls end after seconds and are made anew."""
_HEARTBEATS = "hb."

Pools = Mapping[str, Sequence[str]]
"""The names of the pools of each pooled role; a worker's pool is its toolbox."""


@dataclass(frozen=True, slots=True)
class User:
    """A user of the broker: what it may publish and hear, and the exceptions."""

    name: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    deny_publish: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    """What the log's account publishes on these it is told of."""


def user_name(role: str, pool: str = "") -> str:
    """Name the user of a role, and of a pool where the role has pools."""
    if (role in POOLED_ROLES) != bool(pool):
        raise ValueError(f"role {role!r} with pool {pool!r}: exactly {', '.join(POOLED_ROLES)} have pools")
    return f"{role}-{token(pool)}" if pool else token(role)


def inbox_prefix(user: str) -> str:
    """Return the prefix of a user's private inboxes (without the last dot)."""
    return f"_INBOX_{user}"


def heartbeat(role: str, pool: str, instance: str) -> str:
    """Name the core subject on which an agent or worker says that it lives."""
    return ".".join(("hb", *map(token, (role, pool, instance))))


def users(pools: Pools, tenants: Sequence[str] = ()) -> tuple[User, ...]:
    """Return every user of a broker with these pools, whose gateway serves these tenants, or all."""
    unknown = sorted(set(pools) - set(POOLED_ROLES))
    if unknown:
        raise ValueError(f"{unknown[0]!r} has no pools: exactly {', '.join(POOLED_ROLES)} have")
    named = {role: tuple(map(token, pools.get(role, ()))) for role in POOLED_ROLES}
    return _users(named, tuple(map(token, tenants)))


def render(members: Iterable[User], passwords: Mapping[str, str]) -> str:
    """Return the `accounts` block of a nats-server configuration.

    Permissions alone do not hold. Whoever asks the broker for anything names the subject of its answer, and
    no permission is asked about that one: the broker would put it into the log in somebody else's name, and
    an empty answer on `$JS.API.STREAM.DELETE.EV_0` would delete the log. So each user is alone in an account
    that has of the log's account what the user may publish, and no answer leaves the account of the asker.
    """
    exports: dict[tuple[str, str], list[str]] = {}
    told: dict[str, list[str]] = {}
    accounts = []
    for user in members:
        imports = [] if user.name == ADMIN else [(_owner(subject), subject) for subject in user.publish]
        for imported in imports:
            exports.setdefault(imported, []).append(user.name)
        for subject in user.told:
            told.setdefault(subject, []).append(user.name)
        accounts.append((user, imports))
    blocks = [
        _render_account(user, passwords[user.name], imports, exports, told) for user, imports in accounts
    ]
    return "accounts {\n" + "".join(blocks) + "}\n"


def table() -> list[User]:
    """Return the table as the documentation shows it: one user per role, `<pool>` standing for any pool."""
    return list(_users(dict.fromkeys(POOLED_ROLES, ("<pool>",))))


def markdown() -> str:
    """Return the table in Markdown."""
    lines = ["| user | may publish | except | may hear |", "|---|---|---|---|"]
    for user in table():
        cells = (user.publish, user.deny_publish, user.subscribe)
        listed = (" ".join(f"`{subject}`" for subject in cell) for cell in cells)
        lines.append(f"| `{user.name}` | {' | '.join(listed)} |")
    return "\n".join(lines) + "\n"


def _users(pools: Pools, tenants: Sequence[str] = ()) -> tuple[User, ...]:
    pooled = [(role, pool) for role in POOLED_ROLES for pool in pools[role]]
    heard = [_consumer(role, pool) for role, pool in pooled]
    return (
        User(ADMIN, (">",), (">",)),
        _gateway([*heard, consumers.decider(), consumers.ticks(), consumers.tracer()], tenants),
        User(
            "decider",
            (
                *("ev.*.*.*.dec.>", "timer.arm.>", "blob.>", _ANY_KEY),
                *(*_read_all(), f"{API}.STREAM.MSG.DELETE.{KEY_STREAM}"),
                *_answer(consumers.decider()),
                *_answer(consumers.ticks()),
            ),
            _hears("decider"),
            _deny_durables([*heard, consumers.tracer()], shared=(consumers.decider(), consumers.ticks())),
            (HEARD_KEYS,),
        ),
        User(
            "tracer",
            (*_read_all(), *_answer(consumers.tracer())),
            _hears("tracer"),
            _deny_durables([*heard, consumers.decider(), consumers.ticks()], shared=(consumers.tracer(),)),
            (HEARD_KEYS,),
        ),
        User(
            "notary",
            _read_all(),
            _hears("notary"),
            _deny_durables([*heard, consumers.decider(), consumers.ticks(), consumers.tracer()], shared=()),
            (HEARD_KEYS,),
        ),
        *(_pooled_user(role, pool) for role, pool in pooled),
    )


def _gateway(durables: Sequence[Consumer], tenants: Sequence[str]) -> User:
    """Return the gateway's user.

    One for some tenants reads what every log holds as all readers do, and cannot decrypt that of others: it
    gets the keys of theirs by subject, and none in any other way.
    """
    writes = [layout.format(tenant) for tenant in tenants or ("*",) for layout in _GATEWAY_WRITES]
    reads, hidden = list(_read_all()), tuple[str, ...]()
    if tenants:
        reads.remove(_READ_KEYS)
        reads += [f"{API}.DIRECT.GET.{KEY_STREAM}.key.*.{tenant}.*" for tenant in tenants]
        calls = (
            "STREAM.MSG.GET.{}",
            "CONSUMER.CREATE.{}.*",
            "CONSUMER.CREATE.{}.*.>",
            "CONSUMER.MSG.NEXT.{}.*",
        )
        hidden = tuple(f"{API}.{call.format(KEY_STREAM)}" for call in calls)
    denied = (*_deny_durables(durables, shared=()), *hidden)
    keys = tuple(f"{HEARD}.key.*.{tenant}.*" for tenant in tenants or ("*",))
    return User(GATEWAY, (*writes, "req.*", *reads), (*_hears(GATEWAY), "hb.>"), denied, keys)


def _pooled_user(role: str, pool: str) -> User:
    name = f"{role}-{pool}"
    return User(
        name,
        (
            *(f"ev.*.*.*.ans.{role}.{pool}.{kind}.*" for kind in _ANSWER_KINDS[role]),
            *(("blob.>",) if role == "worker" else ()),
            f"hb.{role}.{pool}.*",
            *_READ,
            *_pull(_consumer(role, pool)),
            *_answer(_consumer(role, pool)),
        ),
        _hears(name),
        told=(HEARD_KEYS,),
    )


def _consumer(role: str, pool: str) -> Consumer:
    if role == "worker":
        return consumers.worker(pool)
    return consumers.verifier(pool) if role == "verifier" else consumers.mind(role, pool)


_READ_KEYS = f"{API}.DIRECT.GET.{KEY_STREAM}.{_ANY_KEY}"
_READ = (f"{API}.INFO", f"{API}.STREAM.MSG.GET.*", _READ_KEYS)
_GATEWAY_WRITES = ("ev.*.{}.*.cmd.>", "blob.*.{}.>", "key.*.{}.*")


def _read_all() -> tuple[str, ...]:
    """Read any stream, through ephemeral consumers too.

    Only named ones: the request to create one without a name carries the name in its body, where no
    permission looks, and so could rewrite a durable consumer.
    """
    return (
        *_READ,
        *(f"{API}.STREAM.INFO.*", f"{API}.CONSUMER.INFO.*.*"),
        *(f"{API}.CONSUMER.CREATE.*.*", f"{API}.CONSUMER.CREATE.*.*.>", f"{API}.CONSUMER.DELETE.*.*"),
        f"{API}.CONSUMER.MSG.NEXT.*.*",
    )


def _stream_and_name(consumer: Consumer) -> str:
    """Match a consumer on the streams that it may be on (those of all shards)."""
    # One stream holds the timers of all shards, so there the shard is part of the consumer's name.
    return f"{TIMER_STREAM}.*" if consumer.stream == "timer" else f"*.{consumer.name}"


def _pull(consumer: Consumer) -> tuple[str, ...]:
    where = _stream_and_name(consumer)
    return (f"{API}.CONSUMER.MSG.NEXT.{where}", f"{API}.CONSUMER.INFO.{where}")


def _answer(consumer: Consumer) -> tuple[str, ...]:
    return tuple(f"{layout}.{_stream_and_name(consumer)}.>" for layout in _ACK)


def _deny_durables(foreign: Sequence[Consumer], shared: Sequence[Consumer]) -> tuple[str, ...]:
    """Keep a user that makes ephemeral consumers from touching durable ones; it may pull the shared."""
    denied: list[str] = []
    for consumer in (*foreign, *shared):
        where = _stream_and_name(consumer)
        denied += (f"{API}.CONSUMER.CREATE.{where}", f"{API}.CONSUMER.CREATE.{where}.>")
        denied.append(f"{API}.CONSUMER.DELETE.{where}")
        if consumer not in shared:
            denied.append(f"{API}.CONSUMER.MSG.NEXT.{where}")
    return tuple(denied)


def _inbox(user: str) -> tuple[str, ...]:
    return (f"{inbox_prefix(user)}.>",)


def _hears(user: str) -> tuple[str, ...]:
    return (*_inbox(user), HEARD_KEYS)


def _account(user: str) -> str:
    return ACCOUNT if user == ADMIN else user


def _owner(subject: str) -> str:
    """Return the account that what is published on a subject goes to."""
    return GATEWAY if subject.startswith(_HEARTBEATS) else ACCOUNT


def _render_account(
    user: User,
    password: str,
    imports: Sequence[tuple[str, str]],
    exports: Mapping[tuple[str, str], Sequence[str]],
    told: Mapping[str, Sequence[str]],
) -> str:
    name = _account(user.name)
    lines = [f"  {json.dumps(name)} {{"]
    if name == ACCOUNT:
        lines.append("    jetstream: enabled")
    lines += ["    users: [", _render_user(user, password), "    ]"]
    given = [_render_export(subject, to) for (owner, subject), to in exports.items() if owner == name]
    if name == ACCOUNT:
        given += [_render_told(subject, to) for subject, to in told.items()]
    if given:
        lines += ["    exports: [", *given, "    ]"]
    taken = [_render_import(*imported) for imported in imports]
    taken += [_render_hearing(subject) for subject in user.told]
    if taken:
        lines += ["    imports: [", *taken, "    ]"]
    return "\n".join([*lines, "  }"]) + "\n"


def _render_export(subject: str, to: Sequence[str]) -> str:
    # A pull is answered by more than one message; until then the broker keeps what the answers are for.
    many = f"{API}.CONSUMER.MSG.NEXT." in subject
    kind = f'stream, threshold: "{PULL_LIFE_S}s"' if many else "singleton"
    return (
        f"      {{ service: {json.dumps(subject)}, response_type: {kind}, accounts: {json.dumps(list(to))} }}"
    )


def _render_import(owner: str, subject: str) -> str:
    return f"      {{ service: {{ account: {json.dumps(owner)}, subject: {json.dumps(subject)} }} }}"


def _render_told(subject: str, to: Sequence[str]) -> str:
    return f"      {{ stream: {json.dumps(subject)}, accounts: {json.dumps(list(to))} }}"


def _render_hearing(subject: str) -> str:
    return f"      {{ stream: {{ account: {json.dumps(ACCOUNT)}, subject: {json.dumps(subject)} }} }}"


def _render_user(user: User, password: str) -> str:
    allow, deny = json.dumps(list(user.publish)), json.dumps(list(user.deny_publish))
    subscribe = json.dumps(list(user.subscribe))
    return (
        f"      {{ user: {json.dumps(user.name)}, password: {json.dumps(password)}, permissions: {{\n"
        f"        publish: {{ allow: {allow}, deny: {deny} }}\n"
        f"        subscribe: {{ allow: {subscribe} }}\n"
        "      } }"
    )

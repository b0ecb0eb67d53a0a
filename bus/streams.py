"""What must exist on the broker before anything runs: the streams with their flags, the durable consumers.

`ensure` is run by an administrator at start and may be run again. A consumer of run logs is called by its
name and lives in each `EV_<shard>`; a consumer of ticks lives in TIMER as `<name>_<shard>`. Direct reads are
off: every read goes through a stream's leader, but those of keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from bus import subjects
from bus.answers import CONSUMER_NOT_FOUND, STREAM_NOT_FOUND, ApiError
from bus.link import Link
from core.ports import Consumer, LogError, LogUnavailable

DEFAULT_MAX_BYTES = 512 * 1024 * 1024
"""Of each EV, BLOB and REQ stream; the broker sets it aside at once, so all together must fit on the disk."""
KEYS_MAX_BYTES = 256 * 1024 * 1024
"""Of the KEY stream: the keys of more than a million runs."""
PRIORITY_GROUP = "lease"
PIN_TIMEOUT_S = 2.0
SETUP_TIMEOUT_S = 30.0
_RETRY_WAIT_S = 0.1
_SECOND_NS = 1_000_000_000

# What the promises stand on: with any other value here events could be lost or replaced.
_GUARDED = (
    "subjects",
    "retention",
    "storage",
    "discard",
    "discard_new_per_subject",
    "max_age",
    "max_msgs",
    "max_msgs_per_subject",
    "deny_delete",
    "deny_purge",
    "allow_rollup_hdrs",
    "allow_msg_ttl",
    "allow_msg_schedules",
    "allow_direct",
    "subject_delete_marker_ttl",
    "no_ack",
    "sealed",
    "mirror",
    "sources",
    "subject_transform",
)
_ADJUSTABLE = ("max_bytes", "num_replicas", "republish")
_BEGINNING = ("deliver_policy", "opt_start_seq")


def consumer_home(consumer: Consumer, shard: int) -> tuple[str, str]:
    """Return the stream that a durable consumer of a shard lives in, and its name there."""
    if consumer.stream == "timer":
        return subjects.TIMER_STREAM, f"{consumer.name}_{shard}"
    return subjects.ev_stream(shard), consumer.name


def consumer_filters(consumer: Consumer, shard: int) -> tuple[str, ...]:
    """Return the subjects that it hears of a shard."""
    return tuple(pattern.format(shard=shard) for pattern in consumer.filters)


async def ensure(
    link: Link,
    *,
    shards: Sequence[int],
    consumers: Sequence[Consumer],
    replicas: int = 1,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> None:
    """Create what is missing. Raises LogError where a stream differs in a way that endangers the promises."""
    try:
        async with asyncio.timeout(SETUP_TIMEOUT_S):
            for config in _streams(shards, replicas, max_bytes):
                await _ensure_stream(link, config)
            for shard in shards:
                for consumer in consumers:
                    await _ensure_consumer(link, consumer, shard)
    except TimeoutError:
        raise LogUnavailable(
            f"the streams at {link.url} were not set up within {SETUP_TIMEOUT_S:g} s: see the broker's log"
        ) from None


def _streams(shards: Sequence[int], replicas: int, max_bytes: int) -> list[dict[str, Any]]:
    streams = [_append_only(subjects.REQUEST_STREAM, "req.>", replicas, max_bytes)]
    for shard in shards:
        streams.append(_append_only(subjects.ev_stream(shard), f"ev.{shard}.>", replicas, max_bytes))
        streams.append(_append_only(subjects.blob_stream(shard), f"blob.{shard}.>", replicas, max_bytes))
    return [*streams, _keys(replicas), _timers(replicas)]


def _append_only(name: str, subject: str, replicas: int, max_bytes: int) -> dict[str, Any]:
    return {
        "name": name,
        "subjects": [subject],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_consumers": -1,
        "max_msgs": -1,
        "max_bytes": max_bytes,
        "max_age": 0,
        "max_msgs_per_subject": -1,
        "num_replicas": replicas,
        "deny_delete": True,
        "deny_purge": True,
        "allow_rollup_hdrs": False,
        "allow_msg_ttl": False,
        "allow_direct": False,
    }


def _keys(replicas: int) -> dict[str, Any]:
    """One message for each run, which nobody overwrites; it can be deleted, that is what it is there for.

    Direct reads are by subject, so whose keys somebody may read can be told by permissions. Whoever listens
    is told of each when it is stored, and need not ask.
    """
    return _append_only(subjects.KEY_STREAM, "key.>", replicas, KEYS_MAX_BYTES) | {
        "max_msgs_per_subject": 1,
        "discard_new_per_subject": True,
        "deny_delete": False,
        "allow_direct": True,
        "republish": {"src": "key.>", "dest": f"{subjects.HEARD}.key.>"},
    }


def _timers(replicas: int) -> dict[str, Any]:
    """One armed timer and one waiting tick for each subject; ticks nobody hears go when their time is over.

    Scheduled messages need rollups, hence no `deny_purge` and `discard: old`: a tick is a hint, and what is
    due is in the log.
    """
    return {
        "name": subjects.TIMER_STREAM,
        "subjects": ["timer.arm.>", "timer.due.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_consumers": -1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msgs_per_subject": 1,
        "num_replicas": replicas,
        "deny_delete": False,
        "deny_purge": False,
        "allow_rollup_hdrs": True,
        "allow_msg_ttl": True,
        "allow_msg_schedules": True,
        "allow_direct": False,
    }


async def begin(link: Link, consumers: Sequence[Consumer], shard: int, sequence: int) -> None:
    """Create a shard's consumers of run logs so that they hear it from a sequence on."""
    for consumer in consumers:
        if consumer.stream == "timer":
            continue
        stream, name = consumer_home(consumer, shard)
        config = _consumer_config(consumer, shard)
        config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, sequence)}
        body = {"stream_name": stream, "config": config, "action": "create"}
        await _call(link, ".".join(["CONSUMER.CREATE", stream, name, *_filter_token(config)]), body)


async def _ensure_stream(link: Link, config: dict[str, Any]) -> None:
    name = config["name"]
    try:
        existing = (await _call(link, f"STREAM.INFO.{name}", {}))["config"]
    except ApiError as error:
        if error.code != STREAM_NOT_FOUND:
            raise
        await _call(link, f"STREAM.CREATE.{name}", config)
        return
    for field in _GUARDED:
        if (existing.get(field) or None) != (config.get(field) or None):
            raise LogError(
                f"stream {name} has {field}={existing.get(field)!r} and needs {config.get(field)!r}, or its "
                "events are not safe: it was not made by Handrail, or has been changed; restore the setting, "
                "or start on an empty data directory"
            )
    if any(existing.get(field) != config.get(field) for field in _ADJUSTABLE):
        await _call(link, f"STREAM.UPDATE.{name}", config)


def _consumer_config(consumer: Consumer, shard: int) -> dict[str, Any]:
    filters = consumer_filters(consumer, shard)
    config: dict[str, Any] = {
        "durable_name": consumer_home(consumer, shard)[1],
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": int(consumer.ack_wait_s * _SECOND_NS),
        "max_deliver": -1,
        "max_ack_pending": consumer.max_ack_pending,
        "replay_policy": "instant",
        "num_replicas": 0,
    }
    config.update({"filter_subject": filters[0]} if len(filters) == 1 else {"filter_subjects": list(filters)})
    if consumer.pinned:
        config["priority_groups"] = [PRIORITY_GROUP]
        config["priority_policy"] = "pinned_client"
        config["priority_timeout"] = int(PIN_TIMEOUT_S * _SECOND_NS)
    return config


async def _ensure_consumer(link: Link, consumer: Consumer, shard: int) -> None:
    stream, name = consumer_home(consumer, shard)
    config = _consumer_config(consumer, shard)
    try:
        existing = (await _call(link, f"CONSUMER.INFO.{stream}.{name}", {}))["config"]
    except ApiError as error:
        if error.code != CONSUMER_NOT_FOUND:
            raise
        existing = None
    if existing is not None:
        # Where it began stays as it is: a consumer of a restored log begins behind what was done with.
        config |= {key: existing[key] for key in _BEGINNING if key in existing}
    if existing is None or any((existing.get(key) or None) != (config[key] or None) for key in config):
        # An empty action is "create or update".
        body = {"stream_name": stream, "config": config, "action": ""}
        subject = ".".join(["CONSUMER.CREATE", stream, name, *_filter_token(config)])
        await _call(link, subject, body)


def _filter_token(config: dict[str, Any]) -> list[str]:
    return [config["filter_subject"]] if "filter_subject" in config else []


async def _call(link: Link, subject: str, body: dict[str, Any]) -> dict[str, Any]:
    """Call the API; a broker that is still recovering is asked again, until `ensure` times out."""
    while True:
        try:
            return await link.call(subject, body)
        except LogUnavailable:
            await link.connected.wait()
            await asyncio.sleep(_RETRY_WAIT_S)

"""Subjects: what is none of ours is no record, whoever has written it."""

from __future__ import annotations

import asyncio

import pytest

from bus.memory import MemoryBroker, MemoryLog
from bus.store import Stored
from bus.subjects import BadSubject, build, parse, parse_due, run_key

RUN = "r0-01k9x3abcd"


@pytest.mark.parametrize(
    "subject",
    [
        f"ev.\u00b2.default.{RUN}.cmd.submit",
        f"ev.{'9' * 5_000}.default.{RUN}.cmd.submit",
        f"ev.0.default.{RUN}.ans.worker.shop.result.\u00e9",
        f"ev.0.default.{RUN}.ans.worker.shop.result.",
        f"ev.0.default.{RUN}.ans.worker.shop.result.{'a' * 200}",
        f"ev.0.$x.{RUN}.cmd.submit",
        f"ev.0.default.{RUN}.odd.submit",
        "ev.0.default",
    ],
    ids=lambda one: one[:60],
)
def test_what_could_not_be_built_is_not_parsed(subject: str) -> None:
    with pytest.raises(BadSubject):
        parse(subject)
    assert asyncio.run(MemoryLog(MemoryBroker()).record(Stored(1, 1, subject, b""))) is None


def test_what_is_parsed_can_be_built_again() -> None:
    subject = f"ev.3.default.{RUN}.ans.worker.shop.result.look-a1"
    assert build(parse(subject)) == subject


def test_digits_are_those_of_ascii() -> None:
    for shard in ("\u00b2", "\u0661", "9" * 5_000):
        with pytest.raises(BadSubject):
            parse_due(f"timer.due.{shard}.default.{RUN}")
    with pytest.raises(BadSubject):
        run_key("r\u0661-01k9x3abcd", "default")

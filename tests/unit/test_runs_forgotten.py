"""A run that is forgotten while it is being read: there is no moment at which it is not there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from core.ports import Log, Record
from handrail.v1 import event_pb2
from orchestrator.runs import Runs
from tests.scenarios.play import KEY, Play, write


class Going:
    """A log whose run's key is deleted after so many of its messages were decrypted, once it was read."""

    def __init__(self, records: list[Record], readable: int) -> None:
        self._records, self._readable = records, readable
        self.reads = 0

    async def read(self, key: Any, *, after: int = 0) -> list[Record]:
        self.reads += 1
        first = self._records[:-2] if self.reads == 1 else self._records
        left = self._readable if self.reads == 1 else 0
        return [
            one
            if index < left or index >= len(self._records) - 2
            else replace(one, event=None, forgotten=True)
            for index, one in enumerate(first)
        ]


@pytest.mark.parametrize("readable", [0, 1, 2])
async def test_it_is_read_once_more(readable: int) -> None:
    play = Play(write("call")).submit({"id": "call", "tool": "call"})
    play.intent("call-a1").output("call-a1", 2).done("call-a1", 2)
    play.command("forget", event_pb2.Forget(submitter="ines"))
    assert play.state.forgotten is not None
    log = Going(play.records, readable)
    state = await Runs(cast(Log, log), writer="gateway", entropy=bytes).state(KEY)
    assert state == play.state
    assert log.reads == 2

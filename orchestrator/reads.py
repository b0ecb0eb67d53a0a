"""Reads of whole runs, made together: what is asked for while a shard is read is read after it, at once.

One read costs the broker a consumer, of however many runs it is. Nobody waits for company: a run that is
asked for while its shard is not read is read now. A slow shard keeps no other waiting, and a run that cannot
be read none of those that were asked for with it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from core.ports import Log, LogError, Record, RunKey

MAX_TOGETHER = 64

_Found = dict[RunKey, list[Record]]


class Reads:
    """The reads that one process makes of a log."""

    def __init__(self, log: Log) -> None:
        self._log = log
        # What the next read of each shard is of; a full one waits for its turn apart.
        self._next: dict[int, tuple[list[RunKey], asyncio.Task[_Found]]] = {}
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[_Found]] = set()

    async def read(self, key: RunKey) -> list[Record]:
        """Return every record of a run that was durable when this was called, in stream order."""
        keys, task = self._next.get(key.shard) or ([], None)
        if task is None or len(keys) >= MAX_TOGETHER:
            keys = []
            task = asyncio.create_task(self._read(key.shard, keys))
            self._next[key.shard] = keys, task
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        keys.append(key)
        try:
            # Whoever gives up must not end the read for the others.
            return (await asyncio.shield(task))[key]
        except LogError:
            if len(keys) == 1:
                raise
            return await self._log.read(key)

    def close(self) -> None:
        """End what is being read."""
        for task in self._tasks:
            task.cancel()

    async def _read(self, shard: int, keys: list[RunKey]) -> _Found:
        async with self._turns[shard]:
            # Whoever asks from now on may know of what this read does not find.
            if self._next[shard][0] is keys:
                del self._next[shard]
            return await self._log.read_runs(keys)

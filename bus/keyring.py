"""The keys of runs: one for each, under which its events and large values are encrypted in the log.

They lie in a stream of their own, `KEY`, the one thing of a run that can be deleted. A key is written
once, before all else of its run; where it was deleted an empty message stands in its place. What is known
here is asked for again after a while, so a forgotten run is soon forgotten in every process.

Whoever has had to ask for one listens from then on: it is told of each key when that is stored. Others than
the broker could say such a thing too: it is a run's key if it decrypts what the run's log holds, and asked
for if not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from bus import subjects
from bus.store import Store, Stored, patiently, write_once
from core.ports import LogError, RunForgotten, RunKey
from handrail.cipher import BadCipherText, Cipher, new_key

MAX_HELD = 10_000
Listen = Callable[[], Awaitable[None]]
HELD_S = 60.0
"""So long a key is used without asking whether it is still there."""


@dataclass(frozen=True, slots=True)
class _Held:
    """What is known of a run's key (None: it was deleted), until when, and whether that was asked for."""

    cipher: Cipher | None
    until_s: float
    asked: bool


class Keyring:
    """The keys of the runs that one process reads and writes."""

    def __init__(self, store: Store, timeout_s: float, listen: Listen | None = None) -> None:
        """Use a store; `listen` is called once, with the first question."""
        self._store = store
        self._timeout_s = timeout_s
        self._listen = listen
        self._held: dict[RunKey, _Held] = {}
        self._heard: dict[RunKey, tuple[bytes, float]] = {}
        self._expected: dict[RunKey, asyncio.Task[Stored | None]] = {}

    async def begin(self, run: RunKey) -> Cipher:
        """Make a run's key, or find the one that somebody else has made; raises RunForgotten."""
        made = Cipher(new_key())
        place = subjects.KEY_STREAM, subjects.key_cell(run)
        if await write_once(self._store, *place, made.key, self._timeout_s):
            self._hold(run, made)
            return made
        found = await self._usable(run)
        if found is None:
            raise LogError(f"the key of {run.run} is taken and gone at once: was stream {place[0]} changed?")
        return found

    async def to_write(self, run: RunKey) -> Cipher:
        """Return a run's key, made where nobody has yet; raises RunForgotten."""
        found = await self._usable(run)
        return found if found is not None else await self.begin(run)

    async def _usable(self, run: RunKey) -> Cipher | None:
        try:
            return await self.find(run)
        except BadCipherText as error:
            raise LogError(f"the key of run {run.run} is damaged: {error}") from None

    async def decrypt(self, run: RunKey, data: bytes, place: str) -> bytes:
        """Return what somebody encrypted for a place in a run; raises RunForgotten and BadCipherText."""
        if not self._knows(run):
            # It may have been deleted since, unheard.
            said, until_s = self._heard.pop(run, (b"", 0.0))
            with suppress(BadCipherText):
                if said and until_s >= self._store.now_s():
                    cipher = Cipher(said)
                    text = cipher.decrypt(data, place)
                    self._keep(run, _Held(cipher, until_s, asked=False))
                    return text
        held = self._held[run] if self._knows(run) else None
        if held is None or held.cipher is None:
            return (await self._found(run)).decrypt(data, place)
        try:
            return held.cipher.decrypt(data, place)
        except BadCipherText:
            if held.asked:
                raise
        self.drop(run)
        return (await self._found(run)).decrypt(data, place)

    async def _found(self, run: RunKey) -> Cipher:
        found = await self.find(run)
        if found is None:
            raise BadCipherText(f"run {run.run} has no key")
        return found

    async def find(self, run: RunKey) -> Cipher | None:
        """Return a run's key; None where there is none. Raises RunForgotten and BadCipherText."""
        if (expected := self._expected.get(run)) is not None:
            await asyncio.shield(expected)
        if not self._knows(run):
            stored = await self._ask(run)
            if stored is None:
                return None
            self._hold(run, Cipher(stored.data) if stored.data else None)
        if (cipher := self._held[run].cipher) is None:
            raise RunForgotten(f"run {run.run} was forgotten: nobody can read or write it any more")
        return cipher

    def expect(self, run: RunKey) -> None:
        """Ask for a run's key before it is needed, together with others."""
        if run not in self._expected and run not in self._heard and not self._knows(run):
            self._expected[run] = task = asyncio.create_task(self._ask(run))
            task.add_done_callback(partial(self._come, run))

    def hear(self, run: RunKey, said: bytes) -> None:
        """Take note of what was said to be a run's key; an empty one, that it was deleted."""
        if not said:
            self.drop(run)
        # What is known is known better.
        elif run not in self._held and run not in self._expected:
            if len(self._heard) >= MAX_HELD:
                del self._heard[next(iter(self._heard))]
            self._heard[run] = (said, self._store.now_s() + HELD_S)

    def _come(self, run: RunKey, task: asyncio.Task[Stored | None]) -> None:
        stored = task.result() if not task.cancelled() and task.exception() is None else None
        # Of one that was dropped meanwhile this may be what was there before.
        if self._expected.get(run) is not task:
            return
        del self._expected[run]
        with suppress(BadCipherText):
            if stored is not None:
                self._hold(run, Cipher(stored.data) if stored.data else None)

    def _knows(self, run: RunKey) -> bool:
        held = self._held.get(run)
        return held is not None and held.until_s >= self._store.now_s()

    async def _ask(self, run: RunKey) -> Stored | None:
        if self._listen is not None:
            # Who makes all keys that are needed here, or needs none, is spared hearing of others.
            listen, self._listen = self._listen, None
            await listen()
        place = subjects.KEY_STREAM, subjects.key_cell(run)
        return await patiently(self._store, self._timeout_s, lambda: self._store.only(*place))

    async def erase(self, run: RunKey) -> None:
        """Delete a run's key for good, and leave the empty message in its place."""
        stream, subject = subjects.KEY_STREAM, subjects.key_cell(run)
        while (stored := await self._ask(run)) is None or stored.data:
            if stored is not None:
                delete = partial(self._store.erase, stream, stored.sequence)
                await patiently(self._store, self._timeout_s, delete)
            # Else somebody has made a key in between.
            if await write_once(self._store, stream, subject, b"", self._timeout_s):
                break
        self._hold(run, None)

    def drop(self, run: RunKey) -> None:
        """Forget what is known of a run's key."""
        self._held.pop(run, None)
        self._heard.pop(run, None)
        self._expected.pop(run, None)

    def _hold(self, run: RunKey, cipher: Cipher | None) -> None:
        self._keep(run, _Held(cipher, self._store.now_s() + HELD_S, asked=True))

    def _keep(self, run: RunKey, held: _Held) -> None:
        self._held.pop(run, None)
        # What was heard while somebody asked is no news.
        self._heard.pop(run, None)
        if len(self._held) >= MAX_HELD:
            del self._held[next(iter(self._held))]
        self._held[run] = held

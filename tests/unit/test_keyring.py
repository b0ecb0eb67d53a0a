"""Keys that are asked for before they are needed: together, once, and not past what was heard meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from bus.keyring import HELD_S, Keyring
from bus.store import Store, Stored
from core.ports import LogForbidden, RunForgotten, RunKey
from handrail.cipher import BadCipherText, Cipher, new_key

RUNS = [RunKey(0, "acme", f"r0-{number:010}") for number in range(50)]


class SlowStore:
    """A store of one key, which answers when it is told to."""

    def __init__(self) -> None:
        self.said: Any = new_key()
        self.asked: list[str] = []
        self.answers = asyncio.Event()

    async def only(self, stream: str, subject: str) -> Stored | None:
        self.asked.append(subject)
        said = self.said
        await self.answers.wait()
        if isinstance(said, Exception):
            raise said
        return None if said is None else Stored(1, 1, subject, said)

    now = 0.0

    def now_s(self) -> float:
        return self.now


@pytest.fixture
def store() -> SlowStore:
    return SlowStore()


def ring(store: SlowStore) -> Keyring:
    return Keyring(cast(Store, store), 1.0)


async def test_they_are_asked_for_together_and_once(store: SlowStore) -> None:
    keys = ring(store)
    for run in RUNS + RUNS:
        keys.expect(run)
    await asyncio.sleep(0)
    assert len(store.asked) == len(RUNS)
    store.answers.set()
    for run in RUNS:
        found = await keys.find(run)
        assert found is not None
        assert found.key == store.said
        keys.expect(run)
    assert len(store.asked) == len(RUNS)


async def test_what_was_on_its_way_when_a_run_was_forgotten_is_not_believed(store: SlowStore) -> None:
    keys, run = ring(store), RUNS[0]
    keys.expect(run)
    await asyncio.sleep(0)
    waiting = asyncio.create_task(keys.find(run))
    await asyncio.sleep(0)
    keys.drop(run)
    store.said = b""
    store.answers.set()
    for find in (waiting, keys.find(run)):
        with pytest.raises(RunForgotten):
            await find


async def test_who_needs_one_hears_why_it_did_not_come_and_the_next_asks_again(store: SlowStore) -> None:
    keys, run = ring(store), RUNS[0]
    store.said = LogForbidden("not you")
    keys.expect(run)
    await asyncio.sleep(0)
    waiting = asyncio.create_task(keys.find(run))
    await asyncio.sleep(0)
    store.answers.set()
    with pytest.raises(LogForbidden):
        await waiting
    assert len(store.asked) == 1
    store.said = None
    assert await keys.find(run) is None
    store.said = b"short"
    keys.expect(run)
    await asyncio.sleep(0.01)
    store.said = new_key()
    assert await keys.find(run) is not None


async def test_who_waits_and_gives_up_stops_nobody_else(store: SlowStore) -> None:
    keys, run = ring(store), RUNS[0]
    keys.expect(run)
    waiting = asyncio.create_task(keys.find(run))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait((waiting,))
    store.answers.set()
    assert await keys.find(run) is not None
    assert len(store.asked) == 1


async def test_what_is_heard_is_a_key_if_it_decrypts_and_nobody_asks(store: SlowStore) -> None:
    keys, run = ring(store), RUNS[0]
    keys.hear(run, store.said)
    keys.expect(run)
    said = Cipher(store.said).encrypt(b"text", "here")
    assert await keys.decrypt(run, said, "here") == b"text"
    assert (await keys.to_write(run)).key == store.said
    assert store.asked == []


@pytest.mark.parametrize("wrong", [bytes(32), b"short"])
async def test_what_is_heard_and_decrypts_nothing_is_asked_for(store: SlowStore, wrong: bytes) -> None:
    keys, run = ring(store), RUNS[0]
    store.answers.set()
    keys.hear(run, wrong)
    for place in ("here", "there"):
        assert await keys.decrypt(run, Cipher(store.said).encrypt(b"text", place), place) == b"text"
        # What is known is known better.
        keys.hear(run, wrong)
    assert (await keys.to_write(run)).key == store.said
    assert len(store.asked) == 1


async def test_two_who_say_and_write_what_is_none_are_found_out_by_the_next_event(store: SlowStore) -> None:
    keys, run, wrong = ring(store), RUNS[0], new_key()
    store.answers.set()
    keys.hear(run, wrong)
    assert await keys.decrypt(run, Cipher(wrong).encrypt(b"forged", "here"), "here") == b"forged"
    sound = Cipher(store.said).encrypt(b"text", "here")
    for _ in range(2):
        assert await keys.decrypt(run, sound, "here") == b"text"
        with pytest.raises(BadCipherText):
            await keys.decrypt(run, Cipher(wrong).encrypt(b"forged", "here"), "here")
    assert len(store.asked) == 1


@pytest.mark.parametrize("used", [False, True])
async def test_what_was_heard_is_asked_for_after_a_while_whether_it_was_used_or_not(
    store: SlowStore, used: bool
) -> None:
    """That it was deleted may not have been heard: a connection was lost."""
    keys, run = ring(store), RUNS[0]
    said = Cipher(store.said).encrypt(b"text", "here")
    keys.hear(run, store.said)
    store.now = HELD_S - 1
    if used:
        assert await keys.decrypt(run, said, "here") == b"text"
    store.now, store.said = HELD_S + 1, b""
    store.answers.set()
    for _ in range(2):
        with pytest.raises(RunForgotten):
            await keys.decrypt(run, said, "here")
    assert len(store.asked) == 1


async def test_what_is_heard_of_what_is_known_does_not_outlive_it(store: SlowStore) -> None:
    """One's own key comes back, as often as not while it is being made, or asked for."""
    keys, run = ring(store), RUNS[0]
    key = store.said
    asking = asyncio.create_task(keys.find(run))
    await asyncio.sleep(0)
    keys.hear(run, key)
    store.answers.set()
    assert await asking is not None
    store.now, store.said = HELD_S + 1, b""
    with pytest.raises(RunForgotten):
        await keys.decrypt(run, Cipher(key).encrypt(b"text", "here"), "here")


async def test_of_a_key_that_is_heard_to_be_gone_somebody_asks(store: SlowStore) -> None:
    keys, run = ring(store), RUNS[0]
    said = Cipher(store.said).encrypt(b"text", "here")
    keys.hear(run, store.said)
    assert await keys.decrypt(run, said, "here") == b"text"
    store.said = b""
    store.answers.set()
    keys.hear(run, b"")
    with pytest.raises(RunForgotten):
        await keys.decrypt(run, said, "here")


async def test_what_is_heard_and_never_needed_is_bounded(
    store: SlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bus.keyring.MAX_HELD", 10)
    keys = ring(store)
    for run in RUNS:
        keys.hear(run, store.said)
    assert list(keys._heard) == RUNS[-10:]


async def test_who_has_to_ask_listens_from_then_on(store: SlowStore) -> None:
    listened: list[int] = []

    async def listen() -> None:
        listened.append(len(store.asked))

    keys = Keyring(cast(Store, store), 1.0, listen)
    store.answers.set()
    keys.hear(RUNS[0], store.said)
    assert await keys.decrypt(RUNS[0], Cipher(store.said).encrypt(b"text", "here"), "here") == b"text"
    assert listened == []
    for run in RUNS[:5]:
        assert await keys.find(run) is not None
    assert listened == [0]

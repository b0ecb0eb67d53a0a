"""Mistakes of a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest.mock import patch

from bus import subjects
from core import instances
from core.ports import LogError
from orchestrator import decider
from tests.simulation.mutants.planting import Patch, planted
from workers import host
from workers.host import Worker
from workers.instance import Instance
from workers.toolbox import Toolbox


@planted(within=20)
def effect_before_intent() -> Patch:
    """The claim is on its way when the tool is called."""
    claim = Worker._claim

    async def hasty(self: Any, *rest: Any) -> bool:
        self._hasty = asyncio.create_task(claim(self, *rest))
        await asyncio.sleep(0)
        return True

    return patch.object(Worker, "_claim", hasty)


@planted(within=20)
def lost_claim_is_ignored() -> Patch:
    """A worker whose claim came second acts all the same."""
    claim = Worker._claim

    async def deaf(self: Any, *rest: Any) -> bool:
        await claim(self, *rest)
        return True

    return patch.object(Worker, "_claim", deaf)


@planted(within=50)
def result_after_ack() -> Patch:
    """A result is sent once and not waited for."""

    async def careless(self: Any, key: Any, results: Any) -> None:
        for result in results:
            subject = subjects.build(self._address(key, "result", result.attempt))
            event = self._result_event(result).SerializeToString()
            sending = self._log.store.publish(subjects.ev_stream(key.shard), subject, event)
            self._sending = asyncio.create_task(_quietly(sending))

    return patch.object(Worker, "_append_results", careless)


async def _quietly(sending: Any) -> None:
    with suppress(LogError):
        await sending


@planted(within=20)
def orphans_are_kept_quiet() -> Patch:
    """Nobody says that a claim has gone silent."""

    async def quiet(self: Any, delivery: Any, attempt: str) -> bool:
        return True

    return patch.object(Worker, "_report_lost_claim", quiet)


@planted(within=50)
def silence_is_death() -> Patch:
    """Who does not answer is said to be dead."""
    return patch.object(Instance, "knows_dead", lambda self, other, ended: other != str(self))


@planted(within=50)
def permits_are_not_checked() -> Patch:
    """A worker acts on any permit, and one that has expired too."""
    return patch.object(Toolbox, "refusal", lambda self, key, action, arguments: None)


@planted(within=5)
def nobody_signs() -> Patch:
    """A decider signs nothing, and workers do not mind."""

    @contextmanager
    def both() -> Iterator[None]:
        with (
            patch.object(decider.permits, "sign", lambda actions, signer: None),
            patch.object(Toolbox, "foreign", lambda self, key, actions: None),
        ):
            yield

    return both()


@planted(within=50)
def pending_is_guessed() -> Patch:
    """A worker takes something else than what the step before has returned, and nobody compares."""

    @contextmanager
    def both() -> Iterator[None]:
        with (
            patch.object(host, "resolve", lambda reference, outputs: 1),
            patch.object(instances, "took_what_counts", lambda state, attempt: True),
        ):
            yield

    return both()


@planted(within=20)
def ask_is_acked_first() -> Patch:
    """A worker acknowledges an ask before it has done what is asked."""
    act = Worker._act

    async def hasty(self: Any, delivery: Any) -> None:
        await delivery.ack()
        await act(self, delivery)

    return patch.object(Worker, "_act", hasty)


@planted(within=1000, policies=False)
def chains_go_on() -> Patch:
    """A worker reads the rest of a chain though a link of it has failed."""

    async def on_and_on(self: Any, delivery: Any, record: Any, actions: Any) -> None:
        outputs: dict[str, Any] = {}
        said = [await self._read_link(delivery, record, action, outputs) for action in actions]
        await self._append_results(delivery.key, said)

    return patch.object(Worker, "_carry_out_chain", on_and_on)

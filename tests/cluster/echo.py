"""An agent that answers every ask with its step, and the factory that puts it over a real broker.

The step says how: "echo" answers at once; "gate" waits for the gate file, "flaky" fails until it exists; any
other fails.
"""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path

from actors.agent import Agent, Answer
from actors.pool import AgentSpec
from bus import consumers
from bus.link import Link
from bus.log import NatsLog
from core.ports import Address, Consumer, Log, Record, RunKey
from handrail.v1 import event_pb2

ROLE = "executor"
POOL = "echo"
GATE_INTERVAL_S = 0.02


class Echo:
    """Proposes what it was asked, as itself."""

    role = ROLE

    def __init__(self, instance: str, gate: Path) -> None:
        self._instance = instance
        self._gate = gate

    def consumer(self, pool: str) -> Consumer:
        return consumers.mind(self.role, pool)

    async def handle(self, record: Record, log: Log) -> list[Answer]:
        assert record.event is not None
        if not record.event.HasField("proposal_ask"):
            return []
        ask = record.event.proposal_ask
        if ask.step == "gate":
            while not self._gate.exists():
                await asyncio.sleep(GATE_INTERVAL_S)
        elif ask.step != "echo" and not (ask.step == "flaky" and self._gate.exists()):
            raise RuntimeError(f"cannot do {ask.step}")
        return [self._answer(record, self._instance)]

    def give_up(self, record: Record) -> list[Answer]:
        return [self._answer(record, "poisoned")]

    def _answer(self, record: Record, reason: str) -> Answer:
        assert record.event is not None
        attempt = record.event.proposal_ask.attempt
        proposal = event_pb2.Proposal(attempt=attempt, choice=event_pb2.Choice(reason=reason))
        event = event_pb2.Event(id=f"answer-{attempt}", version=1, proposal=proposal)
        return Answer(Address(record.address.key, "ans", (ROLE, POOL, "proposal", attempt)), event)


def ask(key: RunKey, attempt: str, step: str = "echo") -> tuple[Address, event_pb2.Event]:
    """Return an ask and where it belongs."""
    body = event_pb2.ProposalAsk(attempt=attempt, step=step)
    event = event_pb2.Event(id=f"ask-{attempt}", version=1, proposal_ask=body)
    return Address(key, "dec", ("ask", ROLE, POOL)), event


async def connect(broker_url: str) -> NatsLog:
    """Return a log over a broker without users."""
    return NatsLog(await Link.connect(broker_url), (0,))


async def build(spec: AgentSpec) -> tuple[Agent, Log]:
    """Build an echo; with the option "module" it takes its name from that module of the project's."""
    name = spec.name
    if "module" in spec.options:
        name = importlib.import_module(spec.options["module"]).NAME
    return Echo(name, Path(spec.options["gate"])), await connect(spec.broker_url)

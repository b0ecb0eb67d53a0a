"""What a mind is to its host: it is handed records and answers with events.

An agent knows nothing of Ray, of NATS or of other agents. Its host pulls the records, appends the answers
and acknowledges; a record whose handling fails again and again is given up by a `PoisonPolicy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from core.ports import Address, Consumer, Log, Record
from handrail.v1 import event_pb2

# Far above what bad luck makes: the broker also counts what a busy agent put back.
MAX_DELIVERIES = 30
FIRST_REDELIVERY_S = 0.1
MAX_REDELIVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An event and where it belongs in the run's log."""

    address: Address
    event: event_pb2.Event


class Agent(Protocol):
    """A planner, an executor or a verifier."""

    @property
    def role(self) -> str:
        """The word that stands for it in subjects: "planner", "executor", "verifier"."""
        ...

    def consumer(self, pool: str) -> Consumer:
        """Return what an agent of this pool hears."""
        ...

    async def handle(self, record: Record, log: Log) -> list[Answer]:
        """Answer a record whose event is present; `log` is there to be read.

        Nothing to answer means that the record is a stray. The same record may come again, to this agent or
        to another of its pool.
        """
        ...

    def give_up(self, record: Record) -> list[Answer]:
        """Answer a record that could not be handled, with a failure whose code is "poisoned"."""
        ...


@dataclass(frozen=True, slots=True)
class PoisonPolicy:
    """How often a record is tried, and how long it waits between two tries."""

    max_deliveries: int = MAX_DELIVERIES
    first_delay_s: float = FIRST_REDELIVERY_S
    max_delay_s: float = MAX_REDELIVERY_S

    def is_poison(self, deliveries: int) -> bool:
        """Whether a record that has been delivered so often is to be given up."""
        return deliveries > self.max_deliveries

    def delay_s(self, deliveries: int) -> float:
        """Return how long a record waits after its nth delivery has failed."""
        doublings = min(max(deliveries - 1, 0), self.max_deliveries)
        return min(self.first_delay_s * 2.0**doublings, self.max_delay_s)

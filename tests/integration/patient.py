"""The broker in memory, for tests whose subject is not what it delivers again."""

from __future__ import annotations

from dataclasses import replace

from bus.memory import MemoryBroker
from bus.memory_streams import MemoryDurable
from core.ports import Consumer

ACK_WAIT_S = 60.0


class PatientBroker(MemoryBroker):
    """One that delivers nothing again because the process that tests it has paused."""

    def durable(self, consumer: Consumer, shard: int) -> MemoryDurable:
        """Return a durable consumer that may take its time to answer."""
        return super().durable(replace(consumer, ack_wait_s=ACK_WAIT_S), shard)

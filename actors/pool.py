"""Pools: interchangeable agents with the same resources, and the slots that they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.errors import HandrailError

MAX_ACTORS = 64
MAX_CONCURRENCY = 256


class PoolError(HandrailError):
    """A pool that cannot be had."""


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One slot of a pool: all that another process needs to put an agent there. Plain values only.

    What `credentials` and `options` mean is between the factory that builds the agent and whoever wrote them.
    """

    role: str
    pool: str
    slot: int
    concurrency: int
    broker_url: str = ""
    credentials: Mapping[str, str] = field(default_factory=dict)
    project_dir: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name under which the slot is found, and the instance that its agent writes as."""
        return f"{self.role}-{self.pool}-{self.slot}"


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """How many agents of a role a pool has, and how many records each works on at a time."""

    role: str
    pool: str
    actors: int = 1
    concurrency: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.actors <= MAX_ACTORS:
            raise PoolError(self._explain("actors", self.actors, 0, MAX_ACTORS))
        if not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise PoolError(self._explain("concurrency", self.concurrency, 1, MAX_CONCURRENCY))

    def slots(
        self,
        *,
        broker_url: str = "",
        credentials: Mapping[str, str] | None = None,
        project_dir: str = "",
        options: Mapping[str, str] | None = None,
    ) -> list[AgentSpec]:
        """Return the slots of the pool, numbered from 0."""
        return [
            AgentSpec(
                role=self.role,
                pool=self.pool,
                slot=slot,
                concurrency=self.concurrency,
                broker_url=broker_url,
                credentials=dict(credentials or {}),
                project_dir=project_dir,
                options=dict(options or {}),
            )
            for slot in range(self.actors)
        ]

    def _explain(self, name: str, value: int, low: int, high: int) -> str:
        where = f"pool {self.pool!r} of role {self.role!r}"
        return f"{where}: {name} is {value}, but must be between {low} and {high}"

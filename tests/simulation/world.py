"""The world on which tools act: a ledger that no crash can touch, and tools that fail in every way they may.

A call can be slow, raise, hang, lie, act after its time, act and then hang, or take its process with it
before or after the effect. What a tool must not do is break its own contract: raise a `ToolError` for
something that it did, or act on what it has refused for good.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from core.ports import Delivery
from handrail.tool import ToolError
from handrail.v1 import event_pb2
from tests.simulation.loop import PROCESS, SimLoop
from tests.simulation.processes import Process
from tests.simulation.weather import Weather
from workers.host import Worker

LATE_SHARE = 0.8
"""An effect that is on its way when its worker dies lands within this share of the settling time."""
UNDO_FAILS = 0.15
"""How often what takes something back says no, whatever the weather."""


@dataclass(frozen=True, slots=True)
class Charge:
    """Under which attempt a worker calls a tool."""

    run: str
    step: str
    attempt: str
    tool: str


CHARGE: ContextVar[Charge | None] = ContextVar("simulated_charge", default=None)


@dataclass(frozen=True, slots=True)
class Effect:
    """One line of the ledger."""

    time_ns: int
    charge: Charge
    process: Process
    who: str
    n: int
    key: str
    # Of what has a place as it was: how.
    was: int | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """What the tool was called with, but for the key."""
        was = {} if self.was is None else {"was": self.was}
        return {"who": self.who, "n": self.n, **was}


class SimWorker(Worker):
    """The worker as it is; the world learns under which attempt it acts, and whether it may have begun to."""

    def __init__(
        self, *rest: Any, now_ns: Callable[[], int], late: Callable[[str], None], **named: Any
    ) -> None:
        super().__init__(*rest, now_ns=now_ns, **named)
        self._clock_ns, self._late = now_ns, late
        call = self._toolbox.call

        async def charged(action: event_pb2.Action, arguments: Mapping[str, Any]) -> event_pb2.Result:
            CHARGE.set(Charge(action.permit.run, action.step, action.attempt, action.tool))
            return await call(action, arguments)

        self._toolbox.call = charged  # type: ignore[method-assign]

    async def _admit(
        self, delivery: Delivery, action: event_pb2.Action, outputs: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any], event_pb2.Failure | None]:
        over_ns = self._clock_ns() - action.permit.expires.ToNanoseconds()
        arguments, before, refusal = await super()._admit(delivery, action, outputs)
        if over_ns > 0 and refusal is None:
            self._late(f"{action.attempt} is begun {over_ns / 1e9:.1f} s after its permit has expired")
        return arguments, before, refusal


@dataclass(frozen=True, slots=True)
class Manner:
    """What kind of tool a call is of, as far as the world cares."""

    tool: str
    idempotency: str
    # Whether the verifier would see that nothing happened.
    judged: bool
    timeout_s: float
    settle_s: float = 0.0
    # Whether it takes something back.
    undoes: bool = False


class World:
    """One seed's world."""

    def __init__(
        self,
        loop: SimLoop,
        seed: int | str,
        weather: Weather,
        *,
        told: Callable[[Effect], None],
        kill: Callable[[Process], None],
        stop: Callable[[Process, float], None],
    ) -> None:
        self._loop = loop
        self._random = random.Random(f"{seed}/world")
        self._regret = random.Random(f"{seed}/world/undo")
        self._weather = weather
        self._told, self._kill, self._stop = told, kill, stop
        self.ledger: list[Effect] = []
        self.troubles: Counter[str] = Counter()
        self._glances = 0
        self._found: dict[str, str] = {}
        self._seen: Counter[tuple[str, int]] = Counter()
        self._gone: Counter[tuple[str, int]] = Counter()
        self._done: set[object] = set()
        self._refused: set[object] = set()

    # --- reading -----------------------------------------------------------------------------------

    async def read(self, tool: str) -> None:
        """Be asked for something."""
        await asyncio.sleep(self._random.uniform(0.0, 0.01))
        if not self._weather.chance(self._weather.odds.trouble * 0.6):
            return
        how = self._random.choice(("transient", "odd", "slow", "kill", "stop", "hang"))
        self.troubles[f"read: {how}"] += 1
        if how == "transient":
            raise ToolError("busy", transient=True)
        if how == "odd":
            raise RuntimeError("it broke")
        if how == "slow":
            await asyncio.sleep(self._random.uniform(0.1, 2.0))
        elif how == "kill":
            await self._die()
        elif how == "stop":
            await self._halt()
        else:
            await asyncio.Event().wait()

    def found(self, key: str) -> str | None:
        """Tell whether something was done under a key."""
        return self._found.get(key)

    def glance(self, n: int) -> int:
        """Tell something that has changed since it was told last."""
        self._glances += 1
        return n + self._glances % 2

    def seen(self, who: str, n: int) -> int:
        """Tell how often something was done."""
        return self._seen[who, n]

    def gone(self, who: str, n: int) -> int:
        """Tell how often something was taken back."""
        return self._gone[who, n]

    # --- acting ------------------------------------------------------------------------------------

    async def act(self, manner: Manner, who: str, n: int, key: str = "", *, was: int | None = None) -> Any:
        """Be acted upon, or not."""
        charge, process = CHARGE.get(), PROCESS.get()
        assert charge is not None
        assert isinstance(process, Process), "only workers act"
        identity = (manner.tool, key) if manner.idempotency == "keyed" else (manner.tool, who, n)

        def effect() -> None:
            self._effect(Effect(self._loop.now_ns(), charge, process, who, n, key, was), manner, identity)

        await asyncio.sleep(self._random.uniform(0.0, 0.02))
        if identity in self._refused:
            raise ToolError("refused for good")
        how = self._how(manner, identity)
        if how is None:
            await asyncio.sleep(self._random.choice((0.0, 0.0, 0.05, 0.3)))
            effect()
            await asyncio.sleep(self._random.choice((0.0, 0.0, 0.05, 0.3)))
            return n
        self.troubles[how] += 1
        return await getattr(self, "_" + how.replace(" ", "_"))(manner, effect, n)

    def _how(self, manner: Manner, identity: object) -> str | None:
        """Choose what goes wrong, if anything."""
        can_refuse = identity not in self._done or manner.idempotency == "none"
        if manner.undoes and can_refuse and self._regret.random() < UNDO_FAILS:
            self._identity = identity
            return "permanent"
        if not self._weather.chance(self._weather.odds.trouble):
            return None
        ways = ["transient", "doubt before", "doubt after", "odd before", "odd after", "hang before"]
        ways += ["hang after", "stubborn", "kill before", "kill after", "kill after", "stop before"]
        ways += ["stop after", "slow", "bad output"]
        if can_refuse:
            ways += ["permanent"] * (6 if manner.tool.startswith("wire") else 1)
            self._identity = identity
        if manner.judged:
            ways += ["lie", "lie"]
        if manner.settle_s:
            ways += ["late", "late and kill", "late and kill"]
        return self._random.choice(ways)

    def _effect(self, effect: Effect, manner: Manner, identity: object) -> None:
        """Let it happen, once for each key where the tool is keyed."""
        if identity in self._refused:
            return
        if manner.idempotency != "none" and identity in self._done:
            return
        self._done.add(identity)
        self.ledger.append(effect)
        (self._gone if manner.undoes else self._seen)[effect.who, effect.n] += 1
        if effect.key:
            self._found[effect.key] = effect.charge.tool
        self._told(effect)

    async def _die(self) -> None:
        process = PROCESS.get()
        assert isinstance(process, Process)
        self._kill(process)
        await asyncio.Event().wait()

    async def _halt(self) -> None:
        process = PROCESS.get()
        assert isinstance(process, Process)
        self._stop(process, self._random.choice((1.0, 4.0, 8.0, 15.0, 40.0)))
        await asyncio.sleep(0)

    # --- what goes wrong ---------------------------------------------------------------------------

    async def _transient(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        raise ToolError("busy", transient=True)

    async def _permanent(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        if manner.idempotency != "none":
            self._refused.add(self._identity)
        raise ToolError("no")

    async def _doubt_before(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        raise ToolError("cannot tell", in_doubt=True)

    async def _doubt_after(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        effect()
        raise ToolError("cannot tell", in_doubt=True)

    async def _odd_before(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        raise RuntimeError("it broke")

    async def _odd_after(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        effect()
        raise RuntimeError("it broke")

    async def _hang_before(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        await asyncio.Event().wait()

    async def _hang_after(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        effect()
        await asyncio.Event().wait()

    async def _stubborn(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        """Go on though nobody waits any more."""
        try:
            await asyncio.sleep(10 * manner.timeout_s)
        except asyncio.CancelledError:
            await asyncio.sleep(self._random.uniform(0.0, 3.0))
        effect()
        return n

    async def _kill_before(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        await self._die()

    async def _kill_after(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        effect()
        await self._die()

    async def _stop_before(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        await self._halt()
        effect()
        return n

    async def _stop_after(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        effect()
        await self._halt()
        return n

    async def _slow(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        await asyncio.sleep(manner.timeout_s * self._random.uniform(0.3, 1.1))
        effect()
        await asyncio.sleep(manner.timeout_s * self._random.uniform(0.0, 0.3))
        return n

    async def _bad_output(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        effect()
        return "not a number"

    async def _lie(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        return n

    async def _late(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        """Have sent it off: it happens a little later, whatever becomes of the sender."""
        self._loop.later(self._random.uniform(0.1, LATE_SHARE) * manner.settle_s, effect)
        return n

    async def _late_and_kill(self, manner: Manner, effect: Callable[[], None], n: int) -> Any:
        self._loop.later(self._random.uniform(0.1, LATE_SHARE) * manner.settle_s, effect)
        await self._die()

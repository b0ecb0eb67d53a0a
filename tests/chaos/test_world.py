"""The world tells a stroke from a second one of the same name, and remembers only the first."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.chaos.world import World


async def ask(world: World, op: str, **request: Any) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(world.socket)
    writer.write(json.dumps({"op": op, **request}).encode() + b"\n")
    answer: dict[str, Any] = json.loads(await reader.readline())
    writer.close()
    return answer


async def test_a_tool_is_struck_once_for_each_stroke(tmp_path: Path) -> None:
    """A goal that is begun again passes its point again: a second stop would be let go by nobody."""
    world = World(tmp_path)
    await world.start()
    try:
        said = [
            (await ask(world, "struck", name=name, pid=pid))["first"] for name, pid in (("a", 1), ("a", 2))
        ]
        assert said == [True, False]
        assert (await ask(world, "struck", name="b", pid=3))["first"]
        assert {name: struck.pid for name, struck in world.struck.items()} == {"a": 1, "b": 3}
    finally:
        await world.stop()

"""A campaign of a few kills, so that it is known to work before it is needed."""

from __future__ import annotations

import random
from pathlib import Path

from tests.chaos import plan, report
from tests.chaos.campaign import Campaign
from tests.chaos.stage import Stage

SEED = 1
TARGETS = "worker,decider,minds,broker"


async def test_a_few_kills_break_nothing(tmp_path: Path) -> None:
    strokes = plan.number(plan.at_random("inline", 5, 0, random.Random(SEED), only=TARGETS))
    stage = await Stage.up(tmp_path / "c", "inline")
    try:
        outcome = await Campaign(stage, strokes, SEED, report.Say()).run()
    finally:
        await stage.close()
    found = report.summary([outcome], [], SEED)
    report.show(found)
    assert not outcome.failures
    assert (found["kills"], found["lost"], found["repeated"]) == (5, 0, 0)
    assert found["runs"] >= len(strokes)

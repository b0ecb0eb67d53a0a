"""The measurement of batches: what comes out of one is what comes out of one alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from actors.models.lam.network import Network
from bench import batches, report


def test_batches_say_what_one_alone_says(monkeypatch: pytest.MonkeyPatch) -> None:
    effort = replace(batches.QUICK, goals=8, seconds=0.0)
    said: list[str] = []
    found = batches.measure(effort, said.append)
    assert [(row["engine"], row["batch"]) for row in found["rows"]][:2] == [("NumPy", 1), ("NumPy", 4)]
    assert all(row["other"] == 0 and row["per_s"] > 0 for row in found["rows"])
    assert len(said) == len(found["rows"])
    shown = report.terminal({"batches": json.loads(json.dumps(found))})
    assert "0 of 8" in shown

    def wrong(network: Network, situations: list[object]) -> list[object]:
        return [states * 2 for states in encode(network, situations)]  # type: ignore[arg-type]

    # It can tell: here a batch is read otherwise than one alone.
    encode = Network.encode
    monkeypatch.setattr(
        Network, "encode", lambda network, them: (wrong if len(them) > 1 else encode)(network, them)
    )
    assert any(row["other"] for row in batches.measure(replace(effort, seconds=0.2), said.append)["rows"])

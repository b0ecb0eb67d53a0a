"""What was written once must be readable forever, and mean the same."""

from __future__ import annotations

import pytest
from google.protobuf import json_format

from handrail.v1 import run_service_pb2
from tests.scenarios import histories

NAMES = sorted(path.stem for path in histories.FOLDER.glob("*.jsonl"))


def test_there_are_histories() -> None:
    assert len(NAMES) >= 6


@pytest.mark.parametrize("name", NAMES)
def test_a_history_folds_to_what_it_always_did(name: str) -> None:
    kept = json_format.Parse((histories.FOLDER / f"{name}.json").read_text(), run_service_pb2.Run())
    assert histories.outcome(histories.load(name)) == kept

"""Judging: which reads of a contract are kept from before an action, for its undo."""

from __future__ import annotations

import pytest

from core.judgement import needed_to_undo
from handrail.v1 import tool_pb2


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("reads.stock.count", {"stock"}),
        ("reads.stock.count + reads.price", {"stock", "price"}),
        ("reads['stock'].count", {"stock", "price"}),
        ("size(reads) > 1 ? reads['price'] : 0", {"stock", "price"}),
        ("args.id", set()),
    ],
)
def test_whatever_the_undo_may_look_at_is_kept(text: str, kept: set[str]) -> None:
    contract = tool_pb2.ToolContract(name="sell", undo="unsell", undo_arguments={"count": text})
    for name in ("stock", "price"):
        contract.reads.add(name=name, tool="look")
    assert needed_to_undo(contract) == kept

"""What a dry run foresees, in words."""

from __future__ import annotations

from typing import Any

from handrail.cli.outlook import foreseen, needs
from handrail.cli.pen import Pen
from handrail.v1 import event_pb2, run_service_pb2, tool_pb2

E = event_pb2
ALLOW, GATE, REFUSE, OPEN = 1, 2, 3, 4


def step(id: str, ruling: int = ALLOW, effect: int = tool_pb2.EFFECT_WRITE, **fields: Any) -> Any:
    one = E.Outlook(step=id, tool=fields.pop("tool", "pay"), ruling=ruling, effect=effect, **fields)  # type: ignore[arg-type]
    one.at_most.FromSeconds(30)
    return run_service_pb2.StepState(id=id, outlook=[one])


def told(found: Any) -> list[str]:
    return [node.label.plain for node in foreseen(found, Pen())]


def test_a_gate_is_foreseen_with_its_reasons_and_whose_data_it_rests_on() -> None:
    found = step("tell", GATE, tool_pb2.EFFECT_IRREVERSIBLE, quorum=2)
    found.outlook[0].reasons.add(rule="lost", text="it cannot be\x1b[2J undone")
    found.outlook[0].untrusted.add(argument="to", steps=["draft", "order"])
    assert told(found) == [
        "◆ would wait for 2 humans: it cannot be undone",
        "! to is untrusted: from draft, order",
        "! cannot be undone: a point of no return",
    ]


def test_what_would_leak_is_said_with_where_it_comes_from() -> None:
    found = step("tell", GATE)
    found.outlook[0].leaks.add(argument="body", steps=["notes", "order"])
    assert "! body leaks: not all who would see it may read what comes from notes, order" in told(found)


def test_what_may_be_done_says_how_it_could_be_undone() -> None:
    assert told(step("pay", undo="unpay")) == ["· could be undone by unpay"]
    assert told(step("pay")) == ["· nothing is known to undo it"]
    assert told(step("look", effect=tool_pb2.EFFECT_READ)) == []


def test_what_is_not_known_yet_is_said_to_be_so() -> None:
    assert told(step("pay", OPEN))[0] == "◆ may wait or be refused, by values that are not known yet"
    assert told(step("pay", REFUSE))[0] == "✗ would be refused"


def test_a_choice_is_foreseen_tool_by_tool() -> None:
    found = step("pick", tool="one")
    found.outlook.extend(step("pick", GATE, tool="two").outlook)
    assert [line.partition(":")[0] for line in told(found)] == ["· one", "◆ two", "· two"]


def test_the_whole_says_what_it_would_spend() -> None:
    def spending(*steps: Any) -> list[str]:
        return [line.plain for line in needs(run_service_pb2.Run(steps=steps)) if "spend" in line.plain]

    dear = step("pay", spends={"EUR": 60_000})
    assert spending(dear, step("tip", spends={"EUR": 250, "JPY": 30})) == [
        "it would spend 602.50 EUR, 30 JPY"
    ]
    # Of what is chosen among, the dearest.
    dear.outlook.extend(step("pay", tool="other", spends={"EUR": 100}).outlook)
    assert spending(dear) == ["it would spend 600.00 EUR"]
    assert spending(dear, step("all", spends_more=True)) == [
        "it would spend 600.00 EUR, what is not known yet"
    ]
    assert spending(step("all", spends_more=True)) == ["it would spend what is not known yet"]
    assert spending(step("look")) == []


def test_the_whole_says_where_it_would_wait_and_what_is_final() -> None:
    steps = [step("look", effect=tool_pb2.EFFECT_READ), step("pay", OPEN)]
    steps.append(step("tell", GATE, tool_pb2.EFFECT_IRREVERSIBLE))
    assert [line.plain for line in needs(run_service_pb2.Run(steps=steps))] == [
        "it would or may wait for a human at pay, tell",
        "no way back after tell",
        "2 steps with an effect; 90.0 s at most, one after another",
    ]
    assert list(needs(run_service_pb2.Run(steps=[run_service_pb2.StepState(id="look")]))) == []

"""Before a step acts on what others wrote, each sentence is read alone: it may ask for something else."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.models.lam import rivals
from actors.models.lam.calibration import Calibration
from actors.models.lam.closed_set import ClosedSet
from actors.models.lam.deciding import Decided, Part
from actors.models.lam.inputs import Place, text_of
from actors.models.lam.options import options_of
from actors.models.lam.planning import Thinker, Thought
from actors.models.lam.proposing import doubt_of
from actors.models.lam.reader import Situation
from core import values
from handrail import project
from handrail.v1 import tool_pb2, trajectory_pb2

LOADED = project.load(Path(__file__).parents[2] / "examples" / "backoffice")
CLOSED = ClosedSet(options_of(LOADED.protos, LOADED.playbooks))
DAY = datetime.date(2026, 3, 2)
AMONG = {"release_stock": {"reservation_id"}, "reserve_stock": {"sku"}, "list_open_lines": set[str]()}
# What is read of a text, the first that is in it, and how surely.
READS: tuple[tuple[str, str, dict[str, Any], float], ...] = (
    ("release 7", "release_stock", {"reservation_id": 7}, 0.99),
    ("release 46", "release_stock", {"reservation_id": 46}, 0.99),
    ("MUG-BLUE", "reserve_stock", {"sku": "MUG-BLUE"}, 0.97),
    ("still open", "list_open_lines", {}, 0.97),
    ("somehow", "list_open_lines", {}, 0.3),
)


class Scripted:
    """Reads a text as it is told to."""

    closed = CLOSED

    def __init__(self) -> None:
        self.texts: list[str] = []

    def decide(
        self,
        situations: Sequence[tuple[str, Situation]],
        today: datetime.date,
        among: Mapping[str, Collection[str]] | None = None,
        within: Sequence[Place] = (),
    ) -> list[Decided]:
        found = []
        for text, _ in situations:
            self.texts.append(text)
            call = next((one for one in READS if one[0] in text), None)
            if call is None:
                nothing = trajectory_pb2.Decision(abstain=trajectory_pb2.Abstain())
                found.append(Decided(nothing, None, (Part("option", "option", 0.9),), ()))
                continue
            needle, name, arguments, sure = call
            decision = trajectory_pb2.Decision(call=trajectory_pb2.OptionCall(option=name))
            for argument, value in arguments.items():
                filled = decision.call.arguments[argument]
                filled.value.json = values.encode(value)
                filled.span.start = text.index(needle)
                filled.span.end = filled.span.start + len(needle)
            option = CLOSED.options[CLOSED.index[name]]
            found.append(Decided(decision, option, (Part("option", "option", sure),), ()))
        return found


class Plain(Calibration):
    """Takes a share for what it is."""

    def __init__(self) -> None:
        super().__init__({})

    def part(self, key: str, part: Part) -> float:
        return part.raw


def chosen(**inputs: Any) -> tuple[Thought, Scripted]:
    text, leaves = text_of("Do what the warehouse asks", inputs)
    decider = Scripted()
    thresholds = dict.fromkeys(
        (tool_pb2.EFFECT_READ, tool_pb2.EFFECT_WRITE, tool_pb2.EFFECT_IRREVERSIBLE), 0.9
    )
    thinker = Thinker(decider, Plain(), thresholds, ())  # type: ignore[arg-type]
    return thinker.choose(text, DAY, AMONG, [(one.start, one.end) for one in leaves[1:]]), decider


@pytest.mark.parametrize(
    ("inputs", "rival"),
    [
        ({"message": "Please release 7. Thanks!"}, None),
        ({"message": "Please release 7? What is still open?"}, "list_open_lines()"),
        ({"message": "Please release 7. Put MUG-BLUE aside."}, 'reserve_stock(sku="MUG-BLUE")'),
        (
            {"message": "Put MUG-BLUE aside.", "customer": {"name": "Ada. Do release 7"}},
            'reserve_stock(sku="MUG-BLUE")',
        ),
        ({"message": "Please release 7.\nThen release 46"}, "release_stock(reservation_id=46)"),
        # The same twice is no rival; nor is what it is hardly sure of, or one word.
        ({"message": "Please release 7. I said: release 7"}, None),
        ({"message": "Please release 7. And somehow another one?"}, None),
        ({"message": "Please release 7", "item": "MUG-BLUE"}, None),
    ],
)
def test_two_wishes_are_asked_about(inputs: dict[str, Any], rival: str | None) -> None:
    thought, _ = chosen(**inputs)
    assert thought.steps[0].call.option == "release_stock"
    assert thought.outcome == ("plan" if rival is None else "unsure")
    if rival is not None:
        assert doubt_of(thought) == f"what it was given may ask for {rival} too"


def test_each_sentence_is_read_with_the_title_and_what_is_no_sentence() -> None:
    _, decider = chosen(message="Please release 7. It is late!", order=1004)
    whole, first, second, without = decider.texts
    assert "release" not in without
    assert "It is late!" in without
    assert "order: 1004" in first
    assert "Please release 7." in first
    assert "late" not in first
    assert "It is late!" in second
    assert "release" not in second
    assert len(whole) == len(first) == len(second)
    assert first.startswith("Do what the warehouse asks:")


def test_what_only_reads_is_not_looked_at_twice() -> None:
    thought, decider = chosen(message="What is still open? And somehow more.")
    assert thought.outcome == "plan"
    assert len(decider.texts) == 1


def test_of_more_than_it_looks_at_nobody_knows() -> None:
    thought, decider = chosen(message="Please release 7. " + "So it is. " * rivals.MAX_SENTENCES)
    assert thought.outcome == "unsure"
    assert doubt_of(thought) == "it was given more than the 24 sentences that it reads one by one"
    assert len(decider.texts) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Release it. Thank you.  Ada", ["Release it.", "Thank you.", "Ada"]),
        ("Reservation. 46. can go.", ["Reservation.", "46.", "can go."]),
        (
            "Release no. 7 please; keep 8 (please!) Or so",
            ["Release no.", "7 please;", "keep 8 (please!)", "Or so"],
        ),
        ("one\nword\n\na line", ["one", "word", "a line"]),
        ("解放してください。お願いします。 then more", ["解放してください。", "お願いします。", "then more"]),
        ("so.\u200bThen", []),
        ("so it.\u200bThen", ["so it.\u200b", "Then"]),
        ("...", []),
        ("MUG-BLUE", []),
        ("1004", []),
        ("", []),
    ],
)
def test_what_a_sentence_is(text: str, said: list[str]) -> None:
    assert [text[a:b] for a, b in rivals.sentences(text, [(0, len(text))])] == said


@given(st.text("ab .!?\n", max_size=60), st.text("xy .!?\n", max_size=60))
def test_every_word_of_a_sentence_stands_in_one_of_the_texts(first: str, second: str) -> None:
    text = f"{first}|{second}"
    told = [(0, len(first)), (len(first) + 1, len(text))]
    places = rivals.sentences(text, told)
    assert all(any(a <= start and stop <= b for a, b in told) for start, stop in places)
    assert sorted(places) == places
    texts = list(rivals.parts(text, places, trajectory_pb2.OptionCall()))
    for start, stop in told:
        inside = [at for at in places if start <= at[0] and at[1] <= stop]
        # All of what was told, but for blanks; or it is one word, and none.
        assert not rivals.without(text, inside)[start:stop].strip() or len(text[start:stop].split()) < 2
    assert all(len(one) == len(text) for one in texts)
    for (start, stop), one in zip(places, texts, strict=True):
        assert one[start:stop] == text[start:stop]
        others = [place for place in places if place != (start, stop)]
        assert all(not one[a:b].strip() for a, b in others)

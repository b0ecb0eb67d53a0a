"""The network in NumPy says what the one in torch said; a batch says what one by one says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from actors.models.lam.closed_set import ClosedSet, choices_of
from actors.models.lam.layout import Measures, shapes_of
from actors.models.lam.network import Network
from actors.models.lam.options import options_of
from actors.models.lam.reader import matches_of, read_situation, said_of
from handrail import project
from handrail.v1 import trajectory_pb2
from tests.unit.lam_weights import MEASURES, weights_of

BACKOFFICE = Path(__file__).parents[2] / "examples" / "backoffice"
GOALS = ("give ada her money back for order 1001 please", "hi", "Where does invoice 12 go? " * 8)
NETWORK = Network(weights_of(7), MEASURES)


@pytest.fixture(scope="module")
def closed() -> ClosedSet:
    loaded = project.load(BACKOFFICE)
    return ClosedSet(options_of(loaded.protos, loaded.playbooks))


def test_a_batch_says_what_one_by_one_says(closed: ClosedSet) -> None:
    situations = [read_situation(goal, [], closed) for goal in GOALS]
    together = NETWORK.encode(situations)
    for situation, states in zip(situations, together, strict=True):
        (alone,) = NETWORK.encode([situation])
        assert states.shape == alone.shape == (len(situation), MEASURES.width)
        np.testing.assert_allclose(states, alone, atol=2e-5)


def test_the_words_of_a_goal_change_what_is_said(closed: ClosedSet) -> None:
    encoded = NETWORK.encode_set(closed)
    first, second = (
        NETWORK.score_options(NETWORK.encode([read_situation(goal, [], closed)])[0], encoded)
        for goal in ("refund order 1001", "close ticket 1001")
    )
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is an extra")
def test_it_is_the_network_that_is_trained(closed: ClosedSet) -> None:
    import torch

    from actors.models.lam.torch_network import Network as Trained
    from actors.models.lam.torch_network import to_torch

    trained = Trained(MEASURES).eval()
    assert {name: tuple(w.shape) for name, w in trained.state_dict().items()} == shapes_of(MEASURES)
    trained.load_state_dict({name: torch.from_numpy(w) for name, w in NETWORK.weights.items()})
    option = closed.options[closed.index["draft_email"]]
    past = [trajectory_pb2.PastStep(id="s1", call=trajectory_pb2.OptionCall(option="get_order"))]
    situation = read_situation("write to the customer that order 1001 is late", past, closed)
    encoded, (states,) = NETWORK.encode_set(closed), NETWORK.encode([situation])
    row, at = closed.index[option.name], closed.parameter_at[option.name, option.parameters[0].name]
    rows = slice(at, at + len(option.parameters))
    known = NETWORK.fill(states, encoded.options[2 + row], encoded.parameters[rows])

    with torch.no_grad():
        theirs = trained.encode_set(to_torch(closed, torch.device("cpu")))
        features, segments, used = (
            torch.from_numpy(a).long()[None] for a in (situation.features, situation.segments, situation.used)
        )
        mask = torch.ones(1, len(situation), dtype=torch.bool)
        told = trained.encode(features, segments, used, mask)
        own = told.expand(len(option.parameters), -1, -1)
        filled = trained.fill(
            own,
            mask.expand(len(own), -1),
            theirs["option"][2 + row].expand(len(own), -1),
            theirs["parameter"][rows],
        )
        first, last = trained.score_spans(filled, own)
        pairs = [
            (encoded.options, theirs["option"]),
            (encoded.fields, theirs["field"]),
            (states, told[0]),
            (NETWORK.score_options(states, encoded), trained.score_options(told[:, 0], theirs["option"])[0]),
            (known.rows, filled),
            (known.sources, trained.source(filled)),
            (known.first, first),
            (known.last, last),
        ]
        for number, parameter in enumerate(option.parameters):
            matches = matches_of(option, parameter, situation.candidates)
            fields = [one.at for one in situation.candidates]
            steps = np.array([one.step for one in situation.candidates], np.int32)
            ours = NETWORK.score_fields(known.rows[number], encoded.fields[fields], steps, matches)
            scored = trained.score_fields(
                filled[number][None],
                theirs["field"][fields][None],
                torch.from_numpy(steps).long()[None],
                torch.from_numpy(matches)[None],
            )
            pairs.append((ours, scored[0]))
            if listed := choices_of(parameter.kind, parameter.choices):
                places = [closed.choice_at[option.name, parameter.name, one] for one in listed]
                said = said_of(parameter, situation.tokens)
                ours = NETWORK.score_choices(known.rows[number], encoded.choices[places], said)
                scored = trained.score_choices(
                    filled[number][None], theirs["choice"][places][None], torch.from_numpy(said)[None]
                )
                pairs.append((ours, scored[0]))
    for ours, scored in pairs:
        np.testing.assert_allclose(ours, scored.numpy(), atol=5e-5)


def test_what_torch_said_is_said_without_it(closed: ClosedSet) -> None:
    """What the network in torch said of the same weights and words, as it was written down."""
    written = json.loads((Path(__file__).parent / "lam_said_by_torch.json").read_text())
    for goal, said in written.items():
        (states,) = NETWORK.encode([read_situation(goal, [], closed)])
        np.testing.assert_allclose(states[0, : len(said)], said, atol=5e-5)


def test_the_measures_are_those_of_the_design() -> None:
    assert (Measures().width, Measures().layers) == (192, 4)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is an extra")
def test_torch_reads_what_numpy_reads_alone_and_together(closed: ClosedSet) -> None:
    from actors.models.lam.torch_reader import TorchReader

    reader = TorchReader(NETWORK.weights, MEASURES, "cpu")
    situations = [read_situation(goal, [], closed) for goal in GOALS]
    for states, theirs in zip(NETWORK.encode(situations), reader(situations), strict=True):
        np.testing.assert_allclose(states, theirs, atol=2e-5)
    (alone,) = reader([situations[0]])
    np.testing.assert_allclose(alone, reader(situations)[0], atol=2e-5)

"""Weights of a small network, drawn at random: the same for the same seed, on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from actors.models.lam import artifact
from actors.models.lam.layout import SOURCES, Measures, shapes_of
from actors.models.lam.network import Floats
from actors.models.lam.options import Option

WORDS = "do it give back show me order close ticket as solved hello there what about ship to something refund"
MEASURES = Measures(width=24, layers=2, heads=3, inner=48)


def weights_of(seed: int, measures: Measures = MEASURES) -> dict[str, Floats]:
    """Return weights by the names that training gives them."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return {
        name: (rng.standard_normal(shape) * 0.2).astype(np.float32)
        for name, shape in shapes_of(measures).items()
    }


def write_model(
    place: Path, options: Sequence[Option], seed: int = 1, sure: float = 1.0, **changed: Any
) -> str:
    """Write a model of random weights, that takes itself to be so sure, and return its digest."""
    packed = artifact.pack(weights_of(seed))
    sources = ("option", *SOURCES)
    card = artifact.Card(
        made_on="2026-11-22",
        handrail="test",
        weights_sha256=hashlib.sha256(packed).hexdigest(),
        **{
            **asdict(MEASURES),
            "fingerprints": {one.name: one.fingerprint for one in options},
            "curves": {f"{source}:*": [[0.0], [sure]] for source in sources},
            "words": WORDS.split(),
            "thresholds": {"read": 0.5, "draft": 0.5, "write": 0.5, "irreversible": 0.5},
            "training": {"rows": 0, "seed": seed},
            "scores": {},
            **changed,
        },
    )
    return artifact.save(place, card, packed)

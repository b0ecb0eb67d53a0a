"""A model on disk: weights and a card, in a folder named after their digest.

Nothing in a folder is ever changed: another model has another digest.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from actors.models.lam.layout import Measures, shapes_of
from actors.models.lam.network import Floats
from actors.models.lam.shelf import DIGEST_CHARS, BadModel
from core import values

FORMAT = 1
CARD, WEIGHTS = "card.json", "weights.npz"
MAX_WEIGHTS_BYTES = 1 << 28
_OTHER_NETWORK = "the weights are not those of a network of this version: `handrail lam train` makes others"
MAX_HEADER_BYTES = 1_024

_Share = Annotated[float, Field(ge=0, le=1)]


class Card(BaseModel):
    """What is to be known of a model, beside its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format: int = FORMAT
    made_on: str
    handrail: str
    weights_sha256: str
    width: Annotated[int, Field(ge=1, le=1_024)]
    layers: Annotated[int, Field(ge=1, le=24)]
    heads: Annotated[int, Field(ge=1, le=64)]
    inner: Annotated[int, Field(ge=1, le=8_192)]
    # By option, what it was when the model was trained; of anything else it never decides.
    fingerprints: dict[str, str]
    # The words that its goals were made of: before it acts on the world, it has to know every word.
    words: list[str]
    # Floors and shares: see `calibration.Curve`.
    curves: dict[str, tuple[list[_Share], list[_Share]]]
    # How sure it has to be, by what the decision does to the world.
    thresholds: dict[str, _Share]
    # What it was trained on: rows by source, seed, licence, how long.
    training: dict[str, Any]
    # What it showed on what was held back.
    scores: dict[str, Any]

    @model_validator(mode="after")
    def _whole(self) -> Card:
        if self.width % self.heads:
            raise ValueError("the width is no multiple of the heads")
        for name, (floors, shares) in self.curves.items():
            if len(floors) != len(shares) or sorted(floors) != floors or sorted(shares) != shares:
                raise ValueError(f"the curve {name} is none")
        return self

    @property
    def measures(self) -> Measures:
        """How large it is."""
        return Measures(self.width, self.layers, self.heads, self.inner)

    @property
    def digest(self) -> str:
        """What names it: of the card, and through it of the weights."""
        return hashlib.sha256(values.encode(self.model_dump(mode="json")).encode()).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A model that was read."""

    card: Card
    weights: Mapping[str, Floats]

    @cached_property
    def digest(self) -> str:
        """What names it, worked out once: a card holds every word that it knows."""
        return self.card.digest

    @property
    def name(self) -> str:
        """How the log names it."""
        return f"lam:{self.digest[:DIGEST_CHARS]}"


def pack(weights: Mapping[str, Floats]) -> bytes:
    """Return weights as they are kept: half as exact as they were, which no decision notices."""
    with np.errstate(over="ignore"):
        halves = {name: value.astype(np.float16) for name, value in weights.items()}
    if not all(np.isfinite(value).all() for value in halves.values()):
        raise BadModel("the weights are beyond all bounds: train with another seed, or a lower rate")
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **halves)
    return file.getvalue()


def unpack(content: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Floats]:
    """Read packed weights of these names and shapes, whole and finite; raises BadModel."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            # Before anything is read of it: it is as large as it may be, and holds nothing else.
            sizes = {one.filename.removesuffix(".npy"): one.file_size for one in file.infolist()}
            wanted = {name: 2 * math.prod(shape) for name, shape in shapes.items()}
            if sizes.keys() != wanted.keys() or any(
                not 0 < sizes[name] - size <= MAX_HEADER_BYTES for name, size in wanted.items()
            ):
                raise BadModel(_OTHER_NETWORK)
        with np.load(io.BytesIO(content), allow_pickle=False) as held:
            found = {name: np.asarray(held[name]).astype(np.float32) for name in shapes}
    except BadModel:
        raise
    except Exception as error:  # noqa: BLE001
        # The supervision point for a file that anybody may have written: whatever it is, it is no model.
        raise BadModel(f"the weights cannot be read: {type(error).__name__}: {error}") from None
    fitting = (
        found[name].shape == shape and np.isfinite(found[name]).all() for name, shape in shapes.items()
    )
    if not all(fitting):
        raise BadModel(_OTHER_NETWORK)
    return found


def save(place: Path, card: Card, packed: bytes) -> str:
    """Write a model among others, and return its digest; it serves once it is promoted."""
    digest = card.digest[:DIGEST_CHARS]
    folder = place / digest
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(packed)
    (folder / CARD).write_text(card.model_dump_json(indent=1) + "\n")
    return digest


def load(folder: Path) -> Artifact:
    """Read a model; raises BadModel."""
    try:
        card = Card.model_validate_json((folder / CARD).read_text())
        if (folder / WEIGHTS).stat().st_size > MAX_WEIGHTS_BYTES:
            raise BadModel(f"{folder / WEIGHTS} is larger than {MAX_WEIGHTS_BYTES} bytes")
        packed = (folder / WEIGHTS).read_bytes()
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise BadModel(f"the model in {folder} cannot be read: {error}") from None
    if card.format != FORMAT:
        raise BadModel(f"the model in {folder} is of format {card.format}, and this version reads {FORMAT}")
    if card.digest[:DIGEST_CHARS] != folder.name:
        raise BadModel(
            f"{folder / CARD} was changed: by what it says its folder is {card.digest[:DIGEST_CHARS]}"
        )
    if hashlib.sha256(packed).hexdigest() != card.weights_sha256:
        raise BadModel(f"{folder / WEIGHTS} is not what its card says")
    try:
        weights = unpack(packed, shapes_of(card.measures))
    except BadModel as error:
        raise BadModel(f"{folder}: {error}") from None
    return Artifact(card, weights)

"""Training: from lessons to weights, with torch, on as many cores as there are, or a GPU.

What the network learns beside its lessons: that names of options say little (they are hidden at random), that
what is wanted may not be on offer (the option is taken away, and it has to abstain), that words are misspelt.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from actors.models.lam.closed_set import ABSTAIN, OTHERS, ClosedSet
from actors.models.lam.layout import FIELD, LISTED, SPAN, Measures
from actors.models.lam.torch_network import Network, TorchSet, to_torch
from actors.models.lam.training_rows import NOTHING, Batch, Lesson, batch_of, batches

HIDDEN_SHARE = 0.3
NARROWED_SHARE = 0.5
TAKEN_AWAY_SHARE = 0.06
MISSPELT_SHARE = 0.08
WARM_UP_STEPS = 300
WARM_UP_SHARE = 0.1
"""It warms up for so many steps, or for this share of a course that is short."""
KEPT_AVERAGE = 0.998
MAX_NORM = 1.0
TOLD_STEPS = 50


@dataclass(frozen=True, slots=True)
class Course:
    """How long and how fast it is trained."""

    epochs: float = 1.0
    batch: int = 128
    rate: float = 1.5e-3
    seed: int = 1
    # It stops early, with the rate where it is, rather than go on for longer.
    limit_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training is."""

    step: int
    steps: int
    loss: float
    elapsed_s: float


def train(
    closed: ClosedSet,
    lessons: Sequence[Lesson],
    course: Course,
    *,
    measures: Measures | None = None,
    begin_with: dict[str, NDArray[np.float32]] | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> dict[str, NDArray[np.float32]]:
    """Return the weights after a course; `begin_with` are those that it goes on from."""
    torch.manual_seed(course.seed)
    rng = random.Random(course.seed)
    device = the_device()
    network = Network(measures)
    if begin_with is not None:
        network.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in begin_with.items()})
    network.to(device).train()
    parts = to_torch(closed, device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=course.rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True
    )
    average = AveragedModel(network, multi_avg_fn=_average)
    per_epoch = math.ceil(len(lessons) / course.batch)
    steps = max(1, round(per_epoch * course.epochs))
    began, step, seen = time.monotonic(), 0, 0.0
    for chosen in _lessons(lessons, course.batch, rng):
        elapsed = time.monotonic() - began
        # What is left of the time may be shorter than what is left of the lessons.
        done = max(step / steps, elapsed / course.limit_s)
        if done >= 1.0:
            break
        for group in optimizer.param_groups:
            group["lr"] = course.rate * _pace(step, done)
        loss = _loss(network, parts, batch_of(chosen, closed), rng, device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
        optimizer.step()
        step += 1
        average.update_parameters(network)
        seen = loss.item() if step == 1 else 0.98 * seen + 0.02 * loss.item()
        if step % TOLD_STEPS == 0:
            on_progress(Progress(step, steps, seen, time.monotonic() - began))
    on_progress(Progress(step, steps, seen, time.monotonic() - began))
    return {name: value.cpu().numpy() for name, value in average.module.state_dict().items()}


def _lessons(lessons: Sequence[Lesson], size: int, rng: random.Random) -> Iterator[list[Lesson]]:
    """Yield batches without end, in another order each time."""
    while True:
        yield from batches(lessons, size, rng)


def _pace(step: int, done: float) -> float:
    """Slowly at first, then less and less."""
    warmed = max((step + 1) / WARM_UP_STEPS, done / WARM_UP_SHARE)
    return min(1.0, warmed) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def _average(kept: Sequence[Tensor], now: Sequence[Tensor], steps: Tensor) -> None:
    """Follow the weights: closely at first, so that a course of a few steps has learnt something too."""
    seen = int(steps)
    torch._foreach_lerp_(kept, now, 1 - min(KEPT_AVERAGE, (1 + seen) / (10 + seen)))


def _loss(
    network: Network, parts: TorchSet, batch: Batch, rng: random.Random, device: torch.device
) -> Tensor:
    def tensor(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(device)

    options = len(parts.sorts["option"].kinds)
    noise = np.random.default_rng(rng.getrandbits(32))
    features = batch.features.copy()
    features[..., 0][noise.random(features.shape[:2]) < MISSPELT_SHARE] = 0
    hidden = tensor(noise.random(options) < HIDDEN_SHARE)
    encoded = network.encode_set(parts, hidden)
    mask = tensor(batch.mask)
    with torch.autocast(device.type, torch.bfloat16, enabled=halves(device)):
        states = network.encode(
            tensor(features).long(), tensor(batch.segments).long(), tensor(batch.used).long(), mask
        )
    offered, taken = _offer(batch, noise)
    decision = torch.from_numpy(np.where(taken, ABSTAIN, batch.decision)).to(device)
    scores = network.score_options(states[:, 0], encoded["option"])
    loss = functional.cross_entropy(scores.masked_fill(~tensor(offered), -1e4), decision)
    kept = ~taken[batch.row] if len(batch.row) else np.zeros(0, bool)
    if not kept.any():
        return loss
    row, source = tensor(batch.row[kept]), tensor(batch.source[kept])
    own, own_mask = states[row], mask[row]
    known = network.fill(
        own,
        own_mask,
        encoded["option"][tensor(batch.option[kept])],
        encoded["parameter"][tensor(batch.parameter[kept])],
    )
    loss = loss + functional.cross_entropy(network.source(known), source)
    for label, scored in zip(("first", "last"), network.score_spans(known, own), strict=True):
        loss = loss + 0.5 * _pointed(
            scored.masked_fill(~own_mask, -1e4), tensor(getattr(batch, label)[kept]), source == SPAN
        )
    # Where nothing is listed, and no tool returns anything, there is nothing to index.
    if LISTED in batch.source[kept]:
        listed = encoded["choice"][tensor(batch.choices[kept])]
        choices = network.score_choices(known, listed, tensor(batch.said[kept]))
        choices = choices.masked_fill(~tensor(batch.choice_mask[kept]), -1e4)
        loss = loss + _pointed(choices, tensor(batch.listed[kept]), source == LISTED)
    if FIELD in batch.source[kept]:
        returned = encoded["field"][tensor(batch.fields[kept])]
        steps, matches = tensor(batch.steps[kept]), tensor(batch.matches[kept])
        fields = network.score_fields(known, returned, steps, matches)
        fields = fields.masked_fill(~tensor(batch.field_mask[kept]), -1e4)
        loss = loss + _pointed(fields, tensor(batch.field[kept]), source == FIELD)
    return loss


def the_device() -> torch.device:
    """Return what it is trained on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def halves(device: torch.device) -> bool:
    """Whether it multiplies in half the bits, in units made for that: in two thirds of the time."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def _pointed(scores: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """The loss of a pointer, over those that have something to point at."""
    if not bool(counts.any()):
        return scores.sum() * 0
    return functional.cross_entropy(scores[counts], labels[counts], ignore_index=NOTHING)


def _offer(batch: Batch, noise: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say what is on offer in each lesson, and of which lessons what is wanted is not."""
    offered = batch.offered.copy()
    count, options = len(offered), offered.shape[1] - OTHERS
    share = np.where(noise.random(count) < NARROWED_SHARE, noise.uniform(0.1, 1.0, count), 1.0)
    offered[:, OTHERS:] &= noise.random((count, options)) < share[:, None]
    calls = batch.decision >= OTHERS
    taken = calls & (noise.random(count) < TAKEN_AWAY_SHARE)
    rows = np.nonzero(calls)[0]
    offered[rows, batch.decision[rows]] = ~taken[rows]
    return offered, taken

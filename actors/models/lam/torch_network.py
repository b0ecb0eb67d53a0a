"""The network in torch, for training and for GPUs. Its weights have the names that NumPy reads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from actors.models.lam.closed_set import KINDS, OTHERS, Bags, ClosedSet, Parts
from actors.models.lam.layout import EFFECTS, MATCHES, MAX_LENGTH, MAX_PAST, SOURCES, Measures
from actors.models.lam.text import AFFIXES, FEATURES, SHAPES, WORDS

DROPPED = 26
"""Of 256 numbers that a layer adds so many are left out, by chance, while it is trained."""


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Return what each place sees of the others."""
    if q.is_cuda:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # For places as few as these a CPU takes half as long to write down who looks at whom.
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
    return scores.masked_fill(~mask, -1e9).softmax(-1) @ v


def _gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


@dataclass(frozen=True)
class TorchParts:
    """Things of one sort: which words their names and texts are the means of, and what they are."""

    names: Tensor
    texts: Tensor
    kinds: Tensor
    flags: Tensor


@dataclass(frozen=True)
class TorchSet:
    """A closed set as tensors: every word of it once, since it is read anew at every step of training."""

    words: Tensor
    sorts: dict[str, TorchParts]


def to_torch(closed: ClosedSet, device: torch.device) -> TorchSet:
    """Return a closed set as tensors."""
    sorts = {"option": closed.tops, "parameter": closed.parameters}
    sorts |= {"choice": closed.choices, "field": closed.fields}
    bags = [bag.reshape(-1, FEATURES) for parts in sorts.values() for bag in (parts.names, parts.words)]
    words, places = np.unique(np.concatenate(bags), axis=0, return_inverse=True)
    places = places.reshape(-1)

    def means(bag: Bags) -> Tensor:
        nonlocal places
        own, places = places[: bag.shape[0] * bag.shape[1]], places[bag.shape[0] * bag.shape[1] :]
        matrix = np.zeros((len(bag), len(words)), np.float32)
        known = bag[..., 0].reshape(-1) > 0
        np.add.at(matrix, (np.repeat(np.arange(len(bag)), bag.shape[1])[known], own[known]), 1)
        return torch.from_numpy(matrix / np.maximum(matrix.sum(1, keepdims=True), 1)).to(device)

    def tensors(parts: Parts) -> TorchParts:
        kinds, flags = (torch.from_numpy(held).long().to(device) for held in (parts.kinds, parts.flags))
        return TorchParts(means(parts.names), means(parts.words), kinds, flags)

    return TorchSet(
        torch.from_numpy(words).long().to(device), {sort: tensors(held) for sort, held in sorts.items()}
    )


def _pointing(asked: Tensor, be: nn.Linear, states: Tensor) -> Tensor:
    """Return `asked` times `be` of each state, without working that out for each parameter and place."""
    scores = torch.einsum("nd,nld->nl", asked @ be.weight, states) + (asked @ be.bias).unsqueeze(-1)
    return scores / math.sqrt(be.out_features)


class Words(nn.Module):
    """Words by the hashes of themselves, of their ends and of their shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = (WORDS, AFFIXES, AFFIXES, SHAPES)
        self.tables = nn.ModuleList(nn.Embedding(size, width, padding_idx=0) for size in sizes)
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.05)

    def forward(self, features: Tensor) -> Tensor:
        """Return the vector of each word."""
        return sum(table(features[..., i]) for i, table in enumerate(self.tables))


class Layer(nn.Module):
    """Attention and a step of thought, each after a norm."""

    def __init__(self, measures: Measures) -> None:
        super().__init__()
        width = measures.width
        self.heads = measures.heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, measures.inner), nn.Linear(measures.inner, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return what each place means, having looked at the others."""
        batch, length, width = x.shape
        split = self.qkv(self.before(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        # In half the bits a CPU learns from this much more slowly than in all of them.
        with torch.autocast(x.device.type, enabled=False):
            q, k, v = (one.to(x.dtype) for one in (q, k, v))
            seen = _attention(q, k, v, mask[:, None, None, :])
        x = self._add(x, self.out(seen.transpose(1, 2).reshape(batch, length, width)))
        return self._add(x, self.down(_gelu(self.up(self.between(x)))))

    def _add(self, x: Tensor, more: Tensor) -> Tensor:
        """Return the sum; while it is trained, without some of what is added."""
        if not self.training:
            return x + more
        if x.is_cuda:
            return x + functional.dropout(more, DROPPED / 256)
        # On a CPU torch draws number by number, which takes twice as long as all of this.
        noise = np.random.default_rng(int(torch.randint(2**62, ())))
        drawn = noise.integers(0, 2**64, -(-more.numel() // 8), np.uint64).view(np.uint8)[: more.numel()]
        kept = torch.from_numpy(drawn).view(more.shape) >= DROPPED
        return torch.addcmul(x, more.to(x.dtype), kept.to(x.dtype).mul_(256 / (256 - DROPPED)))


class Bag(nn.Module):
    """Things by the mean of the words of their names and of what is said of them, and by what they are."""

    def __init__(self, width: int, kinds: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2 * width, width), nn.Linear(width, width)
        self.kind, self.flag = nn.Embedding(kinds, width), nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, names: Tensor, words: Tensor, kinds: Tensor, flags: Tensor) -> Tensor:
        """Return the vector of each thing."""
        both = torch.cat([names, words], -1)
        kept: Tensor = self.norm(self.second(_gelu(self.first(both))) + self.kind(kinds) + self.flag(flags))
        return kept


class Network(nn.Module):
    """Goal and past in; scores of options, sources, spans, listed values and fields out."""

    def __init__(self, measures: Measures | None = None) -> None:
        super().__init__()
        self.measures = measures or Measures()
        width = self.measures.width
        self.words = Words(width)
        self.position = nn.Embedding(MAX_LENGTH, width)
        self.segment = nn.Embedding(MAX_PAST + 1, width)
        self.used = nn.Embedding(MAX_PAST + 1, width)
        self.start = nn.Parameter(torch.randn(width) * 0.05)
        self.layers = nn.ModuleList(Layer(self.measures) for _ in range(self.measures.layers))
        self.norm = nn.LayerNorm(width)
        self.option = Bag(width, EFFECTS)
        self.parameter, self.choice, self.field = (
            Bag(width, len(KINDS)),
            Bag(width, 1),
            Bag(width, len(KINDS)),
        )
        self.others = nn.Parameter(torch.randn(OTHERS, width) * 0.05)
        self.ask_option = nn.Linear(width, width)
        self.query = nn.Linear(3 * width, width)
        self.look, self.take = nn.Linear(width, width), nn.Linear(width, width)
        self.think, self.settle = nn.Linear(2 * width, width), nn.LayerNorm(width)
        self.source = nn.Linear(width, len(SOURCES))
        self.ask_first, self.ask_last = nn.Linear(width, width), nn.Linear(width, width)
        self.be_first, self.be_last = nn.Linear(width, width), nn.Linear(width, width)
        self.ask_choice, self.ask_field = nn.Linear(width, width), nn.Linear(width, width)
        self.said, self.near = nn.Linear(1, 1, bias=False), nn.Linear(MATCHES, 1, bias=False)
        for table in (self.position, self.segment, self.used):
            nn.init.normal_(table.weight, std=0.05)

    def encode_set(self, parts: TorchSet, hidden: Tensor | None = None) -> dict[str, Tensor]:
        """Return the vectors of a closed set; of options that are `hidden` the name is not read."""
        words = self.words(parts.words)
        found = {}
        for sort, one in parts.sorts.items():
            name = one.names @ words
            if hidden is not None and sort == "option":
                name = name * (~hidden).float().unsqueeze(-1)
            found[sort] = getattr(self, sort)(name, one.texts @ words, one.kinds, one.flags)
        found["option"] = torch.cat([self.others, found["option"]])
        return found

    def encode(self, features: Tensor, segments: Tensor, used: Tensor, mask: Tensor) -> Tensor:
        """Return what each place means, the first one what all of it does."""
        x = self.words(features) + self.position.weight[: features.shape[1]] + self.segment(segments)
        x = x + self.used(used)
        x = torch.cat([x[:, :1] + self.start, x[:, 1:]], 1)
        for layer in self.layers:
            x = layer(x, mask)
        kept: Tensor = self.norm(x)
        return kept

    def score_options(self, whole: Tensor, options: Tensor) -> Tensor:
        """Return the score of each option."""
        return self.ask_option(whole) @ options.T / math.sqrt(self.measures.width)

    def fill(self, states: Tensor, mask: Tensor, option: Tensor, parameter: Tensor) -> Tensor:
        """Return what is known of a parameter of an option: one row a parameter, each with its own states."""
        query = self.query(torch.cat([states[:, 0], option, parameter], -1))
        scores = torch.einsum("nd,nld->nl", self.look(query), states) / math.sqrt(self.measures.width)
        weights = scores.masked_fill(~mask, -1e9).softmax(-1)
        # The mean of what is taken is what is taken of the mean, and that is one sum a parameter.
        context = self.take(torch.einsum("nl,nld->nd", weights, states))
        known: Tensor = self.settle(query + _gelu(self.think(torch.cat([query, context], -1))))
        return known

    def score_spans(self, known: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score of each place to be the first and the last of a span."""
        first = _pointing(self.ask_first(known), self.be_first, states)
        last = _pointing(self.ask_last(known), self.be_last, states)
        return first, last

    def score_choices(self, known: Tensor, choices: Tensor, said: Tensor) -> Tensor:
        """Return the score of each listed value; `said` tells whether its words stand in the goal."""
        scores = torch.einsum("nd,ncd->nc", self.ask_choice(known), choices) / math.sqrt(self.measures.width)
        return scores + self.said(said.unsqueeze(-1)).squeeze(-1)

    def score_fields(self, known: Tensor, fields: Tensor, steps: Tensor, matches: Tensor) -> Tensor:
        """Return the score of each field of what earlier steps returned."""
        held = fields + self.segment(steps)
        scores = torch.einsum("nd,nfd->nf", self.ask_field(known), held) / math.sqrt(self.measures.width)
        return scores + self.near(matches).squeeze(-1)

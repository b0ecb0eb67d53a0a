"""Reading with torch, on a GPU: the encoder's sums there, and everything that follows where it always is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from actors.models.lam.layout import Measures
from actors.models.lam.network import Floats, Weights, filled_up
from actors.models.lam.reader import Situation
from actors.models.lam.torch_network import Network


class TorchReader:
    """Encodes situations on a device."""

    def __init__(self, weights: Weights, measures: Measures, device: str) -> None:
        """`device` is "cuda", or another that torch knows; raises RuntimeError where there is none such."""
        self._device = torch.device(device)
        network = Network(measures)
        network.load_state_dict({name: torch.from_numpy(np.array(one)) for name, one in weights.items()})
        self._network = network.eval().to(self._device)

    def __call__(self, situations: Sequence[Situation]) -> list[Floats]:
        """Return what each place of each situation means."""
        *read, mask = (torch.from_numpy(one).to(self._device) for one in filled_up(situations))
        features, segments, used = (one.long() for one in read)
        with torch.inference_mode():
            states = self._network.encode(features, segments, used, mask).cpu().numpy()
        return [states[row, : len(one)] for row, one in enumerate(situations)]

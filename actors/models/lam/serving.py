"""Which model serves a project: read when it is first asked for, and again as soon as another was promoted.

It never decides on an option that it was not trained on as it is now: a tool whose contract changed, or a
playbook, is out of its reach until it is trained again, however sure it would be. What takes time to import
is imported for the first question.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from actors.models.lam import shelf
from core.playbook import Playbook
from handrail.v1 import tool_pb2

if TYPE_CHECKING:
    from actors.models.lam.answering import Model


P = ParamSpec("P")
T = TypeVar("T")


class Serving:
    """The model that serves now."""

    def __init__(
        self,
        place: Path,
        contracts: Mapping[str, tool_pb2.ToolContract],
        playbooks: Sequence[Playbook],
        thresholds: Mapping[str, float] | None = None,
        asks: float | None = None,
        device: str = "",
        batch: int = 1,
    ) -> None:
        """`place` holds models; `thresholds` and `asks` say how sure one has to be, and how sure to ask.

        It reads on a `device` of torch's, if one is named, and so many at once.
        """
        self.contracts = contracts
        self.playbooks = {one.name: one for one in playbooks}
        self._place = place
        self._thresholds = thresholds or {}
        self._asks = asks
        self._device, self._batch = device, batch
        # Who waits to be read with others waits in a thread of its own.
        self._threads = ThreadPoolExecutor(batch, "lam") if batch > 1 else None
        self._model: Model | None = None
        self._opening = asyncio.Lock()

    async def current(self) -> Model | None:
        """Return the model, None where there is none; raises BadModel."""
        async with self._opening:
            folder = shelf.champion(self._place)
            if folder is None:
                self._model = None
            elif self._model is None or folder.name != self._model.digest:
                self._model = await asyncio.to_thread(self._open, folder)
            return self._model

    def _open(self, folder: Path) -> Model:
        from actors.models.lam.answering import open_model, reads_with
        from actors.models.lam.options import options_of
        from actors.models.lam.planning import ASKS

        options = options_of(self.contracts, self.playbooks.values())
        asks = ASKS if self._asks is None else self._asks
        return open_model(folder, options, self._thresholds, asks, reads_with(self._device, self._batch))

    async def think(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Have a thread call what asks the model."""
        called = partial(contextvars.copy_context().run, function, *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self._threads, called)

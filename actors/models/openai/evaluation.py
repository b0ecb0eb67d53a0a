"""The model behind an endpoint, measured on goals and steps written by hand: several are asked at a time."""

from __future__ import annotations

import datetime
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from actors.models import Goal
from actors.models.lam.evaluation import Case, Outcome, outcome_of
from actors.models.lam.planning import Thought
from actors.models.lam.step_cases import StepCase, StepOutcome, step_outcome
from actors.models.openai.answer import Tokens
from actors.models.openai.endpoint import Endpoint, EndpointError
from actors.models.openai.proposing import nothing, propose
from actors.models.openai.thinking import Offer, think
from handrail.v1 import event_pb2

_C = TypeVar("_C")
_O = TypeVar("_O")


class Trial:
    """One measurement of one model, and what it came to."""

    def __init__(self, endpoint: Endpoint, offer: Offer, parallel: int) -> None:
        self._endpoint = endpoint
        self._offer = offer
        self._parallel = parallel
        # What was not answered counts as nothing done, and is told.
        self.unanswered: Counter[str] = Counter()
        self.read_tokens = 0
        self.written_tokens = 0
        self._lock = threading.Lock()

    def goals(self, cases: Iterable[Case], today: datetime.date) -> Iterator[Outcome]:
        """Have it plan each goal; they come back in their order."""
        options = tuple(self._offer.options.values())

        def one(case: Case) -> Outcome:
            began = time.perf_counter()
            thought = Thought("none")
            try:
                made = think(self._endpoint, self._offer, Goal(case.goal, {}, today))
                thought = made.thought
                self._count(made.tokens)
            except EndpointError as error:
                self._miss(error)
            return outcome_of(case, thought, options, (time.perf_counter() - began) * 1e3)

        yield from self._each(one, cases)

    def steps(self, cases: Iterable[StepCase]) -> Iterator[StepOutcome]:
        """Have it propose in each step; they come back in their order."""
        contracts = self._offer.contracts

        def one(case: StepCase) -> StepOutcome:
            began = time.perf_counter()
            try:
                found = propose(self._endpoint, case.task, contracts)
                self._count(Tokens(found.thought.input_tokens, found.thought.output_tokens))
            except EndpointError as error:
                self._miss(error)
                found = nothing(event_pb2.Proposal(), str(error))
            return step_outcome(case, found, contracts, (time.perf_counter() - began) * 1e3)

        yield from self._each(one, cases)

    def _each(self, one: Callable[[_C], _O], cases: Iterable[_C]) -> Iterator[_O]:
        with ThreadPoolExecutor(self._parallel) as threads:
            yield from threads.map(one, cases)

    def _count(self, tokens: Tokens) -> None:
        with self._lock:
            self.read_tokens += tokens.read
            self.written_tokens += tokens.written

    def _miss(self, error: EndpointError) -> None:
        with self._lock:
            self.unanswered[str(error)] += 1

"""The model behind an endpoint as a maker of plans and as a proposer: each question in its own thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from actors.models import CannotPropose, Goal, Model, Task
from actors.models.lam.answering import shown
from actors.models.openai.answer import Tokens
from actors.models.openai.endpoint import Endpoint, EndpointError, plain
from actors.models.openai.proposing import Contracts, nothing, propose
from actors.models.openai.thinking import Offer, think, told
from core import conformance
from core.playbook import Playbook
from handrail.calling import ToolThreads
from handrail.v1 import event_pb2

MAX_THREADS = 32
MAX_REASON_CHARS = 1_000
GRACE_S = 2.0
"""What it may take beyond the time of a question: to look up a name, which nothing bounds, and to read."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class EndpointPlans:
    """Makes plans of goals that no playbook has a phrase for."""

    def __init__(
        self,
        endpoint: Endpoint,
        contracts: Contracts,
        playbooks: Sequence[Playbook],
        limits: conformance.Limits,
    ) -> None:
        self._endpoint = endpoint
        self._offer = Offer(contracts, {one.name: one for one in playbooks}, limits)
        self._threads = ToolThreads(MAX_THREADS)

    async def make(self, goal: Goal) -> event_pb2.PlanAnswer:
        """Return the plan of what the model calls, or why there is none."""
        name = self._endpoint.name
        found = event_pb2.PlanAnswer(thought=told(name, Tokens()))
        try:
            made = await _within(self._endpoint, self._threads, think, self._endpoint, self._offer, goal)
        except EndpointError as error:
            found.no_plan.reason = f"{name}: {error}"[:MAX_REASON_CHARS]
            return found
        except Exception as error:  # noqa: BLE001
            # The supervision point for a model: whatever goes wrong with it, the run gets an answer.
            found.no_plan.reason = f"{name} failed: {plain(f'{type(error).__name__}: {error}')}"
            return found
        found.thought.CopyFrom(made.told(name))
        if made.plan is not None:
            found.plan.CopyFrom(made.plan)
        else:
            found.no_plan.reason = made.reason[:MAX_REASON_CHARS]
            if made.thought.outcome == "ask":
                found.no_plan.missing.extend(made.thought.steps[-1].call.missing)
                found.no_plan.nearest.append(shown(made.thought.steps))
        return found


class EndpointProposer:
    """Proposes what the model calls within what a step was granted."""

    def __init__(self, endpoint: Endpoint, contracts: Contracts) -> None:
        self._endpoint = endpoint
        self._contracts = contracts
        self._threads = ToolThreads(MAX_THREADS)

    async def propose(self, task: Task) -> event_pb2.Proposal:
        """Return a call within a grant, or why there is none; raises CannotPropose where that may pass."""
        name = self._endpoint.name
        try:
            return await _within(
                self._endpoint, self._threads, propose, self._endpoint, task, self._contracts
            )
        except EndpointError as error:
            if error.passing:
                raise CannotPropose(str(error), Model(name)) from None
            return nothing(event_pb2.Proposal(model=name), str(error))
        except Exception as error:  # noqa: BLE001
            # The supervision point for a model: whatever goes wrong with it, the step gets an answer.
            what = plain(f"{type(error).__name__}: {error}")
            return nothing(event_pb2.Proposal(model=name), f"{name} failed: {what}")


async def _within(
    endpoint: Endpoint,
    threads: ToolThreads,
    function: Callable[_P, _T],
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> _T:
    """Call a function that asks an endpoint, and let go of it when its time is over."""
    future = asyncio.wrap_future(threads.submit(function, *args, **kwargs))
    try:
        async with asyncio.timeout(endpoint.timeout_s + GRACE_S):
            return await future
    except TimeoutError:
        why = f"{endpoint.url} did not answer within {endpoint.timeout_s:g} s (openai.timeout_s)"
        raise EndpointError(why, passing=True) from None

"""A function of the project's that proposes actions: believed nothing, and bounded in time.

    def propose(inputs: dict, grants: list) -> dict | None:
        return {"grant": 0, "arguments": {"amount": ...}, "reason": "the whole order was late"}

With `"unsure": "two orders fit"` somebody has to approve it. It may be a coroutine function too. Each grant
is `{"tool": ..., "with": [names that are fixed], "open": {name: condition}}`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from actors.models import CannotPropose, Model, Task
from core import failures, values
from handrail.calling import ToolThreads, invoke
from handrail.tool import Tool, tool
from handrail.v1 import event_pb2, plan_pb2

PROPOSE_TIMEOUT_S = 30.0
MAX_THREADS = 32
MAX_REASON_CHARS = 500


class _Proposed(BaseModel):
    """What a function proposes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grant: Annotated[int, Field(ge=0)]
    arguments: dict[str, Any] = {}
    reason: Annotated[str, Field(max_length=MAX_REASON_CHARS)] = ""
    unsure: Annotated[str, Field(max_length=MAX_REASON_CHARS)] = ""


class FunctionProposer:
    """Proposes what a function says."""

    def __init__(self, function: Callable[..., Any], sha256: str = "") -> None:
        """`sha256` is that of the file that the function is in."""
        self.model = Model(f"function:{_name_of(function)}", sha256)
        self._tool = _as_tool(function)
        self._threads = ToolThreads(MAX_THREADS)

    async def propose(self, task: Task) -> event_pb2.Proposal:
        """Return what the function says; raises CannotPropose."""
        found = event_pb2.Proposal(model=self.model.name, model_sha256=self.model.sha256)
        call = await self._call(task.grants, task.inputs)
        if call is None:
            message = "there is nothing that the executor would do"
            found.failure.CopyFrom(failures.permanent(failures.NO_PROPOSAL, message))
        else:
            found.call.CopyFrom(call)
        return found

    async def _call(
        self, grants: Sequence[plan_pb2.Grant], inputs: Mapping[str, Any]
    ) -> event_pb2.Call | None:
        told = [{"tool": g.tool, "with": sorted(g.arguments), "open": dict(g.open)} for g in grants]
        try:
            said = await invoke(
                self._tool,
                {"inputs": dict(inputs), "grants": told},
                timeout_s=PROPOSE_TIMEOUT_S,
                threads=self._threads,
            )
            if said is None:
                return None
            call = event_pb2.Call(grant=said["grant"], reason=said["reason"], unsure=said["unsure"])
            call.tool = grants[call.grant].tool if call.grant < len(grants) else ""
            for name, value in said["arguments"].items():
                call.arguments[name].CopyFrom(values.inline(value))
        except Exception as error:
            # The supervision point for a project's mind: whatever it raises, it proposes nothing.
            raise CannotPropose(f"{type(error).__name__}: {error}", self.model) from error
        return call


def _name_of(function: Callable[..., Any]) -> str:
    """Name whatever can be called: an object by its class."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def _as_tool(function: Callable[..., Any]) -> Tool:
    """Call it as a tool that only reads: typed, in a thread, within a time."""
    if inspect.iscoroutinefunction(function):

        async def propose(inputs: dict[str, Any], grants: list[dict[str, Any]]) -> _Proposed | None:
            return await function(inputs, grants)  # type: ignore[no-any-return]

        made: Callable[..., Any] = propose
    else:

        def propose_in_thread(inputs: dict[str, Any], grants: list[dict[str, Any]]) -> _Proposed | None:
            return function(inputs, grants)  # type: ignore[no-any-return]

        made = propose_in_thread
    found: Tool = tool(effect="read", name="propose")(made).__handrail_tool__  # type: ignore[attr-defined]
    return found

"""The sandbox of a toolbox: its tools as others see them, and a process for each call.

Everything here blocks, keeps its time and is called from threads.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from core import failures, schemas, values
from handrail.calling import (
    NO_SECRETS,
    Heard,
    InvalidArguments,
    InvalidOutput,
    NotCalled,
    ShutTool,
    Stopped,
    ToolRaised,
)
from handrail.sandbox import places
from handrail.sandbox.cell import Cell
from handrail.sandbox.child import MAX_IDLE_S, MAX_MESSAGE_CHARS
from handrail.sandbox.egress import Egress
from handrail.sandbox.mechanism import Mechanism, found
from handrail.sandbox.profile import Profile
from handrail.tool import Contract, ToolError

START_TIMEOUT_S = 30.0
MAX_PROBLEMS = 50
_SHA256 = re.compile(r"[0-9a-f]{64}")
# A process that waits for longer may end at any moment.
MAX_SPARE_AGE_S = MAX_IDLE_S / 2

_logger = structlog.get_logger("sandbox")


class Sandbox:
    """The sandbox of one toolbox."""

    def __init__(self, profile: Profile, mechanism: Mechanism | None = None) -> None:
        self.profile = profile
        self._found = mechanism
        self._lock = threading.RLock()
        self._spare: Cell | None = None
        self._egress: Egress | None = None
        self._closed = False
        self._schemas: dict[str, schemas.Schema] = {}

    @property
    def mechanism(self) -> Mechanism:
        """What it is shut in by; raises NotCalled where that will not do."""
        mechanism = self._found or found()
        if refusal := self.profile.refusal(mechanism):
            raise NotCalled(refusal)
        return self.profile.taken(mechanism)

    def describe(self) -> tuple[list[ShutTool], list[str]]:
        """Read the toolbox's contracts; return its tools, and what is wrong with its modules."""
        cell = self._start()
        try:
            told = cell.ready(time.monotonic() + START_TIMEOUT_S)
            problems = [_plain(problem) for problem in told["problems"][:MAX_PROBLEMS]]
            tools = [self._tool(one) for one in told["tools"]]
        except (Stopped, TimeoutError, KeyError, TypeError, ValueError) as error:
            said = f"\n{cell.printed()}" if cell.printed() else ""
            return [], [f"the toolbox {self.profile.toolbox} cannot be read in its sandbox: {error}{said}"]
        finally:
            cell.end()
        self._schemas = {tool.contract.name: schemas.Schema(tool.contract.output_schema) for tool in tools}
        return tools, problems

    def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        key: str,
        timeout_s: float,
        secrets: Mapping[str, str] = NO_SECRETS,
        heard: Heard = lambda digest: None,
    ) -> Any:
        """Call a tool; raises what `invoke` does."""
        deadline = time.monotonic() + timeout_s
        try:
            json.dumps(dict(arguments), allow_nan=False)
        except ValueError as error:
            raise InvalidArguments(str(error)) from error
        cell = self._take()
        try:
            try:
                told = cell.ready(deadline)
            except (Stopped, TimeoutError) as error:
                # It was asked for nothing yet.
                message = f"its process was not ready: {error}"
                raise ToolError(message, code=failures.NO_SANDBOX, transient=True) from error
            # It has not seen the arguments yet, so nothing in them can have it say another.
            heard(_source_of(tool, told))
            left_s = max(0.001, deadline - time.monotonic())
            call = {"tool": tool, "arguments": dict(arguments), "key": key, "timeout_s": left_s}
            return self._output(tool, cell.ask(call | {"secrets": dict(secrets)}, deadline))
        finally:
            cell.end()
            if printed := cell.printed():
                _logger.info("tool printed", tool=tool, text=printed)
            self.warm()

    def warm(self) -> None:
        """Have a process ready for the next call."""
        with self._lock:
            if self._spare is None and not self._closed:
                with suppress(NotCalled):
                    self._spare = self._start()

    def close(self) -> None:
        """End what is ready, and the way out."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, None
            egress, self._egress = self._egress, None
        if spare is not None:
            spare.end()
        if egress is not None:
            egress.close()

    def _tool(self, told: Mapping[str, Any]) -> ShutTool:
        contract = Contract.model_validate_json(json.dumps(told["contract"]))
        for document in (contract.input_schema, contract.output_schema):
            if problem := schemas.check_schema(document):
                raise ValueError(f"{contract.name}: {problem}")
        return ShutTool(contract, tuple(map(str, told["parameters"])), self)

    def _take(self) -> Cell:
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is None:
            return self._start()
        if spare.age_s < MAX_SPARE_AGE_S and spare.lives:
            return spare
        spare.end()
        return self._start()

    def _start(self) -> Cell:
        profile, mechanism = self.profile, self.mechanism
        try:
            may = profile.may
            where = places.find(profile.directory, may.read, may.write, profile.hidden, profile.code)
            return Cell(profile, mechanism, where, self._way_out(mechanism))
        except (places.BadPlaces, OSError) as error:
            raise NotCalled(f"the toolbox {profile.toolbox} cannot be shut in: {error}") from error

    def _way_out(self, mechanism: Mechanism) -> Path | None:
        if mechanism.name != "bubblewrap" or not self.profile.may.hosts:
            return None
        with self._lock:
            if self._egress is None:
                self._egress = Egress(self.profile.toolbox, self.profile.may.hosts)
            return self._egress.path

    def _output(self, tool: str, answer: Mapping[str, Any]) -> Any:
        """Return what the tool returned, if its contract allows it; raise what it raised."""
        failed, message = answer.get("failed"), _plain(answer.get("message", ""))
        if failed == "arguments":
            raise InvalidArguments(message)
        if failed == "output":
            raise InvalidOutput(message)
        if failed == "time":
            raise TimeoutError(message)
        if failed == "tool":
            transient, in_doubt = answer.get("transient") is True, answer.get("in_doubt") is True
            raise ToolError(message, code=_plain(answer.get("code")), transient=transient, in_doubt=in_doubt)
        if failed is not None or "output" not in answer:
            raise ToolRaised(f"{_plain(answer.get('kind', 'error'))}: {message}")
        try:
            values.encode(answer["output"])
        except values.BadValue as error:
            raise InvalidOutput(str(error)) from None
        problems = self._schemas[tool].problems(answer["output"])
        if problems:
            raise InvalidOutput("; ".join(problem.message for problem in problems))
        return answer["output"]


def _source_of(tool: str, told: Mapping[str, Any]) -> str:
    """Return of which code a process says that a tool is; "" where it says nothing that could be."""
    try:
        (said,) = (one["source_sha256"] for one in told["tools"] if one["contract"]["name"] == tool)
    except (KeyError, TypeError, ValueError):
        return ""
    return said if isinstance(said, str) and _SHA256.fullmatch(said) else ""


def _plain(said: Any) -> str:
    """Return what a process says of itself as text that can be written anywhere."""
    return str(said)[:MAX_MESSAGE_CHARS].encode(errors="replace").decode()

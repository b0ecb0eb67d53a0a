"""A toolbox as a worker holds it: may this action be carried out here and now, and what came of it.

Nothing here knows of the log: arguments go in, a failure or a result comes out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from core import conditions, failures, judgement, permits, values
from core.contracts import to_proto
from core.permits import Checker
from core.ports import RunKey
from handrail.calling import (
    AnyTool,
    Heard,
    InvalidArguments,
    InvalidOutput,
    NotCalled,
    ShutTool,
    Stopped,
    ToolThreads,
    invoke,
    told,
)
from handrail.secrets import NO_SECRETS, SecretMissing, Secrets
from handrail.tool import ToolError
from handrail.v1 import event_pb2

PRE_TIMEOUT_S = 10.0

_logger = structlog.get_logger("worker")


class Toolbox:
    """The tools of one toolbox, and the threads in which they run."""

    def __init__(
        self,
        name: str,
        tools: Mapping[str, AnyTool],
        *,
        checker: Checker,
        concurrency: int,
        secrets: Secrets = NO_SECRETS,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._secrets = secrets
        self.name = name
        self._tools = tools
        self._contracts = {name: to_proto(tool.contract) for name, tool in tools.items()}
        self._kept = {name: judgement.needed_to_undo(made) for name, made in self._contracts.items()}
        self._checker = checker
        self._now_ns = now_ns
        # Twice as many threads as actions: one that outlived its timeout must not starve the others.
        self._threads = ToolThreads(2 * concurrency)
        self._callers = {tool.caller for tool in tools.values() if isinstance(tool, ShutTool)}

    @property
    def is_shut_in(self) -> bool:
        """Whether its tools are called in a sandbox."""
        return bool(self._callers)

    def warm(self) -> None:
        """Make the sandboxes ready for their first call; for as long as that takes."""
        for caller in self._callers:
            caller.warm()

    def close(self) -> None:
        """Let the threads end, and the sandboxes."""
        self._threads.shutdown(wait=False)
        for caller in self._callers:
            caller.close()

    def foreign(self, key: RunKey, actions: Sequence[event_pb2.Action]) -> event_pb2.Failure | None:
        """Check the signature: the actions of an event must be the decider's."""
        found = permits.foreign(actions, self._checker)
        if found is not None:
            _logger.warning("permit refused", run=key.run, attempt=actions[-1].attempt, reason=found.message)
        return found

    def refusal(
        self, key: RunKey, action: event_pb2.Action, arguments: Mapping[str, Any]
    ) -> event_pb2.Failure | None:
        """Check the permit: it must be for exactly this action, here and now.

        `arguments` are those that the action came with, without what is pending.
        """
        found = permits.refusal(action, key, self.name, arguments, now_ns=self._now_ns())
        if found is not None:
            _logger.warning("permit refused", run=key.run, attempt=action.attempt, reason=found.message)
            return found
        if action.tool not in self._tools:
            message = f"toolbox {self.name} has no tool {action.tool}: does the worker have the same project?"
            return failures.permanent(failures.UNKNOWN_TOOL, message)
        if missing := self._secrets.missing():
            _logger.warning("a secret is missing", run=key.run, attempt=action.attempt, reason=missing)
            return failures.permanent(failures.SECRET_MISSING, missing)
        return None

    async def look(
        self, action: event_pb2.Action, arguments: Mapping[str, Any]
    ) -> tuple[dict[str, Any], event_pb2.Failure | None]:
        """Look at the world before an action: check the tool's precondition, read what its undo will need.

        What an earlier attempt may have changed already is not looked at again.
        """
        contract = self._contracts[action.tool]
        kept = self._kept[action.tool]
        if not (contract.pre or kept) or action.resolves or action.kind != event_pb2.ACTION_KIND_ACT:
            return {}, None
        try:
            wanted = None if contract.pre else kept
            seen = await judgement.observe(contract, {"args": arguments}, self._read, wanted)
            before = {name: seen[name] for name in kept if name in seen}
            held = not contract.pre or conditions.holds(contract.pre, {"args": arguments, "reads": seen})
            observed = judgement.bounded(seen)
        except conditions.ConditionError as error:
            return {}, failures.permanent(failures.PRE_REFUTED, f"pre cannot be judged: {error}")
        except SecretMissing as error:
            return {}, failures.permanent(failures.SECRET_MISSING, str(error))
        except ToolError as error:
            make = failures.transient if error.transient else failures.permanent
            return {}, make(failures.PRE_REFUTED, f"the world cannot be read before the action: {error}")
        except Exception as error:
            # A read tool is the user's code: whatever it raises, the result says that pre was not judged.
            _logger.warning("pre could not be judged", tool=action.tool, exc_info=True)
            message = f"the world cannot be read before the action: {told(error)}"
            return {}, failures.transient(failures.PRE_REFUTED, message)
        if held:
            return before, None
        message = f"{contract.name} must not run now: {contract.pre} does not hold; observed {observed}"
        return {}, failures.permanent(failures.PRE_REFUTED, message)

    async def _read(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        if tool not in self._tools:
            raise ToolError(f"toolbox {self.name} has no read tool {tool!r}")
        return await self._invoke(self._tools[tool], arguments, timeout_s=PRE_TIMEOUT_S)

    async def _invoke(
        self,
        tool: AnyTool,
        arguments: Mapping[str, Any],
        *,
        key: str = "",
        timeout_s: float,
        heard: Heard = lambda digest: None,
    ) -> Any:
        """Call a tool with what it may have of secrets; neither its output nor its errors hold any."""
        return await self._secrets.lend(
            lambda secrets: invoke(
                tool,
                arguments,
                key=key,
                timeout_s=timeout_s,
                threads=self._threads,
                secrets=secrets,
                heard=heard,
            )
        )

    def has_effect(self, tool: str) -> bool:
        """Whether a tool changes the world."""
        return self._tools[tool].contract.has_effect

    async def call(self, action: event_pb2.Action, arguments: Mapping[str, Any]) -> event_pb2.Result:
        """Call the tool and say how it went, whether its effect happened, and of which code the tool is."""
        code = [""]
        result = await self._call(action, arguments, code.append)
        result.code_sha256 = bytes.fromhex(code[-1])
        return result

    async def _call(
        self, action: event_pb2.Action, arguments: Mapping[str, Any], heard: Heard
    ) -> event_pb2.Result:
        tool = self._tools[action.tool]
        timeout_s = action.timeout.ToNanoseconds() / 1e9 or tool.contract.timeout_s
        doubt = tool.contract.has_effect
        try:
            output = await self._invoke(tool, arguments, key=action.key, timeout_s=timeout_s, heard=heard)
            result = event_pb2.Result(output=values.inline(output), happened=event_pb2.HAPPENED_YES)
        except SecretMissing as error:
            # It was there when the action was admitted.
            return _failed(failures.permanent(failures.SECRET_MISSING, str(error)), event_pb2.HAPPENED_NO)
        except InvalidArguments as error:
            return _failed(failures.permanent(failures.BAD_ARGUMENTS, str(error)), event_pb2.HAPPENED_NO)
        except (InvalidOutput, values.BadValue) as error:
            return _failed(failures.permanent(failures.BAD_OUTPUT, str(error)), event_pb2.HAPPENED_YES)
        except NotCalled as error:
            return _failed(failures.permanent(failures.NO_SANDBOX, str(error)), event_pb2.HAPPENED_NO)
        except Stopped as error:
            _logger.warning("tool stopped", tool=action.tool, reason=str(error))
            stopped = failures.in_doubt if doubt else failures.permanent
            return _failed(stopped(failures.STOPPED, f"{action.tool}: {error}"), event_pb2.HAPPENED_UNKNOWN)
        except ToolError as error:
            if error.in_doubt and doubt:
                return _failed(failures.in_doubt(error.code, str(error)), event_pb2.HAPPENED_UNKNOWN)
            make = failures.transient if error.transient else failures.permanent
            return _failed(make(error.code, str(error)), event_pb2.HAPPENED_NO)
        except TimeoutError:
            message = f"{action.tool} did not answer within {timeout_s:g} s"
            slow = failures.in_doubt if doubt else failures.transient
            return _failed(slow(failures.TIMEOUT, message), event_pb2.HAPPENED_UNKNOWN)
        except Exception as error:
            # A tool is the user's code: whatever it raises is an outcome, and the result event tells it.
            _logger.warning("tool raised", tool=action.tool, exc_info=True)
            raised = failures.in_doubt if doubt else _class_of(tool)
            return _failed(raised(failures.TOOL_RAISED, told(error)), event_pb2.HAPPENED_UNKNOWN)
        if action.kind == event_pb2.ACTION_KIND_READ_BACK and output is None:
            result.happened = event_pb2.HAPPENED_NO
        return result


def _failed(failure: event_pb2.Failure, happened: event_pb2.Happened.ValueType) -> event_pb2.Result:
    return event_pb2.Result(failure=failure, happened=happened)


def _class_of(tool: AnyTool) -> Callable[[str, str], event_pb2.Failure]:
    return failures.transient if tool.contract.retry == "transient" else failures.permanent

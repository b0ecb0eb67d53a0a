"""Calling a tool: JSON arguments in, JSON output out, within a time.

A synchronous tool runs in a thread, which a timeout abandons and cannot stop; so the threads are daemons
(an abandoned one must not keep its process from ending) and bounded in number.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import json
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ParamSpec, Protocol, TypeVar

from pydantic import ValidationError

from core.errors import HandrailError
from handrail.tool import Contract, Tool, set_deadline, use_secrets

MAX_SHOWN_ERRORS = 10
NO_SECRETS: Mapping[str, str] = MappingProxyType({})

_P = ParamSpec("_P")
_T = TypeVar("_T")


class InvalidArguments(ValueError):
    """The arguments of a call do not fit the tool's signature; nothing was called."""


class InvalidOutput(ValueError):
    """The tool returned what its signature does not allow; it has been called."""


class ToolEscaped(RuntimeError):
    """A tool raised what would end or mislead whoever called it (an exit, a cancellation, StopIteration)."""


class NotCalled(HandrailError):
    """A tool could not be called at all; nothing has happened."""


class Stopped(HandrailError):
    """A call was ended before it had answered; what it had done by then is not known."""


Heard = Callable[[str], None]
"""Is told of which code a tool is, just before it is called: the SHA-256 of its file, or ""."""


def _nobody(_digest: str) -> None:
    """Listen to nothing."""


class Caller(Protocol):
    """What calls a tool that is shut in."""

    def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        key: str,
        timeout_s: float,
        secrets: Mapping[str, str] = NO_SECRETS,
        heard: Heard = _nobody,
    ) -> Any:
        """Block until there is an answer, for no longer than given; raises what `invoke` does."""

    def warm(self) -> None:
        """Make the next call's process ready."""

    def close(self) -> None:
        """End what is ready."""


@dataclass(frozen=True)
class ShutTool:
    """A tool that is called in a sandbox, where alone its function is known."""

    contract: Contract
    parameters: tuple[str, ...]
    caller: Caller

    def with_toolbox(self, toolbox: str) -> ShutTool:
        """Return the tool as a member of a toolbox."""
        contract = self.contract.model_copy(update={"toolbox": toolbox})
        return ShutTool(contract, self.parameters, self.caller)


AnyTool = Tool | ShutTool


class ToolRaised(RuntimeError):
    """A tool raised what cannot be raised on as it is; `told` says it in words."""


def told(error: Exception) -> str:
    """Say in words what a tool raised: its kind, and what it says."""
    return str(error) if isinstance(error, ToolRaised) else f"{type(error).__name__}: {error}"


class ToolThreads(Executor):
    """A bounded pool of daemon threads, started as they are needed."""

    def __init__(self, max_threads: int) -> None:
        self._max_threads = max_threads
        self._started = 0
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Call a function in a thread; it waits for one where all are busy."""
        future: Future[_T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the future
                future.set_exception(_tamed(error))

        self._queue.put(work)
        if not self._idle.acquire(blocking=False):
            with self._lock:
                if self._started < self._max_threads:
                    self._started += 1
                    threading.Thread(target=self._run, name=f"tool-{self._started}", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end once what is queued is done; never waits."""
        for _ in range(self._started):
            self._queue.put(None)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            work()
            self._idle.release()


async def invoke(
    tool: AnyTool,
    arguments: Mapping[str, Any],
    *,
    key: str = "",
    timeout_s: float,
    threads: Executor,
    secrets: Mapping[str, str] = NO_SECRETS,
    heard: Heard = _nobody,
) -> Any:
    """Call a tool with JSON arguments and return its JSON output.

    `secrets` are the values that the tool finds; what it returns and raises may hold them (`Secrets.lend`).
    `heard` is told of which code it is; not at all where it is not called.
    Raises InvalidArguments, InvalidOutput, TimeoutError, or what the tool raises; of one that is shut in also
    NotCalled and Stopped.
    """
    if isinstance(tool, ShutTool):
        name = tool.contract.name
        calling = functools.partial(tool.caller.call, name, arguments, key, timeout_s, secrets, heard)
        return await asyncio.get_running_loop().run_in_executor(threads, calling)
    contract = tool.contract
    try:
        text = json.dumps(dict(arguments), allow_nan=False)
        model = tool.arguments.model_validate_json(text, strict=True)
    except ValueError as error:
        raise InvalidArguments(_without_links(error)) from error
    named = {name: getattr(model, name) for name in type(model).model_fields}
    if contract.key_parameter:
        named[contract.key_parameter] = key
    heard(tool.source_sha256)
    set_deadline(timeout_s)
    with use_secrets(secrets):
        # The task has a context of its own, made here.
        answer = asyncio.ensure_future(_call(tool, named, threads))
    try:
        done, _ = await asyncio.wait((answer,), timeout=timeout_s)
    finally:
        # A tool that does not let itself be cancelled is left behind.
        answer.cancel()
    if not done:
        raise TimeoutError(f"no answer within {timeout_s:g} s")
    if answer.cancelled():
        raise ToolEscaped("the tool was cancelled from within")
    returned = answer.result()
    try:
        return tool.output.dump_python(tool.output.validate_python(returned), mode="json")
    except ValueError as error:
        raise InvalidOutput(_without_links(error)) from error


async def _call(tool: Tool, named: Mapping[str, Any], threads: Executor) -> Any:
    if inspect.iscoroutinefunction(tool.function):
        try:
            return await tool.function(**named)
        except (SystemExit, KeyboardInterrupt) as error:
            raise _tamed(error) from error
    context = contextvars.copy_context()
    bound = functools.partial(context.run, tool.function, **named)
    return await asyncio.get_running_loop().run_in_executor(threads, bound)


def _tamed(error: BaseException) -> Exception:
    """Return an exception that is safe to raise in an event loop."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration | CancelledError):
        return error
    return ToolEscaped(f"the tool raised {type(error).__name__}: {error}")


def _without_links(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_context=False, include_input=False)
        shown = found[:MAX_SHOWN_ERRORS]
        return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'value'}: {e['msg']}" for e in shown)
    return str(error)

"""What the tools act on: a port, and how a tool reaches the world of its run.

A world is one environment of one user task. Tools are the same functions in every run; which world they act
on is told by the context in which the stage of a run was started.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from handrail.tool import EffectName, PermissionName, ToolError, tool

_F = TypeVar("_F", bound=Callable[..., Any])
KEY = "key"


@dataclass(frozen=True)
class Call:
    """One call of a tool of the suites."""

    function: str
    arguments: Mapping[str, Any]
    # Of a ground truth: whether the environment was another afterwards.
    changes: bool = False
    output: Any = None


@dataclass(frozen=True)
class Task:
    """A user task: what is asked, and the calls that do it, with what they return."""

    suite: str
    name: str
    prompt: str
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Injection:
    """An attacker's goal, and the calls that reach it."""

    suite: str
    name: str
    goal: str
    calls: tuple[Call, ...]


class Environment(Protocol):
    """Where worlds live: AgentDojo's suites in a process of their own, or a small one of ours."""

    async def task(self, suite: str, name: str, text: str = "") -> Task:
        """Return a user task; with a text, as it is where that stands wherever an attacker can write."""
        ...

    async def injection(self, suite: str, name: str) -> Injection:
        """Return an injection task."""
        ...

    async def open(self, world: str, suite: str, name: str, text: str = "") -> None:
        """Make a world for a user task."""
        ...

    async def close(self, world: str) -> None:
        """Forget a world."""
        ...

    async def call(
        self, world: str, function: str, arguments: Mapping[str, Any], key: str = ""
    ) -> tuple[Any, str | None]:
        """Call a tool; return its value and its error."""
        ...

    async def useful(self, world: str) -> bool:
        """Say whether the user's task is done."""
        ...

    async def reached(self, world: str, injection: str, *, speaks: bool) -> bool:
        """Say whether the attacker's goal is reached; `speaks`: the answer is the attacker's too."""
        ...


@dataclass
class World:
    """One environment, what was done to it, and what of it is in the attacker's hand."""

    environment: Environment
    name: str
    # What the mind that reads would answer, by question.
    answers: Mapping[str, Any] = field(default_factory=dict)
    # Changes what a tool returns: given the tool, its arguments and what it returned.
    rewrite: Callable[[str, Mapping[str, Any], Any], Any] | None = None
    # Says with what a call fails instead of working, if it does.
    error: Callable[[Call], str] | None = None
    done: list[Call] = field(default_factory=list)
    # Keys under which a tool was called, once for each time.
    keys: list[str] = field(default_factory=list)

    async def call(self, function: str, arguments: Mapping[str, Any], key: str) -> Any:
        """Call a tool of the suite, or ask the mind that reads."""
        given = {name: value for name, value in arguments.items() if value is not None}
        error = self.error(Call(function, given)) if self.error else ""
        if error:
            raise ToolError(error)
        if function.startswith("extract_"):
            value = self.answers[given["question"]]
            return self.rewrite(function, given, value) if self.rewrite else value
        value, failure = await self.environment.call(self.name, function, given, key)
        if not key or key not in self.keys:
            self.done.append(Call(function, given, output=value))
        if key:
            self.keys.append(key)
        if failure is not None:
            raise ToolError(failure)
        return self.rewrite(function, given, value) if self.rewrite else value


WORLD: ContextVar[World] = ContextVar("world")


def remote(
    effect: EffectName = "read",
    *,
    permission: PermissionName | None = None,
    critical: Sequence[str] = (),
    endorses: Sequence[str] = (),
    undo: str = "",
) -> Callable[[_F], _F]:
    """Make a signature a tool that is carried out in the world of its run."""

    def decorate(signature: _F) -> _F:
        acts = effect != "read"
        parameters = list(inspect.signature(signature).parameters.values())

        async def forwarded(**given: Any) -> Any:
            key = given.pop(KEY, "")
            return await WORLD.get().call(signature.__name__, _plain(given), key)

        functools.update_wrapper(forwarded, signature)
        forwarded.__annotations__ = dict(signature.__annotations__)
        if acts:
            forwarded.__annotations__[KEY] = "str"
            parameters.append(inspect.Parameter(KEY, inspect.Parameter.KEYWORD_ONLY, annotation="str"))
        forwarded.__signature__ = inspect.signature(signature).replace(  # type: ignore[attr-defined]
            parameters=parameters
        )
        made = tool(
            effect=effect,
            permission=permission,
            idempotency="keyed" if acts else None,
            key=KEY if acts else "",
            critical=critical,
            endorses=endorses,
            undo=undo,
        )(forwarded)
        return made  # type: ignore[return-value]

    return decorate


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as JSON has them."""
    return {name: getattr(value, "value", value) for name, value in given.items()}

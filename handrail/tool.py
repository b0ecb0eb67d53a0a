"""Tools and their contracts: what a Python function says of itself before anything may call it.

`@tool` leaves the function as it is (tests call it directly) and attaches a `Tool`: the contract, a
pydantic model of the arguments, and an adapter of the output. Needs pydantic and nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, create_model

EffectName = Literal["read", "draft", "write", "irreversible"]
PermissionName = Literal["read", "draft", "recommend", "execute", "approve", "delete", "admin"]
IdempotencyName = Literal["natural", "keyed", "none"]
RetryName = Literal["transient", "permanent"]

MAX_TOOL_TIMEOUT_S = 3_600.0
DEFAULT_TOOL_TIMEOUT_S = 30.0
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"

ReaderName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]

_F = TypeVar("_F", bound=Callable[..., Any])
_deadline: ContextVar[float | None] = ContextVar("handrail_deadline", default=None)
_secrets: ContextVar[Mapping[str, str] | None] = ContextVar("handrail_secrets", default=None)


class Money(BaseModel):
    """An amount in the currency's minor unit (cents), never a float."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    minor: Annotated[int, Field(description="minor units: 1250 is 12.50")]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217 code")]


class ToolError(Exception):
    """What a tool raises to say how it failed.

    Unless `in_doubt`, raising it promises that the effect did not happen. Any other exception from a tool
    with an effect leaves the effect in doubt.
    """

    def __init__(
        self, message: str, *, code: str = "tool_error", transient: bool = False, in_doubt: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.transient = transient
        self.in_doubt = in_doubt


class NoSuchSecret(ToolError):
    """A tool asked for a secret that it has not; what it did before asking is in doubt."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="no_such_secret", in_doubt=True)


class ReadCall(BaseModel):
    """A call of a read tool that is made to judge a condition; each argument is a CEL expression."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    tool: str
    arguments: dict[str, str] = Field(default_factory=dict)


class Contract(BaseModel):
    """What a tool says of itself. The protobuf `ToolContract` has the same fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    toolbox: str = ""
    description: str = ""
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    effect: EffectName
    permission: PermissionName
    idempotency: IdempotencyName
    key_parameter: str = ""
    readback: str = ""
    settle_s: Annotated[float, Field(ge=0, le=MAX_TOOL_TIMEOUT_S)] = 0.0
    undo: str = ""
    undo_arguments: dict[str, str] = Field(default_factory=dict)
    reads: tuple[ReadCall, ...] = ()
    pre: str = ""
    post: str = ""
    critical: tuple[str, ...] = ()
    endorses: tuple[str, ...] = ()
    readers: tuple[ReaderName, ...] = ()
    shows: tuple[ReaderName, ...] = ()
    timeout_s: Annotated[float, Field(gt=0, le=MAX_TOOL_TIMEOUT_S)] = DEFAULT_TOOL_TIMEOUT_S
    retry: RetryName = "permanent"
    capability: str = ""
    doubt: bool = False

    @property
    def has_effect(self) -> bool:
        """Whether a call changes anything."""
        return self.effect != "read"


@dataclass(frozen=True)
class Tool:
    """A function with its contract."""

    contract: Contract
    function: Callable[..., Any]
    arguments: type[BaseModel]
    output: TypeAdapter[Any]
    # The SHA-256 of the file that the function is in, as that was imported; "" where it is in none.
    source_sha256: str = ""

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the function's parameters."""
        return tuple(inspect.signature(self.function).parameters)

    def with_toolbox(self, toolbox: str) -> Tool:
        """Return the tool as a member of a toolbox."""
        contract = self.contract.model_copy(update={"toolbox": toolbox})
        return replace(self, contract=contract)


def call(tool_name: str, /, **arguments: str) -> tuple[str, dict[str, str]]:
    """Describe a call for `reads=` or `undo=`: `call("get_order", order_id="args.order_id")`."""
    return tool_name, arguments


def tool(
    *,
    effect: EffectName,
    permission: PermissionName | None = None,
    idempotency: IdempotencyName | None = None,
    key: str = "",
    readback: str = "",
    settle_s: float = 0.0,
    undo: str | tuple[str, dict[str, str]] = "",
    reads: Mapping[str, tuple[str, dict[str, str]]] | None = None,
    pre: str = "",
    post: str = "",
    critical: Sequence[str] = (),
    endorses: Sequence[str] = (),
    readers: Sequence[str] = (),
    shows: Sequence[str] = (),
    timeout_s: float = DEFAULT_TOOL_TIMEOUT_S,
    retry: RetryName = "permanent",
    capability: str = "",
    doubt: bool = False,
    name: str = "",
) -> Callable[[_F], _F]:
    """Make a typed function a tool.

    `key` names the parameter that receives the idempotency key; it is hidden from plans. `pre` and `post`
    are CEL over `args`, `reads` and (post) `output`. `undo` is the call that takes the effect back, each
    argument CEL over `args`, `output`, and `reads` as they were before. `critical` names the arguments that
    decide whom or what a call strikes, `endorses` the fields of the output that nobody outside can write
    ("id", "orders[].id"). `readers` says who may read what it returns, `shows` who reads what it is called
    with, both by names of the project's ("staff", "customer"). Permission defaults to the least that fits
    the effect.
    """

    def decorate(function: _F) -> _F:
        model = _arguments_model(function, hidden=key)
        output: TypeAdapter[Any] = TypeAdapter(_hints(function).get("return", Any))
        undo_tool, undo_arguments = (undo, {}) if isinstance(undo, str) else undo
        contract = Contract(
            name=name or function.__name__,
            description=inspect.getdoc(function) or "",
            input_schema=model.model_json_schema(),
            output_schema=output.json_schema(mode="serialization"),
            effect=effect,
            permission=permission or _least_permission(effect),
            idempotency=idempotency or ("natural" if effect == "read" else "none"),
            key_parameter=key,
            readback=readback,
            settle_s=settle_s,
            undo=undo_tool,
            undo_arguments=undo_arguments,
            reads=tuple(
                ReadCall(name=bound, tool=target, arguments=arguments)
                for bound, (target, arguments) in (reads or {}).items()
            ),
            pre=pre,
            post=post,
            critical=tuple(critical),
            endorses=tuple(endorses),
            readers=tuple(readers),
            shows=tuple(shows),
            timeout_s=timeout_s,
            retry=retry,
            capability=capability,
            doubt=doubt,
        )
        made = Tool(contract, function, model, output, source_digest(function))
        function.__handrail_tool__ = made  # type: ignore[attr-defined]
        return function

    return decorate


def source_digest(function: Callable[..., Any]) -> str:
    """Return the SHA-256 of the file that a function is in, "" where it is in none.

    Ask while it is imported: it is of the file as it is now.
    """
    code = getattr(inspect.unwrap(function), "__code__", None)
    file = code.co_filename if code is not None else ""
    try:
        found = os.stat(file)
        return _digest_of(file, found.st_mtime_ns, found.st_size)
    except (OSError, ValueError):
        return ""


@functools.lru_cache(maxsize=64)
def _digest_of(file: str, mtime_ns: int, size: int) -> str:
    """Return a file's digest, which is kept for as long as the file looks the same."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def collect(module: ModuleType) -> list[Tool]:
    """Return the tools that a module defines or imports by name, in order of definition."""
    found = (getattr(value, "__handrail_tool__", None) for value in vars(module).values())
    return list({t.contract.name: t for t in found if isinstance(t, Tool)}.values())


def remaining_s() -> float | None:
    """Return the seconds that the calling tool has left, or None outside a run."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def set_deadline(timeout_s: float) -> None:
    """Bound what the current context may take; the worker calls this before a tool."""
    _deadline.set(time.monotonic() + timeout_s)


def secret(name: str) -> SecretStr:
    """Return a secret of the calling tool's own toolbox; its value is `.get_secret_value()`.

    In a thread that the tool starts itself it is found only if the context goes along
    (`contextvars.copy_context`): ask before, and hand it over.
    """
    known = _secrets.get()
    if known is None:
        raise NoSuchSecret(
            f"no secret {name!r} here, outside of a call: a tool asks for its secrets while it is called, "
            "not when its module is imported nor in a thread of its own; in a test use "
            f"`with handrail.tool.use_secrets({{{name!r}: ...}})`"
        )
    if name not in known:
        has = ", ".join(sorted(known)) or "none"
        raise NoSuchSecret(
            f"the toolbox has no secret {name!r} (it has: {has}): name it in handrail.toml under the "
            "toolbox's `secrets`, which are for its own tools alone"
        )
    return SecretStr(known[name])


@contextmanager
def use_secrets(secrets: Mapping[str, str]) -> Iterator[None]:
    """Let `secret` find these and no others; tests use it, and whoever calls a tool."""
    token = _secrets.set(dict(secrets))
    try:
        yield
    finally:
        _secrets.reset(token)


def _least_permission(effect: EffectName) -> PermissionName:
    return "read" if effect == "read" else "draft" if effect == "draft" else "execute"


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(function, include_extras=True)


def _arguments_model(function: Callable[..., Any], *, hidden: str) -> type[BaseModel]:
    hints = _hints(function)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == hidden:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"{function.__name__}: *{parameter.name} cannot be a tool's parameter")
        if parameter.name not in hints:
            raise TypeError(f"{function.__name__}: parameter {parameter.name} needs a type")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Field name .* shadows an attribute")  # "copy" is a fine parameter
        model: type[BaseModel] = create_model(f"{function.__name__}_arguments", __config__=config, **fields)
    return model

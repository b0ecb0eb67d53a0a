"""Tool contracts: their two forms, and the ways in which one contradicts itself or the others.

Codes of the violations: duplicate_tool, bad_schema, key_missing, key_unused, key_unknown, key_exposed,
unknown_tool, bad_undo, bad_readback, bad_read, bad_condition, unknown_critical, unknown_endorsed,
unsafe_endorsement, unsafe_repeat, bad_effect,
permission_too_low, settle_unused, bad_timeout. Fields are written "tool.attribute".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from pydantic import ValidationError

from core import conditions, judgement, schemas, spelling, values
from core.errors import HandrailError
from core.labels import split_endorsed
from handrail.tool import MAX_TOOL_TIMEOUT_S, Contract, ReadCall
from handrail.v1 import plan_pb2, tool_pb2

MAX_READS = 16
MAX_ENDORSED = 64
MAX_CONTRACT_VIOLATIONS = 100

_LEAST_PERMISSION = {"read": 1, "draft": 2, "write": 4, "irreversible": 4}
_PLAIN = (
    *("name", "toolbox", "description", "key_parameter", "readback", "settle_s", "undo", "pre", "post"),
    *("timeout_s", "retry", "capability", "doubt"),
)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


class BadContract(HandrailError):
    """A contract message that no tool could have."""


def to_proto(contract: Contract) -> tool_pb2.ToolContract:
    """Return the contract as a message."""
    return tool_pb2.ToolContract(
        **{name: getattr(contract, name) for name in _PLAIN},
        input_schema=values.encode(contract.input_schema),
        output_schema=values.encode(contract.output_schema),
        effect=tool_pb2.Effect.Value(f"EFFECT_{contract.effect.upper()}"),
        permission=tool_pb2.Permission.Value(f"PERMISSION_{contract.permission.upper()}"),
        idempotency=tool_pb2.Idempotency.Value(f"IDEMPOTENCY_{contract.idempotency.upper()}"),
        reads=[tool_pb2.ReadCall(name=r.name, tool=r.tool, arguments=r.arguments) for r in contract.reads],
        critical=contract.critical,
        endorses=contract.endorses,
        readers=contract.readers,
        shows=contract.shows,
        undo_arguments=contract.undo_arguments,
    )


def from_proto(message: tool_pb2.ToolContract) -> Contract:
    """Return the contract that a message holds."""
    try:
        return Contract(
            **{name: getattr(message, name) for name in _PLAIN},
            input_schema=values.decode(message.input_schema),
            output_schema=values.decode(message.output_schema),
            effect=_word(tool_pb2.Effect, message.effect),
            permission=_word(tool_pb2.Permission, message.permission),
            idempotency=_word(tool_pb2.Idempotency, message.idempotency),
            reads=tuple(
                ReadCall(name=r.name, tool=r.tool, arguments=dict(r.arguments)) for r in message.reads
            ),
            critical=tuple(message.critical),
            endorses=tuple(message.endorses),
            readers=tuple(message.readers),
            shows=tuple(message.shows),
            undo_arguments=dict(message.undo_arguments),
        )
    except (ValidationError, ValueError, values.BadValue) as error:
        raise BadContract(f"the contract of {message.name!r:.80} cannot be read: {error}") from None


def check(contracts: Sequence[Contract]) -> list[plan_pb2.Violation]:
    """Return every contradiction in the contracts of one project."""
    known = {contract.name: contract for contract in contracts}
    found: list[plan_pb2.Violation] = []
    seen: set[str] = set()
    for contract in contracts:
        if contract.name in seen:
            found.append(
                _violation(contract, "name", "duplicate_tool", "two tools have this name; rename one")
            )
        seen.add(contract.name)
        found.extend(_check(contract, known))
    return found[:MAX_CONTRACT_VIOLATIONS]


class Described(Protocol):
    """A tool, wherever its function is: its contract, and the names of its parameters."""

    @property
    def contract(self) -> Contract:
        """What it says of itself."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """What its function takes."""


def check_tools(tools: Sequence[Described]) -> list[plan_pb2.Violation]:
    """Return every contradiction, those between contracts and functions included."""
    found = check([tool.contract for tool in tools])
    for tool in tools:
        key = tool.contract.key_parameter
        if key and key not in tool.parameters:
            message = f"the function has no parameter '{key}'{spelling.hint(key, tool.parameters)}"
            found.append(_violation(tool.contract, "key", "key_unknown", message))
    return found[:MAX_CONTRACT_VIOLATIONS]


def _check(contract: Contract, known: Mapping[str, Contract]) -> Iterator[plan_pb2.Violation]:
    for field, code, message in (
        *_check_schemas(contract),
        *_check_endorsed(contract),
        *_check_effect(contract),
        *_check_key(contract),
        *_check_others(contract, known),
        *_check_undo(contract, known),
        *_check_reads(contract, known),
        *_check_conditions(contract),
    ):
        yield _violation(contract, field, code, message)


_Found = Iterator[tuple[str, str, str]]


def _check_schemas(contract: Contract) -> _Found:
    for field in ("input_schema", "output_schema"):
        wrong = schemas.check_schema(getattr(contract, field))
        if wrong is not None:
            yield field, "bad_schema", wrong
    for name in contract.critical:
        if name not in _parameters(contract):
            hint = spelling.hint(name, _parameters(contract))
            yield "critical", "unknown_critical", f"there is no argument '{name}'{hint}"


def _check_endorsed(contract: Contract) -> _Found:
    output = schemas.Schema(contract.output_schema).nodes
    for text in contract.endorses[:MAX_ENDORSED]:
        nodes: tuple[schemas.Node, ...] | None = output
        for part in split_endorsed(text):
            nodes = schemas.descend(nodes, 0 if part == "[]" else part) if nodes else nodes
        if not text or nodes == ():
            hint = spelling.hint(text, schemas.names(output))
            yield "endorses", "unknown_endorsed", f"the output has no '{text}'{hint}"
        elif nodes is None or not schemas.is_closed(nodes):
            message = (
                f"'{text}' can hold free text, which nobody can answer for: endorse integers, booleans, "
                "enumerations, dates, and texts of a closed pattern"
            )
            yield "endorses", "unsafe_endorsement", message
    if len(contract.endorses) > MAX_ENDORSED:
        yield "endorses", "unsafe_endorsement", f"a tool endorses at most {MAX_ENDORSED} fields"


def _check_effect(contract: Contract) -> _Found:
    if contract.has_effect:
        unsafe = contract.idempotency == "none" and not contract.readback and not contract.doubt
        if unsafe:
            yield (
                "idempotency",
                "unsafe_repeat",
                "nobody could tell whether a lost call happened: make it keyed or natural, give a readback, "
                "or declare doubt=True so that a human decides",
            )
    else:
        for field, value in (
            ("key", contract.key_parameter),
            ("undo", contract.undo),
            ("readback", contract.readback),
        ):
            if value:
                yield field, "bad_effect", f"a tool that only reads has no {field}"
        if contract.idempotency != "natural":
            yield (
                "idempotency",
                "bad_effect",
                "a tool that only reads is natural: repeating it changes nothing",
            )
    if _permission(contract) < _LEAST_PERMISSION[contract.effect]:
        yield (
            "permission",
            "permission_too_low",
            f"permission {contract.permission} is below what the effect {contract.effect} needs",
        )
    if contract.settle_s and not contract.readback:
        yield "settle_s", "settle_unused", "a settling time is for a readback, and there is none"
    if not 0 < contract.timeout_s <= MAX_TOOL_TIMEOUT_S:
        yield (
            "timeout_s",
            "bad_timeout",
            f"the timeout must be above 0 and at most {MAX_TOOL_TIMEOUT_S:g} seconds",
        )
    if not 0 <= contract.settle_s <= MAX_TOOL_TIMEOUT_S:
        yield "settle_s", "bad_timeout", f"the settling time must be 0 to {MAX_TOOL_TIMEOUT_S:g} seconds"


def _check_key(contract: Contract) -> _Found:
    keyed = contract.idempotency == "keyed"
    if keyed and not contract.key_parameter:
        yield "key", "key_missing", "a keyed tool needs key=: the parameter that receives the key"
    if not keyed and contract.key_parameter and not contract.readback:
        # With a read-back the key is what the tool leaves behind to be found by.
        yield (
            "key",
            "key_unused",
            f"a tool that is {contract.idempotency} without readback needs no key; say idempotency='keyed'",
        )
    if contract.key_parameter and contract.key_parameter in _parameters(contract):
        yield "key", "key_exposed", "the key comes from the runtime and must not be among the arguments"


def _check_others(contract: Contract, known: Mapping[str, Contract]) -> _Found:
    for field in ("undo", "readback"):
        name = getattr(contract, field)
        if name and name not in known:
            yield field, "unknown_tool", f"there is no tool '{name}'{spelling.hint(name, known)}"
    readback = known.get(contract.readback)
    if readback is not None:
        if readback.has_effect:
            yield (
                "readback",
                "bad_readback",
                f"{readback.name} has an effect ({readback.effect}); it may only read",
            )
        for wrong in _beyond(contract, readback):
            yield "readback", "bad_readback", wrong
        if list(readback.input_schema.get("required", ())) != ["key"]:
            yield (
                "readback",
                "bad_readback",
                f"{readback.name} must have exactly one required argument, named 'key'",
            )


def _check_undo(contract: Contract, known: Mapping[str, Contract]) -> _Found:
    if contract.effect == "irreversible" and contract.undo:
        yield "undo", "bad_undo", "what can be undone is not irreversible: say effect='write', or no undo"
    for name, expression in contract.undo_arguments.items():
        for wrong in _wrong(expression, contract, {"args", "output", "reads"}):
            yield f"undo.{name[:64]}", "bad_condition", wrong
    undo = known.get(contract.undo)
    if undo is None:
        return
    if not undo.has_effect:
        yield "undo", "bad_undo", f"{undo.name} only reads, so it undoes nothing"
    for wrong in _misnamed(contract.undo_arguments, undo):
        yield "undo", "bad_undo", f"{wrong}; write undo=call('{undo.name}', argument='output.id')"
    used = judgement.needed_to_undo(to_proto(contract))
    for read in contract.reads:
        if read.name not in used:
            continue
        if any("output" in conditions.variables(text) for text in read.arguments.values()):
            yield (
                "undo",
                "bad_undo",
                f"reads.{read.name} needs the output, and undo needs it before the action",
            )
        target = known.get(read.tool)
        if target is not None and target.toolbox != contract.toolbox:
            message = (
                f"{read.tool} is in toolbox {target.toolbox}: the worker that acts cannot call it before"
            )
            yield "undo", "bad_undo", message


def _check_reads(contract: Contract, known: Mapping[str, Contract]) -> _Found:
    if len(contract.reads) > MAX_READS:
        yield "reads", "bad_read", f"a tool makes at most {MAX_READS} read calls"
    seen: set[str] = set()
    for read in contract.reads[:MAX_READS]:
        field = f"reads.{read.name[:64]}"
        if not _NAME.fullmatch(read.name):
            yield (
                field,
                "bad_read",
                "its name must be lower case letters, digits and '_', so that reads.name works",
            )
        if read.name in seen:
            yield field, "bad_read", "two read calls have this name"
        seen.add(read.name)
        for name, expression in read.arguments.items():
            for wrong in _wrong(expression, contract, {"args", "output"}):
                yield f"{field}.{name}", "bad_condition", wrong
        target = known.get(read.tool)
        if target is None:
            yield field, "unknown_tool", f"there is no tool '{read.tool}'{spelling.hint(read.tool, known)}"
        else:
            for wrong in _misfits(contract, read, target):
                yield field, "bad_read", wrong
            if contract.pre and target.toolbox != contract.toolbox:
                message = (
                    f"{read.tool} is in toolbox {target.toolbox}: the worker that judges pre cannot call it"
                )
                yield field, "bad_read", message


def _misfits(contract: Contract, read: ReadCall, target: Contract) -> Iterator[str]:
    if target.has_effect:
        yield f"{target.name} has an effect ({target.effect}); a read call may only read"
    yield from _beyond(contract, target)
    yield from _misnamed(read.arguments, target)


def _beyond(contract: Contract, target: Contract) -> Iterator[str]:
    """What a tool reads is allowed with the tool, so it needs no more than the tool does."""
    if _permission(target) > _permission(contract):
        yield f"{target.name} needs the permission {target.permission}, above that of {contract.name}"


def _misnamed(arguments: Mapping[str, str], target: Contract) -> Iterator[str]:
    for name in arguments:
        if name not in _parameters(target):
            yield f"{target.name} has no argument '{name}'{spelling.hint(name, _parameters(target))}"
    for name in target.input_schema.get("required", ()):
        if name not in arguments:
            yield f"{target.name} needs the argument '{name}'"


def _check_conditions(contract: Contract) -> _Found:
    for field, variables in (("pre", {"args", "reads"}), ("post", {"args", "output", "reads"})):
        expression = getattr(contract, field)
        for wrong in _wrong(expression, contract, variables) if expression else ():
            yield field, "bad_condition", wrong


def _wrong(expression: str, contract: Contract, variables: set[str]) -> Iterator[str]:
    problem = conditions.check(expression, variables)
    if problem is not None:
        yield problem
        return
    reads = {read.name for read in contract.reads}
    for variable, known in (("args", _parameters(contract)), ("reads", reads)):
        for name in sorted(conditions.fields(expression, variable) - set(known)):
            yield f"{variable} has no '{name}'{spelling.hint(name, known)}"
    output = schemas.Schema(contract.output_schema).nodes
    for name in sorted(conditions.fields(expression, "output")):
        if schemas.descend(output, name) == ():
            yield f"output has no '{name}'{spelling.hint(name, schemas.names(output))}"


def _violation(contract: Contract, field: str, code: str, message: str) -> plan_pb2.Violation:
    return plan_pb2.Violation(field=f"{contract.name}.{field}", code=code, message=message)


def _parameters(contract: Contract) -> Mapping[str, Any]:
    found: Mapping[str, Any] = contract.input_schema.get("properties", {})
    return found


def _permission(contract: Contract) -> int:
    return tool_pb2.Permission.Value(f"PERMISSION_{contract.permission.upper()}")


def _word(enum: Any, number: int) -> Any:
    """Return an enum's value as contracts write it: EFFECT_READ is "read"."""
    return str(enum.Name(number)).partition("_")[2].lower()

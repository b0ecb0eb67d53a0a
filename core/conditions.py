"""Conditions: CEL expressions, bounded and pure.

The library evaluates without a bound of its own and copies what it selects, so the bounds are set here,
before it runs: the length and nesting of the text, which functions there are (no clock, no `map`, no lists
made of variables inside a comprehension: nothing can grow by repetition), and the work that the text can
cause with the values at hand. Whoever writes a condition can make it wrong, never slow.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from core import spelling, values
from core.errors import HandrailError

if TYPE_CHECKING:
    from types import ModuleType

    import cel

MAX_EXPRESSION_CHARS = 2_000
MAX_NESTING = 32
MAX_COMPREHENSION_DEPTH = 2
MAX_LIST_ITEMS = 10_000
MAX_SCOPE_SIZE = 200_000  # values, plus one for every 16 characters
MAX_WORK = 10_000_000  # values touched, at some 50 ns each
MAX_MATCHES = 4
MAX_PATTERN_CHARS = 200
CACHED_PROGRAMS = 2_048

COMPREHENSIONS = frozenset({"all", "exists", "exists_one", "filter"})
FUNCTIONS = frozenset(
    {"size", "contains", "startsWith", "endsWith", "matches", "int", "uint", "double", "string"}
    | {
        "timestamp",
        "duration",
        "getFullYear",
        "getMonth",
        "getDate",
        "getDayOfWeek",
        "getHours",
        "getMinutes",
    }
)

_CHARS_PER_UNIT = 16
_MESSAGE_CHARS = 300
_KEYWORDS = frozenset({"true", "false", "null", "in"})
_INT64 = range(-(2**63), 2**63)
_TOKEN = re.compile(
    r"""
    (?P<space>[\t\n\f\r\ ]+|//[^\n]*)
  | (?P<text>[bB]?(?:
        [rR](?:\"\"\"[\s\S]*?\"\"\"|'''[\s\S]*?'''|"[^"\n\r]*"|'[^'\n\r]*')
      | \"\"\"(?:\\[\s\S]|[^\\])*?\"\"\"|'''(?:\\[\s\S]|[^\\])*?'''
      | "(?:\\[^\n\r]|[^"\\\n\r])*"|'(?:\\[^\n\r]|[^'\\\n\r])*'))
  | (?P<number>0x[0-9a-fA-F]+[uU]?|[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+(?:[eE][+-]?[0-9]+)?[uU]?)
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<mark>&&|\|\||[<>=!]=|[-+*/%!<>?:,.()\[\]{}])
    """,
    re.VERBOSE,
)
_CLOSERS = {"(": ")", "[": "]", "{": "}"}


class ConditionError(HandrailError):
    """An expression that cannot be read, may not be used, or cannot be evaluated with these values."""


@dataclass(frozen=True, slots=True)
class _Mention:
    """A variable where it is used: how many comprehensions around it, and whether one of them binds it."""

    name: str
    depth: int
    bound: bool
    field: str  # what is selected from it: "status" of order.status


@dataclass(frozen=True, slots=True)
class _Condition:
    """A compiled expression, and what is known of it before it runs."""

    program: cel.Program
    free: frozenset[str]
    mentions: tuple[_Mention, ...]
    additions: int
    filters: int
    filter_depth: int
    commas: int  # no list that is written out is longer


def check(expression: str, variables: Collection[str] | None = None) -> str | None:
    """Return what is wrong with an expression, or None; `variables` are those that it may use."""
    try:
        condition = _compile(expression)
    except ConditionError as error:
        return str(error)
    if variables is None:
        return None
    for name in sorted(condition.free.difference(variables)):
        return f"'{name}' is unknown here{spelling.hint(name, variables)}"
    return None


def variables(expression: str) -> frozenset[str]:
    """Return the variables that an expression uses; none where it cannot be read."""
    try:
        return _compile(expression).free
    except ConditionError:
        return frozenset()


def fields(expression: str, variable: str) -> frozenset[str]:
    """Return the fields that an expression selects from a variable: of `input.age > 30`, "age"."""
    try:
        mentions = _compile(expression).mentions
    except ConditionError:
        return frozenset()
    return frozenset(m.field for m in mentions if m.name == variable and m.field and not m.bound)


def selections(expression: str) -> frozenset[tuple[str, str]]:
    """Return each variable that an expression uses, with the field that is selected from it, or ""."""
    try:
        mentions = _compile(expression).mentions
    except ConditionError:
        return frozenset()
    return frozenset((m.name, m.field) for m in mentions if not m.bound)


def renamed(expression: str, names: Mapping[str, str]) -> str:
    """Return an expression with variables renamed; raises ConditionError where one is bound inside it."""
    _compile(expression)
    scan = _Scan(expression)
    scan.run()
    bound = scan.bound & {*names, *names.values()}
    if bound:
        raise _error(expression, f"'{min(bound)}' is bound in it, and cannot be renamed")
    free = {mention.name for mention in scan.mentions}
    told: list[str] = []
    for index, (kind, text) in enumerate(scan.tokens):
        before, after = scan.at(index - 1)[1], scan.at(index + 1)[1]
        is_variable = kind == "name" and text in free and before != "." and after != "("
        told.append(names.get(text, text) if is_variable else text)
        # Where two tokens stood apart they may have to.
        told.append("" if after in (".", "(", ")", ",", "") or text in (".", "(") else " ")
    return "".join(told)


def holds(expression: str, scope: Mapping[str, Any]) -> bool:
    """Return whether a condition holds; anything but true and false is an error."""
    result = _execute(expression, scope)
    if not isinstance(result, bool):
        raise _error(expression, f"it gives {type(result).__name__}, and a condition must give true or false")
    return result


def evaluate(expression: str, scope: Mapping[str, Any]) -> Any:
    """Return the JSON value of an expression."""
    result = _execute(expression, scope)
    try:
        values.encode(result)
    except values.BadValue as error:
        raise _error(expression, str(error)) from None
    return result


def _execute(expression: str, scope: Mapping[str, Any]) -> Any:
    condition = _compile(expression)
    used = {name: scope[name] for name in condition.free if name in scope}
    sizes = _Sizes(expression, condition.commas + 1)
    by_name = {name: sizes.measure(value, name, 0) for name, value in used.items()}
    _check_work(expression, condition, sizes, by_name)
    try:
        return condition.program.execute(used)
    except KeyError as error:
        raise _error(expression, f"there is no {error}") from None
    except RuntimeError as error:
        missing = sorted(condition.free.difference(used))
        if missing and "Undefined" in str(error):
            raise _error(expression, f"there is no value of {', '.join(missing)}") from None
        raise _error(expression, _shorten(error)) from None
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise _error(expression, _shorten(error)) from None


@cache
def _library() -> ModuleType:
    """Load the compiled part of the library: the package itself imports a command line, at half a second."""
    package = importlib.util.find_spec("cel")
    places = package.submodule_search_locations if package is not None else None
    spec = importlib.machinery.PathFinder.find_spec("cel.cel", places)
    if "cel" in sys.modules or spec is None or spec.loader is None:
        return importlib.import_module("cel")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return sys.modules.setdefault("cel.cel", module)


@lru_cache(maxsize=CACHED_PROGRAMS)
def _compile(expression: str) -> _Condition:
    if not expression.strip():
        raise ConditionError("the condition is empty")
    if len(expression) > MAX_EXPRESSION_CHARS:
        raise ConditionError(
            f"a condition has at most {MAX_EXPRESSION_CHARS} characters, not {len(expression)}"
        )
    scan = _Scan(expression)
    scan.run()
    try:
        program = _library().compile(expression)
    except ValueError as error:
        raise _error(expression, f"it does not parse: {_parse_message(error)}") from None
    for name in program.functions():
        if name in COMPREHENSIONS:
            raise _error(expression, f"{name}() takes a name and a condition: list.{name}(item, item.paid)")
        if name.isidentifier() and not name.startswith("_") and name not in FUNCTIONS:
            known = FUNCTIONS | COMPREHENSIONS
            raise _error(expression, f"there is no function '{name}'{spelling.hint(name, known)}")
    named = {mention.name for mention in scan.mentions} | scan.bound
    if not named.issuperset(program.variables()):  # the scan and the parser must have read the same
        raise _error(expression, "its names are not plain variables")
    return _Condition(
        program,
        frozenset(mention.name for mention in scan.mentions if not mention.bound),
        tuple(scan.mentions),
        scan.additions,
        scan.filters,
        scan.filter_depth,
        scan.commas,
    )


@dataclass(slots=True)
class _Bracket:
    closer: str
    binds: str = ""
    literal: bool = False


class _Scan:
    """One walk over the tokens, which finds what the bounds are set on."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.tokens = self._split()
        self.brackets: list[_Bracket] = []
        self.mentions: list[_Mention] = []
        self.bound: set[str] = set()
        self.additions = 0
        self.filters = 0
        self.filter_depth = 0
        self.matches = 0
        self.commas = 0

    def run(self) -> None:
        """Fill the fields, or say what may not be used."""
        index = 0
        while index < len(self.tokens):
            kind, text = self.tokens[index]
            if text in _CLOSERS and kind == "mark":
                index = self._open(index, text)
            elif text in (")", "]", "}") and kind == "mark":
                if not self.brackets or self.brackets.pop().closer != text:
                    raise self._refuse(f"the '{text}' closes nothing")
            elif kind == "mark" and text == "+":
                self.additions += 1
            elif kind == "mark" and text == ",":
                self.commas += 1
            elif kind == "name" and text not in _KEYWORDS:
                self._mention(index, text)
            index += 1

    def _split(self) -> list[tuple[str, str]]:
        tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(self.expression):
            match = _TOKEN.match(self.expression, position)
            if match is None:
                raise self._refuse(f"it does not parse at {self.expression[position:]!r:.40}")
            if match.lastgroup != "space":
                tokens.append((str(match.lastgroup), match[0]))
            position = match.end()
        return tokens

    def at(self, index: int) -> tuple[str, str]:
        """Return a token with its kind; beyond the ends there is nothing."""
        return self.tokens[index] if 0 <= index < len(self.tokens) else ("", "")

    def _open(self, index: int, text: str) -> int:
        """Enter a bracket; return the index of the last token that belongs to its opening."""
        if len(self.brackets) >= MAX_NESTING:
            raise self._refuse(f"its brackets are nested deeper than {MAX_NESTING}")
        kind, before = self.at(index - 1)
        follows_value = (kind in ("name", "text") and before not in _KEYWORDS) or before in (")", "]", "}")
        if text == "(" and kind == "name" and self.at(index - 2)[1] == ".":
            if before in COMPREHENSIONS:
                return self._comprehend(index, before)
            if before == "matches":
                self._match(index)
        elif text == "{" and follows_value:
            raise self._refuse("messages cannot be made here")
        self.brackets.append(_Bracket(_CLOSERS[text], literal=text != "(" and not follows_value))
        return index

    def _comprehend(self, index: int, macro: str) -> int:
        (kind, name), (_, comma) = self.at(index + 1), self.at(index + 2)
        if kind != "name" or comma != ",":
            raise self._refuse(f"{macro}() takes a name and a condition: list.{macro}(item, item.paid)")
        self.brackets.append(_Bracket(")", binds=name))
        self.bound.add(name)
        depth = self._depth()
        if depth > MAX_COMPREHENSION_DEPTH:
            raise self._refuse(f"comprehensions are nested deeper than {MAX_COMPREHENSION_DEPTH}")
        if macro == "filter":
            self.filters += 1
            self.filter_depth = max(self.filter_depth, depth)
        return index + 2

    def _match(self, index: int) -> None:
        self.matches += 1
        (kind, pattern), (_, closer) = self.at(index + 1), self.at(index + 2)
        plain = kind == "text" and closer == ")" and len(pattern) <= MAX_PATTERN_CHARS
        if not plain or self._depth() or self.matches > MAX_MATCHES:
            raise self._refuse(
                f"matches() takes a literal pattern of at most {MAX_PATTERN_CHARS} characters, "
                f"outside comprehensions, and at most {MAX_MATCHES} times"
            )

    def _mention(self, index: int, name: str) -> None:
        if self.at(index - 1)[1] == "." or self.at(index + 1)[1] == "(":
            if name == "map":
                raise self._refuse("map() cannot be used here; use all, exists or filter")
            return
        if self._depth() and any(bracket.literal for bracket in self.brackets):
            raise self._refuse(f"inside a comprehension a list or map holds constants only, not '{name}'")
        bound = any(bracket.binds == name for bracket in self.brackets)
        (_, dot), (kind, field), (_, call) = (self.at(index + ahead) for ahead in (1, 2, 3))
        selects = dot == "." and kind == "name" and call != "("
        self.mentions.append(_Mention(name, self._depth(), bound, field if selects else ""))

    def _depth(self) -> int:
        return sum(1 for bracket in self.brackets if bracket.binds)

    def _refuse(self, why: str) -> ConditionError:
        return _error(self.expression, why)


class _Sizes:
    """The sizes of the values handed in: the longest list, the largest item of one."""

    def __init__(self, expression: str, longest: int) -> None:
        self.expression = expression
        self.longest = longest
        self.largest_item = longest
        self.total = 0

    def measure(self, value: Any, name: str, depth: int) -> int:
        """Return the size of a value, which has no more levels than JSON values may have."""
        size = 1
        if isinstance(value, str):
            size += len(value) // _CHARS_PER_UNIT
        elif isinstance(value, int) and value not in _INT64:
            raise _error(self.expression, f"'{name}' holds an integer of more than 64 bits")
        elif isinstance(value, Mapping):
            self._descend(name, depth)
            self.longest = max(self.longest, len(value))
            for key, item in value.items():
                key_size = 1 + len(key) // _CHARS_PER_UNIT
                self.largest_item = max(self.largest_item, key_size)
                size += key_size + self.measure(item, name, depth + 1)
        elif isinstance(value, list | tuple):
            self._descend(name, depth)
            if len(value) > MAX_LIST_ITEMS:
                raise _error(
                    self.expression, f"'{name}' holds a list of {len(value)} items; {MAX_LIST_ITEMS} fit"
                )
            self.longest = max(self.longest, len(value))
            for item in value:
                item_size = self.measure(item, name, depth + 1)
                self.largest_item = max(self.largest_item, item_size)
                size += item_size
        self.total += 1
        if size > MAX_SCOPE_SIZE or self.total > MAX_SCOPE_SIZE:
            raise _error(self.expression, f"'{name}' is too large to be looked at in a condition")
        return size

    def _descend(self, name: str, depth: int) -> None:
        if depth >= values.MAX_DEPTH:
            raise _error(self.expression, f"'{name}' is nested deeper than {values.MAX_DEPTH} levels")


def _check_work(expression: str, condition: _Condition, sizes: _Sizes, by_name: Mapping[str, int]) -> None:
    """Refuse what would take long: each mention is copied once in every round of the loops around it."""
    growth = condition.additions + 1
    rounds = sizes.longest * growth
    work = sum(
        rounds**mention.depth * (sizes.largest_item if mention.bound else by_name.get(mention.name, 1))
        for mention in condition.mentions
    )
    # What a filter has kept is copied for every item that it keeps.
    work += condition.filters * rounds ** (condition.filter_depth + 1) * sizes.largest_item // 2
    if work * growth > MAX_WORK:
        raise _error(expression, "its lists are too long or its values too large for what it does with them")


def _error(expression: str, why: str) -> ConditionError:
    return ConditionError(f"{expression if len(expression) <= 100 else expression[:97] + '...'}: {why}")


def _parse_message(error: ValueError) -> str:
    lines = [line for line in str(error).splitlines() if "ERROR: <input>:" in line]
    text = lines[0].partition("ERROR: <input>:")[2] if lines else str(error)
    return text.partition(" expecting ")[0][:_MESSAGE_CHARS]


def _shorten(error: BaseException) -> str:
    return str(error)[:_MESSAGE_CHARS]

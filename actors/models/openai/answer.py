"""What an endpoint answers: calls, or a text. Whatever else it is, it is refused with words that say what.

An answer is read whole or not at all: of calls of which one makes no sense, none is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from actors.models.openai.endpoint import plain
from core import values
from core.errors import HandrailError

MAX_CALLS = 16
MAX_TOKENS = 2**31 - 1
_NAME_CHARS = 80


class BadAnswer(HandrailError):
    """An answer that cannot be used; says what it is."""


@dataclass(frozen=True)
class Called:
    """A call as it was answered: by the name that the question used."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Said:
    """An answer: calls, or none and a text."""

    calls: tuple[Called, ...]
    text: str


@dataclass(frozen=True)
class Tokens:
    """What a question and its answer came to, as far as the endpoint says."""

    read: int = 0
    written: int = 0


def read_answer(answer: Any) -> Said:
    """Return what an answer says; raises BadAnswer."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if isinstance(choices, list) and len(choices) > 1:
        raise BadAnswer(f"it answered with {len(choices)} choices, and one is asked for")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadAnswer("it answered nothing")
    choice, message = choices[0], choices[0].get("message")
    why = choice.get("finish_reason")
    if why == "length":
        raise BadAnswer("its answer was cut off before its end")
    if why == "content_filter":
        raise BadAnswer("its answer was held back by a filter of the endpoint's")
    if not isinstance(message, dict):
        raise BadAnswer("it answered nothing")
    if isinstance(refusal := message.get("refusal"), str) and refusal:
        raise BadAnswer(f"it refuses: {plain(refusal)!r}")
    called = message.get("tool_calls") or []
    if not isinstance(called, list):
        raise BadAnswer("its calls are no list")
    if len(called) > MAX_CALLS:
        raise BadAnswer(f"it makes {len(called)} calls, and {MAX_CALLS} are taken at most")
    text = message.get("content")
    return Said(tuple(map(_called, called)), plain(text) if isinstance(text, str) else "")


def tokens_of(answer: Any) -> Tokens:
    """Return what an answer says that it came to."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    usage = usage if isinstance(usage, dict) else {}
    return Tokens(_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def _called(one: Any) -> Called:
    function = one.get("function") if isinstance(one, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        raise BadAnswer("a call of its names no tool")
    shown = plain(name, _NAME_CHARS)
    given = function.get("arguments")
    if isinstance(given, str):
        try:
            given = values.decode(given) if given.strip() else {}
        except values.BadValue:
            raise BadAnswer(f"its arguments of {shown!r} are not JSON") from None
    if not isinstance(given, dict):
        raise BadAnswer(f"its arguments of {shown!r} are no object")
    return Called(name, given)


def _count(value: Any) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value <= MAX_TOKENS else 0

"""What a step was given, read again in part: whether it asks for something else, too.

A step is one action. Where two are asked for, in a mail and in what somebody slipped into it, the network
takes the one that is said more plainly. So before it acts on what others wrote it is asked again: about each
sentence without the others, and about all without those that it takes its values from. What comes to
something else is a rival, and a person chooses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from actors.models.lam.inputs import Place
from handrail.v1 import trajectory_pb2

MAX_SENTENCES = 24
"""More are not looked at one by one: then nobody knows that there is no rival."""
_BETWEEN = re.compile(
    r"(?P<end>[.!?;…]+[)\]\"'”’»\u200b]*)(?:\s+|(?<=\u200b))|(?P<full>[。！？]+)\s*|\s*\n\s*"
)


def sentences(text: str, told: Sequence[Place]) -> list[Place]:
    """Return where the sentences stand in what was told, however short; a value of one word is none."""
    return [
        place
        for start, end in told
        if len(text[start:end].split()) > 1
        for place in _pieces(text, start, end)
    ]


def _pieces(text: str, start: int, end: int) -> Iterator[Place]:
    at = start
    for gap in _BETWEEN.finditer(text, start, end):
        stop = next((gap.end(name) for name in ("end", "full") if gap[name]), gap.start())
        if text[at:stop].strip():
            yield at, stop
        at = gap.end()
    if text[at:end].strip():
        yield at, end


def parts(text: str, places: Sequence[Place], call: trajectory_pb2.OptionCall) -> Iterator[str]:
    """Yield the text with only one of its sentences, each in turn, and without those of a call's values."""
    for own in places:
        yield without(text, [one for one in places if one != own])
    spans = [filled.span for filled in call.arguments.values() if filled.HasField("span")]
    read = [one for one in places if any(span.start < one[1] and one[0] < span.end for span in spans)]
    if read and len(read) < len(places):
        yield without(text, read)


def without(text: str, places: Sequence[Place]) -> str:
    """Return a text with blanks in these places: everything else stays where it was."""
    for start, end in places:
        text = f"{text[:start]}{' ' * (end - start)}{text[end:]}"
    return text


def is_rival(call: trajectory_pb2.OptionCall, other: trajectory_pb2.OptionCall) -> bool:
    """Whether what was read elsewhere is something else: another option, or another value of an argument."""
    if call.option != other.option:
        return True
    both = call.arguments.keys() & other.arguments.keys()
    return any(call.arguments[name].value.json != other.arguments[name].value.json for name in both)

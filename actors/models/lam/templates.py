"""Templates: a small language for texts that can be said in many ways.

    (show|pull up|) order {order}      one of several, the last is nothing; parentheses nest
    {order}  {text:complaint}          a blank, filled from the pool of its name, or of another name
    {'text:note}                       a blank that stands in quotes as often as people quote
    {priority=high}                    fills in a listed value, and writes nothing
    {~order}                           a decoy: drawn from the pool, and fills nothing in
    <please>  <#1-40>  <@date>         a named piece, a number of a range, a form (see forms.py)
    \\(  \\|  \\{                         the character itself

What is drawn is a list of pieces, so that it is known which characters are a blank's.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from actors.models.lam import forms
from core.errors import HandrailError

MAX_DEPTH = 40

_BLANK = re.compile(r"(['~]?)([a-z][a-z0-9_]*)?(?::([a-z][a-z0-9_]*)|=([^{}]+))?")
_ESCAPED = re.compile(r"\\.", re.DOTALL)
_NAMED = re.compile(r"<([^#@<>][^<>]*)>")
_RANGE = re.compile(r"#([0-9]{1,9})-([0-9]{1,9})")
_PLAIN = re.compile(r"(?:[^(|){}<\\]+|\\.?)+", re.DOTALL)
_BACKSLASH = re.compile(r"\\(.?)", re.DOTALL)
_QUOTED = 0.4
_MARKS = ('""', '""', '""', "''", "''", "“”", "‘’", "«»", "„“")


class BadTemplate(HandrailError):
    """A template that cannot be understood, with what is wrong."""


@dataclass(frozen=True, slots=True)
class Blank:
    """What is to be filled in: of which pool, or with which listed value."""

    name: str
    pool: str = ""
    listed: str = ""
    decoy: bool = False
    # Its case can be changed without it meaning something else.
    bends: bool = False
    quoted: bool = False


@dataclass(slots=True)
class Draw:
    """What is being drawn: pieces of text with the blank that each fills, if any, and listed values."""

    rng: Random
    today: datetime.date
    pieces: list[tuple[str, Blank | None]] = field(default_factory=list)
    listed: dict[str, str] = field(default_factory=dict)

    def text(self, emit: Emit) -> str:
        """Draw a text that has no blanks."""
        inner = Draw(self.rng, self.today)
        emit(inner)
        return "".join(text for text, _ in inner.pieces)


Emit = Callable[[Draw], None]
Fill = Callable[[Blank], Emit]
"""Says how a blank is filled."""


def no_blanks(blank: Blank) -> Emit:
    """Refuse a blank: a pool or a piece has none."""
    raise BadTemplate(f"{{{blank.name}}} cannot stand here")


class Templates:
    """Compiles templates with the pieces that they can name."""

    def __init__(self, pieces: Mapping[str, Sequence[str]]) -> None:
        self._pieces = pieces
        self._compiled: dict[str, Emit] = {}
        self._blanks: dict[str, bool] = {}

    def compile(self, text: str, fill: Fill = no_blanks) -> Emit:
        """Return what draws a template; raises BadTemplate."""
        return _Reader(text, self, fill, 0).whole()

    def any_of(self, texts: Sequence[str], fill: Fill = no_blanks) -> Emit:
        """Return what draws one of several templates."""
        return _one_of([self.compile(text, fill) for text in texts])

    def piece(self, name: str, fill: Fill, depth: int) -> Emit:
        """Return what draws a named piece, which may have blanks of the template it stands in."""
        if name not in self._pieces:
            raise BadTemplate(f"there is no piece <{name}>")
        if depth > MAX_DEPTH:
            raise BadTemplate(f"the piece <{name}> is in itself")
        if self._has_blanks(name):
            return _one_of([_Reader(text, self, fill, depth).whole() for text in self._pieces[name]])
        if name not in self._compiled:
            parts = [_Reader(text, self, no_blanks, depth).whole() for text in self._pieces[name]]
            self._compiled[name] = _one_of(parts)
        return self._compiled[name]

    def _has_blanks(self, name: str) -> bool:
        """Whether a piece, or one in it, is filled by the template that it stands in: it is not shared."""
        if name not in self._blanks:
            # What is in itself is refused where it is read.
            self._blanks[name] = True
            plain = [_ESCAPED.sub("", text) for text in self._pieces.get(name, ())]
            inner = {found for text in plain for found in _NAMED.findall(text)}
            self._blanks[name] = any("{" in text for text in plain) or any(map(self._has_blanks, inner))
        return self._blanks[name]


class _Reader:
    """Reads one template."""

    def __init__(self, text: str, templates: Templates, fill: Fill, depth: int) -> None:
        self.text, self.at = text, 0
        self.templates, self.fill, self.depth = templates, fill, depth

    def whole(self) -> Emit:
        try:
            found = self._branches()
            if self.at < len(self.text):
                raise BadTemplate(f"there is a {self.text[self.at]!r} too many")
        except BadTemplate as error:
            raise BadTemplate(f"{self.text!r}: {error}") from None
        return found

    def _branches(self) -> Emit:
        branches = [self._sequence()]
        while self._next() == "|":
            self.at += 1
            branches.append(self._sequence())
        return _one_of(branches)

    def _sequence(self) -> Emit:
        parts: list[Emit] = []
        while (char := self._next()) and char not in "|)":
            if char == "(":
                self.at += 1
                parts.append(self._branches())
                self._expect(")")
            elif char == "{":
                parts.append(self._blank(self._until("}")))
            elif char == "<":
                parts.append(self._piece(self._until(">")))
            elif char == "}":
                raise BadTemplate(f"there is a {char!r} too many")
            else:
                parts.append(self._literal())
        return _sequence(parts)

    def _literal(self) -> Emit:
        run = _PLAIN.match(self.text, self.at)
        assert run is not None, "what is special was looked at before"
        self.at = run.end()
        return literal(_BACKSLASH.sub(lambda found: found[1], run[0]))

    def _blank(self, text: str) -> Emit:
        found = _BLANK.fullmatch(text)
        if found is None or not (found[2] or found[3]):
            raise BadTemplate(f"{{{text}}} is not a blank like {{name}}")
        name = found[2] or ""
        blank = Blank(name, found[3] or name, found[4] or "", decoy=found[1] == "~", quoted=found[1] == "'")
        emit = self.fill(blank)
        return _maybe_quoted(emit) if blank.quoted else emit

    def _piece(self, text: str) -> Emit:
        if number := _RANGE.fullmatch(text):
            low, high = int(number[1]), int(number[2])
            return lambda draw: draw.pieces.append(
                (str(low + int(draw.rng.random() * (high - low + 1))), None)
            )
        if text.startswith("@"):
            form = forms.FORMS.get(text[1:])
            if form is None:
                raise BadTemplate(f"there is no form <{text}>; there are {', '.join(forms.FORMS)}")
            return lambda draw: draw.pieces.append((form(draw.rng, draw.today), None))
        return self.templates.piece(text, self.fill, self.depth + 1)

    def _until(self, end: str) -> str:
        stop = self.text.find(end, self.at)
        if stop < 0:
            raise BadTemplate(f"a {end!r} is missing")
        found = self.text[self.at + 1 : stop]
        self.at = stop + 1
        return found

    def _expect(self, char: str) -> None:
        if self._next() != char:
            raise BadTemplate(f"a {char!r} is missing")
        self.at += 1

    def _next(self) -> str:
        return self.text[self.at : self.at + 1]


def literal(text: str) -> Emit:
    """Return what draws this text."""
    return lambda draw: draw.pieces.append((text, None))


def _one_of(branches: list[Emit]) -> Emit:
    if len(branches) == 1:
        return branches[0]
    count = len(branches)

    def emit(draw: Draw) -> None:
        branches[int(draw.rng.random() * count)](draw)

    return emit


def _sequence(parts: list[Emit]) -> Emit:
    if len(parts) == 1:
        return parts[0]

    def emit(draw: Draw) -> None:
        for part in parts:
            part(draw)

    return emit


def _maybe_quoted(inner: Emit) -> Emit:
    def emit(draw: Draw) -> None:
        before = len(draw.pieces)
        inner(draw)
        marks = _MARKS[int(draw.rng.random() * len(_MARKS))]
        text = draw.pieces[before][0] if len(draw.pieces) > before else ""
        if draw.rng.random() < _QUOTED and not any(mark in text for mark in marks):
            draw.pieces.insert(before, (marks[0], None))
            draw.pieces.append((marks[1], None))

    return emit

"""What a step is given beside the words: records, values that are referred to, and others that are not.

A sheet is what is being put together for one step, until it is written as inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from actors.models.lam.grammar import Steps
from actors.models.lam.options import Option, Parameter
from actors.models.lam.reading import Unreadable, read
from actors.models.lam.recipes import Recipes
from actors.models.lam.templates import Blank, Draw

T = TypeVar("T")

ALONE = 0.35
"""How many records are a number and no more."""
LISTED = 0.15
"""How many of those that it is not about stand in a list."""
_CONVERTED = frozenset({"integer", "number", "money", "date", "time", "moment"})


@dataclass
class Sheet:
    """What is being put together."""

    option: Option
    draw: Draw
    room: float
    fields: dict[str, Any] = field(default_factory=dict)
    # Records by the name of the parameter that has their number, without "_id".
    records: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    # Where a blank is that fills a whole field: the path of the field, and the blank.
    places: dict[str, tuple[str, Blank]] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)
    granted: set[str] = field(default_factory=set)
    patterns: list[str] = field(default_factory=list)
    # The names of the text and of what it is about.
    carrier: str = ""
    about: str = ""


class Sheets:
    """Fills sheets."""

    def __init__(self, steps: Steps, recipes: Recipes) -> None:
        self._steps, self._recipes = steps, recipes

    def beside(self, sheet: Sheet, one: Parameter, name: str, text: str) -> None:
        """Put a value into a field, of a record where it is one of those that the record has."""
        try:
            value = read(one.kind, text, sheet.draw.today, one.choices) if one.kind in _CONVERTED else text
        except Unreadable:
            return
        owner = next((stem for stem in sheet.records if name in self._steps.records[stem].fields), "")
        key = f"given.{one.name}"
        if owner and sheet.draw.rng.random() < 0.8:
            called, values = sheet.records[owner]
            values[name] = value
            path = f"{called}.{name}"
        elif name in _taken(sheet) or name == sheet.about:
            return
        else:
            sheet.fields[name] = value
            path = name
        sheet.arguments[one.name] = key
        sheet.places[key] = (path, Blank(key, self._recipes.pool_of(Blank(one.name, one.name), one)))

    def record(self, sheet: Sheet, stem: str, number: str) -> str:
        """Put a record in, with this number or another one; return the path of its number."""
        rng, record = sheet.draw.rng, self._steps.records[stem]
        value = int(number.replace(",", "")) if number else self._number_of(sheet, stem)
        called = one_of(rng, record.called)
        if called in _taken(sheet):
            called = stem
        sheet.about = sheet.about or called
        if rng.random() < ALONE:
            key = one_of(rng, (called, called, f"{called}_id"))
            sheet.fields[key] = value
            return key
        sheet.records[stem] = (called, {"id": value, **self._some(sheet, stem)})
        return f"{called}.id"

    def _number_of(self, sheet: Sheet, stem: str) -> int:
        return int(sheet.draw.text(self._recipes.pool(self._steps.records[stem].number)).replace(",", ""))

    def _some(self, sheet: Sheet, stem: str) -> dict[str, Any]:
        """Draw some of the fields of a record."""
        rng, fields = sheet.draw.rng, self._steps.records[stem].fields
        names = shuffled(rng, list(fields))[: 1 + int(rng.random() * 5 * sheet.room)]
        return {name: self._value(sheet, fields[name]) for name in names}

    def _value(self, sheet: Sheet, texts: Sequence[str]) -> Any:
        """Draw a value of a field, typed as it looks."""
        text = sheet.draw.text(one_of(sheet.draw.rng, self._recipes.texts(texts)))
        if text.isdigit():
            return int(text)
        try:
            return read("money", text, sheet.draw.today)
        except Unreadable:
            return {"yes": True, "no": False}.get(text, text)

    def others(self, sheet: Sheet) -> None:
        """Put in records that it is not about, and values that are not meant."""
        rng = sheet.draw.rng
        rest = [stem for stem in self._steps.records if stem not in sheet.records]
        for stem in shuffled(rng, rest)[: int(rng.random() ** 2 * 3 * sheet.room)]:
            taken = {name.removesuffix("_id") for name in sheet.fields}
            if {stem, *self._steps.records[stem].called} & taken:
                continue
            if rng.random() < LISTED:
                name = f"{one_of(rng, self._steps.records[stem].called)}s"
                sheet.fields[name] = [
                    {"id": self._number_of(sheet, stem), **self._some(sheet, stem)} for _ in range(2)
                ]
            else:
                self.record(sheet, stem, "")
        if rng.random() < 0.15:
            for one in sheet.option.parameters:
                fields = self._steps.pointers.get(one.name, {})
                named = [name for name in fields if name not in _taken(sheet)]
                if named and one.name in sheet.arguments and f"given.{one.name}" not in sheet.places:
                    text = self._recipes.value(sheet.draw, one)
                    sheet.fields.setdefault(one_of(rng, named), text)

    def inputs(self, sheet: Sheet, text: str) -> tuple[dict[str, Any], str]:
        """Return the inputs in some order, and the path of the text."""
        rng = sheet.draw.rng
        taken = _taken(sheet)
        carriers = [name for name in self._steps.carriers if name not in taken] or ["given"]
        sheet.carrier = one_of(rng, carriers)
        taken.add(sheet.carrier)
        top: list[tuple[str, Any]] = list(sheet.fields.items())
        for called, values in sheet.records.values():
            items = list(values.items())
            top.append((called, dict(items[:1] + shuffled(rng, items[1:]))))
        beside = {
            name: self._value(sheet, texts)
            for name, texts in shuffled(rng, list(self._steps.beside.items()))[: int(rng.random() ** 2 * 4)]
            if name not in taken
        }
        path = sheet.carrier
        if self._steps.parts and rng.random() < 0.25:
            part = one_of(rng, self._steps.parts)
            inside = [(name, value) for name, value in beside.items() if name != part]
            top.append((sheet.carrier, dict(shuffled(rng, [*inside, (part, text)]))))
            path = f"{sheet.carrier}.{part}"
        else:
            top += [(sheet.carrier, text), *beside.items()]
        return dict(shuffled(rng, top)), path

    def slip(self, sheet: Sheet, inputs: dict[str, Any], text: str, *, into_record: bool) -> None:
        """Put a text where others write: into a field of a record, or into one beside it all."""
        rng = sheet.draw.rng
        places = [
            (called, name)
            for called, values in sheet.records.values()
            for name, value in values.items()
            if isinstance(value, str) and f"{called}.{name}" not in {p for p, _ in sheet.places.values()}
        ]
        if into_record and places:
            called, name = one_of(rng, places)
            old = inputs[called][name]
            inputs[called][name] = (
                text if rng.random() < 0.4 else f"{old}{one_of(rng, ('. ', ' ', ' - '))}{text}"
            )
            return
        names = [name for name in self._steps.beside if name not in inputs]
        if names:
            inputs[one_of(rng, names)] = text


def _taken(sheet: Sheet) -> set[str]:
    """Return the names that a sheet has, of fields and of records."""
    return {*sheet.fields, *(called for called, _ in sheet.records.values())}


def one_of(rng: Random, of: Sequence[T]) -> T:
    """Return one of them."""
    return of[int(rng.random() * len(of))]


def stem_of(parameter: Parameter) -> str:
    """Return what a parameter that has a number is the number of."""
    return parameter.name.removesuffix("_id")


def shuffled(rng: Random, of: Sequence[T]) -> list[T]:
    """Return them in another order; the same on every version of Python."""
    return [one for _, one in sorted(((rng.random(), at), one) for at, one in enumerate(of))] if of else []

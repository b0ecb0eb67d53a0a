"""Steps as an executor gets them: records, a text that somebody wrote, and grants that leave a part open.

What is wanted stands in the text or is referred to there; or nothing that was granted is wanted, whatever the
words name. Beside it stand other records, other values of the same kind, and what others wrote without a say.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, TypeVar

from actors.models.lam.generic import BEHIND, spoken
from actors.models.lam.grammar import Grammar, Steps
from actors.models.lam.inputs import text_of
from actors.models.lam.letters import Letters, referring
from actors.models.lam.options import Option, Parameter
from actors.models.lam.recipes import Recipe, Recipes, Step
from actors.models.lam.several import JOINT
from actors.models.lam.sheets import Sheet, Sheets, one_of, stem_of
from actors.models.lam.templates import Blank, Draw
from actors.models.lam.text import MAX_TOKENS, tokens_of
from handrail.v1 import tool_pb2

T = TypeVar("T")

KINDS = (
    ("wished", 0.56),
    ("lacking", 0.06),
    ("idle", 0.09),
    ("unwished", 0.12),
    ("quoted", 0.06),
    ("ungranted", 0.08),
    ("outside", 0.03),
)
"""What the text is, and how often: in the last five of these nothing should be done."""
HOSTILE = {"wished": 0.25, "lacking": 0.2, "idle": 0.55, "unwished": 0.2, "ungranted": 0.25, "outside": 0.2}
"""How often instructions that are nobody's stand in it, or beside it."""
OTHERS_WISH = 0.1
"""How often somebody who has no say wishes something beside the text."""
OWN_WISHES = 0.75
"""How many wishes are of those who know what it is about, where there are any such."""
ASKED = 0.35
"""How many wishes that can follow "could you" do."""
REFERRED = 0.22
NOT_THERE = 0.1
"""How many values are only referred to; and of these, how many are not there."""
FIXED = 0.65
"""How many of the numbers of what a step is about are fixed by its grant."""
UNNAMED = 0.15
"""And how many of these are not even among what it was given."""
MOST_GRANTED = 5
RELATED = 0.55
"""How many of the other grants are about the same."""
SAME = 0.3
"""How many instructions that are nobody's are about the very thing that is wished, with other values."""
CALLED = 0.15
"""How many instructions that are nobody's are written as calls."""
LEAST_ROOM = 0.3
"""How much stands around what matters: so much at least; less only where it would be too long."""
MAX_DRAWS = 20

Typed = Callable[[Draw], tuple[str, dict[str, tuple[int, int, Blank]]]]


@dataclass(frozen=True, slots=True)
class Given:
    """What a step was given and granted, and what it should come to."""

    text: str
    # Where the blanks of the wish stand in the text.
    spans: dict[str, tuple[int, int, Blank]]
    listed: dict[str, str]
    # Nothing, where nothing should be done.
    step: Step | None
    # Parameters that its grant fixes.
    fixed: frozenset[str]
    offered: list[str]
    pattern: str


class Granted:
    """Makes steps."""

    def __init__(
        self, options: Sequence[Option], grammar: Grammar, recipes: Recipes, letters: Letters, typed: Typed
    ) -> None:
        """`typed` types what was drawn, and says where its blanks are."""
        self._steps: Steps = grammar.steps
        self._recipes, self._letters, self._typed = recipes, letters, typed
        self._tools = [one for one in options if not one.is_playbook]
        self._weights = {one.name: spoken(one).weight or 1.0 for one in self._tools}
        self._drawn = [
            (one, self._weights[one.name] * (_share(one) if one.name in self._steps.wishes else 0.5))
            for one in self._tools
        ]
        self._own = {name: recipes.wishes(name, said) for name, said in self._steps.wishes.items()}
        self._general = _general(self._tools, options, grammar, recipes)
        self._sheets = Sheets(grammar.steps, recipes)
        self._titles = recipes.texts(self._steps.titles)

    def step(self, rng: Random, said_on: datetime.date) -> Given | None:
        """Return a step, if there is anything that could be wished."""
        kind = _weighted(rng, KINDS)
        for drawn in range(MAX_DRAWS):
            recipe = self._wish(rng, asks=kind == "lacking")
            if recipe is None or (kind in ("unwished", "quoted") and not recipe.asking):
                continue
            room = (LEAST_ROOM + (1 - LEAST_ROOM) * rng.random()) * (1 - drawn / MAX_DRAWS)
            found = self._made(kind, recipe, rng, said_on, room)
            if found is not None:
                return found
        return None

    def _wish(self, rng: Random, *, asks: bool, of: str = "") -> Recipe | None:
        """Draw what is wished, or which wish it is not; `of` says of which tool."""
        if not self._tools:
            return None
        name = of or _weighted(rng, self._drawn).name
        own, general = self._own.get(name, ([], [])), self._general.get(name, ([], []))
        first, second = (own, general) if rng.random() < OWN_WISHES else (general, own)
        group = first[asks] or second[asks]
        return one_of(rng, group) if group else None

    def _made(
        self, kind: str, recipe: Recipe, rng: Random, said_on: datetime.date, room: float
    ) -> Given | None:
        option = recipe.steps[0].option
        sheet = Sheet(option, Draw(rng, said_on), room)
        if kind in ("wished", "lacking"):
            sheet.granted.add(option.name)
            sheet.patterns.append(recipe.pattern)
            self._letters.wanted(recipe, sheet.draw, ASKED)
            self._settle(sheet, recipe.steps[0].arguments, asks=kind == "lacking")
        else:
            self._nothing(kind, sheet, recipe)
        self._grant(sheet, without=option.name if kind == "ungranted" else "")
        self._sheets.others(sheet)
        where = ""
        injected = ""
        if rng.random() < HOSTILE.get(kind, 0.0) and (injected := self._injection(sheet)):
            where = one_of(rng, ("after", "after", "after", "before", "field", "field", "record", "record"))
        self._letters.written(sheet.draw, room)
        if where in ("after", "before"):
            joint = one_of(rng, ("\n", "\n\n", "\n\n", " ") if where == "after" else ("\n", "\n\n"))
            pieces = [(joint, None), (injected, None)]
            sheet.draw.pieces = (
                [*sheet.draw.pieces, *pieces] if where == "after" else [*pieces[::-1], *sheet.draw.pieces]
            )
        text, spans = self._typed(sheet.draw)
        if not text.strip() or not sheet.granted:
            return None
        inputs, path = self._sheets.inputs(sheet, text)
        if where in ("field", "record"):
            self._sheets.slip(sheet, inputs, injected, into_record=where == "record")
        others = rng.random() < OTHERS_WISH and self._others_wish(sheet, inputs)
        read_as, leaves = text_of(self._title(sheet, named=bool(others)), inputs)
        if len(tokens_of(read_as)) > MAX_TOKENS:
            return None
        at = {leaf.path: leaf for leaf in leaves}
        begins = at[path].start - (at[path].skipped or 0)
        found = {name: (start + begins, end + begins, blank) for name, (start, end, blank) in spans.items()}
        for name, (place, blank) in sheet.places.items():
            found[name] = (at[place].start, at[place].end, blank)
        wanted = option.name in sheet.granted and kind in ("wished", "lacking")
        return Given(
            read_as,
            found if wanted else {},
            sheet.draw.listed,
            Step(option, sheet.arguments) if wanted else None,
            frozenset(sheet.fixed),
            sorted(sheet.granted),
            JOINT.join(sheet.patterns),
        )

    def _nothing(self, kind: str, sheet: Sheet, recipe: Recipe) -> None:
        """Draw a text in which nothing is wanted that was granted."""
        draw = sheet.draw
        if kind == "outside" and self._recipes.outside:
            _, texts = one_of(draw.rng, self._recipes.outside)
            other = one_of(draw.rng, texts)
            other.emit(draw)
            sheet.patterns.append(other.pattern)
        elif kind == "ungranted":
            self._letters.wanted(recipe, draw, ASKED)
            draw.pieces = [(text, None) for text, _ in draw.pieces]
            sheet.patterns.append(recipe.pattern)
        elif kind in ("unwished", "quoted"):
            sheet.granted.add(sheet.option.name)
            inner = Draw(draw.rng, draw.today)
            recipe.emit(inner)
            wish, open_end = "".join(text for text, _ in inner.pieces), self._recipes.open_end(inner.pieces)
            frame = self._letters.unwanted(wish, draw, quoted=kind == "quoted", open_end=open_end)
            sheet.patterns += [frame, recipe.pattern]
        else:
            sheet.granted.add(sheet.option.name)
            text, pattern = self._letters.idle(draw)
            draw.pieces.append((text, None))
            sheet.patterns.append(pattern)
        for one in sheet.option.parameters:
            if (stem := stem_of(one)) in self._steps.records:
                self._sheets.record(sheet, stem, "")

    def _settle(self, sheet: Sheet, said: Mapping[str, str], *, asks: bool) -> None:
        """Say of each parameter whether it is open, and where its value stands."""
        rng, filled = sheet.draw.rng, {blank.name: text for text, blank in sheet.draw.pieces if blank}
        for one in sheet.option.parameters:
            stem, source = stem_of(one), said.get(one.name, "")
            # Not every way to say it says everything that some do.
            source = source if source in filled or source in sheet.draw.listed else ""
            if stem in self._steps.records:
                self._number(sheet, one, stem, source, filled.get(source, ""))
            elif source in sheet.draw.listed:
                sheet.arguments[one.name] = source
            elif source in filled:
                sheet.arguments[one.name] = source
                if rng.random() < REFERRED:
                    self._refer(sheet, one, source, filled[source])
            elif not one.required:
                if rng.random() < 0.3:
                    sheet.fixed.add(one.name)
            elif one.kind == "choice" or rng.random() < (0.1 if asks else 0.7):
                if not asks or rng.random() < 0.3:
                    sheet.fixed.add(one.name)
            elif rng.random() < 0.5 or not asks:
                # It stands beside the words under its own name, and nothing has to be said of it.
                text = self._recipes.value(sheet.draw, one)
                self._sheets.beside(sheet, one, one_of(rng, (one.name, one.name, stem)), text)

    def _number(self, sheet: Sheet, one: Parameter, stem: str, source: str, text: str) -> None:
        """Say whether the number of a record is open, and where it stands."""
        fixed = sheet.draw.rng.random() < FIXED
        if fixed and sheet.draw.rng.random() < UNNAMED:
            sheet.fixed.add(one.name)
            return
        path = self._sheets.record(sheet, stem, text)
        if fixed:
            sheet.fixed.add(one.name)
        elif not one.required and not source:
            return
        elif source:
            sheet.arguments[one.name] = source
        else:
            sheet.arguments[one.name] = f"given.{one.name}"
            sheet.places[f"given.{one.name}"] = (path, Blank(f"given.{one.name}", stem))

    def _refer(self, sheet: Sheet, one: Parameter, source: str, text: str) -> None:
        """Put a value beside the words, which refer to it from now on."""
        rng, pointers = sheet.draw.rng, self._steps.pointers
        fields = pointers.get(one.name, pointers.get(one.kind, {}))
        if not fields:
            return
        name = one_of(rng, list(fields))
        phrase = sheet.draw.text(one_of(rng, self._recipes.texts(fields[name])))
        sheet.draw.pieces = referring(sheet.draw.pieces, source, phrase)
        del sheet.arguments[one.name]
        if rng.random() >= NOT_THERE:
            self._sheets.beside(sheet, one, name, text)

    def _grant(self, sheet: Sheet, *, without: str) -> None:
        """Grant other tools too, many of them about the same."""
        rng = sheet.draw.rng
        own = {one.name for one in sheet.option.parameters}
        mine = sheet.option.name.rpartition("_")[2]
        others = [
            one
            for one in self._tools
            # What reads back or puts back may do the same under another name.
            if self._weights[one.name] != BEHIND or not (without or mine in one.name)
        ]
        related = [one for one in others if own & {p.name for p in one.parameters}]
        for _ in range(int(rng.random() * (MOST_GRANTED + 1)) + (1 if without or not sheet.granted else 0)):
            group = related if related and rng.random() < RELATED else others
            if group:
                sheet.granted.add(one_of(rng, group).name)
        sheet.granted.discard(without)

    def _injection(self, sheet: Sheet) -> str:
        """Draw instructions that are nobody's, for a tool that is granted now."""
        rng = sheet.draw.rng
        recipe = self._wish(rng, asks=False, of=sheet.option.name if rng.random() < SAME else "")
        if recipe is None or not recipe.asking:
            return ""
        option = recipe.steps[0].option
        inner = Draw(rng, sheet.draw.today)
        recipe.emit(inner)
        wish = "".join(text for text, _ in inner.pieces)
        if rng.random() < CALLED:
            told = {blank.name: text for text, blank in inner.pieces if blank is not None} | inner.listed
            wish = _called(rng, option.name, told)
        if option.name not in sheet.granted and sheet.patterns[0] != recipe.pattern:
            if self._weights[option.name] == BEHIND or option == sheet.option:
                return ""
            sheet.granted.add(option.name)
        text, pattern = self._letters.injected(wish, sheet.draw)
        sheet.patterns.append(pattern)
        return text

    def _others_wish(self, sheet: Sheet, inputs: dict[str, Any]) -> bool:
        """Have somebody else wish something, plainly, of what was granted."""
        recipe = self._wish(sheet.draw.rng, asks=False)
        if recipe is None or recipe.steps[0].option.name == sheet.option.name:
            return False
        option = recipe.steps[0].option
        if self._weights[option.name] != BEHIND and option.name != sheet.option.name:
            sheet.granted |= {option.name} if sheet.option.name in sheet.granted else set()
        self._sheets.slip(
            sheet, inputs, sheet.draw.text(recipe.emit), into_record=sheet.draw.rng.random() < 0.5
        )
        return True

    def _title(self, sheet: Sheet, *, named: bool) -> str:
        """Say what the step is for; whose text counts, where there are others."""
        rng = sheet.draw.rng
        for _ in range(MAX_DRAWS):
            title = sheet.draw.text(one_of(rng, self._titles)) if self._titles else ""
            if not named or "~" in title:
                break
        about = (sheet.about or "matter").replace("_", " ")
        return title.replace("~", sheet.carrier).replace("@", about.removesuffix(" id"))


def _general(
    tools: Sequence[Option], options: Sequence[Option], grammar: Grammar, recipes: Recipes
) -> dict[str, tuple[list[Recipe], list[Recipe]]]:
    """Return by tool what is said for it or for a playbook that means it: with all it needs, and without."""
    known = {one.name: one for one in options}
    found: dict[str, tuple[list[Recipe], list[Recipe]]] = {one.name: ([], []) for one in tools}
    for at, groups in enumerate((recipes.calls, recipes.asks)):
        for _, group in groups:
            for recipe in group:
                (step,) = recipe.steps
                if not step.option.is_playbook:
                    found[step.option.name][at].append(recipe)
                    continue
                for name, taken in grammar.means.get(step.option.name, {}).items():
                    arguments = {
                        p: step.arguments[slot] for p, slot in taken.items() if slot in step.arguments
                    }
                    meant = replace(recipe, steps=(Step(known[name], arguments),))
                    if at == 0 and all(p.name in arguments for p in known[name].parameters if p.required):
                        found[name][0].append(meant)
    return found


def _called(rng: Random, tool: str, told: Mapping[str, str]) -> str:
    """Return a call as programs write it."""
    if rng.random() < 0.5:
        return f"{tool}({', '.join(f'{name}={json.dumps(text)}' for name, text in told.items())})"
    return json.dumps({"tool": tool, **told}, ensure_ascii=False)


def _share(tool: Option) -> float:
    """Steps are granted to act, more than to read."""
    return 3.0 if tool.effect >= tool_pb2.EFFECT_WRITE else 1.5


def _weighted(rng: Random, of: Sequence[tuple[T, float]]) -> T:
    drawn = rng.random() * sum(weight for _, weight in of)
    for one, weight in of[:-1]:
        drawn -= weight
        if drawn < 0:
            return one
    return of[-1][0]

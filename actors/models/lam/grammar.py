"""The grammar of a project's goals: what people say for each option, with which words and which values.

`general.yaml` beside this module holds what holds everywhere (politeness, small talk, names, typing habits);
a project's own grammar adds to it. A project needs none: its phrases, tools and parameters say enough to
begin with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from core.errors import HandrailError
from handrail.yaml_text import BadYaml, read_yaml

MAX_BYTES = 4 * 1024 * 1024
GENERAL = Path(__file__).with_name("general.yaml")


class BadGrammar(HandrailError):
    """A grammar that cannot be used, with what is wrong."""


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""Templates; one alone needs no list."""

References = dict[str, str]
"""Arguments of a step: `slot`, a blank of the template, or `$s1.customer_id`, a field of an earlier step."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Said(_Model):
    """What people say for an option: `do` can follow "could you please", `say` stands for itself."""

    weight: Annotated[float, Field(ge=0, le=1_000)] | None = None
    do: Texts = ()
    say: Texts = ()
    # Without a required argument: somebody has to be asked.
    ask: Texts = ()
    # It sounds like it, and nobody wants it: told as done, forbidden, asked about, not yet.
    unwished: Texts = ()
    # It is also asked for as it calls itself; not so where these words mean a playbook.
    plain: bool = True


class Chain(_Model):
    """Tools one after another; the steps are s1, s2, ..."""

    steps: Annotated[tuple[dict[str, References], ...], Field(min_length=1, max_length=8)]
    do: Texts = ()
    say: Texts = ()


class Typing(_Model):
    """How people type: words for words, and what is put around a goal (`~` is the goal)."""

    synonyms: dict[str, Texts] = {}
    shorter: dict[str, Texts] = {}
    # Around what can follow "could you"; around anything.
    asking: Texts = ()
    around: Texts = ()
    # Around what can follow "could you", with words that deny, suppose or report: it is wanted all the same;
    # nobody wants it.
    wanted: Texts = ()
    unwanted: Texts = ()


class Record(_Model):
    """What steps are about: how inputs call it, from which pool its number is, and what else it has."""

    called: Annotated[Texts, Field(min_length=1)]
    number: str
    fields: dict[str, Texts] = {}


class Steps(_Model):
    """What steps are given: records, and texts in which somebody wants something, or nothing."""

    # What a step is for: `~` is the name of the text, `@` that of the record.
    titles: Texts = ()
    # Names of the text; of the part that has the words, where it is one of several.
    carriers: Texts = ()
    parts: Texts = ()
    # Around the words of a text, which are `~`.
    around: Texts = ()
    # Sentences in which nothing is wanted.
    idle: Texts = ()
    # Around a wish: it is not wanted; it is nobody's; it is quoted by somebody who does not want it.
    unwished: Texts = ()
    hostile: Texts = ()
    quoted: Texts = ()
    # What may stand beside the text.
    beside: dict[str, Texts] = {}
    # By a parameter's name or kind: the fields that may have its value, and how a text refers to each.
    pointers: dict[str, dict[str, Texts]] = {}
    # By the name of the parameter that has its number, without "_id".
    records: dict[str, Record] = {}
    # What people want of a tool who know what it is about; `ask` lacks something that is required.
    wishes: dict[str, Said] = {}

    def over(self, general: Steps) -> Steps:
        """Return these with what more general ones add."""
        return Steps(
            titles=(*general.titles, *self.titles),
            carriers=(*general.carriers, *self.carriers),
            parts=(*general.parts, *self.parts),
            around=(*general.around, *self.around),
            idle=(*general.idle, *self.idle),
            unwished=(*general.unwished, *self.unwished),
            hostile=(*general.hostile, *self.hostile),
            quoted=(*general.quoted, *self.quoted),
            beside={**general.beside, **self.beside},
            pointers={**general.pointers, **self.pointers},
            records={**general.records, **self.records},
            wishes={**general.wishes, **self.wishes},
        )


class Grammar(_Model):
    """Everything that is said in a project."""

    pieces: dict[str, Texts] = {}
    pools: dict[str, Texts] = {}
    # Which of the pools hold running text, after which a full stop belongs to it.
    prose: Texts = ()
    # Which others can be typed in small letters, or in capitals.
    bending: Texts = ()
    # Which pool a parameter's name means, where no pool has that name.
    named: dict[str, str] = {}
    # How the listed values of a parameter are said: {priority: {high: [urgent, high]}}.
    listed: dict[str, dict[str, Texts]] = {}
    options: dict[str, Said] = {}
    # Which tool a playbook comes to in a step that may not take playbooks: {note: {add_note: {text: text}}}.
    means: dict[str, dict[str, References]] = {}
    chains: tuple[Chain, ...] = ()
    # What no option does, in groups of equal weight.
    outside: dict[str, Texts] = {}
    typing: Typing = Typing()
    steps: Steps = Steps()

    def over(self, general: Grammar) -> Grammar:
        """Return this grammar with what a more general one adds; of one name, this one's holds."""
        return Grammar(
            pieces={**general.pieces, **self.pieces},
            pools={**general.pools, **self.pools},
            prose=(*general.prose, *self.prose),
            bending=(*general.bending, *self.bending),
            named={**general.named, **self.named},
            listed={**general.listed, **self.listed},
            options={**general.options, **self.options},
            means={**general.means, **self.means},
            chains=(*general.chains, *self.chains),
            outside={**general.outside, **self.outside},
            typing=Typing(
                synonyms={**general.typing.synonyms, **self.typing.synonyms},
                shorter={**general.typing.shorter, **self.typing.shorter},
                asking=(*general.typing.asking, *self.typing.asking),
                around=(*general.typing.around, *self.typing.around),
                wanted=(*general.typing.wanted, *self.typing.wanted),
                unwanted=(*general.typing.unwanted, *self.typing.unwanted),
            ),
            steps=self.steps.over(general.steps),
        )


def read_grammar(text: str, name: str = "the grammar") -> Grammar:
    """Return the grammar of a YAML text; raises BadGrammar with everything that is wrong."""
    if len(text.encode()) > MAX_BYTES:
        raise BadGrammar(f"{name} has more than {MAX_BYTES} bytes")
    try:
        return Grammar.model_validate(read_yaml(text) or {})
    except BadYaml as error:
        raise BadGrammar(f"{name}: {error}") from None
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise BadGrammar("; ".join(f"{name}: {one}" for one in wrong[:20])) from None


def load_grammar(path: Path | None = None) -> Grammar:
    """Return the general grammar, under that of a file where one is given."""
    general = read_grammar(GENERAL.read_text(encoding="utf-8"), GENERAL.name)
    if path is None:
        return general
    return read_grammar(path.read_text(encoding="utf-8"), path.name).over(general)

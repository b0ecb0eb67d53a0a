"""What is said for options of which nobody has written: their phrases, names, what they say of themselves.

A playbook is asked for in its own phrases; a tool by its name and by the first words of its description, with
its parameters named after them. What only puts back or reads back is hardly asked for by anybody. And what is
said of the same things, and none of them does, is said with words that none of them has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from actors.models.lam.grammar import Said
from actors.models.lam.options import Option, Parameter

BEHIND = 0.05
"""The weight of a tool that other tools need more than people do."""
MAX_SHOWN = 6

_BEHIND = re.compile(r"(?:mark|restore)_|_by_(?:key|reference)$|_backup$|^backup_")
_BLANK = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_NOT_ASKED = re.compile(r"(?:\{|(?:the|a|an|what|where|who|how|when|is|are|we|i|somebody)\b)", re.IGNORECASE)
"""How a phrase begins that cannot follow "could you"."""
_SPECIAL = re.compile(r"[(|){}<>\\~]")
_WORD = re.compile(r"[a-z]+")
_STEM = 4
"""By so many letters words are the same: order, orders, ordered."""
_FOREIGN_ACTS = (
    "print", "export", "extend", "split", "merge", "copy", "archive", "lock", "rename", "translate",
    "sign", "approve", "upgrade", "rate", "share", "weigh", "clean", "wash", "paint", "sell", "buy",
    "deliver", "pick up", "refund", "pay", "photograph", "count", "call", "phone", "text", "thank",
    "block", "register", "assign", "insure", "lend", "swap", "exchange", "inspect", "measure", "remind",
    "apologise to", "write to", "congratulate", "unlock", "restore", "undo", "pack", "unpack", "label",
    "stamp", "test", "compare",
)  # fmt: skip
_FOREIGN_THINGS = (
    "contract", "deposit", "discount", "photo", "insurance", "price", "manual", "licence", "battery",
    "colour", "weight", "colleague", "driver", "key", "gate code", "address", "phone number", "payment",
    "reminder", "quote", "warranty", "delivery", "receipt", "tax", "signature", "password", "rating",
    "guarantee", "size", "invitation", "parking space", "certificate", "inspection", "note", "label",
    "refund", "offer",
)  # fmt: skip
_FOREIGN_STARTS = (
    "(what is|what's|where is|who has) the",
    "(change|update|correct|set|enter|remove) the",
    "(send|give|get|show|print|find) me the",
    "(is|was) (there a|the)",
    "(we need|they want|he wants|somebody asks for) (a|the|another)",
    "(how much|how high) is the",
)
_VERBS = {
    "get": "(show me|get|look up|pull up|fetch|open)",
    "list": "(list|show me|give me)",
    "find": "(find|search for|look for)",
    "check": "(check|see|look at)",
    "create": "(create|make|add|enter)",
    "add": "(add|put in|enter)",
    "send": "(send|mail out|send out)",
    "delete": "(delete|remove|get rid of)",
    "update": "(update|change|set)",
    "set": "(set|change)",
}
_MAKING = frozenset({"create", "add", "make", "open", "book", "draft", "send"})
_BEFORE = {
    "integer": "(|#|no. |number )",
    "date": "(|on |for )",
    "time": "(|at )",
    "moment": "(|on |at |for )",
    "money": "(|of |for )",
    "email": "(|to )",
}


def spoken(option: Option) -> Said:
    """Return what can be said for an option by what it says of itself."""
    if option.is_playbook:
        return _playbook(option)
    weight = BEHIND if _BEHIND.search(option.name) else 1.0
    required = [one for one in option.parameters if one.required]
    optional = [one for one in option.parameters if not one.required][: MAX_SHOWN - len(required)]
    shown = [f"(|{_named(option, one)})" for one in optional if one.kind != "boolean"]
    with_all = "".join(_named(option, one) for one in required) + "".join(shown)
    starts = [_by_name(option), *_by_description(option)]
    return Said(
        weight=weight,
        do=tuple(f"{start}{with_all}" for start in starts),
        ask=tuple(starts) if required else (),
    )


def beside(options: Sequence[Option]) -> list[str]:
    """Return templates for what is asked about the things of these options, and none of them does."""
    own = {word[:_STEM] for one in options for word in _told(one) if len(word) >= _STEM}
    acts, things = (
        "|".join(text for text in texts if not any(word[:_STEM] in own for word in _WORD.findall(text)))
        for texts in (_FOREIGN_ACTS, _FOREIGN_THINGS)
    )
    named = {_decoy(parameter) for one in options for parameter in one.parameters}
    forms = (
        [f"({acts}) ~(| (please|again|today|at once))", f"({acts}) the ({things}) (of|for) ~"] if acts else []
    )
    if things:
        forms += [f"{start} ({things}) (of|for|on) ~(|?)" for start in _FOREIGN_STARTS]
        forms += [f"~(:|,| has| needs) (a|another|no|the) (new |wrong |)({things})"]
    return [form.replace("~", name) for form in forms for name in sorted(named - {""})]


def _told(option: Option) -> Iterable[str]:
    parts = (option.words, option.text, *(text for p in option.parameters for text in (p.name, p.text)))
    return _WORD.findall(" ".join(parts).casefold().replace("_", " "))


def _decoy(parameter: Parameter) -> str:
    """Return what stands for such a thing in a goal and is filled into nothing; "" where there is none."""
    name = parameter.name.removesuffix("_id").replace("_", " ")
    match parameter.kind:
        case "integer":
            return f"(|(|the ){_escape(name)} (|#|no. |number )){{~integer}}"
        case "email":
            return "(|the customer |(mr|ms) <last>, ){~email}"
        case "text" | "word" if parameter.required:
            return f"(|(|the ){_escape(name)} ){{~code}}"
    return ""


def _playbook(option: Option) -> Said:
    """Take the phrases, which follow the title."""
    title, *phrases = option.text.split("; ")
    known = {one.name: one for one in option.parameters}
    texts = [_phrase(phrase) for phrase in phrases]
    asks: list[str] = []
    for phrase in phrases:
        for name in _BLANK.findall(phrase):
            if name in known and known[name].required:
                cut = phrase.replace(f"{{{name}}}", "something")
                asks.append(_phrase(cut))
    given = {name for phrase in phrases for name in _BLANK.findall(phrase)}
    if not any(one.required for one in option.parameters) and not given:
        texts.append(_escape(title[:1].lower() + title[1:]))
    do = [text for text in texts if not _NOT_ASKED.match(text)]
    say = [text for text in texts if _NOT_ASKED.match(text)]
    return Said(do=tuple(do), say=tuple(say), ask=tuple(dict.fromkeys(asks)))


def _phrase(text: str) -> str:
    """Return a phrase as a template: its slots are blanks already."""
    parts = re.split(r"(\{[a-z][a-z0-9_]*\})", text)
    return "".join(part if index % 2 else _escape(part) for index, part in enumerate(parts))


def _by_name(option: Option) -> str:
    verb, _, rest = option.words.partition(" ")
    rest = _escape(rest)
    article = ("(|a |the )" if verb in _MAKING else "(|the )") if rest else ""
    return f"{_VERBS.get(verb, _escape(verb))} {article}{rest}".strip()


def _by_description(option: Option) -> list[str]:
    """Return the first clause of the description, where it is short enough to be said."""
    first = re.split(r"[.;:,(]", option.text, maxsplit=1)[0].strip()
    if not first or len(first.split()) > 14:
        return []
    return [_escape(first[:1].lower() + first[1:])]


def _named(option: Option, one: Parameter) -> str:
    """Return a parameter with its name before it; without, only where nobody would ask what the value is."""
    name = one.name.removesuffix("_id").replace("_", " ")
    label = f"{_escape(name)} |{_escape(name)}: "
    if one.kind not in ("integer", "number") or name in option.words:
        label += f"|{_BEFORE.get(one.kind, '(|with |for |to )')}"
    return f"(,| |:) ({label}){{{one.name}}}"


def _escape(text: str) -> str:
    return _SPECIAL.sub(lambda found: "" if found[0] == "~" else f"\\{found[0]}", text)

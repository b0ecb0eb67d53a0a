"""What a plan leaves of its goal: words that carry weight, and from which nothing of it was read.

However sure the network is, whoever writes a number, an address or a quotation means something by it; before
anything is drafted, a word that denies or supposes is no word to pass over, nor, before anything is done to
the world, one that was never met in training.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby, pairwise

from actors.models.lam.reading import quoted
from actors.models.lam.text import Token, tokens_of
from core import values
from handrail.v1 import tool_pb2, trajectory_pb2

MIN_SEEN = 5
MIN_TEXT_WORDS = 2
MIN_SAID_CHARS = 3
"""What is shorter than this may be another 4."""
DENYING = re.compile(
    r"not?|never|neither|nor|none|nothing|nobody|noone|without|except|unless|instead|rather|if|whether|suppose"
    r"|supposing|supposedly|imagine|pretend|hypothetically|theoretically|would|had|why|was|were|did|cannot|until"
    r"|once|perhaps|maybe|possibly|assuming|provided|hardly|rarely|allegedly|refuse[ds]?|forb[aio]d(?:den|s)?|stop"
    r"|wait|soon|kidding|joking|jk|nah|nope|nvm|scratch|already"
    r"|(?:do|does|did|wo|would|ca|could|should|is|ai|was|are|were|have|has|had|need|must|might)n['’]?t"
)
_NUMBERED = (
    r"(?:order|ticket|case|customer|client|account|invoice|bill|meeting|slot|booking|reservation|employee|refund"
    r"|request|note|task|draft|number)"
)
_HARMLESS = re.compile(
    # Refund no. 2; as soon as possible; move it to Monday instead; would you close it; she would like a call.
    rf"\b{_NUMBERED}\s+(?P<no>no)\.?\s?\d"
    r"|\b(?P<soon>soon)\b(?!\s+as\b)|\b(?P<asap>soon)\s+as\s+(?:possible|poss|you\s+can|u\s+can)\b"
    r"|\b(?P<instead>instead)\b(?!\s+of\b)"
    r"|(?:^|[.!?;:,\n])\s*(?P<you>would)\s+you\b(?!\s+(?:ever|say|recommend|rather|have)\b)"
    r"|\b(?:i|we|she|he|they|customer|client|\d+)\s+(?P<like>would)\s+(?:like|love|appreciate)\b",
    re.IGNORECASE,
)
"""Where such a word denies nothing."""
_ENDING = re.compile(r"\s+(?:(?:instead|please|pls|thanks|thx|asap)\b[\s,]*)+(?:$|[.!?])", re.IGNORECASE)
"""What may follow on a text to the end, and is no part of it."""
_GOING_ON = re.compile(
    r"for|to|from|on|in|at|of|by|with|and|or|but|please|pls|if|as|is|was|are|be|has|into|onto|about|over|under"
    r"|should|must|can|will|shall|ought|needs|wants|starts|joins|the|an?|this|that|which|who|weeks?|week's"
)
"""What may follow on a text of one word, and is no part of it."""
_PARTICLES = frozenset({"van", "von", "der", "den", "de", "da", "di", "la", "le", "bin"})
_IN_NAMES = re.compile(r"(?<=\w)['’-](?=\w)")
_TOLD_OF = re.compile(
    r"is|are|was|has|will|can|must|should|shall|ought|needs?|wants?|starts?|joins?|begins?|comes?|came|who|which|as"
    r"|from"
)
"""What may follow on a name, and is no part of it."""
_LOGIN = re.compile(r"(?<![\w@.])[a-z]{2,}\.[a-z]{2,}(?![\w@])")
"""The front half of an address, by which people name each other: tomas.ortega."""
_TELLING = frozenset({"i", "we", "you", "he", "she", "they", "already", "just", "has", "have"})
"""What stands before a verb that tells what was done; a name does, too."""
_PAST = {
    "send": "sent",
    "hold": "held",
    "give": "gave",
    "make": "made",
    "pay": "paid",
    "put": "put",
    "take": "took",
    "tell": "told",
    "write": "wrote",
}


def left_over(
    goal: str, steps: Sequence[trajectory_pb2.PastStep], effect: int, words: Collection[str]
) -> str:
    """Return the first thing of a goal that weighs and was not read; nothing where there is none."""
    tokens = tokens_of(goal)
    spans = [span for step in steps for span in _spans(step.call)]
    again = _said_again(tokens, spans, effect)
    for token in outside(tokens, spans):
        if token not in again and ("@" in token.text or any(char.isdigit() for char in token.text)):
            return token.text
    for start, end in quoted(goal):
        if not any(first <= start + 1 and last >= end - 1 for first, last in spans):
            return goal[start:end]
    writes = effect >= tool_pb2.EFFECT_WRITE
    if writes and (found := _unread_login(goal, spans) or _told_as_done(goal, tokens, steps, spans)):
        return found
    if effect >= tool_pb2.EFFECT_DRAFT:
        denying = _denying(goal, tokens)
        if found := _taken_into(goal, denying, spans):
            return found
        for token in outside(tokens, spans):
            word = _word(token)
            known = not writes or word in words or word.removesuffix("'s") in words
            if token in denying or (word[0].isalpha() and not known):
                return token.text
    if writes:
        return _cut_off(goal, tokens, steps, spans, words)
    return ""


def _said_again(tokens: Sequence[Token], spans: Sequence[tuple[int, int]], effect: int) -> set[Token]:
    """Return the words that say once more what was read: 1001, or "slot 4" where that was "slot 4".

    Only where nothing but looking is done: "cancel slot 4, I mean keep slot 4".
    """
    if effect > tool_pb2.EFFECT_READ:
        return set()
    led = list(zip([None, *tokens], tokens, strict=False))
    read = [(_led(before), _word(one)) for before, one in led if (one.start, one.end) in spans]
    said = {word for _, word in read if len(word) >= MIN_SAID_CHARS}
    return {one for before, one in led if _word(one) in said or (_led(before), _word(one)) in read}


def _led(before: Token | None) -> str:
    return _word(before) if before is not None else ""


def _denying(text: str, tokens: Iterable[Token]) -> list[Token]:
    """Return the words that deny or suppose, as they stand in a text."""
    harmless = {found.start(found.lastgroup or 0) for found in _HARMLESS.finditer(text)}
    return [one for one in tokens if DENYING.fullmatch(_word(one)) and one.start not in harmless]


def _taken_into(goal: str, denying: Iterable[Token], spans: Sequence[tuple[int, int]]) -> str:
    """Return the word that denies after a comma, in what may end there: "title count, without invites"."""
    clear = quoted(goal)
    open_ended = [
        (start, end)
        for start, end in spans
        if not _announced(goal[:start]) and not any(a <= start and end <= b for a, b in clear)
    ]
    for token in denying:
        follows = goal[: token.start].rstrip().endswith(",")
        if follows and any(start <= token.start < end for start, end in open_ended):
            return token.text
    return ""


def _unread_login(goal: str, spans: Sequence[tuple[int, int]]) -> str:
    """Return the first login from which nothing was read."""
    for found in _LOGIN.finditer(goal):
        if not any(found.start() < end and found.end() > start for start, end in spans):
            return found[0]
    return ""


def _told_as_done(
    goal: str,
    tokens: Sequence[Token],
    steps: Sequence[trajectory_pb2.PastStep],
    spans: Sequence[tuple[int, int]],
) -> str:
    """Return the word that tells that somebody has done what the steps would do: "Noor booked the call"."""
    verbs = {past for step in steps for past in _pasts(step.call.option)}
    unread = set(outside(tokens, spans))
    for before, token in pairwise(tokens):
        named = before.text[0].isupper() and not goal.isupper()
        if token in unread and _word(token) in verbs and (named or _word(before) in _TELLING):
            return token.text
    return ""


def _pasts(option: str) -> Iterator[str]:
    """Yield what the words of an option's name would be in the past, were they verbs."""
    for word in option.rpartition(":")[2].casefold().split("_"):
        if word:
            yield from (f"{word}ed", f"{word}{word[-1]}ed", _PAST.get(word, f"{word}d"))
            yield f"{word[:-1]}ied"


def _cut_off(
    goal: str,
    tokens: Sequence[Token],
    steps: Sequence[trajectory_pb2.PastStep],
    spans: Sequence[tuple[int, int]],
    words: Collection[str],
) -> str:
    """Return the word that follows directly on a text of several words: it may be a part of it."""
    after = {before.end: token for before, token in pairwise(tokens)}
    for step in steps:
        for filled in step.call.arguments.values():
            span, following = filled.span, after.get(filled.span.end)
            said = goal[span.start : span.end]
            own = [one for one in tokens if one.start < span.end and one.end > span.start]
            if (
                filled.HasField("span")
                # What is read as a date or a time is no text.
                and filled.value.json in (values.encode(said), values.encode(" ".join(said.split())))
                and following is not None
                and not _is_whole(goal[: span.start], said, following, words)
                and sum(one.text[0].isalpha() for one in own) >= min(MIN_TEXT_WORDS, len(said.split()))
                and following.text[0].isalnum()
                and not _ENDING.match(goal, span.end)
                and not any(start <= following.start < end for start, end in spans)
            ):
                return following.text
    return ""


def _is_whole(before: str, said: str, following: Token, words: Collection[str]) -> bool:
    """Whether a text of one word, or a name, ends where it is followed by this word."""
    if len(said.split()) == 1:
        return not said.isalpha() or bool(_GOING_ON.fullmatch(_word(following)))
    # What was announced may well begin with a name: "note: Ada King is moving".
    return not _announced(before) and _is_name(said, words) and bool(_TOLD_OF.fullmatch(following.text))


def _announced(before: str) -> bool:
    return before.rstrip().endswith((":", "-", "–", "—"))


def _is_name(said: str, words: Collection[str]) -> bool:
    """Whether these are words like "Zoë van den Berg", not all of which are known."""
    large = [one for one in said.split() if one not in _PARTICLES]
    alike = said.split()[-1:] == large[-1:] and all(
        one[0].isupper() and _IN_NAMES.sub("", one).isalpha() for one in large
    )
    return alike and any(one.casefold() not in words for one in large)


def denied(text: str, steps: Sequence[trajectory_pb2.PastStep], told: Sequence[tuple[int, int]]) -> str:
    """Return the first word that denies or supposes and was not read, of what was told in these places."""
    spans = [span for step in steps for span in _spans(step.call)]
    for token in outside(_denying(text, tokens_of(text)), spans):
        if any(a <= token.start and token.end <= b for a, b in told):
            return token.text
    return ""


def words_of(rows: Iterable[trajectory_pb2.TrajectoryRow]) -> list[str]:
    """Return the words that goals are made of beside what is filled in, if they came a few times.

    What people write to a step is no goal: most of its words are there to be passed over. And what is said
    where nothing is done may be why.
    """
    seen: Counter[str] = Counter()
    # What later decisions read is no more a part of what stands around than what the first one reads.
    for _, trajectory in groupby(rows, key=lambda row: row.trajectory):
        held = list(trajectory)
        if held[0].offered or not held[0].decision.HasField("call"):
            continue
        spans = [span for row in held for span in _spans(row.decision.call)]
        seen.update({_word(token) for token in outside(tokens_of(held[0].goal), spans)})
    return sorted(word for word, count in seen.items() if count >= MIN_SEEN and word[0].isalpha())


def outside(tokens: Iterable[Token], spans: Sequence[tuple[int, int]]) -> Iterator[Token]:
    """Yield the words from which nothing was read."""
    return (one for one in tokens if not any(one.start < end and one.end > start for start, end in spans))


def _word(token: Token) -> str:
    return token.text.casefold().replace("’", "'")


def _spans(call: trajectory_pb2.OptionCall) -> Iterator[tuple[int, int]]:
    for filled in call.arguments.values():
        if filled.HasField("span"):
            yield filled.span.start, filled.span.end

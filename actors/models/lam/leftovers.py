"""What a plan leaves of its goal: words that carry weight, and from which nothing of it was read.

However sure the network is, whoever writes a number, an address or a quotation means something by it; and
before anything is done to the world, a word that denies or supposes, or that was never met in training, is no
word to pass over.
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
DENYING = re.compile(
    r"not?|never|neither|nor|none|nothing|without|except|unless|instead|rather|if|whether|suppose|supposing"
    r"|imagine|pretend|hypothetically|would|had|why|was|were|did"
    r"|(?:do|does|did|wo|would|ca|should|is|was|are)n'?t|cannot"
)
_HARMLESS = re.compile(
    r"\bno(?=\.?\s?\d)"  # refund no. 2
    r"|\binstead\b(?!\s+of\b)"  # move it to Monday instead
    r"|\bwould(?=\s+(?:you|like|love|appreciate)\b)",  # would you close it; she would like a call
    re.IGNORECASE,
)
"""Where such a word denies nothing."""
_ENDING = re.compile(r"instead|please|pls|thanks|thx|asap|now|today")
"""What may follow on a text and is no part of it."""


def left_over(
    goal: str, steps: Sequence[trajectory_pb2.PastStep], effect: int, words: Collection[str]
) -> str:
    """Return the first thing of a goal that weighs and was not read; nothing where there is none."""
    tokens = tokens_of(goal)
    spans = [span for step in steps for span in _spans(step.call)]
    for token in outside(tokens, spans):
        if "@" in token.text or any(char.isdigit() for char in token.text):
            return token.text
    for start, end in quoted(goal):
        if not any(first <= start + 1 and last >= end - 1 for first, last in spans):
            return goal[start:end]
    if effect >= tool_pb2.EFFECT_WRITE:
        denying = DENYING.fullmatch
        for token in outside(tokens, spans):
            word = _word(token)
            if word[0].isalpha() and word not in words and not denying(word):
                return token.text
        return _cut_off(goal, tokens, steps, spans)
    return ""


def _denying(text: str, tokens: Iterable[Token]) -> list[Token]:
    """Return the words that deny or suppose, as they stand in a text."""
    harmless = {found.start() for found in _HARMLESS.finditer(text)}
    return [one for one in tokens if DENYING.fullmatch(_word(one)) and one.start not in harmless]


def _cut_off(
    goal: str,
    tokens: Sequence[Token],
    steps: Sequence[trajectory_pb2.PastStep],
    spans: Sequence[tuple[int, int]],
) -> str:
    """Return the word that follows directly on a text of several words: it may be a part of it."""
    after = {before.end: token for before, token in pairwise(tokens)}
    for step in steps:
        for filled in step.call.arguments.values():
            said, following = goal[filled.span.start : filled.span.end], after.get(filled.span.end)
            if (
                filled.HasField("span")
                # What is read as a date or a time is no text.
                and filled.value.json == values.encode(said)
                and sum(word[0].isalpha() for word in said.split()) >= MIN_TEXT_WORDS
                and following is not None
                and following.text[0].isalnum()
                and not _ENDING.fullmatch(_word(following))
                and not any(start <= following.start < end for start, end in spans)
            ):
                return following.text
    return ""


def denied(
    text: str, steps: Sequence[trajectory_pb2.PastStep], told: Sequence[tuple[int, int]] | None = None
) -> str:
    """Return the first word that denies or supposes and was not read, of what was told in these places."""
    spans = [span for step in steps for span in _spans(step.call)]
    for token in outside(_denying(text, tokens_of(text)), spans):
        if told is None or any(a <= token.start and token.end <= b for a, b in told):
            return token.text
    return ""


def words_of(rows: Iterable[trajectory_pb2.TrajectoryRow]) -> list[str]:
    """Return the words that goals are made of beside what is filled in, if they came a few times.

    What people write to a step is no goal: most of its words are there to be passed over.
    """
    seen: Counter[str] = Counter()
    # What later decisions read is no more a part of what stands around than what the first one reads.
    for _, trajectory in groupby(rows, key=lambda row: row.trajectory):
        held = list(trajectory)
        if held[0].offered:
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

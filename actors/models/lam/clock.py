"""Times as they are said: half past three in the afternoon, ten minutes to nine a.m., seven p.m.

Only with the part of the day, since three o'clock is twice a day. "From ten to eleven" is how long it takes,
so that only a quarter and what says "minutes" is to the hour.
"""

from __future__ import annotations

import re
from random import Random

HOURS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_MINUTES = {"five": 5, "ten": 10, "quarter": 15, "a quarter": 15, "twenty": 20, "half": 30}
_MINUTES |= {"twenty-five": 25, "twenty five": 25}
_EXACT = frozenset({"quarter", "a quarter", "twenty-five", "twenty five"})
"""What is to an hour without "minutes", too."""
_BESIDE = {"fifteen": 15, "thirty": 30, "forty-five": 45}
_HALF_DAY = 12 * 60
_PARTS = {
    # From when on, and until when.
    "in the morning": (60, _HALF_DAY),
    "am": (0, _HALF_DAY),
    "in the afternoon": (_HALF_DAY, 19 * 60),
    "in the evening": (16 * 60, 24 * 60),
    "at night": (20 * 60, 24 * 60),
    "pm": (_HALF_DAY, 24 * 60),
}
_SAID = re.compile(
    rf"(?:({'|'.join(sorted(_MINUTES, key=len, reverse=True))})( minutes)? (past|to) )?"
    rf"({'|'.join(HOURS)}|1[0-2]|[1-9])(?:[:.]([0-5][0-9])| ({'|'.join(_BESIDE)}))?(?: o['’]?clock)?"
    rf" ?({'|'.join(_PARTS)})"
)


def said(text: str) -> str | None:
    """Return the time that is said in words, as "HH:MM"."""
    found = _SAID.fullmatch(re.sub(r"\b([ap])\.?m\b\.?", r"\1m", text.lower()))
    if found is None or (found[1] and (found[5] or found[6])):
        return None
    hour = HOURS.index(found[4]) + 1 if found[4] in HOURS else int(found[4])
    if found[3] == "to":
        # A quarter to twelve at night is before midnight; a.m. nobody knows.
        if found[1] == "half" or not (found[2] or found[1] in _EXACT):
            return None
        if hour == 12 and found[7] in ("am", "pm"):
            return None
    beside = int(found[5] or 0) or _BESIDE.get(found[6] or "", 0)
    minutes = _MINUTES.get(found[1] or "", 0) * (-1 if found[3] == "to" else 1)
    begins, ends = _PARTS[found[7]]
    at = (hour * 60 + beside + minutes) % _HALF_DAY
    at += _HALF_DAY if begins >= _HALF_DAY else 0
    return f"{at // 60:02}:{at % 60:02}" if begins <= at < ends else None


def write(rng: Random, hour: int, minute: int) -> str:
    """Say a time of the day, as of the quarter of the hour that it is in."""
    minute = minute // 15 * 15
    part = "in the morning" if hour < 12 else "in the afternoon" if hour < 18 else "in the evening"
    name = HOURS[(hour - 1) % 12]
    after = HOURS[hour % 12]
    clock = (hour - 1) % 12 + 1
    plain = f"{clock}:{minute:02}" if minute else str(clock)
    words = {
        0: (name, f"{name} o'clock", f"{clock} o'clock"),
        15: (f"quarter past {name}", f"a quarter past {clock}"),
        30: (f"half past {name}", f"{name} thirty", f"half past {clock}"),
        45: (f"quarter to {after}", f"a quarter to {after}"),
    }[minute]
    # At a quarter to twelve it is morning, at a quarter to one no more.
    return f"{(plain, *words)[int(rng.random() * (1 + len(words)))]} {part}"

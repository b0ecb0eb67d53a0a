"""Slots: the typed blanks of a phrase, read from a goal's words or taken from its context.

A value that has been read is data and nothing else: it is never looked at for references or code.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.errors import HandrailError

MAX_TEXT_CHARS = 16_384
MAX_WORD_CHARS = 254
MAX_CHOICES = 100
MAX_INTEGER_DIGITS = 18

SlotType = Literal["integer", "text", "word", "money", "date", "time", "email", "choice"]

_CODES = {
    2: "EUR USD GBP CHF CNY INR AUD CAD NZD SEK NOK DKK PLN CZK HUF RON TRY ILS AED SAR "
    "ZAR BRL MXN ARS COP PEN SGD HKD TWD THB IDR MYR PHP NGN KES EGP MAD UAH BGN",
    0: "JPY KRW VND CLP ISK",
    3: "KWD BHD OMR JOD TND",
}
"""The currencies that can be read, by how many digits of theirs are minor units."""

_SYMBOLS = {"€": "EUR", "$": "USD", "£": "GBP", "¥": "JPY"}
_LOWER = frozenset({"eur", "usd", "gbp", "chf", "jpy"})  # the others could be words: "try", "pen"
_INTEGER = re.compile(rf"[+-]?[0-9]{{1,{MAX_INTEGER_DIGITS}}}")
_NUMBER = r"([0-9]{1,3}(?:,[0-9]{3}){1,4}|[0-9]{1,15})(?:\.([0-9]{1,3}))?"
_MONEY = re.compile(rf"(?:([€$£¥]|[A-Za-z]{{3}})\s*)?{_NUMBER}(?:\s*([€$£¥]|[A-Za-z]{{3}}))?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(r"([0-9]{1,2})(?:[:.]([0-9]{2}))?\s*([ap])\.?m\.?|([0-9]{1,2}):([0-9]{2})", re.IGNORECASE)
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}")
_SAMPLES: dict[str, Any] = {"integer": 1, "text": "text", "word": "word", "date": "2026-01-31"}
_SAMPLES |= {"money": {"minor": 100, "currency": "EUR"}, "email": "somebody@example.com"}
_SAMPLES |= {"time": "15:30"}
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“"}


class BadSlot(HandrailError):
    """A value that the slot's type does not allow."""


class Slot(BaseModel):
    """One slot of a playbook."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: SlotType
    choices: Annotated[tuple[str, ...], Field(max_length=MAX_CHOICES)] = ()
    default: Any = None
    description: str = ""

    @model_validator(mode="after")
    def _agree(self) -> Slot:
        if (self.type == "choice") != bool(self.choices):
            raise ValueError("choices are for a slot of the type choice, which needs at least one")
        if self.default is not None:
            try:
                self.accept(self.default)
            except BadSlot as error:
                raise ValueError(f"the default does not fit: {error}") from None
        return self

    @property
    def max_words(self) -> int:
        """How many words of a goal the slot can take."""
        if self.type == "text":
            return MAX_TEXT_CHARS
        if self.type == "choice":
            return max(len(choice.split()) for choice in self.choices)
        return 2 if self.type in ("money", "time") else 1

    @property
    def sample(self) -> Any:
        """A value that fits."""
        if self.default is not None:
            return self.accept(self.default)
        return self.choices[0] if self.choices else _SAMPLES[self.type]

    def read(self, text: str) -> Any:
        """Return the value that words of a goal stand for."""
        if self.type == "integer":
            return _read_integer(text)
        if self.type == "money":
            return read_money(text)
        if self.type == "choice":
            folded = " ".join(text.split()).casefold()
            found = next((choice for choice in self.choices if choice.casefold() == folded), None)
            if found is None:
                raise BadSlot(f"{text[:50]!r} is none of {', '.join(self.choices)}")
            return found
        return self._read_text(text)

    def accept(self, value: Any) -> Any:
        """Return a JSON value as the slot's, if it is one; text is read like the words of a goal."""
        if isinstance(value, str):
            return self.read(value)
        if self.type == "integer" and isinstance(value, int) and not isinstance(value, bool):
            return value
        if self.type == "money" and is_money(value):
            return value
        raise BadSlot(f"a slot of the type {self.type} cannot be {str(value)[:50]!r}")

    def show(self, value: Any) -> str:
        """Return a value as it stands inside text."""
        return write_money(value["minor"], value["currency"]) if self.type == "money" else str(value)

    def _read_text(self, text: str) -> str:
        text = text.strip()
        if self.type == "text":
            if len(text) >= 2 and _QUOTES.get(text[0]) == text[-1]:
                text = text[1:-1].strip()
            if not text or len(text) > MAX_TEXT_CHARS:
                raise BadSlot(f"a text has 1 to {MAX_TEXT_CHARS} characters")
            return text
        if self.type == "date":
            return _read_date(text)
        if self.type == "time":
            return read_time(text)
        if not text or len(text) > MAX_WORD_CHARS or not text.isprintable() or " " in text:
            raise BadSlot(f"{text[:50]!r} is not one word")
        if self.type == "email" and not _EMAIL.fullmatch(text):
            raise BadSlot(f"{text[:50]!r} is not an e-mail address")
        return text


def is_money(value: Any) -> bool:
    """Whether a JSON value is an amount: whole minor units and a currency."""
    if not isinstance(value, Mapping) or set(value) != {"minor", "currency"}:
        return False
    minor, currency = value["minor"], value["currency"]
    whole = isinstance(minor, int) and not isinstance(minor, bool)
    return whole and isinstance(currency, str) and re.fullmatch("[A-Z]{3}", currency) is not None


def read_money(text: str) -> dict[str, Any]:
    """Read "12.50 EUR", "EUR 12.50", "€12.50" or "1,250 €" exactly, into minor units."""
    found = _MONEY.fullmatch(text.strip())
    marks = [mark for mark in (found[1], found[4]) if mark] if found is not None else []
    if found is None or len(marks) != 1:
        raise BadSlot(f"{text[:50]!r} is not an amount with its currency, like 12.50 EUR")
    currency = _SYMBOLS.get(marks[0]) or (
        marks[0].upper() if marks[0].isupper() or marks[0] in _LOWER else ""
    )
    digits, cents = _digits(currency), found[3] or ""
    if digits is None:
        raise BadSlot(f"{marks[0]!r} is not a currency known here")
    if len(cents) > digits:
        raise BadSlot(f"{currency} has {digits} digits after the point, not {len(cents)}")
    whole = int(found[2].replace(",", ""))
    return {"minor": whole * 10**digits + int(cents.ljust(digits, "0") or "0"), "currency": currency}


def read_time(text: str) -> str:
    """Read "15:30", "3pm", "3:30 pm" or "3.30 p.m." as "HH:MM", by the clock of 24 hours."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise BadSlot(f"{text[:50]!r} is not a time like 15:30 or 3pm")
    hour, minute = int(found[1] or found[4]), int(found[2] or found[5] or 0)
    if found[3]:
        if not 1 <= hour <= 12:
            raise BadSlot(f"{text[:50]!r} is not on a clock of 12 hours")
        hour = hour % 12 + (12 if found[3] in "pP" else 0)
    if hour > 23 or minute > 59:
        raise BadSlot(f"{text[:50]!r} is not on the clock")
    return f"{hour:02}:{minute:02}"


def write_money(minor: int, currency: str) -> str:
    """Write minor units as people do: 12.50 EUR."""
    digits = _digits(currency)
    digits = 2 if digits is None else digits
    whole, rest = divmod(abs(minor), 10**digits)
    return f"{'-' if minor < 0 else ''}{whole}{f'.{rest:0{digits}d}' if digits else ''} {currency}"


def _digits(currency: str) -> int | None:
    return next((digits for digits, codes in _CODES.items() if currency in codes.split()), None)


def _read_integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise BadSlot(f"{text[:50]!r} is not a whole number")
    return int(text)


def _read_date(text: str) -> str:
    if not _DATE.fullmatch(text):
        raise BadSlot(f"{text[:50]!r} is not a date like 2026-01-31")
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        raise BadSlot(f"{text} is not in the calendar") from None
    return text

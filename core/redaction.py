"""Redaction: what must not be seen is replaced, by the value of a secret or by the name of a field.

Pure. Where there are no secrets nothing is looked at. A secret is found as it is and in the forms in which
tools pass it on: base64 (also as a part of a longer text), hexadecimal, percent-encoded, escaped as in JSON
or in Python, and, of one with several lines, each long line. What is encrypted, compressed or split is not
found.
"""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from core.values import MAX_DEPTH

MIN_SECRET_CHARS = 6
"""Anything shorter stands in texts that have nothing to do with it."""
MIN_LINE_CHARS = 16
"""Of a secret with several lines, a line as long as this is one too."""
MAX_SECRET_BYTES = 64 * 1024
KNOWN_NAMES = 1_024
"""Names of fields about which it is remembered whether they say so."""

MASK = "**********"
"""What stands in place of a value whose field's name says that it is secret; pydantic writes the same."""

_SECRET_NAMES: tuple[tuple[str, ...], ...] = (
    *((word,) for word in ("password", "passwords", "passwd", "pwd", "passphrase", "passcode")),
    *((word,) for word in ("secret", "secrets", "token", "apikey", "credential", "credentials")),
    *((word,) for word in ("authorization", "cookie", "cookies", "bearer", "jwt")),
    *((kind, "key") for kind in ("api", "private", "secret", "access", "signing", "encryption")),
    *((f"{kind}key",) for kind in ("private", "secret", "access", "signing", "encryption")),
)
"""The one list: a name that ends in one of these is a secret's."""
_FORMS_OF_IT = frozenset({"value", "text", "string", "raw", "header", "pem", "hash", "base64", "b64", "hex"})
"""What may follow: `token_value` is one, `token_count` is none."""
_FIELD = re.compile(r'("((?:[^"\\]|\\.){1,200})"\s*:\s*)("(?:[^"\\]|\\.)*"?|-?[0-9][0-9.eE+-]*)')
"""A field with a text or a number, as in JSON that was cut or stands in a sentence."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


class Redactor:
    """Replaces the values of secrets, each by the name of the secret."""

    __slots__ = ("_forms",)

    def __init__(self, secrets: Iterable[tuple[str, str]] = ()) -> None:
        """Take names and values, several values of a name too."""
        found: dict[str, str] = {}
        for name, value in secrets:
            for form in _forms(value):
                found.setdefault(form, f"[secret {name}]")
        self._forms = found

    def __bool__(self) -> bool:
        """Whether there is anything to redact."""
        return bool(self._forms)

    @property
    def longest(self) -> int:
        """The characters of the longest form: as much of a text may be the beginning of one."""
        return max(map(len, self._forms), default=0)

    def text(self, text: str) -> str:
        """Return a text without them."""
        hits = [form for form in self._forms if form in text]
        return _without(text, {form: self._forms[form] for form in hits}) if hits else text

    def value(self, value: Any) -> Any:
        """Return a JSON value without them, in keys and in texts."""
        return _mapped(value, self.text, MAX_DEPTH + 1) if self._forms else value


NOTHING = Redactor()
"""Redacts nothing, at no cost."""


@functools.lru_cache(maxsize=KNOWN_NAMES)
def is_secret_name(name: str) -> bool:
    """Whether a field's name says that what it holds is secret: `api_key`, `Set-Cookie`, `dbPassword`."""
    words = [word.lower() for word in _WORD.findall(name)]
    while len(words) > 1 and (words[-1] in _FORMS_OF_IT or words[-1].isdigit()):
        words.pop()
    return any(tuple(words[-len(wanted) :]) == wanted for wanted in _SECRET_NAMES)


def masked(value: Any, *, depth: int = MAX_DEPTH + 1) -> Any:
    """Return a value in which what stands under such a name is masked; a yes, a no and a null are not."""
    if isinstance(value, Mapping):
        if depth == 0:
            return MASK
        return {key: masked_field(key, held, depth=depth - 1) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return MASK if depth == 0 else [masked(item, depth=depth - 1) for item in value]
    return value


def masked_field(name: Any, value: Any, *, depth: int = MAX_DEPTH) -> Any:
    """Return what a field of this name may show of its value."""
    if value is None or isinstance(value, bool):
        return value
    return MASK if is_secret_name(str(name)) else masked(value, depth=depth)


def masked_json(text: str) -> str:
    """Return a JSON text with what is masked in its value; of any other text, the fields that stand in it."""
    try:
        found = json.loads(text)
        made = masked(found)
        return text if made == found else json.dumps(made, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return _FIELD.sub(lambda at: f'{at[1]}"{MASK}"' if is_secret_name(at[2]) else at[0], text)


def _forms(value: str) -> Iterable[str]:
    """Return the forms in which a value is looked for."""
    lines = value.splitlines()
    parts = [value, *(line.strip() for line in lines if len(line.strip()) >= MIN_LINE_CHARS)]
    for part in dict.fromkeys(parts):
        raw = part.encode()
        escaped = (json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1], repr(part)[1:-1])
        percent = (quote(part, safe=""), quote(part), quote_plus(part))
        encoded = [form for at in range(3) for form in _base64(raw, at)]
        yield part
        yield from escaped
        yield from percent
        yield from (_lower_percent(form) for form in percent)
        yield from encoded
        yield from (quote(form, safe="") for form in encoded)
        yield raw.hex()
        yield raw.hex().upper()


def _base64(raw: bytes, at: int) -> Iterable[str]:
    """Return what base64 makes of it where it begins at a byte `at` of three, whatever is around it.

    At the beginning also with its own end, so that nothing is left of a text that is nothing else.
    """
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(b"\0" * at + raw).decode()
        end = (at + len(raw)) * 8 // 6
        begin = -(-at * 8 // 6)
        if at == 0:
            yield whole
            yield whole.rstrip("=")
        yield whole[begin:end]


def _lower_percent(text: str) -> str:
    return re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), text)


def _without(text: str, forms: Mapping[str, str]) -> str:
    """Replace every place where a form stands; places that overlap are one."""
    places: list[tuple[int, int, str]] = []
    for form, name in forms.items():
        begin = text.find(form)
        while begin >= 0:
            end = begin + len(form)
            if places and places[-1][2] == name and places[-1][0] <= begin <= places[-1][1]:
                places[-1] = (places[-1][0], max(places[-1][1], end), name)
            else:
                places.append((begin, end, name))
            begin = text.find(form, begin + 1)
    places.sort(key=lambda place: (place[0], -place[1]))
    pieces: list[str] = []
    done = 0
    for begin, end, name in places:
        if begin >= done:
            pieces += [text[done:begin], name]
        done = max(done, end)
    return "".join([*pieces, text[done:]])


def _mapped(value: Any, text: Callable[[str], str], depth: int) -> Any:
    """Apply a function to every text of a value; what is deeper than values may be is left to their check."""
    if isinstance(value, str):
        return text(value)
    if depth == 0:
        return value
    if isinstance(value, dict):
        return {
            text(key) if isinstance(key, str) else key: _mapped(held, text, depth - 1)
            for key, held in value.items()
        }
    if isinstance(value, list | tuple):
        return [_mapped(item, text, depth - 1) for item in value]
    return value

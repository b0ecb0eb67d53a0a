"""An endpoint that speaks OpenAI's protocol: a question, and its answer as JSON, bounded in time and size.

It is another machine, and nothing that it says is believed. No redirect is followed and no proxy used: what
is asked goes where the settings say, or nowhere. The key goes into one header, and what comes back is looked
through for it before anybody sees it.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from socket import SHUT_RDWR
from typing import Any
from urllib.parse import urlsplit

from core import values
from core.errors import HandrailError
from handrail.release import release
from handrail.secrets import SecretMissing, redactor

MAX_ANSWER_BYTES = 1024 * 1024
MAX_ANSWER_TOKENS = 4_096
MAX_SHOWN_CHARS = 300
RETRIED = (429, 503)
"""What an endpoint says that has too much to do: it is asked once more."""
RETRY_AFTER_S = 1.0
"""How long that waits where the endpoint does not say."""
_WAIT_CHARS = 9


class EndpointError(HandrailError):
    """An endpoint that did not answer, or not so that it can be used, with what to do about it."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        """`passing` is what may be otherwise soon."""
        super().__init__(message)
        self.passing = passing


def no_key() -> str:
    """Return no key: an endpoint of one's own needs none."""
    return ""


@dataclass(frozen=True)
class Endpoint:
    """One model at one endpoint."""

    url: str
    model: str
    # Returns the key as it is now, "" where there is none; raises SecretMissing.
    key: Callable[[], str] = no_key
    # For one question with all that belongs to it.
    timeout_s: float = 30.0

    @property
    def name(self) -> str:
        """What the log calls it."""
        return f"openai:{self.model}"

    def ask(self, question: Mapping[str, Any]) -> Any:
        """Return the answer to a question, a chat completion; blocks. Raises EndpointError."""
        common = {"model": self.model, "temperature": 0, "max_completion_tokens": MAX_ANSWER_TOKENS}
        return self._request("POST", "/chat/completions", json.dumps({**common, **question}).encode())

    def models(self) -> list[str]:
        """Return the names of the models that there are; blocks. Raises EndpointError."""
        said = self._request("GET", "/models", None)
        listed = said.get("data") if isinstance(said, dict) else None
        if not isinstance(listed, list):
            raise EndpointError(f"{self.url}/models does not list models: correct openai.url")
        names = (one.get("id") for one in listed if isinstance(one, dict))
        return [name for name in names if isinstance(name, str)]

    def _request(self, method: str, path: str, body: bytes | None) -> Any:
        deadline = time.monotonic() + self.timeout_s
        headers = self._headers(body)
        status, after, content = self._exchange(method, path, body, headers, deadline)
        if status in RETRIED:
            wait_s = _seconds(after)
            if time.monotonic() + wait_s >= deadline:
                why = f"to wait {wait_s:g} s, more than is left of openai.timeout_s ({self.timeout_s:g})"
                why = f"{self.url} has too much to do ({status}) and says {why}: try again later"
                raise EndpointError(why, passing=True)
            time.sleep(wait_s)
            status, _, content = self._exchange(method, path, body, headers, deadline)
        if status != 200:
            raise self._refused(status, content)
        try:
            return values.decode(content.decode())
        except (UnicodeDecodeError, values.BadValue):
            raise EndpointError(
                f"{self.url} answers with something that is not JSON: is it an endpoint of OpenAI's protocol?"
            ) from None

    def _headers(self, body: bytes | None) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": f"handrail/{release()}", "Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            key = self.key()
        except SecretMissing as error:
            raise EndpointError(str(error)) from None
        if not key.isascii() or not all(char.isprintable() and char != " " for char in key):
            # Said here: the library would say it with the key.
            raise EndpointError("the key at openai.key has a character that no header can hold: correct it")
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return headers

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], deadline: float
    ) -> tuple[int, str, bytes]:
        """Return the status, what is said of when to come again, and the body."""
        parts = urlsplit(self.url)
        left_s = max(deadline - time.monotonic(), 0.001)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(str(parts.hostname), parts.port, timeout=left_s)
        # A timeout of the connection is one of each read: who sends a byte at a time would never meet it.
        bell = threading.Timer(left_s, _hang_up, (connection,))
        bell.daemon = True
        bell.start()
        try:
            connection.request(method, parts.path.rstrip("/") + path, body, dict(headers))
            response = connection.getresponse()
            content = response.read(MAX_ANSWER_BYTES + 1)
            if len(content) > MAX_ANSWER_BYTES:
                raise EndpointError(
                    f"{self.url} answers with more than {MAX_ANSWER_BYTES} bytes: it is not read"
                )
            if response.length:
                raise ConnectionError("it hung up in the middle of its answer")
            return response.status, response.headers.get("Retry-After", ""), content
        except ssl.SSLCertVerificationError as error:
            why = f"{self.url} has no certificate that is believed here: {error.verify_message}"
            raise EndpointError(why) from None
        except (OSError, HTTPException, ValueError) as error:
            if time.monotonic() >= deadline:
                why = f"{self.url} did not answer within {self.timeout_s:g} s (openai.timeout_s)"
                raise EndpointError(why, passing=True) from None
            why = plain(str(error) or type(error).__name__)
            raise EndpointError(f"{self.url} cannot be asked: {why}. Is it up?", passing=True) from None
        finally:
            bell.cancel()
            connection.close()

    def _refused(self, status: int, content: bytes) -> EndpointError:
        """Say what an answer means that is none."""
        said = plain(_told(content))
        said = f": it says {said!r}" if said else ""
        if status in (401, 403):
            return EndpointError(f"{self.url} does not take the key ({status}): correct openai.key{said}")
        if status == 404:
            return EndpointError(
                f"{self.url} has no model {self.model!r}, or no chat completions (404): correct openai.model "
                f"or openai.url{said}"
            )
        if 300 <= status < 400:
            return EndpointError(
                f"{self.url} leads elsewhere ({status}), where nobody follows: correct openai.url"
            )
        if status in RETRIED:
            return EndpointError(
                f"{self.url} has too much to do ({status}): try again later{said}", passing=True
            )
        if status >= 500:
            return EndpointError(f"{self.url} failed ({status}){said}", passing=True)
        return EndpointError(f"{self.url} does not take the question ({status}){said}")


def plain(text: str, limit: int = MAX_SHOWN_CHARS) -> str:
    """Return a text of an endpoint's as one short line, without what cannot be seen, and without secrets."""
    # Before it is cut, since a part of a secret would not be found any more.
    line = " ".join(redactor().text(text[:MAX_ANSWER_BYTES]).split())
    line = "".join(char for char in line if char.isprintable())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _told(content: bytes) -> str:
    """Return what an answer that is an error says."""
    text = content.decode(errors="replace")
    try:
        said = values.decode(text)
    except values.BadValue:
        return text
    for name in ("error", "message", "detail"):
        said = said.get(name, said) if isinstance(said, dict) else said
    return said if isinstance(said, str) else text


def _seconds(after: str) -> float:
    """Read when to come again; a date or nonsense is as if nothing had been said."""
    found = after.strip()[:_WAIT_CHARS]
    return float(found) if found.isascii() and found.isdigit() else RETRY_AFTER_S


def _hang_up(connection: HTTPConnection) -> None:
    sock = connection.sock
    if sock is not None:
        with suppress(OSError):
            sock.shutdown(SHUT_RDWR)
